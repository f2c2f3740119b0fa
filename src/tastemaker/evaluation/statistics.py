"""How sure are we? Proportions and paired differences, each with a 95% interval.

Two models are compared on the same prompts and seeds, so their verdicts are pairs, and the interval is for the mean of the
pairwise difference; the wider interval of two independent samples would throw the pairing away. Pairs are taken as
independent of each other: give one picture a prompt (or the mean over a prompt's pictures), not several rows of one prompt.

A missing verdict or score is NaN (None is read as NaN). It is dropped, with its pair, and counted in `missing`; it is never a
number. What the data cannot say is NaN too: with n = 0 all of it, with n = 1 the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import bisect
from scipy.special import ndtr, ndtri, stdtrit

Z95 = 1.959963984540054
"""The two-sided 95% point of the standard normal."""


@dataclass(frozen=True)
class Estimate:
    """A value from `n` observations with its 95% interval; NaN bounds mean that the data allow no interval.

    >>> found = proportion([True, True, False, True, None])
    >>> found.n, found.missing, found.value, round(found.low, 2), round(found.high, 2)
    (4, 1, 0.75, 0.3, 0.95)
    """

    n: int
    value: float
    low: float
    high: float
    missing: int = 0

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0; False where there is no interval."""
        return self.low > 0 or self.high < 0


def proportion(successes: Sequence[bool | float | None] | np.ndarray) -> Estimate:
    """Share of successes with Wilson's score interval, which stays inside [0, 1] and is not empty at 0% or 100%."""
    values = _observations(successes)
    present = values[~np.isnan(values)]
    if not _binary(present):
        raise ValueError("a success is True, False or missing (NaN); for scores use paired_difference")
    n, missing = len(present), len(values) - len(present)
    if n == 0:
        return Estimate(0, math.nan, math.nan, math.nan, missing)
    share = float(present.mean())
    if n == 1:
        return Estimate(1, share, math.nan, math.nan, missing)
    return Estimate(n, share, *_wilson(share, n), missing)


def mean_over(values: Sequence[float | None] | np.ndarray) -> Estimate:
    """Mean of independent values, such as one for each prompt, with Student's interval."""
    array = _observations(values)
    present = array[~np.isnan(array)]
    n, missing = len(present), len(array) - len(present)
    if n == 0:
        return Estimate(0, math.nan, math.nan, math.nan, missing)
    value = float(present.mean())
    if n == 1:
        return Estimate(1, value, math.nan, math.nan, missing)
    half = float(stdtrit(n - 1, 0.975)) * float(present.std(ddof=1)) / math.sqrt(n)
    return Estimate(n, value, value - half, value + half, missing)


def paired_difference(
    after: Sequence[bool | float | None] | np.ndarray,
    before: Sequence[bool | float | None] | np.ndarray,
    *,
    resamples: int = 4000,
    seed: int = 0,
) -> Estimate:
    """Mean of `after - before` over pairs; verdicts (all 0 or 1) get Tango's score interval, scores a BCa bootstrap.

    The bootstrap is seeded, so the same data give the same interval; below about 20 pairs it is somewhat too narrow. Scores
    whose differences are all the same show no spread to bootstrap from, and their bounds are NaN.
    """
    a, b = _observations(after), _observations(before)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} values after but {len(b)} before; pairs need the same prompts in the same order")
    present = ~(np.isnan(a) | np.isnan(b))
    missing = int((~present).sum())
    a, b = a[present], b[present]
    difference = a - b
    n = len(difference)
    if n == 0:
        return Estimate(0, math.nan, math.nan, math.nan, missing)
    value = float(difference.mean())
    if n == 1:
        return Estimate(1, value, math.nan, math.nan, missing)
    if _binary(a) and _binary(b):
        won, lost = int((difference > 0).sum()), int((difference < 0).sum())
        return Estimate(n, value, *tango(won, lost, n), missing)
    return Estimate(n, value, *_bootstrap(difference, resamples, seed), missing)


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Holm 1979: which hypotheses are rejected so that any false rejection among all has a probability of at most `level`.

    >>> holm([0.03, 0.001, 0.02], 0.05)
    [True, True, True]
    >>> holm([0.04, 0.001, 0.03], 0.05)
    [False, True, False]
    """
    rejected = [False] * len(p_values)
    for place, row in enumerate(sorted(range(len(p_values)), key=lambda row: p_values[row])):
        if not p_values[row] <= level / (len(p_values) - place):
            break
        rejected[row] = True
    return rejected


def _observations(values: Sequence[bool | float | None] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"one value per prompt is expected, got an array of shape {array.shape}")
    if np.isinf(array).any():
        raise ValueError("a value is infinite; a score that did not arrive is NaN")
    return array


def _binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson 1927: the shares p with |share - p| <= z sqrt(p (1 - p) / n)."""
    z2 = Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if share == 0 else max(centre - half, 0.0)
    high = 1.0 if share == 1 else min(centre + half, 1.0)
    return low, high


def tango(won: int, lost: int, n: int) -> tuple[float, float]:
    """Tango 1998: the differences of paired proportions that the score test does not reject at 5%."""
    value = (won - lost) / n
    low = -1.0 if value == -1 else bisect(lambda d: _score_statistic(d, won, lost, n) - Z95, -1.0, value, xtol=1e-10)
    high = 1.0 if value == 1 else bisect(lambda d: _score_statistic(d, won, lost, n) + Z95, value, 1.0, xtol=1e-10)
    return float(low), float(high)


def _score_statistic(delta: float, won: int, lost: int, n: int) -> float:
    """z of the observed difference if the true one were `delta`, the nuisance probability at its constrained maximum."""
    a = 2 * n
    b = -won - lost + (2 * n - won + lost) * delta
    c = -lost * delta * (1 - delta)
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    lost_probability = -2 * c / (b + root) if b > 0 else (root - b) / (2 * a)  # the form without cancellation
    variance = n * (2 * lost_probability + delta * (1 - delta))
    distance = won - lost - n * delta
    return distance / math.sqrt(max(variance, 1e-18))


def _bootstrap(differences: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """BCa bootstrap of the mean, whose jackknife has a closed form."""
    n = len(differences)
    centred = differences - differences.mean()
    squares = float((centred**2).sum())
    if squares <= (1e-12 * max(1.0, float(np.abs(differences).max()))) ** 2 * n:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    rows = max(1, 2_000_000 // n)  # bounds memory at about 32 MB
    means = np.concatenate(
        [centred[rng.integers(0, n, (min(rows, resamples - k), n))].mean(1) for k in range(0, resamples, rows)]
    )
    low, high = bca_bounds(0.0, means, left_out=-centred / (n - 1))
    return low + float(differences.mean()), high + float(differences.mean())


def bca_bounds(value: float, draws: np.ndarray, left_out: np.ndarray) -> tuple[float, float]:
    """Efron 1987: 95% bounds from bootstrap draws, corrected for bias, and for skewness told by the jackknife values.

    NaN where more than a tenth of the draws are NaN, or all are the same.
    """
    defined = draws[~np.isnan(draws)]
    if len(defined) < 0.9 * len(draws) or np.ptp(defined) <= 1e-12 * max(1.0, float(np.abs(defined).max())):
        return math.nan, math.nan
    count = len(defined)
    near = 1e-12 * max(1.0, abs(value))  # rounding does not decide whether a draw ties with the value
    below = (np.sum(defined < value - near) + 0.5 * np.sum(np.abs(defined - value) <= near)) / count
    bias = ndtri(np.clip(below, 0.5 / count, 1 - 0.5 / count))
    tails = bias + np.array([-Z95, Z95])
    levels = ndtr(bias + tails / np.maximum(1 - _acceleration(left_out) * tails, 1e-9))
    low, high = np.quantile(defined, levels)
    return float(low), float(high)


def _acceleration(left_out: np.ndarray) -> float:
    """A sixth of the skewness of the jackknife's influence values."""
    influence = np.nanmean(left_out) - left_out[~np.isnan(left_out)]
    squares = float((influence**2).sum())
    return float((influence**3).sum()) / (6 * squares**1.5) if squares > 1e-24 else 0.0
