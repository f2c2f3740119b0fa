"""How large the experiment is, and which arm trains how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.arms import ArmConfig, t2i_config
from tastemaker.errors import UserMistake
from tastemaker.miniature import task
from tastemaker.miniature.world.description import CATEGORIES
from tastemaker.types import Prompt

HYBRID = "hybrid"
MODES = (HYBRID, "both", "none", "conditional")
PLAIN = "plain"
ALGORITHMS = {
    "nft": (),
    "grpo": (
        "algorithm={name: grpo, updates_per_rollout: 4, velocity_kl: 0.0}",
        "optimiser.learning_rate=1e-4",
        "optimiser.epsilon=1e-8",
    ),
}
"""What each changes of the settings of miniature-t2i. GRPO's gradients are of another size, and so is its epsilon."""


@dataclass(frozen=True)
class Design:
    """What is run. Raises UserMistake, one line for each setting that cannot be."""

    seeds: int = 3
    steps: int = 60
    every: int = 20
    prompts: int = 24
    """Of one step, with 8 pictures each."""
    pool: int = 4000
    """Training prompts of all categories and styles, of which those are taken that are to be trained on."""
    held_out: int = 600
    sampling: int = 8
    """Steps of a rollout."""
    drawing: int = 20
    """Steps of a held-out picture."""
    guidance: float = 2.0
    """Of the guided rollouts and of the guided held-out pictures."""
    trained: str = "general portrait"
    """Categories that are trained on, in plain style; the others are the knowledge that may be lost."""
    algorithm: str = "nft"
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules = {
            f"algorithm {self.algorithm!r}: one of {', '.join(ALGORITHMS)}": self.algorithm in ALGORITHMS,
            f"guidance {self.guidance:g}: above 1, or all modes are the same": self.guidance > 1,
            f"trained {self.trained!r}: some but not all of {' '.join(CATEGORIES)}": set(self.categories) < set(CATEGORIES)
            and bool(self.categories),
            f"steps {self.steps}: a multiple of every = {self.every}": self.every > 0 and self.steps % self.every == 0,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise UserMistake("\n".join(f"hybrid_cfg: {rule}" for rule in broken))

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.trained.split())

    def config(self, mode: str, seed: int, threads: int) -> ArmConfig:
        """The settings of miniature-t2i, with guidance in every step or in none, and shorter averages for fewer steps."""
        return t2i_config(
            f"seed={seed}",
            f"threads={threads}",
            f"budget.max_steps={self.steps}",
            "checkpoint.keep=1",
            "rollout.unguided_every=null",
            f"rollout.prompts={self.prompts}",
            f"rollout.steps={self.sampling}",
            f"evaluation.steps={self.drawing}",
            f"rollout.guidance={1.0 if mode == 'none' else self.guidance}",
            f"evaluation.guidance={self.guidance}",
            "optimiser.ema_decay=0.95",
            *ALGORITHMS[self.algorithm],
            f"algorithm.guidance_mode={mode}",
            *self.overrides,
        )

    def training_prompts(self, seed: int) -> list[Prompt]:
        """Those of miniature-t2i that are of a trained category and in plain style."""
        found = task.training_prompts(self.pool, seed)
        return [prompt for prompt in found if prompt.category in self.categories and style_of(prompt) == PLAIN]


def style_of(prompt: Prompt) -> str:
    if prompt.truth is None:
        raise ValueError(f"prompt {prompt.id} states no truth")
    return prompt.truth["description"]["style"]


def slices(held_out: Sequence[Prompt], trained: Sequence[str]) -> dict[str, list[int]]:
    """Places of the held-out prompts: all, and three parts that have none in common."""
    found: dict[str, list[int]] = {"all": [], "trained on": [], "knowledge": [], "style": []}
    for place, prompt in enumerate(held_out):
        found["all"].append(place)
        part = "style" if style_of(prompt) != PLAIN else "trained on" if prompt.category in trained else "knowledge"
        found[part].append(place)
    return found
