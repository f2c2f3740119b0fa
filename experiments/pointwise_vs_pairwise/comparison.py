"""Agreement of the arms with the hidden truth, and their paired differences, with 95% intervals from redrawing whole prompts.

Every number is a contrast over columns, a column being one arm of one seed: 1 on one column is that arm in that seed, 1/S on S
seeds is an arm pooled, and +1/S against -1/S a pooled difference. All columns are redrawn together, so differences are paired.
A picture without a score in some column is left out of all and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import rankdata

from experiments.pointwise_vs_pairwise.arms import Arm
from experiments.pointwise_vs_pairwise.design import PAIRWISE, POINTWISE, SEVERE
from experiments.pointwise_vs_pairwise.judgements import Pictured
from tastemaker.evaluation.agreement import pair_agreement, within_prompts
from tastemaker.evaluation.bootstrap import Statistic, cluster_interval
from tastemaker.evaluation.statistics import Estimate

DIFFERENCES = ((POINTWISE, PAIRWISE), (SEVERE, PAIRWISE), (SEVERE, POINTWISE))
"""The first less the second."""


@dataclass(frozen=True)
class Row:
    """One number. `what` is an arm, or two of which the second was subtracted; `seed` is None where seeds are pooled."""

    dimension: str
    measure: str
    what: tuple[str, ...]
    seed: int | None
    found: Estimate
    prompts: int


@dataclass(frozen=True)
class Scored:
    """The held-out pictures of one dimension: (n,) truth and number of the prompt, (n, columns) scores, asked twice."""

    truth: np.ndarray
    prompt: np.ndarray
    shown: np.ndarray
    again: np.ndarray
    missing: int

    @classmethod
    def of(cls, dimension: str, pictures: Sequence[Pictured], arms: Sequence[Arm]) -> Scored:
        shown = np.array([arm.shown[dimension] for arm in arms]).T
        again = np.array([arm.again[dimension] for arm in arms]).T
        kept = ~np.isnan(shown + again).any(1)
        truth = np.array([one.truth for one in pictures])
        prompt = np.unique([one.prompt for one, keep in zip(pictures, kept, strict=True) if keep], return_inverse=True)[1]
        return cls(truth[kept], prompt, shown[kept], again[kept], int((~kept).sum()))

    @property
    def groups(self) -> list[np.ndarray]:
        """Places of each prompt's pictures."""
        return [np.flatnonzero(self.prompt == one) for one in range(self.prompt.max(initial=-1) + 1)]


def compare(arms: Sequence[Arm], held_out: Mapping[str, Sequence[Pictured]], *, resamples: int = 2000) -> list[Row]:
    """Every measure of every dimension: each arm and each difference, for each seed and pooled."""
    columns = [(arm.name, arm.seed) for arm in arms]
    rows = []
    for dimension, pictures in held_out.items():
        scored = Scored.of(dimension, pictures, arms)
        for measure, prepared in MEASURES.items():
            table, num_prompts = prepared(scored)
            for what, seed, weights in contrasts(columns):
                value, low, high = cluster_interval(_weighted(table, weights), num_prompts, resamples=resamples)
                found = Estimate(len(scored.truth), value, low, high, scored.missing)
                rows.append(Row(dimension, measure, what, seed, found, num_prompts))
    return rows


def contrasts(columns: Sequence[tuple[str, int]]) -> Iterator[tuple[tuple[str, ...], int | None, np.ndarray]]:
    """What is told of the columns: arms and differences, pooled first."""
    names, seeds = (list(dict.fromkeys(values)) for values in zip(*columns, strict=True))
    differences = [pair for pair in DIFFERENCES if {*pair} <= {*names}]
    for what in [*((name,) for name in names), *differences]:
        for seed in (None, *seeds):
            signs = [(name == what[0]) - (name in what[1:]) if seed in (None, of) else 0 for name, of in columns]
            yield what, seed, np.array(signs) / (len(seeds) if seed is None else 1)


def _weighted(table: Statistic, weights: np.ndarray) -> Statistic:
    used = weights != 0  # another column's NaN is not this contrast's
    return lambda counts: table(counts)[:, used] @ weights[used]


def _within(scored: Scored) -> tuple[Statistic, int]:
    """Mean over prompts of Spearman's rho among a prompt's pictures; prompts whose pictures are equally good are left out."""
    used = [rows for rows in scored.groups if np.ptp(scored.truth[rows]) > 0]

    def rho(rows: np.ndarray, column: int) -> float:
        return within_prompts(scored.shown[rows, column], scored.truth[rows], [0] * len(rows)).value

    found = np.array([[rho(rows, column) for column in range(scored.shown.shape[1])] for rows in used])
    return _ratio(found, np.ones(len(used))), len(used)


def _across(scored: Scored) -> tuple[Statistic, int]:
    """Spearman's rho of all pictures at once. The draws are the same for every contrast, so they are ranked once."""
    groups = scored.groups
    known: dict[bytes, np.ndarray] = {}

    def one(counts: np.ndarray) -> np.ndarray:
        rows = np.repeat(np.arange(len(scored.truth)), counts[scored.prompt].astype(int))
        ranks = rankdata(np.column_stack([scored.truth, scored.shown])[rows], axis=0)
        centred = ranks - ranks.mean(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return centred[:, :1].T @ centred[:, 1:] / np.sqrt((centred[:, :1] ** 2).sum() * (centred[:, 1:] ** 2).sum(0))

    def statistic(counts_KC: np.ndarray) -> np.ndarray:
        key = counts_KC.tobytes()
        if key not in known:
            known[key] = np.concatenate([one(counts) for counts in counts_KC])
        return known[key]

    return statistic, len(groups)


def _pairs(scored: Scored) -> tuple[Statistic, int]:
    """Share of a prompt's pairs, unequal in truth, that are put right in both orders."""

    def right(rows: np.ndarray, column: int) -> tuple[float, int]:
        first, second = np.array([*combinations(rows, 2)]).reshape(-1, 2).T
        shown, again, truth = (
            values[first] - values[second] for values in (scored.shown[:, column], scored.again[:, column], scored.truth)
        )
        found = pair_agreement(shown, again, truth, [0] * len(first)).both
        return (found.value * found.n if found.n else 0.0), found.n

    counted = [[right(rows, column) for column in range(scored.shown.shape[1])] for rows in scored.groups]
    table = np.array(counted).reshape(len(counted), -1, 2)
    used = table[:, 0, 1] > 0
    return _ratio(table[used, :, 0], table[used, 0, 1]), int(used.sum())


def _ratio(above_CA: np.ndarray, below_C: np.ndarray) -> Statistic:
    return lambda counts_KC: (counts_KC @ above_CA) / (counts_KC @ below_C)[:, None]


MEASURES: Mapping[str, Callable[[Scored], tuple[Statistic, int]]] = {
    "Spearman within prompts": _within,
    "Spearman across prompts": _across,
    "pairs right in both orders": _pairs,
}
"""Each gives a (K, columns) statistic of how often each prompt is drawn, and the number of prompts."""
