"""Scores of a group to advantages: each reward is normalised inside its prompt's group, then the weighted sum is taken (Eq. 6).

    A_i = sum_k w_k (R_ik - mean_k) / max(std_k, floor_k),    sum_k w_k = 1,    sum_i A_i = 0

mean_k and std_k are over the samples of the group that have score k; std is the population one (divides by the count), as
in Flow-GRPO. The floor is the reward's own noise: a spread below it is a near tie and is not blown up to unit size. All
arithmetic is float64, results float32. Left out: any normalisation over the whole batch, which would let one prompt's
spread set another's signal.

A missing score is NaN. It leaves the statistics of its reward in its group, and the sample's other weights are scaled up to
sum to 1, so that its advantage has the same size as the others'. Then advantages no longer sum to 0 by themselves, and their
mean over the group's samples with a signal is taken off: what a group has in common is no preference, and would push the policy
as a whole (in DiffusionNFT with the noise that the samples share). A score that was not asked for has weight 0 and is NaN too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-6
"""More than a composite of float32 scores is off, so that two which are exactly `min_range` apart do not differ by more."""


@dataclass(frozen=True, eq=False)
class Advantages:
    """What `group_advantages` found. P counts the distinct ids in `group_B`, rows in rising order of id."""

    advantages_B: Tensor
    """float32; 0 where `kept_B` is False."""
    kept_B: Tensor
    """bool; False for a sample without a signal: no score that differs inside its group, or that by `min_range` at most."""
    means_PR: Tensor
    """float32; NaN where the group has no score for the reward."""
    stds_PR: Tensor
    """float32, before the floor; NaN where the group has no score for the reward."""
    groups_without_signal: int
    """Groups that keep no sample."""


def group_advantages(
    values_BR: Tensor,
    weights_R_or_BR: Tensor,
    floors_R: Tensor,
    group_B: Tensor,
    *,
    clip: float | None = None,
    min_range: float = 0.0,
    ranges_R2: Tensor | None = None,
) -> Advantages:
    """Eq. 6 for all groups of a batch. `group_B` holds integer ids in any order; a row of weights per sample serves categories.

    A reward with fewer than two scores in a group, or with equal ones, contributes exactly 0 there and keeps its weight. A
    group whose `composite` (max - min over its samples with every weighted score) is no more than `min_range` gets 0; this
    needs `ranges_R2`. `clip` bounds advantages to [-clip, clip]. A sample at the group's mean has advantage 0 and is kept.

    Raises ValueError for weights that are negative or do not sum to 1, floors below 0, and infinite scores.
    """
    values_BR = values_BR.double()
    weights_BR = _checked_weights(weights_R_or_BR, values_BR)
    floors_R = _checked_floors(floors_R, values_BR)
    if group_B.shape != values_BR.shape[:1]:
        raise ValueError(f"group_B has shape {tuple(group_B.shape)}, expected ({values_BR.shape[0]},): one id per sample")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip}; it must be above 0, or None")
    ids_P, row_B = group_B.unique(return_inverse=True)
    num_groups = len(ids_P)

    present_BR = ~values_BR.isnan()
    means_PR, stds_PR, spread_PR = _group_statistics(values_BR, row_B, num_groups)
    differs_PR = spread_PR > 0
    scale_PR = torch.where(differs_PR, torch.maximum(stds_PR, floors_R), 1.0)
    z_BR = (values_BR - means_PR[row_B]) / scale_PR[row_B]
    tells_BR = present_BR & differs_PR[row_B]
    share_BR = _renormalised(weights_BR, present_BR)
    advantages_B = (share_BR * torch.where(tells_BR, z_BR, 0.0)).sum(1)
    kept_B = (tells_BR & (share_BR > 0)).any(1)

    if min_range > 0:
        if ranges_R2 is None:
            raise ValueError(
                f"min_range is {min_range}, which compares range-normalised scores; give ranges_R2, the rewards' ranges"
            )
        range_P = _group_range(composite(values_BR, weights_BR, ranges_R2), row_B, num_groups)
        kept_B = kept_B & (range_P > min_range + ROUNDING)[row_B]
    lacking_B = ((weights_BR > 0) & ~present_BR).any(1)
    advantages_B = _centred(torch.where(kept_B, advantages_B, 0.0), kept_B, row_B, lacking_B, num_groups)
    if clip is not None:
        advantages_B = advantages_B.clamp(-clip, clip)
    groups_with_signal = len(row_B[kept_B].unique())
    return Advantages(advantages_B.float(), kept_B, means_PR.float(), stds_PR.float(), num_groups - groups_with_signal)


def composite(values_BR: Tensor, weights_R_or_BR: Tensor, ranges_R2: Tensor) -> Tensor:
    """(B,) float64 weighted sum of (score - low) / (high - low); NaN where a score with a weight above 0 is missing.

    The quantity of prompt curation: comparable over rewards because every range becomes [0, 1], and never computed from a part
    of the rewards, because a sum over fewer of them is another quantity.
    """
    values_BR = values_BR.double()
    weights_BR = _checked_weights(weights_R_or_BR, values_BR)
    ranges_R2 = torch.as_tensor(ranges_R2, dtype=torch.float64, device=values_BR.device)
    if ranges_R2.shape != (values_BR.shape[1], 2):
        raise ValueError(
            f"ranges_R2 has shape {tuple(ranges_R2.shape)}, expected ({values_BR.shape[1]}, 2): low and high per reward"
        )
    low_R, high_R = ranges_R2.unbind(1)
    if not bool((high_R > low_R).all()):
        raise ValueError(f"ranges_R2 needs low < high for every reward, got {ranges_R2.tolist()}")
    unit_BR = (values_BR - low_R) / (high_R - low_R)
    return torch.where(weights_BR > 0, weights_BR * unit_BR, 0.0).sum(1)


def _group_statistics(values_BR: Tensor, row_B: Tensor, num_groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, population std and max - min per group and reward, over present scores; the first two NaN and the last 0 for none.

    The spread decides whether scores differ: it is exactly 0 for equal ones, while mean and std carry rounding.
    """
    present_BR = ~values_BR.isnan()
    zeros_PR = values_BR.new_zeros(num_groups, values_BR.shape[1])
    count_PR = zeros_PR.index_add(0, row_B, present_BR.double())
    means_PR = zeros_PR.index_add(0, row_B, torch.where(present_BR, values_BR, 0.0)) / count_PR
    squares_BR = torch.where(present_BR, (values_BR - means_PR[row_B]).square(), 0.0)
    stds_PR = (zeros_PR.index_add(0, row_B, squares_BR) / count_PR).sqrt()
    return means_PR, stds_PR, _spread(values_BR, row_B, num_groups)


def _spread(values_BK: Tensor, row_B: Tensor, num_groups: int) -> Tensor:
    """(P, K) max - min over the values of a group that are not NaN, 0 where there are none."""
    index_BK = row_B[:, None].expand_as(values_BK)
    lowest = values_BK.new_full((num_groups, values_BK.shape[1]), float("-inf"))
    top_PK = lowest.scatter_reduce(0, index_BK, values_BK.nan_to_num(nan=float("-inf")), "amax")
    bottom_PK = -lowest.scatter_reduce(0, index_BK, (-values_BK).nan_to_num(nan=float("-inf")), "amax")
    return torch.where(top_PK >= bottom_PK, top_PK - bottom_PK, 0.0)


def _group_range(composite_B: Tensor, row_B: Tensor, num_groups: int) -> Tensor:
    return _spread(composite_B[:, None], row_B, num_groups)[:, 0]


def _renormalised(weights_BR: Tensor, present_BR: Tensor) -> Tensor:
    """Weights of the scores a sample has, summing to 1 again; all 0 for a sample with no weighted score."""
    share_BR = torch.where(present_BR, weights_BR, 0.0)
    total_B1 = share_BR.sum(1, keepdim=True)
    return torch.where(total_B1 > 0, share_BR / total_B1, 0.0)


def _centred(advantages_B: Tensor, kept_B: Tensor, row_B: Tensor, lacking_B: Tensor, num_groups: int) -> Tensor:
    """Less their mean over the kept samples of a group that lacks scores; where none is missing it is 0 but for rounding."""
    zeros_P = advantages_B.new_zeros(num_groups)
    mean_P = zeros_P.index_add(0, row_B, advantages_B) / zeros_P.index_add(0, row_B, kept_B.double()).clamp(min=1)
    lacks_P = zeros_P.index_add(0, row_B, lacking_B.double()) > 0
    return torch.where(kept_B & lacks_P[row_B], advantages_B - mean_P[row_B], advantages_B)


def _checked_weights(weights: Tensor, values_BR: Tensor) -> Tensor:
    if values_BR.ndim != 2:
        raise ValueError(f"values_BR has shape {tuple(values_BR.shape)}, expected (B, R)")
    if bool(values_BR.isinf().any()):
        raise ValueError("values_BR holds an infinite score; a score is finite, or NaN when it is missing")
    weights = torch.as_tensor(weights, dtype=torch.float64, device=values_BR.device)
    if weights.shape not in (values_BR.shape, values_BR.shape[1:]):
        raise ValueError(
            f"weights have shape {tuple(weights.shape)}, expected (R,) or (B, R) with B, R = {tuple(values_BR.shape)}"
        )
    sums = weights.sum(-1)
    if not bool((weights >= 0).all() and ((sums - 1).abs() <= 1e-5).all()):
        raise ValueError(
            f"weights must be at least 0 and sum to 1 over the rewards; lowest {weights.min()}, sums {sums.unique().tolist()}"
        )
    return weights.expand_as(values_BR)


def _checked_floors(floors: Tensor, values_BR: Tensor) -> Tensor:
    floors = torch.as_tensor(floors, dtype=torch.float64, device=values_BR.device)
    if floors.shape != values_BR.shape[1:] or not bool((floors >= 0).all() and floors.isfinite().all()):
        raise ValueError(
            f"floors_R must be {values_BR.shape[1]} finite values of at least 0, one per reward, got {floors.tolist()}"
        )
    return floors
