"""Which prompts can teach: those whose samples differ in the composite reward, on the base, at the settings of training.

    composite_PG -> range (max - min) of each prompt -> threshold -> kept, or why not

Pure selection: nothing is drawn or written here. A sample that lacks a score which counts has no composite and takes no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tastemaker.types import Prompt, Task

KEPT, TOO_EASY, TOO_HARD, NO_DIFFERENCE, MISSING = "kept", "too easy", "too hard", "no difference", "missing scores"
OUTCOMES = (KEPT, TOO_EASY, TOO_HARD, NO_DIFFERENCE, MISSING)
"""What can become of a prompt."""
GOOD, BAD = 0.75, 0.25
"""A dropped prompt is too easy when its worst sample's composite is at least the one, too hard when its best is at most the
other: a 4 and a 2 on a scale from 1 to 5."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The G pictures of one prompt as its rewards saw them, after gates."""

    prompt: Prompt
    scores: Mapping[str, np.ndarray]
    """(G,) by reward; NaN where a score is missing or was not asked for."""
    composite_G: np.ndarray
    """Weighted sum of range-normalised scores, in [0, 1]; NaN where a score that counts is missing."""
    missing: tuple[str, ...] = ()
    """A reason for each score that was asked for and is not there."""


@dataclass(frozen=True)
class Outcome:
    """What becomes of one prompt. `range` and `mean` are of the composite, NaN where too few samples have one."""

    what: str
    num_judged: int
    range: float
    mean: float

    @property
    def kept(self) -> bool:
        return self.what == KEPT


def composite_range(composite_G: np.ndarray) -> float:
    """max - min over the samples that have a composite; NaN unless these are at least half of all, and two.

    A range grows with the number of samples: from half of them it is too small rather than too large, by about a quarter at
    G = 8 for normal scores, so a prompt is not kept because scores were missing.
    """
    present = composite_G[~np.isnan(composite_G)]
    if len(present) < max(2, math.ceil(len(composite_G) / 2)):
        return math.nan
    return float(present.max() - present.min())


def threshold_of(ranges: Sequence[float] | np.ndarray, keep: float) -> float:
    """The threshold above which lie the largest `keep` (a share above 0, at most 1) of the ranges; NaN ones do not count.

    Equal ranges stay together, so that somewhat more may lie above it. It is never below 0: a range of 0 is never kept.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}; it is a share above 0 and at most 1")
    present = np.asarray(ranges, dtype=np.float64)
    present = np.sort(present[~np.isnan(present)])[::-1]
    if len(present) == 0:
        return 0.0
    smallest_kept = present[max(1, round(keep * len(present))) - 1]
    below = present[present < smallest_kept]
    return float(below[0]) if len(below) else 0.0


def thresholds_of(samples: Sequence[Samples], keep: float) -> dict[Task, float]:
    """`threshold_of` for each task: tasks have other rewards, and one threshold for both would keep mostly one of them."""
    ranges: dict[Task, list[float]] = {}
    for one in samples:
        ranges.setdefault(one.prompt.task, []).append(composite_range(one.composite_G))
    return {task: threshold_of(found, keep) for task, found in ranges.items()}


def select(samples: Sequence[Samples], thresholds: Mapping[Task, float]) -> list[Outcome]:
    """Keeps the prompts whose range is above the threshold of their task, and says of each other one why it is dropped."""
    return [_outcome(one.composite_G, thresholds[one.prompt.task]) for one in samples]


def _outcome(composite_G: np.ndarray, threshold: float) -> Outcome:
    present = composite_G[~np.isnan(composite_G)]
    spread = composite_range(composite_G)
    if math.isnan(spread):
        return Outcome(MISSING, len(present), math.nan, math.nan)
    what = KEPT if spread > threshold else _why(present)
    return Outcome(what, len(present), spread, float(present.mean()))


def _why(present: np.ndarray) -> str:
    return TOO_EASY if present.min() >= GOOD else TOO_HARD if present.max() <= BAD else NO_DIFFERENCE
