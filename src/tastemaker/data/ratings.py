"""Ratings: what people gave single pictures, 1 to 5, one row a picture and dimension, every rater's own score kept.

    {"id": "r1", "picture": "7.png", "prompt": "three red circles", "dimension": "alignment", "scores": {"ann": 4, "bo": 5}}

Optional keys: `task`, `sources`, `generator`, `category`, `rationale`, `time`. Means are not accepted: how far raters agree is
the ceiling of any judge, and a mean has lost it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tastemaker.data.jsonl import Fields, inside, read_rows, shorten, write_rows
from tastemaker.types import Task

LIKERT = (1, 2, 3, 4, 5)
"""The scores a rater may give; 5 is best."""


@dataclass(frozen=True)
class Rating:
    """One picture, judged by one or more raters on one dimension (alignment, aesthetic, portrait, instruction ...).

    `sources` are the pictures an edit started from; `generator` names the model that drew `picture`, "" where nobody knows.

    >>> rating = Rating("r1", "7.png", "three red circles", "alignment", {"ann": 4, "bo": 5})
    >>> rating.mean
    4.5
    """

    id: str
    picture: str
    prompt: str
    dimension: str
    scores: Mapping[str, float]
    """Rater to raw score, a whole one in a file; of two dimensions that were made one (`training/reward_data`) also a half."""
    task: Task = "t2i"
    sources: tuple[str, ...] = ()
    generator: str = ""
    category: str = "general"
    rationale: str = ""
    time: datetime | None = None

    @property
    def mean(self) -> float:
        """Mean score over the raters of this row."""
        return sum(self.scores.values()) / len(self.scores)

    @property
    def pictures(self) -> tuple[str, ...]:
        return (self.picture,)

    @property
    def generators(self) -> tuple[str, ...]:
        return (self.generator,)


def read_ratings(path: Path | str, *, skip_bad: int = 0, decode: bool = False, root: Path | str | None = None) -> list[Rating]:
    """Every rating of the file, in order. No two rows share an id, and no rater scores a picture twice on one dimension.

    Up to `skip_bad` bad rows are left out, with a warning that counts them; with more, UserMistake lists them all. Pictures lie
    inside `root`, by default the file's folder; with `decode` each is also opened, which finds the broken ones.
    """
    example = '{"id": "1", "picture": "1.png", "prompt": "a cat", "dimension": "aesthetic", "scores": {"ann": 4}}'
    return read_rows(
        path, _rating, kind="ratings", example=example, unique=_unique, skip_bad=skip_bad, decode=decode, root=root
    )


def write_ratings(path: Path | str, ratings: Sequence[Rating]) -> None:
    """Writes what `read_ratings` reads back as equal. Raises UserMistake for a picture outside the file's folder."""
    write_rows(path, [_as_row(rating, path) for rating in ratings])


def _rating(row: Fields) -> Rating:
    task, sources = row.task()
    return Rating(
        id=row.text("id"),
        picture=row.picture("picture"),
        prompt=row.text("prompt"),
        dimension=row.text("dimension"),
        scores=_scores(row),
        task=task,
        sources=sources,
        generator=row.text("generator", ""),
        category=row.text("category", "general"),
        rationale=row.text("rationale", ""),
        time=row.time("time"),
    )


def _scores(row: Fields) -> dict[str, int]:
    scores = row.get("scores")
    if not isinstance(scores, dict) or not scores:
        row.wrong("scores", "missing, empty or not an object; write rater to score, such as {'ann': 4}")
        return {}
    if not all(rater.strip() for rater in scores):
        row.wrong("scores", "a rater without a name; each rater needs one")
    bad = {rater: score for rater, score in scores.items() if isinstance(score, bool) or score not in LIKERT}
    for rater, score in bad.items():
        row.wrong("scores", f"{rater!r} gave {shorten(score)}; a rater's own score is one of 1, 2, 3, 4, 5, never a mean")
    return {} if bad else {rater: int(score) for rater, score in scores.items()}


def _unique(rating: Rating) -> list[tuple[str, Any]]:
    scored = [(rater, rating.dimension, rating.picture, rating.prompt) for rater in rating.scores]
    return [("id", rating.id), *(("scores", one) for one in scored)]


def _as_row(rating: Rating, file: Path | str) -> dict[str, Any]:
    changed = {
        "picture": inside(rating.picture, file),
        "sources": [inside(source, file) for source in rating.sources],
        "scores": dict(rating.scores),
        "time": rating.time.isoformat() if rating.time else None,
    }
    return {**vars(rating), **changed}
