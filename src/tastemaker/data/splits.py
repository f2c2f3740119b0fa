"""Splits what people judged into train, validation and test, so that nothing the parts must not share is in two of them.

Rows that share a key (a prompt, a source picture, a generator, and always a judged picture) are joined; the connected
components are dealt out whole. The sizes are therefore only near what was asked, and are reported as they came out.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tastemaker.data.jsonl import shorten
from tastemaker.errors import UserMistake

Apart = Literal["prompt", "source", "generator"]
"""What no two parts may share."""
KINDS: tuple[Apart, ...] = ("prompt", "source", "generator")
PARTS = ("train", "validation", "test")


class Judged(Protocol):
    """What is split: a `Rating` or a `Vote`."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def sources(self) -> tuple[str, ...]: ...
    @property
    def pictures(self) -> tuple[str, ...]: ...
    @property
    def generators(self) -> tuple[str, ...]: ...


Row = TypeVar("Row", bound=Judged)
PictureKey = Callable[[str], Hashable]


@dataclass(frozen=True)
class Split(Generic[Row]):
    """Three parts, each in the order of the rows; `num_components` is how many separate groups of rows each holds."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    num_components: tuple[int, int, int]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows of each part."""
        return len(self.train), len(self.validation), len(self.test)

    def __str__(self) -> str:
        total = sum(self.sizes)
        told = zip(PARTS, self.sizes, self.num_components, strict=True)
        return ", ".join(f"{part} {size} rows ({size / total:.1%}) in {number} groups" for part, size, number in told)


def split(
    rows: Sequence[Row],
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    apart: Collection[Apart] = ("prompt", "source"),
    seed: int = 0,
    picture_key: PictureKey = str,
) -> Split[Row]:
    """Train, validation and test, near `fractions` of the rows (sum 1; 0 leaves a part empty).

    The same rows and seed give the same parts, in whatever order the rows come. Prompts are compared without case, spaces and
    Unicode forms. Pictures are the same if `picture_key` says so: by default the path; `content_key` also knows copies under
    another name. Raises UserMistake where keys join the rows so far that a part would get less than half of what was asked.
    """
    if len(fractions) != len(PARTS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions are three shares that sum to 1, not {fractions}")
    if not rows or set(apart) - set(KINDS):
        raise ValueError(f"rows to split are needed, and `apart` from {KINDS}; got {len(rows)} rows and {tuple(apart)}")
    component = _components(rows, apart, picture_key)
    sizes = np.bincount(component)
    part_of = _deal(sizes, _order(rows, component, sizes, seed), np.array(fractions) * len(rows))
    filled = np.bincount(part_of, sizes, minlength=len(PARTS))
    if any(got < asked * len(rows) / 2 - 1e-9 for got, asked in zip(filled, fractions, strict=True)):
        raise UserMistake(_why_joined(rows, apart, picture_key, component, fractions))
    train, validation, test = (
        tuple(row for row, one in zip(rows, component, strict=True) if part_of[one] == part) for part in range(len(PARTS))
    )
    of_train, of_validation, of_test = np.bincount(part_of, minlength=len(PARTS)).tolist()
    return Split(train, validation, test, (of_train, of_validation, of_test))


def content_key(path: str) -> str:
    """For `picture_key`: the digest of a file's bytes, so that copies of a picture are known as one."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def text_key(text: str) -> str:
    """Without case, spaces and Unicode forms: two texts with one key ask for the same."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def keys_of(rows: Sequence[Judged], kinds: Collection[str], picture_key: PictureKey = str) -> set[tuple[str, Hashable]]:
    """All that may not be in another part: of `kinds`, which are those of `Apart` and "picture", which always counts."""
    return {key for row in rows for kind in kinds for key in _keys(row, kind, picture_key)}


def _keys(row: Judged, kind: str, picture_key: PictureKey) -> list[tuple[str, Hashable]]:
    """What joins a row to others. Sources and judged pictures are of one sort: an edit may start from another row's picture."""
    if kind == "prompt":
        return [("prompt", text_key(row.prompt))]
    if kind == "source":
        return [("picture", picture_key(source)) for source in row.sources]
    if kind == "generator":
        if not all(row.generators):
            raise UserMistake(f"row {row.id!r}: generator is unknown, so it cannot be kept apart; name it, or split without it")
        return [("generator", generator) for generator in row.generators]
    return [("picture", picture_key(picture)) for picture in row.pictures]


def _components(rows: Sequence[Judged], apart: Collection[Apart], picture_key: PictureKey) -> np.ndarray:
    """(rows,) number of the connected component of each row in the graph of rows and keys."""
    number_of: dict[tuple[str, Hashable], int] = {}
    edges = [
        (place, len(rows) + number_of.setdefault(key, len(number_of)))
        for place, row in enumerate(rows)
        for kind in ("picture", *apart)
        for key in _keys(row, kind, picture_key)
    ]
    start, end = np.array(edges).T
    nodes = len(rows) + len(number_of)
    labels = connected_components(coo_matrix((np.ones(len(edges)), (start, end)), (nodes, nodes)), directed=False)[1]
    return np.unique(labels[: len(rows)], return_inverse=True)[1]


def _order(rows: Sequence[Judged], component: np.ndarray, sizes: np.ndarray, seed: int) -> list[int]:
    """Components by size, largest first, equal ones in a random order that depends on their rows' ids and the seed alone."""
    first: dict[int, str] = {}
    for row, one in zip(rows, component.tolist(), strict=True):
        first[one] = min(first.get(one, row.id), row.id)
    draw = {one: hashlib.blake2b(f"{seed}:{name}".encode()).digest() for one, name in first.items()}
    return sorted(first, key=lambda one: (-sizes[one], draw[one]))


def _deal(sizes: np.ndarray, order: Sequence[int], targets: np.ndarray) -> np.ndarray:
    """(components,) part of each: that which brings sum_p (filled_p - target_p)^2 / target_p down most.

    Measured relative to its target a small part is filled as early as a large one, so it gets large components too.
    """
    filled = np.zeros(len(targets))
    part_of = np.zeros(len(sizes), dtype=int)
    for one in order:
        with np.errstate(divide="ignore"):
            change = np.where(targets > 0, (sizes[one] + 2 * (filled - targets)) / targets, np.inf)
        part_of[one] = change.argmin()
        filled[part_of[one]] += sizes[one]
    return part_of


def _why_joined(
    rows: Sequence[Judged],
    apart: Collection[Apart],
    picture_key: PictureKey,
    component: np.ndarray,
    fractions: tuple[float, ...],
) -> str:
    """Which kind of key joins the largest component, by what is left of it without that kind, and its commonest value."""
    largest = np.bincount(component).argmax()
    inside = [row for row, one in zip(rows, component, strict=True) if one == largest]
    without = {kind: np.bincount(_components(inside, [a for a in apart if a != kind], picture_key)).max() for kind in apart}
    told = f"{len(rows)} rows fall into {component.max() + 1} groups that share no {', '.join(sorted(apart)) or 'picture'}"
    told += f", the largest has {len(inside)}; {'/'.join(f'{share:g}' for share in fractions)} cannot be had"
    if not without or min(without.values()) == len(inside):
        return f"{told}; add rows of other pictures, or ask for other fractions"
    kind = min(without, key=lambda one: int(without[one]))
    (_, value), times = Counter(key for row in inside for key in set(_keys(row, kind, picture_key))).most_common(1)[0]
    return (
        f"{told}. It is joined by {kind}: {shorten(value)} alone is in {times} of its rows, and without {kind} the largest "
        f"group in it has {without[kind]}; leave {kind!r} out of `apart`, or drop the rows that join"
    )
