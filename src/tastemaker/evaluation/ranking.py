"""Elo from paired verdicts: how often one model's picture beats the other's on the same prompt and noise.

With two models Bradley and Terry's fit has a closed form: the share p of wins, ties counted as half, is the probability of
winning, and the difference of the ratings is 400 log10(p / (1 - p)). With d = (wins - losses) / n that is p = (1 + d) / 2, so
the rating is a rising function of the paired difference, and so are the ends of its interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tastemaker.evaluation.statistics import tango


@dataclass(frozen=True)
class Elo:
    """Rating of the first model of `pair` less that of the second; NaN where it is infinite, for one of them won every prompt.

    `by` says whose verdicts these are; `missing` pairs lack a verdict of either side.
    """

    pair: tuple[str, str]
    task: str
    guidance: float
    by: str
    category: str
    n: int
    wins: int
    ties: int
    losses: int
    rating: float
    low: float
    high: float
    against_guidance: float | None = None
    missing: int = 0


def points_of(after: np.ndarray, before: np.ndarray, margin: np.ndarray | float = 0.0) -> np.ndarray:
    """(n,) 1 where `after` is better by more than `margin`, 0 where worse, 0.5 for a tie, NaN where either is missing."""
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    points = np.where(np.abs(difference) <= margin, 0.5, (difference > 0).astype(np.float64))
    return np.where(np.isnan(difference), np.nan, points)


def elo_of(difference: float) -> float:
    """400 log10(p / (1 - p)) of p = (1 + difference) / 2; NaN where that is infinite."""
    return 400 * math.log10((1 + difference) / (1 - difference)) if -1 < difference < 1 else math.nan


def elo(
    points: np.ndarray,
    *,
    pair: tuple[str, str],
    task: str,
    guidance: float,
    by: str,
    category: str,
    against_guidance: float | None = None,
) -> Elo:
    """The row of (n,) points, one a prompt, of which NaN are missing."""
    present = points[~np.isnan(points)]
    n, wins, losses = len(present), int((present == 1).sum()), int((present == 0).sum())
    low, high = tango(wins, losses, n) if n > 1 else (math.nan, math.nan)
    return Elo(
        pair,
        task,
        float(guidance),
        by,
        category,
        n,
        wins,
        n - wins - losses,
        losses,
        elo_of((wins - losses) / n if n else math.nan),
        elo_of(low),
        elo_of(high),
        against_guidance=against_guidance,
        missing=len(points) - n,
    )
