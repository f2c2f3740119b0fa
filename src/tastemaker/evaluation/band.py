"""How far a statistic of a fixed set of prompts moves by itself when the base draws the set from other noise; how far is far.

A set is one or more pictures of each of P prompts, and its statistic is the mean over prompts of one value each. The noise of
different prompts is independent, so the variance of the mean is (1 / P^2) sum_p var_p, and each prompt's var_p is estimated
from the S sets that the base drew. From S values of the mean itself, the spread would be known to S - 1 degrees of freedom; by
prompts it is known to about P (S - 1), fewer where a few prompts vary most (Satterthwaite 1946).
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
    """One statistic now. `distance` is (value - base) / spread, and `limit` how many spreads are too many.

    `value` and `base` are means over the same prompts; `spread` is the standard deviation of such a mean from one set of noise
    to another.
    """

    value: float
    base: float
    spread: float
    distance: float
    limit: float

    @property
    def beyond(self) -> bool:
        return abs(self.distance) > self.limit

    @property
    def rise(self) -> float:
        return self.value - self.base


@dataclass(frozen=True, eq=False)
class Band:
    """What the base does: mean and variance (P,) of each prompt over `seeds` sets. NaN for a prompt that lacks a value."""

    means_P: np.ndarray
    variances_P: np.ndarray
    seeds: int
    floor: float
    """The least spread of the mean, above 0, for statistics that hardly vary: less is no difference to speak of."""

    @classmethod
    def of(cls, values_SP: np.ndarray, floor: float) -> Band:
        """From the base's S sets. A prompt counts only where all of them have its value."""
        if len(values_SP) < 2:
            raise ValueError(f"a spread needs at least two sets, got {len(values_SP)}")
        values_SP = np.asarray(values_SP, np.float64)
        return cls(values_SP.mean(0), values_SP.var(0, ddof=1), len(values_SP), floor)

    @property
    def empty(self) -> bool:
        """Whether no prompt has a value, so that nothing can be said."""
        return bool(np.isnan(self.means_P).all())

    @property
    def spread(self) -> float:
        """Standard deviation of the mean over all prompts that have a value; NaN without one."""
        return self._spread(~np.isnan(self.means_P))

    def _spread(self, present_P: np.ndarray) -> float:
        count = int(present_P.sum())
        return max(math.sqrt(self.variances_P[present_P].sum()) / count, self.floor) if count else math.nan

    def read(self, values_P: np.ndarray, *, threshold: float, tests: int) -> Reading | None:
        """Where `values_P` of one set stand; None where no prompt has a value now and in the base."""
        present = ~(np.isnan(values_P) | np.isnan(self.means_P))
        if not present.any():
            return None
        value, base = float(np.mean(values_P[present])), float(self.means_P[present].mean())
        spread = self._spread(present)
        return Reading(value, base, spread, (value - base) / spread, self._limit(self.variances_P[present], threshold, tests))

    def _limit(self, variances: np.ndarray, threshold: float, tests: int) -> float:
        total, squares = float(variances.sum()), float((variances**2).sum())
        known = math.sqrt(total) / len(variances) <= self.floor  # the floor is no estimate
        freedom = math.inf if known else total**2 / (squares / (self.seeds - 1))
        return limit(threshold, tests=tests, seeds=self.seeds, freedom=freedom)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, null for NaN."""
        rows = {"means": self.means_P, "variances": self.variances_P}
        plain = {name: [None if math.isnan(x) else float(x) for x in values] for name, values in rows.items()}
        return {**plain, "seeds": self.seeds, "floor": self.floor}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Band:
        """What `to_json` gave."""
        means, variances = (
            np.array([math.nan if x is None else x for x in stored[name]], np.float64) for name in ("means", "variances")
        )
        return cls(means, variances, stored["seeds"], stored["floor"])


def limit(threshold: float, *, tests: int, seeds: int, freedom: float) -> float:
    """How many estimated spreads one of `tests` statistics may be from the mean of `seeds` sets.

    The chance that any of them is farther in one look, while the policy draws as the base does, is that of a normal variable
    beyond `threshold` standard deviations (0.27% for 3): Bonferroni's share of it for each, Student's quantile because the
    spread is estimated, and sqrt(1 + 1 / seeds) because the mean is.
    """
    tail = float(ndtr(-threshold)) / tests
    quantile = float(-ndtri(tail)) if math.isinf(freedom) else float(-stdtrit(freedom, tail))
    return quantile * math.sqrt(1 + 1 / seeds)
