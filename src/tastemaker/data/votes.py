"""Pair votes: which of two pictures a person preferred, as they were shown, with what else was said about each.

    {"id": "1", "prompt": "a cat", "rater": "ann", "choice": "tie", "left": {"picture": "1.png"}, "right": {"picture": "2.png"}}

`left` and `right` are the sides of the screen, so a row holds the order of presentation and cannot contradict it. Optional
keys: `task`, `sources`, `category`, `time`; inside a side `generator`, `valid`, `text_distorted`, `figure_distorted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from tastemaker.data.jsonl import Fields, inside, read_rows, write_rows
from tastemaker.types import Task

Choice = Literal["left", "right", "tie"]
CHOICES: tuple[Choice, ...] = ("left", "right", "tie")


@dataclass(frozen=True)
class Side:
    """One picture of a pair and the labels it was given; None is a question that was not asked."""

    picture: str
    generator: str = ""
    valid: bool | None = None
    text_distorted: bool | None = None
    figure_distorted: bool | None = None


@dataclass(frozen=True)
class Vote:
    """One person's choice between two pictures of one prompt, which were shown as `left` and `right`.

    >>> vote = Vote("v1", "a cat", "ann", "right", Side("1.png"), Side("2.png"))
    >>> vote.winner.picture, vote.preference
    ('2.png', -1)
    """

    id: str
    prompt: str
    rater: str
    choice: Choice
    left: Side
    right: Side
    task: Task = "t2i"
    sources: tuple[str, ...] = ()
    category: str = "general"
    time: datetime | None = None

    @property
    def preference(self) -> int:
        """1 for left, -1 for right, 0 for a tie."""
        return {"left": 1, "right": -1, "tie": 0}[self.choice]

    @property
    def winner(self) -> Side | None:
        """The preferred side; None for a tie."""
        return {"left": self.left, "right": self.right}.get(self.choice)

    @property
    def pictures(self) -> tuple[str, ...]:
        return (self.left.picture, self.right.picture)

    @property
    def generators(self) -> tuple[str, ...]:
        return (self.left.generator, self.right.generator)


def read_votes(path: Path | str, *, skip_bad: int = 0, decode: bool = False, root: Path | str | None = None) -> list[Vote]:
    """Every vote of the file, in order; no two rows share an id, and the two pictures of a pair differ.

    Up to `skip_bad` bad rows are left out, with a warning that counts them; with more, UserMistake lists them all. Pictures lie
    inside `root`, by default the file's folder; with `decode` each is also opened, which finds the broken ones.
    """
    example = '{"id": "1", "prompt": "a cat", "rater": "ann", "choice": "tie", "left": {"picture": ...}, "right": {...}}'
    return read_rows(path, _vote, kind="votes", example=example, unique=_unique, skip_bad=skip_bad, decode=decode, root=root)


def write_votes(path: Path | str, votes: Sequence[Vote]) -> None:
    """Writes what `read_votes` reads back as equal. Raises UserMistake for a picture outside the file's folder."""
    write_rows(path, [_as_row(vote, path) for vote in votes])


def _vote(row: Fields) -> Vote:
    task, sources = row.task()
    left, right = _side(row.inner("left")), _side(row.inner("right"))
    if left.picture and left.picture == right.picture:
        row.wrong("right.picture", "the same as left.picture; a pair has two pictures")
    return Vote(
        id=row.text("id"),
        prompt=row.text("prompt"),
        rater=row.text("rater"),
        choice=row.choice("choice", CHOICES),
        left=left,
        right=right,
        task=task,
        sources=sources,
        category=row.text("category", "general"),
        time=row.time("time"),
    )


def _side(row: Fields) -> Side:
    labels = [row.flag(label) for label in ("valid", "text_distorted", "figure_distorted")]
    side = Side(row.picture("picture"), row.text("generator", ""), *labels)
    row.finish()
    return side


def _unique(vote: Vote) -> list[tuple[str, str]]:
    return [("id", vote.id)]


def _as_row(vote: Vote, file: Path | str) -> dict[str, Any]:
    sides = {name: _side_as_row(side, file) for name, side in (("left", vote.left), ("right", vote.right))}
    sources = [inside(source, file) for source in vote.sources]
    return {**vars(vote), **sides, "sources": sources, "time": vote.time.isoformat() if vote.time else None}


def _side_as_row(side: Side, file: Path | str) -> dict[str, Any]:
    row = {**vars(side), "picture": inside(side.picture, file)}
    return {key: value for key, value in row.items() if value is not None}
