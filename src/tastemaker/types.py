"""The nouns of tastemaker: what flows from prompt to image, image to score, score to gradient.

Shape legend, used as suffixes of tensor names everywhere:

    P  prompts on this rank            G  samples of one prompt (a group)     B = P * G  samples, group-major
    S  stored (trained) steps          R  rewards                             N  sampling steps
    X  the model's latent axes, e.g. (16 tokens, 64 channels) for Qwen-Image-2.1 at 64x64
    L  tokens of the condition (text, and slots of source images)

Conventions: sigma is in [0, 1] and 1 is pure noise; velocity = noise - data; images are float32 in [0, 1], (B, 3, H, W);
transition means, standard deviations and log-probabilities are float32.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Task = Literal["t2i", "edit"]


@dataclass(frozen=True)
class Prompt:
    """What a person asks for: words, and for an edit the pictures to start from.

    `truth` is a machine-readable statement of the facts the words imply, where the data set has one. It is for verifiable
    rewards and evaluation only; the model, and any learned reward, sees `text` and `sources`.

    >>> Prompt(id="p1", text="three red circles", category="general")
    """

    id: str
    text: str
    category: str = "general"
    task: Task = "t2i"
    sources: tuple[str, ...] = ()
    truth: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Condition:
    """Encoded prompts: every tensor has the leading axis P; `layout` holds what all rows must share to be one batch.

    >>> condition = Condition({"embeds": torch.zeros(2, 9, 64), "mask": torch.ones(2, 9)}, layout=(4, 4))
    >>> len(condition), len(condition.select(torch.tensor([1, 1, 0])))
    (2, 3)
    """

    tensors: Mapping[str, Tensor]
    layout: Hashable = None

    def __len__(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def select(self, rows: Tensor) -> Condition:
        return Condition({k: v.index_select(0, rows.to(v.device)) for k, v in self.tensors.items()}, self.layout)

    def to(self, device: torch.device | str) -> Condition:
        return Condition({k: v.to(device) for k, v in self.tensors.items()}, self.layout)


@dataclass(frozen=True)
class Trajectory:
    """What a rollout keeps: the final latents, and for each trained step just enough to replay it exactly.

    `steps` are the indices n of the stored steps; step n goes from `sigmas[n]` to `sigmas[n + 1]`. `offsets_BSX` is the frozen
    guidance offset g = v_guided - v_conditional at the rollout's weights (None in the modes that do not look at guidance).

    >>> t = Trajectory(sigmas=torch.linspace(1, 0, 11), steps=(0, 1, 2), states_BSX=torch.zeros(8, 3, 16, 64),
    ...     next_states_BSX=torch.zeros(8, 3, 16, 64), log_probs_BS=torch.zeros(8, 3), offsets_BSX=None,
    ...     velocities_BSX=torch.zeros(8, 3, 16, 64), final_BX=torch.zeros(8, 16, 64))
    >>> t.states_BSX.shape[1] == len(t.steps)
    True
    """

    sigmas: Tensor
    steps: tuple[int, ...]
    states_BSX: Tensor
    next_states_BSX: Tensor
    log_probs_BS: Tensor
    """log pi_old(next state | state), nats per latent element."""
    offsets_BSX: Tensor | None
    velocities_BSX: Tensor
    """Conditional velocity at the rollout's weights, the old policy's for NFT and for the bf16 floor."""
    final_BX: Tensor


@dataclass(frozen=True)
class Scores:
    """Rewards of B pictures. A score that did not arrive or did not parse is NaN and has a reason, never a number.

    NaN without a reason was not asked for: that reward does not count for the picture's prompt, and nothing is missing.

    >>> Scores(("alignment",), torch.tensor([[4.2], [float("nan")]]), {(1, "alignment"): "no digit after the rationale"})
    """

    names: tuple[str, ...]
    values_BR: Tensor
    missing: Mapping[tuple[int, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values_BR.ndim != 2 or self.values_BR.shape[1] != len(self.names):
            raise ValueError(f"values_BR has shape {tuple(self.values_BR.shape)}, expected (B, {len(self.names)})")


@dataclass(frozen=True)
class Signal:
    """What an algorithm wants learnt from one rollout.

    `advantages_B` is 0 and `kept_B` False for samples without a signal (a group whose scores do not differ, a missing score).

    >>> Signal(torch.tensor([1.0, -1.0, 0.0]), torch.tensor([True, True, False]), {"groups_without_signal": 1.0})
    """

    advantages_B: Tensor
    kept_B: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)


def group_index(num_prompts: int, group_size: int) -> Tensor:
    """(P * G,) prompt row of each sample, group-major: 0 0 0 1 1 1 ..."""
    return torch.arange(num_prompts).repeat_interleave(group_size)
