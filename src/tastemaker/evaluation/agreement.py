"""How well does a judge agree with people? Ranks, pairs, calibration, and the raters' agreement with each other as the ceiling.

Pictures of one prompt are not independent, so every interval redraws whole prompts (`bootstrap`). A missing score is NaN; its
picture leaves the statistic and is counted. What the data cannot say is NaN too. Formulas are in docs/math.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import kendalltau, spearmanr

from tastemaker.evaluation.bootstrap import Statistic, bootstrap_draws, cluster_interval
from tastemaker.evaluation.statistics import Estimate

Rank = Literal["spearman", "kendall"]
Level = Literal["nominal", "ordinal", "interval"]
Numbers = Sequence[float] | np.ndarray
Prompts = Sequence[Hashable] | np.ndarray
"""What each observation belongs to; equal entries are one cluster."""


@dataclass(frozen=True)
class Agreement(Estimate):
    """An estimate over `n` observations of `num_prompts` prompts; `missing` observations had no score.

    `prompts_without_spread` is how many more prompts were left out because there was nothing to rank in them.
    """

    num_prompts: int = 0
    prompts_without_spread: int = 0


@dataclass(frozen=True)
class PairAgreement:
    """Pairs judged twice, as people saw them and with the sides exchanged. All are shares in [0, 1] but `left_bias`."""

    as_shown: Agreement
    """Right about the people's choice, shown as people saw the pair. A judge's tie counts one half."""
    exchanged: Agreement
    """The same with the sides exchanged."""
    both: Agreement
    """Right in both orders; a tie is not right."""
    consistent: Agreement
    """The same verdict in both orders, people's ties included."""
    left_bias: Agreement
    """Share of showings in which the left picture won less that in which it lost, over both orders: 0 without position bias."""


@dataclass(frozen=True)
class Isotonic:
    """A nondecreasing map from a judge's scores to people's: linear between its knots, constant beyond them."""

    scores: np.ndarray
    values: np.ndarray

    def __call__(self, judge: Numbers) -> np.ndarray:
        """(n,) recalibrated scores; NaN stays NaN."""
        return np.interp(np.asarray(judge, float), self.scores, self.values)


@dataclass(frozen=True)
class Recalibration:
    """Calibration error on held-out prompts before and after the map that was fitted on others."""

    before: Agreement
    after: Agreement
    map: Isotonic


def within_prompts(
    judge: Numbers, people: Numbers, prompts: Prompts, *, rank: Rank = "spearman", resamples: int = 2000, seed: int = 0
) -> Agreement:
    """Mean over prompts of the rank correlation among a prompt's pictures: what matters to an advantage within a group.

    Prompts whose pictures people score alike have no order to find; they are left out and counted. A judge that scores alike
    what people tell apart has found none of it and counts 0: it would otherwise gain by abstaining. `rank` is Spearman's rho
    or Kendall's tau-b; `n` counts the pictures of the prompts used.
    """
    data = _Clustered.of(prompts, judge, people)
    rows = [np.flatnonzero(data.cluster == one) for one in range(data.num_clusters)]
    used = [row for row in rows if np.ptp(data.values[1][row]) > 0]
    values = np.array([_correlation(data.values[0][row], data.values[1][row], rank) for row in used])
    found = cluster_interval(_ratio(values, np.ones(len(used))), len(used), resamples=resamples, seed=seed)
    return Agreement(sum(map(len, used)), *found, data.missing, len(used), len(rows) - len(used))


def across_prompts(
    judge: Numbers, people: Numbers, prompts: Prompts, *, rank: Rank = "spearman", resamples: int = 2000, seed: int = 0
) -> Agreement:
    """Rank correlation of all pictures at once, whatever their prompt: what matters when one threshold serves all prompts.

    It mixes the order within prompts with whether easy prompts are told from hard ones, so it may be high for a judge that
    orders no prompt's pictures right. NaN where judge or people give one score to everything. Kendall's tau-b takes time in
    pictures² and memory in prompts².
    """
    data = _Clustered.of(prompts, judge, people)
    statistic = _spearman(data) if rank == "spearman" else _kendall(data)
    width = len(data.cluster) if rank == "spearman" else 1
    return data.estimate(statistic, width=width, resamples=resamples, seed=seed)


def pair_agreement(
    as_shown: Numbers, exchanged: Numbers, people: Numbers, prompts: Prompts, *, resamples: int = 2000, seed: int = 0
) -> PairAgreement:
    """How often a judge prefers what people prefer, with the pair shown in either order.

    All three are margins for the picture that people saw on the left: above 0 it wins, below 0 it loses, 0 is a tie.
    `exchanged` is the judge's margin for that same picture when it is shown on the right. A pair that misses any of the three
    is left out and counted in `missing`. People's ties count for consistency and bias, not for the accuracies, whose `n` is
    that much smaller.
    """
    everything = _Clustered.of(prompts, as_shown, exchanged, people)
    decided = everything.where(everything.values[2] != 0)

    def share(data: _Clustered, hits: np.ndarray) -> Agreement:
        return data.estimate(data.mean_of(hits), resamples=resamples, seed=seed)

    first, second, wanted = np.sign(decided.values)
    verdict, other, _ = np.sign(everything.values)
    return PairAgreement(
        as_shown=share(decided, (1 + first * wanted) / 2),
        exchanged=share(decided, (1 + second * wanted) / 2),
        both=share(decided, (first == wanted) & (second == wanted)),
        consistent=share(everything, verdict == other),
        left_bias=share(everything, (verdict - other) / 2),
    )


def mean_shift(before: Numbers, after: Numbers, prompts: Prompts, *, resamples: int = 2000, seed: int = 0) -> Agreement:
    """Mean of `after` - `before` over pictures that have both, in the scores' unit."""
    data = _Clustered.of(prompts, before, after)
    return data.estimate(data.mean_of(data.values[1] - data.values[0]), resamples=resamples, seed=seed)


def calibration_error(
    judge: Numbers,
    people: Numbers,
    prompts: Prompts,
    *,
    low: float,
    high: float,
    bins: int = 10,
    resamples: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Expected calibration error: how far, on average, a judge's scores are from what people gave where it scored so.

    [low, high] is cut into `bins` of equal width; ECE = sum_b n_b/n |mean judge_b - mean people_b|, in the scores' unit. With
    probabilities, `people` are 0 and 1. Chance alone makes it positive, by up to 0.8 sqrt(bins/n) standard deviations of what
    people gave: compare values of equal n only. The interval knows of this; its low end is 0 where chance could explain all.
    Raises ValueError for a score of the judge out of range.
    """
    data = _Clustered.of(prompts, judge, people)
    scores, given = data.values
    if len(scores) and not (low <= scores.min() and scores.max() <= high):
        raise ValueError(f"the judge's scores reach from {scores.min():g} to {scores.max():g}, beyond [{low:g}, {high:g}]")
    place = np.minimum(((scores - low) / (high - low) * bins).astype(int), bins - 1)
    gaps_CK = data.sums(np.eye(bins)[place] * (scores - given)[:, None])
    size_C = data.sums(np.ones(len(scores)))
    value, low_end, high_end = _sum_of_absolutes(_ratio(gaps_CK, size_C[:, None]), data.num_clusters, resamples, seed)
    return Agreement(len(scores), value, low_end, high_end, data.missing, data.num_clusters)


def fit_isotonic(judge: Numbers, people: Numbers) -> Isotonic:
    """The nondecreasing map with the least squared error; equal scores of the judge share one value. NaN pairs are left out."""
    data = _Clustered.of(range(len(judge)), judge, people)
    if not len(data.cluster):
        raise ValueError("there is no pair of scores to fit")
    scores, level = np.unique(data.values[0], return_inverse=True)
    weights = np.bincount(level).astype(float)
    means = np.bincount(level, data.values[1]) / weights
    return Isotonic(scores, isotonic_regression(means, weights=weights).x)


def recalibrate(
    fit: tuple[Numbers, Numbers, Prompts],
    held_out: tuple[Numbers, Numbers, Prompts],
    *,
    low: float,
    high: float,
    bins: int = 10,
    resamples: int = 2000,
    seed: int = 0,
) -> Recalibration:
    """Fits the map on `fit` and measures `calibration_error` on `held_out`; each is (judge, people, prompts).

    People's scores have to be on the judge's scale. Raises ValueError if a prompt is in both parts: the map would have seen
    what it is measured on.
    """
    shared = set(fit[2]) & set(held_out[2])
    if shared:
        raise ValueError(f"{len(shared)} prompts are in both parts, such as {next(iter(shared))!r}; hold whole prompts out")
    fitted = fit_isotonic(*fit[:2])
    judge, people, prompts = held_out

    def error(scores: Numbers) -> Agreement:
        return calibration_error(scores, people, prompts, low=low, high=high, bins=bins, resamples=resamples, seed=seed)

    return Recalibration(error(judge), error(fitted(judge)), fitted)


def krippendorff_alpha(
    ratings_UR: np.ndarray,
    prompts: Prompts | None = None,
    *,
    level: Level = "ordinal",
    resamples: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Krippendorff's alpha between raters: 1 is perfect, 0 is chance, below 0 systematic disagreement; a judge's ceiling.

    `ratings_UR` has a row for each picture and a column for each rater, NaN where a rater gave none. `level` says what the
    distance of two scores is: `nominal` equal or not, `ordinal` ranks between them, `interval` their difference, squared.
    `n` counts the pictures with two ratings or more; the others cannot agree or disagree and are `missing`. Without `prompts`
    every picture is its own cluster. NaN where all ratings are equal. Time and memory grow with (different scores)².
    """
    table = np.asarray(ratings_UR, float)
    if table.ndim != 2 or np.isinf(table).any():
        raise ValueError(f"ratings are a finite table of pictures and raters, NaN where there is none; got shape {table.shape}")
    pairable = (~np.isnan(table)).sum(1) >= 2
    every = np.arange(len(table)) if prompts is None else prompts
    data = _Clustered.of(every, np.where(pairable, 0.0, np.nan))
    coincidences_CVV, values = _coincidences(table[pairable], data)
    statistic = _alpha(coincidences_CVV, values, level)
    return data.estimate(statistic, width=len(values) ** 2, resamples=resamples, seed=seed)


def rater_table(scores: Sequence[Mapping[str, float]]) -> np.ndarray:
    """(pictures, raters) for `krippendorff_alpha`, of one mapping from rater to score for each picture."""
    raters = sorted({rater for given in scores for rater in given})
    table = [[given.get(rater, np.nan) for rater in raters] for given in scores]
    return np.array(table, float).reshape(len(scores), len(raters))


@dataclass(frozen=True)
class _Clustered:
    """Observations without the missing ones: `values` (K, n), and `cluster` (n,), the number of the prompt of each."""

    values: np.ndarray
    cluster: np.ndarray
    num_clusters: int
    missing: int

    @classmethod
    def of(cls, prompts: Prompts, *values: Numbers) -> _Clustered:
        """Raises ValueError for unequal lengths and infinite values."""
        if any(np.shape(one) != (len(prompts),) for one in values):
            raise ValueError(f"{[np.shape(one) for one in values]} scores but {len(prompts)} prompts; give one prompt for each")
        table = np.array([np.asarray(one, float) for one in values])
        if np.isinf(table).any():
            raise ValueError("a score is infinite; a score that did not arrive is NaN")
        number_of: dict[Hashable, int] = {}
        cluster = np.array([number_of.setdefault(prompt, len(number_of)) for prompt in prompts], int)
        present = ~np.isnan(table).any(0)
        return cls(table, cluster, len(number_of), int((~present).sum())).where(present)

    def where(self, kept: np.ndarray) -> _Clustered:
        present, cluster = np.unique(self.cluster[kept], return_inverse=True)
        return _Clustered(self.values[:, kept], cluster, len(present), self.missing)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(n, ...) -> (C, ...): sums over the observations of each cluster."""
        sums = np.zeros((self.num_clusters, *values.shape[1:]))
        np.add.at(sums, self.cluster, values)
        return sums

    def mean_of(self, values: np.ndarray) -> Statistic:
        return _ratio(self.sums(np.asarray(values, float)), self.sums(np.ones(len(values))))

    def estimate(self, statistic: Statistic, *, width: int = 1, resamples: int, seed: int) -> Agreement:
        found = cluster_interval(statistic, self.num_clusters, width=width, resamples=resamples, seed=seed)
        return Agreement(len(self.cluster), *found, self.missing, self.num_clusters)


def _ratio(above_C: np.ndarray, below_C: np.ndarray) -> Statistic:
    return lambda counts: (counts @ above_C) / (counts @ below_C)


def _sum_of_absolutes(terms: Statistic, num_clusters: int, resamples: int, seed: int) -> tuple[float, float, float]:
    """Value and 95% bounds of sum |g_b|, whose redraws lie above it and so bound nothing themselves.

    The noise e = g* - g of the redraws stands for that of g. Down, |sum |g| - sum |g_true|| <= sum |e|; up, the noise counts
    with the signs of g.
    """
    if num_clusters < 1:
        return math.nan, math.nan, math.nan
    centre = terms(np.ones((1, num_clusters)))[0]
    value = float(np.abs(centre).sum())
    if num_clusters < 2:
        return value, math.nan, math.nan
    noise = bootstrap_draws(terms, num_clusters, width=len(centre), resamples=resamples, seed=seed) - centre
    low = value - float(np.quantile(np.abs(noise).sum(1), 0.975))
    high = value - float(np.quantile(noise @ np.sign(centre), 0.025))
    return value, max(low, 0.0), high


def _correlation(judge: np.ndarray, people: np.ndarray, rank: Rank) -> float:
    if np.ptp(judge) == 0:
        return 0.0
    return float((spearmanr if rank == "spearman" else kendalltau)(judge, people).statistic)


def _spearman(data: _Clustered) -> Statistic:
    """Pearson's correlation of mid-ranks, every picture weighted by how often its prompt is drawn; exact, no rows repeated."""
    judge_ranks, people_ranks = (_weighted_ranks(values) for values in data.values)

    def statistic(counts_KC: np.ndarray) -> np.ndarray:
        weights = counts_KC[:, data.cluster]
        x, y = _centred(judge_ranks(weights), weights), _centred(people_ranks(weights), weights)
        return _cosine((weights * x * y).sum(1), (weights * x * x).sum(1), (weights * y * y).sum(1))

    return statistic


def _weighted_ranks(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From (K, n) weights to (K, n) mid-ranks less 1/2: the weight below, and half the weight of what ties."""
    levels, level = np.unique(values, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(len(levels)))

    def ranks(weights: np.ndarray) -> np.ndarray:
        mass = np.add.reduceat(weights[:, order], starts, axis=1)
        return (np.cumsum(mass, axis=1) - mass / 2)[:, level]

    return ranks


def _centred(ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return ranks - ((weights * ranks).sum(1) / weights.sum(1))[:, None]


def _kendall(data: _Clustered) -> Statistic:
    """tau-b as quadratic forms in the counts: pairs are summed once for each two prompts, whatever is drawn."""
    pairs = np.zeros((3, data.num_clusters, data.num_clusters))
    for x, y, cluster in zip(*data.values, data.cluster, strict=True):
        sign_x, sign_y = np.sign(data.values[0] - x), np.sign(data.values[1] - y)
        for form, terms in zip(pairs, (sign_x * sign_y, sign_x**2, sign_y**2), strict=True):
            form[cluster] += np.bincount(data.cluster, terms, data.num_clusters)

    def statistic(counts_KC: np.ndarray) -> np.ndarray:
        return _cosine(*(((counts_KC @ form) * counts_KC).sum(1) for form in pairs))

    return statistic


def _cosine(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((xx > 1e-9) & (yy > 1e-9), xy / np.sqrt(xx * yy), np.nan)


def _coincidences(table_UR: np.ndarray, data: _Clustered) -> tuple[np.ndarray, np.ndarray]:
    """(C, V, V) how often two raters gave a picture the scores v and w, and the V scores: m ratings weigh 1/(m - 1) a pair."""
    values = np.unique(table_UR[~np.isnan(table_UR)])
    found = np.zeros((data.num_clusters, len(values), len(values)))
    for row, cluster in zip(table_UR, data.cluster, strict=True):
        times = np.bincount(np.searchsorted(values, row[~np.isnan(row)]), minlength=len(values))
        found[cluster] += (np.outer(times, times) - np.diag(times)) / (times.sum() - 1)
    return found, values


def _alpha(coincidences_CVV: np.ndarray, values: np.ndarray, level: Level) -> Statistic:
    """1 - (n - 1) sum o_vw d_vw / sum n_v n_w d_vw with d the squared distance of places, or 1 for nominal."""
    flat = coincidences_CVV.reshape(len(coincidences_CVV), len(values) ** 2)

    def statistic(counts_KC: np.ndarray) -> np.ndarray:
        observed = (counts_KC @ flat).reshape(-1, len(values), len(values))
        given = observed.sum(2)
        if level == "nominal":
            distance = 1 - np.eye(len(values))[None]
        else:
            places = values[None] if level == "interval" else np.cumsum(given, 1) - given / 2
            distance = (places[:, :, None] - places[:, None, :]) ** 2
        disagree, expected = (observed * distance).sum((1, 2)), (given[:, :, None] * given[:, None] * distance).sum((1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(expected > 0, 1 - (given.sum(1) - 1) * disagree / expected, np.nan)

    return statistic
