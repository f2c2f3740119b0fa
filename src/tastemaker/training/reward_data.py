"""What people said as material for a judge: rows of several files, joined, dealt into parts, and made examples.

    files -> one rating a picture, one row a vote -> train, calibration, test -> examples (train), questions (the rest)

Pictures stay on disk and are opened when they are looked at, so any number of them fits into memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeVar, overload

from PIL import Image

from tastemaker.data.jsonl import shorten
from tastemaker.data.pictures import open_picture, picture_size
from tastemaker.data.ratings import Rating, read_ratings
from tastemaker.data.splits import KINDS, Apart, keys_of, split
from tastemaker.data.votes import Vote, read_votes
from tastemaker.errors import UserMistake
from tastemaker.rewards.judge import Question
from tastemaker.rewards.readout import QuestionEncoder
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.rubrics import Rubric
from tastemaker.runtime.changes import fingerprint
from tastemaker.runtime.folder import write_text_atomic
from tastemaker.training.reward_model import MAX_MISTAKES, Compared, Example, Rated
from tastemaker.types import Task

Row = TypeVar("Row", Rating, Vote)
PARTS = ("train", "calibration", "test")
Kind = Literal["pointwise", "soft_label", "pairwise", "chain_of_thought"]


@dataclass(frozen=True)
class Part:
    """Some of what people said."""

    ratings: tuple[Rating, ...] = ()
    """One for each picture of a prompt."""
    votes: tuple[Vote, ...] = ()

    @property
    def rows(self) -> tuple[Rating | Vote, ...]:
        return (*self.ratings, *self.votes)

    @property
    def raters(self) -> set[str]:
        return {rater for rating in self.ratings for rater in rating.scores} | {vote.rater for vote in self.votes}

    @property
    def generators(self) -> Counter[str]:
        """Judged pictures by the model that drew them; "" is not known."""
        named = {(picture, name) for row in self.rows for picture, name in zip(row.pictures, row.generators, strict=True)}
        return Counter(name for _, name in named)


@dataclass(frozen=True)
class Said(Part):
    """All that the files hold and the settings ask for; `left_out` counts the rows that are not in it, by reason."""

    left_out: Mapping[str, int] = field(default_factory=dict)


class StoredQuestion(Question):
    """A question whose pictures are opened, anew each time, when they are looked at."""

    def __init__(self, id: str, text: str, picture: str, sources: Sequence[str] = ()) -> None:
        for name, value in {"id": id, "text": text, "_files": (picture, *sources)}.items():
            object.__setattr__(self, name, value)

    @property
    def picture(self) -> Image.Image:  # type: ignore[override]
        return open_picture(self._files[0])  # type: ignore[attr-defined]

    @property
    def sources(self) -> Sequence[Image.Image]:  # type: ignore[override]
        return _Stored(self._files[1:])  # type: ignore[attr-defined]


class _Stored(Sequence[Image.Image]):
    """Pictures on disk; their number is known without opening one."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...
    @overload
    def __getitem__(self, place: slice) -> _Stored: ...
    def __getitem__(self, place: int | slice) -> Image.Image | _Stored:
        return _Stored(self._files[place]) if isinstance(place, slice) else open_picture(self._files[place])


# ---- reading -------------------------------------------------------------------------------------


def read_said(
    ratings: Mapping[str, Path],
    votes: Mapping[str, Path],
    *,
    pictures: Path | None = None,
    dimension: str | tuple[str, str] | None = None,
    task: Task | None = None,
    skip_bad: int = 0,
    decode: bool = True,
    told: Callable[[str], None] = lambda name: None,
) -> Said:
    """What the files hold; they are called by the names in messages and ids. With `decode` every picture is opened,
    to find broken ones.

    Rows of one picture, prompt and dimension become one rating with the scores of all their raters; two dimensions become one,
    see `_of_both`. Votes on a pair one side of which was called invalid are left out. Raises UserMistake with the mistakes of
    all files.
    """
    mistakes: list[str] = []

    def rows(files: Mapping[str, Path], read: Callable[..., list[Row]]) -> Iterator[Row]:
        for name, path in files.items():
            told(name)
            try:
                found = read(path, skip_bad=skip_bad, decode=decode, root=pictures)
            except UserMistake as error:
                mistakes.append(str(error))
            else:
                yield from (replace(row, id=f"{name}:{row.id}") for row in found)

    rated, voted = list(rows(ratings, read_ratings)), list(rows(votes, read_votes))
    if mistakes:
        raise UserMistake("\n".join(mistakes))
    left_out: Counter[str] = Counter()
    rated, voted = _of_task(rated, task, left_out), _of_task(voted, task, left_out)
    rated = _of_dimension(rated, dimension, left_out)
    rated = _of_both(rated, dimension, left_out) if isinstance(dimension, tuple) else _joined(rated)
    valid = [vote for vote in voted if vote.left.valid is not False and vote.right.valid is not False]
    left_out["a side of the pair was called invalid"] += len(voted) - len(valid)
    if not (rated or valid):
        raise UserMistake(f"data: no row is left of {sum(left_out.values())}; left out: {_counted(left_out)}")
    return Said(tuple(rated), tuple(valid), left_out={why: count for why, count in left_out.items() if count})


def group_of(row: Rating | Vote) -> Hashable:
    """What pictures have to share to be compared: the prompt and the source pictures."""
    return row.prompt, row.sources


def _of_task(rows: Sequence[Row], task: Task | None, left_out: Counter[str]) -> list[Row]:
    kept = [row for row in rows if task in (None, row.task)]
    left_out["of another task"] += len(rows) - len(kept)
    return kept


def _of_dimension(rated: Sequence[Rating], dimension: str | tuple[str, str] | None, left_out: Counter[str]) -> list[Rating]:
    found = Counter(rating.dimension for rating in rated)
    wanted = (dimension,) if isinstance(dimension, str) else dimension or tuple(found)
    if rated and dimension is None and len(found) > 1:
        both = f", or two that make its score: [{', '.join([*found][:2])}]"
        raise UserMistake(f"data.dimension: the ratings are on {_counted(found)}; say which one the judge is to learn{both}")
    if rated and (unknown := [one for one in wanted if one not in found]):
        raise UserMistake(f"data.dimension: {unknown[0]!r} is the dimension of no rating; there are {_counted(found)}")
    kept = [rating for rating in rated if rating.dimension in wanted]
    left_out["of another dimension"] += len(rated) - len(kept)
    return kept


def _of_both(rated: Sequence[Rating], dimensions: tuple[str, str], left_out: Counter[str]) -> list[Rating]:
    """One rating a picture and prompt, of the raters who scored it on both dimensions. A score on one alone counts nowhere.

    As the rubric aesthetic.v1 asks, a rater's score is the mean of the two, but never more than one above the lower.
    """
    first, second = (
        {(group_of(rating), rating.picture): rating for rating in _joined([r for r in rated if r.dimension == one])}
        for one in dimensions
    )
    both: list[Rating] = []
    for key, one in first.items():
        other = second.get(key)
        pairs = {rater: (one.scores[rater], other.scores[rater]) for rater in one.scores if other and rater in other.scores}
        if other and pairs:
            scores = {rater: min(sum(pair) / 2, min(pair) + 1) for rater, pair in pairs.items()}
            rationale = "\n\n".join(text for text in (one.rationale.strip(), other.rationale.strip()) if text)
            both.append(replace(one, dimension=" and ".join(dimensions), scores=scores, rationale=rationale))
    counted = {(group_of(rating), rating.picture): rating.scores.keys() for rating in both}
    alone = [r for r in rated if r.scores.keys() - counted.get((group_of(r), r.picture), set())]
    left_out[f"as far as a rater gave the picture {dimensions[0]} or {dimensions[1]} alone"] += len(alone)
    return both


def _joined(rated: Sequence[Rating]) -> list[Rating]:
    """One rating a picture and prompt, under the id of its first row. A rater may give a picture one score only."""
    joined: dict[Hashable, Rating] = {}
    mistakes = []
    for rating in rated:
        key = (group_of(rating), rating.picture)
        first = joined.setdefault(key, rating)
        if first is rating:
            continue
        twice = sorted(first.scores.keys() & rating.scores.keys())
        mistakes += [f"{rating.id}: {shorten(rater)} scored this picture already in {first.id}; keep one" for rater in twice]
        scores = {**rating.scores, **first.scores}
        joined[key] = replace(first, scores=scores, rationale=first.rationale.strip() or rating.rationale)
    if mistakes:
        raise UserMistake(listed(mistakes))
    return list(joined.values())


# ---- parts ---------------------------------------------------------------------------------------


def deal(
    said: Said, shares: tuple[float, float, float], apart: Collection[Apart], *, seed: int = 0
) -> tuple[tuple[Part, Part, Part], tuple[int, int, int]]:
    """Train, calibration and test of ratings and votes alike, and how many separate groups of rows each part holds.

    Pictures are told apart by their bytes, so a copy under another name is the same picture. See `tastemaker.data.splits`.
    """
    rows: tuple[Rating | Vote, ...] = said.rows
    try:
        found = split(rows, shares, apart=apart, seed=seed, picture_key=fingerprint)
    except UserMistake as error:
        raise UserMistake(f"splits.apart: {error}") from None
    train, calibration, test = (
        Part(
            tuple(row for row in part if isinstance(row, Rating)),
            tuple(row for row in part if isinstance(row, Vote)),
        )
        for part in (found.train, found.validation, found.test)
    )
    return (train, calibration, test), found.num_components


def trained_on(path: Path) -> frozenset[str]:
    """What `remember` wrote; nothing where there is no such file."""
    return frozenset(path.read_text(encoding="utf-8").split()) if path.exists() else frozenset()


def remember(path: Path, train: Part) -> None:
    """Adds the digests of all that the rows of the training part may share with others to those in the file."""
    kinds = ("picture", *(kind for kind in KINDS if kind != "generator" or all(train.generators)))
    known = trained_on(path) | {_digest(key) for key in keys_of(train.rows, kinds, fingerprint)}
    write_text_atomic(path, "".join(f"{digest}\n" for digest in sorted(known)))


def leaks(path: Path, parts: Sequence[Part], apart: Collection[Apart]) -> list[str]:
    """A line for each row of the parts that shares with what was trained on what `apart` says none may."""
    known = trained_on(path)
    rows = [row for part in parts for row in part.rows] if known else []
    return [
        f"{row.id}: was trained on, or a row was that shares {' or '.join(('a picture', *apart))} with it"
        for row in rows
        if any(_digest(key) in known for key in keys_of([row], ("picture", *apart), fingerprint))
    ]


def _digest(key: tuple[str, Hashable]) -> str:
    return hashlib.blake2b(repr(key).encode(), digest_size=12).hexdigest()


# ---- examples ------------------------------------------------------------------------------------


def examples_of(part: Part, kind: Kind, rubric: Rubric, *, stop: str = "</think>") -> list[Example]:
    """What a judge is trained on. Raises UserMistake, a line for each row that cannot be used.

    Pairs are the votes; without any, every two ratings of one prompt, of which the one with the higher mean is preferred.
    """
    mistakes = list(_unusable(part, kind, rubric, stop))
    if mistakes:
        raise UserMistake(listed(mistakes))
    examples: list[Example]
    if kind != "pairwise":
        examples = [Rated.of(question_of(r, r.picture), [*r.scores.values()], r.rationale.strip()) for r in part.ratings]
    elif part.votes:
        examples = [
            Compared(question_of(vote, vote.left.picture), question_of(vote, vote.right.picture), (1 + vote.preference) / 2)
            for vote in part.votes
        ]
    else:
        examples = [
            Compared(question_of(a, a.picture), question_of(b, b.picture), (1 + (a.mean > b.mean) - (a.mean < b.mean)) / 2)
            for a, b in rated_pairs(part.ratings)
        ]
    if not examples:
        raise UserMistake(
            f"data: the training part has nothing to learn {kind} from, only {len(part.ratings)} ratings and {len(part.votes)} "
            "votes; give more rows, or another splits.seed"
        )
    return examples


def question_of(row: Rating | Vote, picture: str) -> StoredQuestion:
    return StoredQuestion(
        row.id if isinstance(row, Rating) else f"{row.id}/{Path(picture).name}", row.prompt, picture, row.sources
    )


def rated_pairs(ratings: Iterable[Rating]) -> Iterator[tuple[Rating, Rating]]:
    """Every two pictures of one prompt, in the order of the ratings."""
    groups: dict[Hashable, list[Rating]] = {}
    for rating in ratings:
        groups.setdefault(group_of(rating), []).append(rating)
    for group in groups.values():
        yield from combinations(group, 2)


def lacks_sources(rows: Iterable[Rating | Vote], rubric: Rubric) -> list[str]:
    """A line for each row that the rubric cannot judge."""
    return [
        f"{row.id}: rubric {rubric.label} compares with source pictures, and this row has none; set data.task to edit, or take "
        "another rubric"
        for row in rows
        if rubric.looks_at_sources and not row.sources
    ]


def unreadable(rows: Iterable[Rating | Vote], encoder: QuestionEncoder) -> list[str]:
    """A line for each picture that the judge's processor refuses, which is a matter of sizes: each is tried once, on black.

    Only sizes that are long or small are: trying those of ten thousand photographs would take longer than some trainings.
    """

    @cache
    def refusal(sizes: tuple[tuple[int, int], ...]) -> str | None:
        picture, *sources = (Image.new("RGB", size) for size in sizes)
        encoded = encoder.encoded(Question("size", "a picture", picture, tuple(sources)))
        return encoded.reason if isinstance(encoded, Missing) else None

    size = cache(picture_size)
    return [
        f"{row.id}: {Path(picture).name}, {' and '.join(f'{w}x{h}' for w, h in sizes)}: {reason}; crop it or leave the row out"
        for row in rows
        for picture in row.pictures
        for sizes in [tuple(map(size, (picture, *row.sources)))]
        if any(map(_odd, sizes)) and (reason := refusal(sizes))
    ]


def overlong(ratings: Iterable[Rating], encoder: QuestionEncoder) -> list[str]:
    """A line for each rationale that the judge could not write to its end."""
    found = ((rating, encoder.overlong(rating.rationale.strip())) for rating in ratings)
    return [f"{rating.id}: {wrong}" for rating, wrong in found if wrong]


def _odd(size: tuple[int, int]) -> bool:
    return max(size) > 16 * min(size) or min(size) < 64


def listed(mistakes: Sequence[str]) -> str:
    """A line each, the rest counted."""
    more = [f"... and {len(mistakes) - MAX_MISTAKES} more"] if len(mistakes) > MAX_MISTAKES else []
    return "\n".join([*mistakes[:MAX_MISTAKES], *more])


def _unusable(part: Part, kind: Kind, rubric: Rubric, stop: str) -> Iterator[str]:
    yield from lacks_sources(part.rows, rubric)
    for rating in part.ratings if kind == "chain_of_thought" else ():
        if not rating.rationale.strip():
            yield f"{rating.id}: has no rationale; give one, or train with another objective.kind"
        elif stop in rating.rationale:
            yield f"{rating.id}: its rationale contains {stop!r}, which ends one; take it out"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items() if count)
