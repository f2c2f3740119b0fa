"""How large the experiment is, and on which noise each arm trains."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.arms import ArmConfig, t2i_config
from tastemaker.errors import UserMistake

GRPO, NFT = ALGORITHMS = ("grpo", "nft")
ALL, HIGH, LOW = NOISE = ("all noise", "high noise", "low noise")
SIGMAS = {ALL: (0.02, 0.98), HIGH: (0.6, 0.98), LOW: (0.02, 0.4)}
"""Ends of the noise levels that NFT trains on."""
WEIGHTS = {"saturation": 0.5, "quality": 0.5}
PROXY = "rewards=[{name: saturation, weight: 0.5, floor: 0.005}, {name: quality, weight: 0.5, floor: 0.02}]"
SETTINGS = {
    GRPO: ("algorithm={name: grpo, updates_per_rollout: 2, velocity_kl: 0.0}", "optimiser.epsilon=1e-8", "precision=fp32"),
    NFT: ("algorithm={name: nft, updates_per_rollout: 2, velocity_kl: 0.0, points: 2}",),
}
"""At low noise the rounding of bf16 is above GRPO's clip range; NFT has no ratio of likelihoods."""


@dataclass(frozen=True)
class Design:
    """What is run. Raises UserMistake, one line for each setting that cannot be."""

    seeds: int = 3
    steps: int = 60
    every: int = 10
    prompts: int = 8
    """Of one step, with 8 pictures each."""
    sampling: int = 8
    """Steps of a rollout and of a held-out picture."""
    window: int = 3
    """Trained steps of the high-noise and the low-noise arm of GRPO."""
    held_out: int = 400
    edits: int = 112
    """Held-out edits, over all kinds in turn."""
    grpo_rate: float = 2e-4
    nft_rate: float = 6e-4
    algorithms: str = " ".join(ALGORITHMS)
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules = {
            f"algorithms {self.algorithms!r}: of {' '.join(ALGORITHMS)}": bool(self.chosen)
            and set(self.chosen) <= set(ALGORITHMS),
            f"steps {self.steps}: a multiple of every = {self.every}": self.every > 0 and self.steps % self.every == 0,
            f"window {self.window}: at least 1 and at most half of the {self.sampling - 1} steps that can be trained": 1
            <= self.window
            <= (self.sampling - 1) // 2,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise UserMistake("\n".join(f"timesteps: {rule}" for rule in broken))

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(self.algorithms.split())

    @property
    def arms(self) -> tuple[tuple[str, str], ...]:
        """Algorithm and noise."""
        return tuple((algorithm, noise) for algorithm in self.chosen for noise in NOISE)

    def config(self, algorithm: str, noise: str, seed: int, threads: int) -> ArmConfig:
        rate = self.grpo_rate if algorithm == GRPO else self.nft_rate
        return t2i_config(
            f"seed={seed}",
            f"threads={threads}",
            f"budget.max_steps={self.steps}",
            f"checkpoint.every={self.every}",
            "checkpoint.keep=1",
            "rollout.unguided_every=null",
            "rollout.guidance=1.0",
            "evaluation.guidance=1.0",
            f"rollout.prompts={self.prompts}",
            f"rollout.steps={self.sampling}",
            f"evaluation.steps={self.sampling}",
            "optimiser.ema_decay=0.9",
            "optimiser.warmup_steps=4",
            f"optimiser.learning_rate={rate}",
            PROXY,
            *SETTINGS[algorithm],
            *self._trained(algorithm, noise),
            *self.overrides,
        )

    def _trained(self, algorithm: str, noise: str) -> tuple[str, ...]:
        if algorithm == NFT:
            low, high = SIGMAS[noise]
            return (f"algorithm.sigma_low={low}", f"algorithm.sigma_high={high}")
        most = self.sampling - 1  # the last step cannot be stochastic
        size, start = {ALL: (most, 0), HIGH: (self.window, 0), LOW: (self.window, most - self.window)}[noise]
        return (f"rollout.window_size={size}", f"rollout.window_start={start}")
