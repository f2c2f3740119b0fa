"""Text rendering: does the picture show the words that were asked for? OCR, and a normalised edit distance to the quoted text.

    prompt -> quoted parts, or a field of its truth ─┐
    picture -> OCR -> lines in no known order ───────┴─> edit distance over the best order of the lines -> score

Spaces and line breaks never count: OCR loses them, and lettering may break anywhere. Text that is too badly drawn to be
recognised counts as not there.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tastemaker.rewards.extras import require
from tastemaker.rewards.reward import Missing, as_pictures, fingerprint_of
from tastemaker.types import Prompt

MAX_ORDERED = 6
"""Lines whose orders are all tried; the work doubles with each."""
MAX_PERMUTED = 3
"""Quoted parts whose orders are all tried."""

_QUOTED = re.compile(r'(?<![0-9])"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|「([^」]+)」|『([^』]+)』')
_SINGLE = re.compile(r"(?<!\w)['‘](?!\s)((?:[^'‘’]|(?<=\w)['’](?=\w))+)(?<!\s)['’](?!\w)")
_TYPOGRAPHIC = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-"})


class TextReader(Protocol):
    @property
    def fingerprint(self) -> str:
        """Changes whenever a picture could be read in another way."""
        ...

    def read(self, picture: Image.Image) -> list[str]:
        """The lines of text in an RGB picture, in reading order as far as it can be told; [] without any."""
        ...


class RapidOcrReader:
    """A `TextReader`: PP-OCRv6 with the weights that ship in the package rapidocr (Latin and Chinese script); on the CPU.

    Lines that it is less sure of than `confidence` are taken as not there. Text that stands on its head is not turned.
    """

    def __init__(self, confidence: float = 0.5, threads: int = 1) -> None:
        require("onnxruntime", extra="ocr", purpose="reading text")
        self._confidence = confidence
        self._engine = require("rapidocr", extra="ocr", purpose="reading text").RapidOCR(
            params={
                "Global.text_score": confidence,
                "Global.use_cls": False,  # it turns lines by 180 degrees, some of them wrongly
                "Global.log_level": "error",  # says a line for each picture without text
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": threads,
            }
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint_of([metadata.version("rapidocr"), self._confidence])

    def read(self, picture: Image.Image) -> list[str]:
        return list(getattr(self._engine(picture.convert("RGB")), "txts", None) or ())


@dataclass(frozen=True)
class TextRenderingReward:
    """A `Reward` in [0, 1]: 1 - edits / length, in characters: 1 when exactly the text asked for is shown, 0 when none is.

    What is asked for is `truth[field]` of the prompt, a text or a list of texts, where it has one, else what the prompt has in
    quotation marks. Length is that of the longer of both texts. With `extra_counts` off, lines that nobody asked for cost
    nothing, as suits pictures full of other lettering; then length is that of the text asked for. `floor` is one edit in 50.
    """

    reader: TextReader
    ignore_case: bool = True
    ignore_punctuation: bool = False
    extra_counts: bool = True
    field: str = "text"
    name: str = "text_rendering"
    floor: float = 0.02
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    @property
    def fingerprint(self) -> str:
        options = [self.ignore_case, self.ignore_punctuation, self.extra_counts, self.field]
        return fingerprint_of([self.reader.fingerprint, options])

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> list[float | Missing]:
        """See `Reward`. Missing where the prompt asks for no text."""
        return [self._score(picture, prompt) for picture, prompt in zip(as_pictures(images), prompts, strict=True)]

    def _score(self, picture: Image.Image, prompt: Prompt) -> float | Missing:
        asked = asked_text(prompt, self.field)
        if isinstance(asked, Missing):
            return asked
        parts = self._normalised(asked)
        if not parts:
            return Missing(f"the text asked for, {asked!r}, has no character that counts")
        lines = self._normalised(self.reader.read(picture))
        return text_score(parts, lines, extra_counts=self.extra_counts)

    def _normalised(self, texts: Sequence[str]) -> list[str]:
        plain = [normalised(text, ignore_case=self.ignore_case, ignore_punctuation=self.ignore_punctuation) for text in texts]
        return [text for text in plain if text]


def asked_text(prompt: Prompt, field: str = "text") -> tuple[str, ...] | Missing:
    """The texts that a picture is to show: of `truth[field]`, else what the prompt has in quotation marks.

    Marks may be "…", “…”, „…“, «…», 「…」, 『…』 and, in a prompt without any of these, '…' and ‘…’. A straight mark after a
    digit is an inch and opens nothing; an apostrophe inside a word is no mark.

    >>> asked_text(Prompt("1", 'a 5" screen that says "Don\\'t stop"'))
    ("Don't stop",)
    """
    told = (prompt.truth or {}).get(field)
    if told is not None:
        texts = (told,) if isinstance(told, str) else told
        if isinstance(texts, Sequence) and texts and all(isinstance(text, str) for text in texts):
            return tuple(texts)
        return Missing(f"truth.{field} of prompt {prompt.id} is {told!r}; a text or a list of texts is expected")
    matches = _QUOTED.findall(prompt.text)
    texts = tuple("".join(groups) for groups in matches) or tuple(_SINGLE.findall(prompt.text))
    return texts or Missing("the prompt has no text in quotation marks")


def normalised(text: str, *, ignore_case: bool = True, ignore_punctuation: bool = False) -> str:
    """Without spaces, and with one form for each character: NFKC, plain quotes and dashes."""
    text = unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHIC))
    text = unicodedata.normalize("NFKC", text.casefold()) if ignore_case else text
    skipped = "ZCP" if ignore_punctuation else "ZC"  # Unicode's separators, control characters, punctuation
    return "".join(character for character in text if unicodedata.category(character)[0] not in skipped)


def text_score(parts: Sequence[str], lines: Sequence[str], *, extra_counts: bool = True) -> float:
    """How well `lines`, in whatever order, spell `parts`, in whatever order: 1 - edits / length, in [0, 1].

    All orders of up to six lines are tried; of more, those of the six that fit best, and the order in which they are given.
    Parts keep their order where there are more than three, which matters only to a line that shows several of them.
    """
    orders = itertools.permutations(parts) if len(parts) <= MAX_PERMUTED else [tuple(parts)]
    edits = min(_fewest_edits("".join(order), lines, extra_counts) for order in orders)
    length = sum(map(len, parts))
    if extra_counts:
        length = max(length, sum(map(len, lines)))
    return max(0.0, 1 - edits / length)


def _fewest_edits(asked: str, lines: Sequence[str], extra_counts: bool) -> int:
    """Fewest edits from any order of the lines to `asked`; lines that do not help are free unless extra text counts."""
    if len(lines) <= MAX_ORDERED:
        return _any_order(asked, lines, extra_counts)
    best = sorted(lines, key=lambda line: _edits_inside(asked, line) - len(line))
    rest = sum(map(len, best[MAX_ORDERED:])) if extra_counts else 0
    return min(_any_order(asked, best[:MAX_ORDERED], extra_counts) + rest, _given_order(asked, lines, extra_counts))


def _any_order(asked: str, lines: Sequence[str], extra_counts: bool) -> int:
    """Over sets of lines instead of orders: `rows[used]` is the best row of the edit distance after exactly those."""
    characters = _codes(asked)
    rows = {0: np.arange(len(asked) + 1)}
    for used in range(1, 2 ** len(lines)):
        members = [index for index in range(len(lines)) if used >> index & 1]
        rows[used] = np.min([_after(characters, rows[used & ~(1 << index)], lines[index]) for index in members], axis=0)
    return int(rows[2 ** len(lines) - 1][-1] if extra_counts else min(row[-1] for row in rows.values()))


def _given_order(asked: str, lines: Sequence[str], extra_counts: bool) -> int:
    characters, row = _codes(asked), np.arange(len(asked) + 1)
    for line in lines:
        row = np.minimum(_after(characters, row, line), row + (len(line) if extra_counts else 0))
    return int(row[-1])


def _edits_inside(asked: str, line: str) -> int:
    """Fewest edits from the line to any stretch of `asked`."""
    return int(_after(_codes(asked), np.zeros(len(asked) + 1, dtype=int), line).min())


def _after(asked: NDArray[np.int64], row: NDArray[np.int64], line: str) -> NDArray[np.int64]:
    """The row of the edit distance after more characters: entry i is the cost of spelling the first i characters of `asked`."""
    steps = np.arange(len(row))
    for code in _codes(line):
        after = row + 1  # the line has a character too many
        after[1:] = np.minimum(after[1:], row[:-1] + (asked != code))
        row = np.minimum.accumulate(after - steps) + steps  # characters of `asked` that the line leaves out
    return row


def _codes(text: str) -> NDArray[np.int64]:
    return np.array([ord(character) for character in text], dtype=np.int64)
