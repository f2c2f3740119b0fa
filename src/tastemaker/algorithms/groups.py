"""What group-relative algorithms share: scores of a prompt's samples, compared with each other, become advantages (Eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tastemaker.flow.advantage import group_advantages
from tastemaker.flow.loss import velocity_kl
from tastemaker.rewards.composite import missing_share
from tastemaker.types import Scores, Signal


@dataclass(frozen=True, kw_only=True)
class GroupRelative:
    """The rewards' weights, floors and ranges in order, what bounds an advantage, and how strongly the reference holds."""

    velocity_kl: float
    advantage_clip: float
    min_range: float
    weights: tuple[float, ...]
    floors: tuple[float, ...]
    ranges: tuple[tuple[float, float], ...]

    def signal(self, scores: Scores, group_B: Tensor, weights_BR: Tensor | None = None) -> Signal:
        """Advantages of a batch. `weights_BR` is a row for each sample, by its category; without it `weights` hold for all."""
        found = group_advantages(
            scores.values_BR,
            torch.tensor(self.weights, dtype=torch.float64) if weights_BR is None else weights_BR,
            torch.tensor(self.floors),
            group_B,
            clip=self.advantage_clip,
            min_range=self.min_range,
            ranges_R2=torch.tensor(self.ranges),
        )
        metrics = {
            "groups_without_signal": float(found.groups_without_signal),
            "scores_missing": missing_share(scores),
            **_per_reward("reward", scores.names, scores.values_BR.nanmean(0)),
            **_per_reward("std", scores.names, found.stds_PR.nanmean(0)),
        }
        return Signal(found.advantages_B, found.kept_B, metrics)

    def near_reference(
        self, loss: Tensor, metrics: dict[str, Tensor], velocities_BSX: Tensor, reference_BSX: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds the penalty for leaving the reference, on conditional velocities; without a reference nothing changes."""
        if reference_BSX is None:
            return loss, metrics
        distance = velocity_kl(velocities_BSX.flatten(0, 1), reference_BSX.flatten(0, 1)).mean()
        return loss + self.velocity_kl * distance, {**metrics, "kl_reference": distance.detach()}


def _per_reward(prefix: str, names: Sequence[str], values_R: Tensor) -> dict[str, float]:
    """Without those that have no value, because the step's prompts did not ask for them."""
    values = zip(names, values_R.tolist(), strict=True)
    return {f"{prefix}/{name}": value for name, value in values if not math.isnan(value)}
