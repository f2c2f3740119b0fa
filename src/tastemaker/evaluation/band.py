"""How far a statistic of a fixed set of prompts moves by itself when the base draws the set from other noise; how far is far.

A set is one or more pictures of each of P prompts, and its statistic is the mean over prompts of one value each. The noise of
different prompts is independent, so the variance of the mean is (1 / P^2) sum_p var_p, and each prompt's var_p is estimated
from the S sets that the base drew. From S values of the mean itself, the spread would be known to S - 1 degrees of freedom; by
prompts it is known to about P (S - 1), fewer where a few prompts vary most (Satterthwaite 1946).

A check draws the first of these sets again. As long as the policy still draws much the same from the same noise, what was
special about that noise is in both, and is taken off. With r the slope, over prompts, of the residuals of now on those of then,

    expected = mean + r (first - mean),    variance of value - expected = spread^2 (1 - r^2 + (1 - r)^2 / S)

which is the paired difference for r = 1 and the difference from the mean for r = 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit


@dataclass(frozen=True)
class Reading:
    """One statistic now. `distance` is (value - base) / spread; `limit` and `notice` say how many spreads are too many.

    `value` is a mean over prompts, `base` what the base would give for them from this noise, `spread` the standard deviation of
    such a mean from one set of noise to another. `limit` is for a statistic that decides, `notice` for one of many that are
    looked at.
    """

    value: float
    base: float
    spread: float
    distance: float
    limit: float
    notice: float

    @property
    def beyond(self) -> bool:
        return abs(self.distance) > self.limit

    @property
    def notable(self) -> bool:
        return abs(self.distance) > self.notice

    @property
    def rise(self) -> float:
        return self.value - self.base


@dataclass(frozen=True, eq=False)
class Band:
    """What the base does: each prompt's mean and variance (P,) over `seeds` sets, and the first set; NaN without a value."""

    means_P: np.ndarray
    variances_P: np.ndarray
    first_P: np.ndarray
    seeds: int
    floor: float
    """The least spread of the mean, above 0, for statistics that hardly vary: less is no difference to speak of."""

    @classmethod
    def of(cls, values_SP: np.ndarray, floor: float) -> Band:
        """From the base's S sets. A prompt counts only where all of them have its value."""
        if len(values_SP) < 2:
            raise ValueError(f"a spread needs at least two sets, got {len(values_SP)}")
        values_SP = np.asarray(values_SP, np.float64)
        return cls(values_SP.mean(0), values_SP.var(0, ddof=1), values_SP[0], len(values_SP), floor)

    @property
    def empty(self) -> bool:
        """Whether no prompt has a value, so that nothing can be said."""
        return bool(np.isnan(self.means_P).all())

    @property
    def spread(self) -> float:
        """Standard deviation of the mean over all prompts that have a value; NaN without one."""
        return self._spread(~np.isnan(self.means_P))

    def read(self, values_P: np.ndarray, *, threshold: float, deciding: int, looked_at: int) -> Reading | None:
        """Where `values_P` stand, drawn from the noise of the first set; None where no prompt has a value now and in the base.

        `deciding` and `looked_at` are the numbers of statistics that share the chance of a false alarm, or notice.
        """
        present = ~(np.isnan(values_P) | np.isnan(self.means_P))
        if not present.any():
            return None
        means, first = self.means_P[present], self.first_P[present]
        r = _slope(values_P[present] - means, first - means)
        value, base = float(np.mean(values_P[present])), float(means.mean() + r * (first - means).mean())
        spread = self._spread(present)
        width = math.sqrt(1 - r**2 + (1 - r) ** 2 / self.seeds)
        limits = (
            max(threshold, width * quantile(threshold, tests=tests, freedom=self._freedom(present)))
            for tests in (deciding, looked_at)
        )
        return Reading(value, base, spread, (value - base) / spread, *limits)

    def _spread(self, present_P: np.ndarray) -> float:
        count = int(present_P.sum())
        return max(math.sqrt(self.variances_P[present_P].sum()) / count, self.floor) if count else math.nan

    def _freedom(self, present_P: np.ndarray) -> float:
        """Degrees of freedom of the spread; the floor is no estimate, and has as many as one likes."""
        variances = self.variances_P[present_P]
        if math.sqrt(variances.sum()) / len(variances) <= self.floor:
            return math.inf
        return float(variances.sum()) ** 2 / (float((variances**2).sum()) / (self.seeds - 1))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, null for NaN."""
        rows = {"means": self.means_P, "variances": self.variances_P, "first": self.first_P}
        plain = {name: [None if math.isnan(x) else float(x) for x in values] for name, values in rows.items()}
        return {**plain, "seeds": self.seeds, "floor": self.floor}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Band:
        """What `to_json` gave."""
        means, variances, first = (
            np.array([math.nan if x is None else x for x in stored[name]], np.float64)
            for name in ("means", "variances", "first")
        )
        return cls(means, variances, first, stored["seeds"], stored["floor"])


def quantile(threshold: float, *, tests: int, freedom: float) -> float:
    """How many of its own estimated standard deviations one of `tests` differences may be.

    The chance that any of them is larger in one look, while the policy draws as the base does, is that of a normal variable
    beyond `threshold` standard deviations (0.27% for 3): Bonferroni's share of it for each, and Student's quantile because the
    standard deviation is estimated.
    """
    tail = float(ndtr(-threshold)) / tests
    return float(-ndtri(tail)) if math.isinf(freedom) else float(-stdtrit(freedom, tail))


def _slope(now: np.ndarray, first: np.ndarray) -> float:
    """Of the regression of residuals now on those of the first set, over prompts, between 0 and 1; 0 where nothing varies.

    Two standard errors less than estimated (White's, for prompts vary differently): too small a slope only makes the limit
    wider than it had to be, too large a one would find differences in noise.
    """
    first, now = first - first.mean(), now - now.mean()
    squares = float((first**2).sum())
    if squares <= 1e-18:
        return 0.0
    slope = float((now * first).sum()) / squares
    error = math.sqrt(float((first**2 * (now - slope * first) ** 2).sum())) / squares
    return min(max(slope - 2 * error, 0.0), 1.0)
