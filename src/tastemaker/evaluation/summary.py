"""The numbers of an evaluation, and how each is written wherever it is shown.

Shares are in [0, 1]; a number that the data do not give is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tastemaker.evaluation.ranking import Elo
from tastemaker.evaluation.scores import ScoreDifference, ScoreRow
from tastemaker.evaluation.statistics import Estimate, paired_difference, proportion

ALL = "all"
"""The category that stands for every prompt."""
NO_GUIDANCE = 1.0
"""The guidance scale at which only the conditional branch is evaluated."""

Verdicts = Sequence[bool | float | None] | np.ndarray


@dataclass(frozen=True)
class Row:
    """How often one model, sampled one way, got a prompt of one category right.

    >>> Row.of([True, False, None], model="base", task="t2i", guidance=1.0, forwards_per_image=10).missing
    1
    """

    model: str
    task: str
    guidance: float
    forwards_per_image: int
    n: int
    accuracy: float
    low: float
    high: float
    category: str = ALL
    missing: int = 0

    @classmethod
    def of(
        cls, verdicts: Verdicts, *, model: str, task: str, guidance: float, forwards_per_image: int, category: str = ALL
    ) -> Row:
        found = proportion(verdicts)
        numbers = (found.n, found.value, found.low, found.high)
        return cls(model, task, float(guidance), forwards_per_image, *numbers, category=category, missing=found.missing)

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.n, self.accuracy, self.low, self.high, self.missing)


@dataclass(frozen=True)
class Difference:
    """Accuracy of the first model of `pair` less that of the second, on the same prompts and seeds.

    `against_guidance` is the second model's guidance where it is not the first's: a student without guidance against its
    guided base.
    """

    pair: tuple[str, str]
    task: str
    guidance: float
    category: str
    n: int
    difference: float
    low: float
    high: float
    against_guidance: float | None = None
    missing: int = 0

    @classmethod
    def of(
        cls,
        after: Verdicts,
        before: Verdicts,
        *,
        pair: tuple[str, str],
        task: str,
        guidance: float,
        category: str = ALL,
        against_guidance: float | None = None,
    ) -> Difference:
        found = paired_difference(after, before)
        numbers = (found.n, found.value, found.low, found.high)
        return cls(pair, task, float(guidance), category, *numbers, against_guidance=against_guidance, missing=found.missing)

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.n, self.difference, self.low, self.high, self.missing)


@dataclass(frozen=True)
class Summary:
    """Everything a run's report says in numbers.

    `models` has a hex key of each model's weights; `rewards` names each reward and says what it is; `notes` are sentences for
    the reader; `warning` is shown above all else, e.g. "incomplete, n=700" or "fabricated data".
    """

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    wall_seconds: float
    seed: int
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    rewards: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warning: str = ""
    elo: tuple[Elo, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    score_differences: tuple[ScoreDifference, ...] = ()


def rows_by_category(
    verdicts: Verdicts, categories: Sequence[str], *, model: str, task: str, guidance: float, forwards_per_image: int
) -> tuple[Row, ...]:
    """The row of all prompts, then one of each category in order of first appearance."""
    return tuple(
        Row.of(
            np.asarray(verdicts, dtype=float)[chosen],
            model=model,
            task=task,
            guidance=guidance,
            forwards_per_image=forwards_per_image,
            category=category,
        )
        for category, chosen in split_by_category(categories, len(verdicts))
    )


def differences_by_category(
    after: Verdicts,
    before: Verdicts,
    categories: Sequence[str],
    *,
    pair: tuple[str, str],
    task: str,
    guidance: float,
    against_guidance: float | None = None,
) -> tuple[Difference, ...]:
    """The difference over all prompts, then over each category in order of first appearance."""
    if len(after) != len(before):
        raise ValueError(f"{len(after)} verdicts after but {len(before)} before; pairs need the same prompts in the same order")
    return tuple(
        Difference.of(
            np.asarray(after, dtype=float)[chosen],
            np.asarray(before, dtype=float)[chosen],
            pair=pair,
            task=task,
            guidance=guidance,
            category=category,
            against_guidance=against_guidance,
        )
        for category, chosen in split_by_category(categories, len(after))
    )


def split_by_category(categories: Sequence[str], count: int) -> Iterator[tuple[str, np.ndarray]]:
    """ALL and the mask of every prompt, then each category and its own, in order of first appearance."""
    if len(categories) != count:
        raise ValueError(f"{count} verdicts but {len(categories)} categories; each verdict needs its prompt's category")
    names = list(dict.fromkeys(categories))
    if ALL in names:
        raise ValueError(f"a category is called {ALL!r}, which stands for every prompt; rename it")
    yield ALL, np.ones(count, bool)
    if len(names) > 1:
        for name in names:
            yield name, np.array([category == name for category in categories])


# words and numbers, the same in the terminal, the charts and the report


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}%"


def points(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:+.1f}".replace("-", "−")


def elo_words(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.0f}".replace("-", "−")


def score_words(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def interval(low: float, high: float, form: Any = percent) -> str:
    return "no interval" if math.isnan(low) or math.isnan(high) else f"{form(low)} to {form(high)}"


def guidance_words(guidance: float, against: float | None = None) -> str:
    words = "off" if guidance == NO_GUIDANCE else f"{guidance:g}"
    return words if against is None or against == guidance else f"{words} vs {guidance_words(against)}"


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
