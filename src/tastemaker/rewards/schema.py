"""What a judge's server and its clients say to each other: JSON with pictures as base64 PNG, ids, and limits on size and count.

Client and server share these classes, and a stored request and response hold them still (`tests/unit/rewards/wire/`). Nothing
in them names a file or a URL: whoever asks sends the pixels, and decoding them runs no code and needs bounded memory.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tastemaker.rewards.judge import Answer, Judge, Question
from tastemaker.rewards.reward import Missing

MAX_QUESTIONS = 64
"""Questions in one request."""
MAX_SOURCES = 8
"""Source pictures of one edit."""
MAX_TEXT = 16_384
"""Characters of what was asked for."""
MAX_PIXELS = 4096 * 4096
"""Pixels of one picture; it is refused from its header, before anything is decoded."""
MAX_REQUEST_PIXELS = 2**26
"""Of all pictures of one request together, decoded; a few bytes of PNG may hold millions."""
MAX_PNG = 72 * 2**20
"""Base64 characters of one picture: 4096 x 4096 pixels that do not compress."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

Id = Annotated[str, Field(min_length=1, max_length=500)]
Png = Annotated[str, Field(min_length=1, max_length=MAX_PNG, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AskedQuestion(_Message):
    """One picture to be judged; `sources` are the pictures that an edit started from."""

    id: Id
    text: Annotated[str, Field(max_length=MAX_TEXT)]
    picture: Png
    sources: Annotated[tuple[Png, ...], Field(max_length=MAX_SOURCES)] = ()


class GivenAnswer(_Message):
    """The answer to the question of the same id: a score, or the reason why there is none."""

    id: Id
    score: float | None
    reason: str = ""
    rationale: str = ""
    mass: float | None = None


class JudgeFacts(_Message):
    """Who answers, and in which range."""

    name: str
    low: float
    high: float
    fingerprint: str


class ServerFacts(JudgeFacts):
    """What GET /v1/judge returns: who answers, and what a client has to know of the server."""

    deadline: float | None = None
    """Seconds after which it gives up on questions that the judge has been given; older servers do not say."""
    questions: int | None = None
    """Most in one request."""
    pixels: int | None = None
    """Most in one request, of all pictures together."""


class ScoreRequest(_Message):
    """The body of POST /v1/score."""

    version: Literal[1] = 1
    questions: Annotated[tuple[AskedQuestion, ...], Field(min_length=1, max_length=MAX_QUESTIONS)]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        if twice := repeated(question.id for question in self.questions):
            raise ValueError(f"two questions have the id {twice!r}; give each its own")
        return self


class ScoreResponse(_Message):
    """What POST /v1/score returns: one answer for each question, in any order."""

    version: Literal[1] = 1
    judge: JudgeFacts
    answers: tuple[GivenAnswer, ...]


def asked(question: Question) -> AskedQuestion:
    """A question as it is sent."""
    sources = tuple(png_base64(source) for source in question.sources)
    return AskedQuestion(id=question.id, text=question.text, picture=png_base64(question.picture), sources=sources)


def question_of(sent: AskedQuestion, max_pixels: int = MAX_PIXELS) -> Question:
    """A question as it was meant, its pictures of at most `max_pixels` each. Raises ValueError as `picture_of`."""
    sources = tuple(picture_of(source, max_pixels) for source in sent.sources)
    return Question(sent.id, sent.text, picture_of(sent.picture, max_pixels), sources)


def given(answer: Answer) -> GivenAnswer:
    """An answer as it is sent; a score that is no finite number is none."""
    score: float | None = None
    reason = ""
    if isinstance(answer.score, Missing):
        reason = answer.score.reason
    elif not math.isfinite(answer.score):
        reason = f"the score is {answer.score}"
    else:
        score = float(answer.score)
    return GivenAnswer(id=answer.id, score=score, reason=reason, rationale=answer.rationale, mass=answer.mass)


def answer_of(sent: GivenAnswer, low: float, high: float) -> Answer:
    """An answer as it is believed: a score that is not finite or lies outside [low, high] is missing."""
    score: float | Missing
    if sent.score is None:
        score = Missing(sent.reason or "the server gave neither a score nor a reason")
    elif not math.isfinite(sent.score) or not low <= sent.score <= high:
        score = Missing(f"the server's score {sent.score:g} is outside [{low:g}, {high:g}]")
    else:
        score = sent.score
    return Answer(sent.id, score, sent.rationale, sent.mass)


def facts(judge: Judge) -> JudgeFacts:
    """Who a judge is, as it is sent."""
    return JudgeFacts(name=judge.name, low=judge.low, high=judge.high, fingerprint=judge.fingerprint)


def in_order(ids: Sequence[str], answers: Sequence[Answer]) -> list[Answer]:
    """The answers in the order of the ids of their questions. Raises ValueError unless each question has exactly one: answers
    that do not fit are rejected whole, never padded or cut."""
    if len(answers) != len(ids):
        raise ValueError(f"{len(answers)} answers to {len(ids)} questions; all are rejected")
    if twice := repeated(answer.id for answer in answers):
        raise ValueError(f"two answers to question {twice!r}; all are rejected")
    by_id = {answer.id: answer for answer in answers}
    if unknown := set(by_id) - set(ids):
        raise ValueError(f"an answer to {min(unknown)[:100]!r}, which was not asked; all are rejected")
    return [by_id[id] for id in ids]


def repeated(ids: Iterable[str]) -> str | None:
    """An id that is there twice, if there is one."""
    return next((id for id, count in Counter(ids).items() if count > 1), None)


def check_ids(questions: Sequence[Question]) -> None:
    """Raises ValueError when two questions that are asked together have the same id."""
    if twice := repeated(question.id for question in questions):
        raise ValueError(f"two questions have the id {twice!r}; give each its own")


def first_mistake(error: ValidationError) -> str:
    """The first thing that is wrong, and where; never the input, which is a stranger's."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


def png_base64(picture: Image.Image) -> str:
    """The pixels of a picture, and nothing else that came with it, as an RGB PNG: JPEG would hide grids and noise."""
    buffer = io.BytesIO()
    pixels = Image.frombytes("RGB", picture.size, picture.convert("RGB").tobytes())
    pixels.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def picture_of(text: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in base64 of an 8-bit RGB PNG of at most so many pixels. Raises ValueError that says what it is instead."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("the picture is no base64") from None
    if not data.startswith(_SIGNATURE):
        raise ValueError("the picture is no PNG; send base64 of a PNG file")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            _check_header(picture, max_pixels)
            picture.load()
            return picture.copy()
    except _UNREADABLE as error:
        raise ValueError(f"the picture cannot be read: {error}") from None


def _check_header(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise ValueError(f"it has {width} x {height} pixels; at most {max(max_pixels, 0):,} are taken here")
    if picture.mode != "RGB" or getattr(picture, "n_frames", 1) != 1:
        raise ValueError(f"it is a {picture.mode} PNG of {getattr(picture, 'n_frames', 1)} frames; send one frame, 8-bit RGB")
