"""Intervals for what is computed from clustered observations: pictures of one prompt are alike, so whole prompts are redrawn.

A statistic is a function of how often each cluster is drawn. Drawn once each, that is the value; left out one at a time, the
jackknife; drawn at random with replacement, the bootstrap. All three are evaluated many rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from tastemaker.evaluation.statistics import bca_bounds

Statistic = Callable[[np.ndarray], np.ndarray]
"""(K, C) times that each of C clusters is drawn -> (K,) values, NaN where a draw does not define one."""

CHUNK = 2_000_000
"""Floats that a statistic may use at once for each array it makes: 16 MB."""


def cluster_interval(
    statistic: Statistic, num_clusters: int, *, width: int = 1, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(value, low, high): the statistic of all clusters and its 95% BCa interval. The same seed gives the same interval.

    `width` is how many floats the statistic needs for one row, beyond the clusters. Bounds are NaN with fewer than two
    clusters, where nothing varies, and where more than a tenth of the draws define no value. Below about 20 clusters the
    interval is somewhat too narrow.
    """
    if num_clusters < 1:
        return math.nan, math.nan, math.nan
    value = float(statistic(np.ones((1, num_clusters)))[0])
    if num_clusters < 2 or math.isnan(value):
        return value, math.nan, math.nan
    rows = max(1, CHUNK // max(width, num_clusters))
    draws = bootstrap_draws(statistic, num_clusters, width=width, resamples=resamples, seed=seed)
    left_out = np.concatenate([statistic(counts) for counts in _left_out(num_clusters, rows)])
    return value, *bca_bounds(value, draws, left_out)


def bootstrap_draws(
    statistic: Statistic, num_clusters: int, *, width: int = 1, resamples: int = 2000, seed: int = 0
) -> np.ndarray:
    """(resamples, ...) the statistic of as many clusters, drawn with replacement."""
    rng = np.random.default_rng(seed)
    rows, shares = max(1, CHUNK // max(width, num_clusters)), np.full(num_clusters, 1 / num_clusters)
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([statistic(rng.multinomial(num_clusters, shares, size).astype(np.float64)) for size in sizes])


def _left_out(num_clusters: int, rows: int) -> Iterator[np.ndarray]:
    for start in range(0, num_clusters, rows):
        places = np.arange(start, min(start + rows, num_clusters))
        counts = np.ones((len(places), num_clusters))
        counts[np.arange(len(places)), places] = 0
        yield counts
