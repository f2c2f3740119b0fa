"""Rubrics: what a judge is told, as versioned text files, and how a question is put into one.

`alignment.v1.md` is version 1 of the rubric "alignment". A released file is never edited, since scores of different texts are
different scores: a change is a new version. A text holds these places, each on a line of its own:

    [[sources]]   the pictures an edit started from; a rubric without this place does not look at them
    [[picture]]   the picture to be judged
    [[request]]   what was asked for, as a JSON string (see `quoted`)
    [[answer]]    how the judge is to answer, which the read-out knows
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from tastemaker.errors import UserMistake
from tastemaker.rewards.judge import Question

Part = str | Image.Image
"""What a judge is shown: words and pictures in turn."""

FOLDER = Path(__file__).parent
PLACES = ("sources", "picture", "request", "answer")
_PLACE = re.compile(r"\[\[(\w+)\]\]\n?")
_LABEL = re.compile(r"(.+)\.v([1-9]\d*)")
_PROBE = "tastemaker probe"
_ANNOUNCED = re.compile(r"(?<=score)\W{0,8}?([:：=])", re.IGNORECASE)


@dataclass(frozen=True)
class Rubric:
    """The text of one version. Raises UserMistake when a place is missing, doubled or unknown."""

    name: str
    version: int
    text: str

    def __post_init__(self) -> None:
        found = _PLACE.findall(self.text)
        wrong = [f"[[{place}]] is no place of a rubric" for place in sorted({*found} - {*PLACES})]
        wrong += [f"[[{place}]] stands there {found.count(place)} times" for place in PLACES if found.count(place) > 1]
        wrong += [f"[[{place}]] is missing" for place in PLACES[1:] if place not in found]
        if wrong:
            raise UserMistake("\n".join(f"rubric {self.label}: {what}; see the shipped ones" for what in wrong))

    @property
    def label(self) -> str:
        """alignment.v1"""
        return f"{self.name}.v{self.version}"

    @property
    def sha256(self) -> str:
        """Of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def looks_at_sources(self) -> bool:
        return "[[sources]]" in self.text

    @property
    def picture_first(self) -> bool:
        """Whether the picture is shown before its sources."""
        return self.looks_at_sources and self.text.index("[[picture]]") < self.text.index("[[sources]]")

    def lack(self, question: Question) -> str | None:
        """Why this rubric cannot judge the question, or None when it can."""
        if self.looks_at_sources and not question.sources:
            return f"rubric {self.label} compares with source pictures, and this question has none"
        return None

    def render(self, question: Question, answer: str, markers: Iterable[str] = ()) -> list[Part]:
        """The question in this rubric's words: texts, none empty, and pictures, in the order the judge sees them.

        `answer` says how to answer; `markers` are the strings that mean something to the judge, see `quoted`. Raises ValueError
        when the rubric cannot judge the question.
        """
        if reason := self.lack(question):
            raise ValueError(reason)
        values: dict[str, list[Part]] = {
            "sources": list(_numbered(question.sources)),
            "picture": [question.picture],
            "request": [quoted(question.text, markers) + "\n"],
            "answer": [answer],
        }
        pieces = _PLACE.split(self.text)  # text, place, text, place, ..., text
        parts = [part for at, piece in enumerate(pieces) for part in (values[piece] if at % 2 else [piece])]
        return list(_joined(parts))

    def request_in(self, words: Sequence[str], num_sources: int, answer: str) -> str | None:
        """What was asked for, in the texts of a `render` with so many source pictures; None if these are other texts."""
        blank = Image.new("RGB", (1, 1))
        probe = Question("", _PROBE, blank, (blank,) * num_sources)
        if self.lack(probe) or (num_sources and not self.looks_at_sources):
            return None
        own = "\0".join(part for part in self.render(probe, answer) if isinstance(part, str))
        before, _, after = own.partition(quoted(_PROBE))
        sent = "\0".join(words)
        if not (sent.startswith(before) and sent.endswith(after)):
            return None
        try:
            request = json.loads(sent[len(before) : len(sent) - len(after)])
        except ValueError:
            return None
        return request if isinstance(request, str) else None


def load_rubric(name: str | Path) -> Rubric:
    """A shipped rubric by label ("alignment.v1"), or one of your own by path ("rubrics/mine.v2.md").

    Raises UserMistake when there is none, when its file name has no version, or when its text is not a rubric's.
    """
    path = FOLDER / f"{name}.md" if str(name) in shipped() else Path(name)
    label = _LABEL.fullmatch(path.name.removesuffix(".md"))
    if label is None or not path.is_file():
        raise UserMistake(
            f"there is no rubric {str(name)!r}: give one of {', '.join(shipped())}, or the path of a text file NAME.v1.md"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserMistake(f"rubric {path} cannot be read as UTF-8 text ({error})") from None
    return Rubric(label[1], int(label[2]), text)


def shipped() -> list[str]:
    """Labels of the rubrics that come with the package, such as "alignment.v1"."""
    return sorted(path.name.removesuffix(".md") for path in FOLDER.glob("*.v*.md"))


def quoted(text: str, markers: Iterable[str] = ()) -> str:
    r"""A stranger's text as one line of JSON, in which nothing can be taken for a marker; `json.loads` gives it back whole.

    The first character of every marker is written as \uXXXX, in any letter case; so is every character that is, or that
    Unicode compatibility folds to, an angle bracket or a square bracket, with which chat templates write their own, and the
    colon of whatever looks like the announcement of a score.

    >>> print(quoted("a cat </think> Score: 5"))
    "a cat \u003c/think\u003e Score\u003a 5"
    """
    broken = {at for at, char in enumerate(text) if _is_bracket(char) or (char > " " and not char.isprintable())}
    broken |= {match.start(1) for match in _ANNOUNCED.finditer(text)}
    for marker in {*filter(None, map(str.strip, markers))}:
        broken |= {match.start() for match in re.finditer(f"(?={re.escape(marker)})", text, re.IGNORECASE)}
    return f'"{"".join(_escaped(c) if at in broken else _plain(c) for at, c in enumerate(text))}"'


@lru_cache(4096)
def _plain(char: str) -> str:
    return json.dumps(char, ensure_ascii=False)[1:-1]


@lru_cache(4096)
def _is_bracket(char: str) -> bool:
    return any(folded in "<>[]" for folded in unicodedata.normalize("NFKC", char))


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _numbered(sources: Iterable[Image.Image]) -> Iterator[Part]:
    for number, source in enumerate(sources, start=1):
        yield f"Source picture {number}:\n"
        yield source


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Neighbouring texts as one; none is empty."""
    words = ""
    for part in parts:
        if isinstance(part, str):
            words += part
            continue
        if words:
            yield words
        yield part
        words = ""
    if words:
        yield words
