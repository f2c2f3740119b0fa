"""What one training run is made of, and the noise of its steps, keyed by (seed, purpose, step, place, prompt id, sample)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from tastemaker.algorithms.distill import Distill
from tastemaker.algorithms.groups import GroupRelative
from tastemaker.algorithms.grpo import GRPO
from tastemaker.algorithms.nft import NFT
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.models.adapter import Adapter
from tastemaker.rewards.composite import Composite
from tastemaker.rollout import Noise, Sampler
from tastemaker.runtime import seeds
from tastemaker.runtime.distributed import ALONE, Ranks
from tastemaker.training.teachers import Teachers
from tastemaker.types import Prompt


@dataclass(frozen=True)
class Setup:
    """What one training run is made of."""

    adapter: Adapter
    sampler: Sampler
    algorithm: GRPO | NFT | Distill
    prompts: Sequence[Prompt]
    embeddings: EmbeddingCache
    seed: int
    height: int
    width: int
    prompts_per_step: int
    group_size: int
    max_batch: int
    updates_per_rollout: int
    micro_batch: int | None
    max_grad_norm: float
    composite: Composite | None = None
    """Who judges the pictures; None where teachers say what is to be learnt."""
    teachers: Teachers | None = None
    """For distillation alone."""
    states: int | None = None
    """Of a trajectory's states, how many distillation learns from in a step, drawn anew each step; None takes all."""
    negative_prompt: str = ""
    reference: nn.Module | None = None
    """The frozen transformer for the velocity KL, for a LoRA the adapter's own, whose LoRA layers are then switched off
    (`models.lora.reference`); None switches that term off."""
    missing_budget: float = 0.05
    """Share of the scores asked for that may be missing in a step before the run stops."""
    unguided_every: int | None = None
    """Each so many-th step samples without guidance; None guides them all."""
    chunks: int = 1
    """About how many, each of whole groups, the pictures of a step are drawn and judged in."""
    edit_share: float | None = None
    """Of the prompts of a step; None takes them as they come."""
    scoring_deadline: float = 1800.0
    """Seconds from drawing a chunk to its scores before the run stops."""
    ranks: Ranks = ALONE
    """The processes that a step is shared out to, in whole groups."""

    @property
    def judges(self) -> Composite:
        """Raises ValueError where teachers are followed instead."""
        if self.composite is None:
            raise ValueError("nothing is judged here: this setup has no composite")
        return self.composite

    @property
    def comparing(self) -> GroupRelative:
        """The algorithm, of those that compare a prompt's samples. Raises ValueError for another."""
        if not isinstance(self.algorithm, GroupRelative):
            raise ValueError(f"{type(self.algorithm).__name__} compares no samples and has no advantages")
        return self.algorithm


def keyed_noise(
    setup: Setup, prompts: Sequence[Prompt], group_size: int, purpose: str, step: int, *, places: Iterable[int] | None = None
) -> Noise:
    """The same for a chunk as for the whole step, when `places` are those of its prompts there; without, they count from 0."""
    shape = setup.adapter.latent_shape(setup.height, setup.width)
    device = next(setup.adapter.transformer.parameters()).device

    def noise(where: int | str) -> Tensor:
        # The place in the step is part of the key: a small data set may hold a prompt twice in one step.
        keys = [
            (setup.seed, purpose, step, str(where), place, prompt.id, sample)
            for place, prompt in zip(range(len(prompts)) if places is None else places, prompts, strict=True)
            for sample in range(group_size)
        ]
        return seeds.noise_rows(shape, keys).to(device)

    return noise
