"""Means of what judges, or other measures, say of a model's pictures, and their paired differences, each with its interval."""

from __future__ import annotations

from dataclasses import dataclass

from tastemaker.evaluation.statistics import Estimate

ALL_JUDGES = "all judges"
"""The weighted sum of the judges' range-normalised scores, in [0, 1]."""


@dataclass(frozen=True)
class ScoreRow:
    """Mean score of one model, sampled one way; `n` scores are there, `missing` were asked for and are not."""

    model: str
    task: str
    guidance: float
    reward: str
    category: str
    n: int
    mean: float
    low: float
    high: float
    missing: int = 0

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.n, self.mean, self.low, self.high, self.missing)


@dataclass(frozen=True)
class ScoreDifference:
    """Mean score of the first model of `pair` less that of the second, on the same prompts and noise."""

    pair: tuple[str, str]
    task: str
    guidance: float
    reward: str
    category: str
    n: int
    difference: float
    low: float
    high: float
    against_guidance: float | None = None
    missing: int = 0

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.n, self.difference, self.low, self.high, self.missing)
