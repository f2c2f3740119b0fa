"""Models side by side: what each drew of the same prompts from the same noise, who is compared with whom, and the tables.

A side is one model sampled one way. Each is compared with the sides of the models before it that others are to be measured
against: with the one of the same guidance, and with that model's own first way of sampling (a student without guidance against
its guided base).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tastemaker.evaluation.ranking import Elo, elo, points_of
from tastemaker.evaluation.scores import ScoreDifference, ScoreRow
from tastemaker.evaluation.statistics import Estimate, mean_over, paired_difference, proportion
from tastemaker.evaluation.summary import (
    Difference,
    Row,
    differences_by_category,
    guidance_words,
    rows_by_category,
    split_by_category,
)
from tastemaker.types import Prompt

Pair = tuple["Side", "Side"]


@dataclass(frozen=True, eq=False)
class Side:
    """One model sampled one way; arrays are (n,), one number a prompt, NaN where it is missing or was not asked.

    `verdicts` are 1 or 0 where truth is known. `scores` are by reward, or by whatever else was measured. `judged` is the
    weighted sum of the judges' scores, and a difference of two of them that is at most `noise` is a tie.
    """

    model: str
    guidance: float
    forwards_per_image: int
    verdicts: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    missing: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Of `scores`: bool (n,), where one was asked for and did not arrive."""
    judged: np.ndarray | None = None
    noise: np.ndarray | float = 0.0

    @property
    def title(self) -> str:
        """base · 1.5, base · off: short enough to stand over a picture."""
        return f"{self.model} · {guidance_words(self.guidance)}"


@dataclass(frozen=True)
class Tables:
    """The fields of a `Summary` that a comparison fills."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    elo: tuple[Elo, ...]
    scores: tuple[ScoreRow, ...]
    score_differences: tuple[ScoreDifference, ...]


def pairs_of(sides: Sequence[Side], against: Sequence[str] | Mapping[str, Sequence[str]]) -> list[Pair]:
    """(side, what it is compared with), in order of the sides; no model is compared with itself or with a later one.

    `against` are names of models, for all or by model.
    """
    found: list[Pair] = []
    order = list(dict.fromkeys(side.model for side in sides))
    for side in sides:
        for name in against.get(side.model, ()) if isinstance(against, Mapping) else against:
            if name not in order or order.index(name) >= order.index(side.model):
                continue
            others = [other for other in sides if other.model == name]
            chosen = [other for other in others if other.guidance == side.guidance] + others[:1]
            found += [(side, other) for other in dict.fromkeys(chosen)]
    return found


def compare(
    sides: Sequence[Side], prompts: Sequence[Prompt], *, against: Sequence[str] | Mapping[str, Sequence[str]]
) -> Tables:
    """Every table, by task and category; the sides' arrays are in the order of the prompts. `against` as in `pairs_of`."""
    parts = list(_tasks(prompts))
    pairs = pairs_of(sides, against)
    return Tables(
        rows=tuple(row for task in parts for side in sides for row in task.rows(side)),
        differences=tuple(row for task in parts for pair in pairs for row in task.differences(pair)),
        elo=tuple(row for task in parts for pair in pairs for row in task.elo(pair)),
        scores=tuple(row for task in parts for side in sides for row in task.scores(side)),
        score_differences=tuple(row for task in parts for pair in pairs for row in task.score_differences(pair)),
    )


@dataclass(frozen=True, eq=False)
class _Task:
    """The prompts of one task: where they are among all, and their categories."""

    name: str
    places: np.ndarray
    categories: list[str]

    def rows(self, side: Side) -> Iterable[Row]:
        if side.verdicts is None:
            return ()
        return rows_by_category(
            side.verdicts[self.places],
            self.categories,
            model=side.model,
            task=self.name,
            guidance=side.guidance,
            forwards_per_image=side.forwards_per_image,
        )

    def differences(self, pair: Pair) -> Iterable[Difference]:
        side, other = pair
        if side.verdicts is None or other.verdicts is None:
            return ()
        return differences_by_category(
            side.verdicts[self.places],
            other.verdicts[self.places],
            self.categories,
            pair=(side.model, other.model),
            task=self.name,
            guidance=side.guidance,
            against_guidance=_other_guidance(pair),
        )

    def elo(self, pair: Pair) -> Iterator[Elo]:
        side, other = pair
        found: dict[str, np.ndarray] = {}
        if side.verdicts is not None and other.verdicts is not None:
            found["truth"] = points_of(side.verdicts, other.verdicts)
        if side.judged is not None and other.judged is not None:
            found["judges"] = points_of(side.judged, other.judged, side.noise)
        for by, points in found.items():
            for category, chosen in self._split():
                yield elo(
                    points[chosen],
                    pair=(side.model, other.model),
                    task=self.name,
                    guidance=side.guidance,
                    by=by,
                    category=category,
                    against_guidance=_other_guidance(pair),
                )

    def scores(self, side: Side) -> Iterator[ScoreRow]:
        for reward, values in side.scores.items():
            for category, chosen in self._split():
                found, missing = _mean(values[chosen]), int(side.missing[reward][chosen].sum())
                if found.n or missing:
                    numbers = (found.n, found.value, found.low, found.high, missing)
                    yield ScoreRow(side.model, self.name, side.guidance, reward, category, *numbers)

    def score_differences(self, pair: Pair) -> Iterator[ScoreDifference]:
        side, other = pair
        for reward in (name for name in side.scores if name in other.scores):
            for category, chosen in self._split():
                found = paired_difference(side.scores[reward][chosen], other.scores[reward][chosen])
                missing = int((side.missing[reward] | other.missing[reward])[chosen].sum())
                if found.n or missing:
                    yield ScoreDifference(
                        (side.model, other.model),
                        self.name,
                        side.guidance,
                        reward,
                        category,
                        *(found.n, found.value, found.low, found.high),
                        against_guidance=_other_guidance(pair),
                        missing=missing,
                    )

    def _split(self) -> Iterator[tuple[str, np.ndarray]]:
        for category, chosen in split_by_category(self.categories, len(self.places)):
            yield category, self.places[chosen]


def _tasks(prompts: Sequence[Prompt]) -> Iterator[_Task]:
    for name in dict.fromkeys(prompt.task for prompt in prompts):
        places = np.array([place for place, prompt in enumerate(prompts) if prompt.task == name])
        yield _Task(name, places, [prompts[place].category for place in places])


def _mean(values: np.ndarray) -> Estimate:
    """A measure that is right or wrong is a share, whose interval stays within 0 and 1."""
    return proportion(values) if np.isin(values[~np.isnan(values)], (0.0, 1.0)).all() else mean_over(values)


def _other_guidance(pair: Pair) -> float | None:
    side, other = pair
    return None if other.guidance == side.guidance else other.guidance
