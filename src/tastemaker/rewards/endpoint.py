"""A judge that `server.py` hosts somewhere else: many questions in a request, with answers matched by id.

What does not arrive, does not fit its question or is out of range is missing, with the reason; a server that does not answer at
all is a `ServiceFailed`, inside the deadline. For any other server see `chat.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from pydantic import ValidationError

from tastemaker.errors import ServiceFailed, UserMistake
from tastemaker.rewards.judge import Answer, Question
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.schema import (
    MAX_QUESTIONS,
    MAX_REQUEST_PIXELS,
    AskedQuestion,
    JudgeFacts,
    ScoreRequest,
    ScoreResponse,
    ServerFacts,
    answer_of,
    asked,
    check_ids,
    first_mistake,
    in_order,
)
from tastemaker.rewards.service import Address, Limits, Line, Refused

MAX_REQUEST = 48 * 2**20
"""Bytes of pictures and text in one request; a server takes 64 MiB unless told otherwise. One larger question goes alone."""


@dataclass(frozen=True, kw_only=True)
class ServedJudge:
    """A judge that `server.py` hosts. Make it with `connect`, which asks the server who it is.

    Questions travel `per_request` together. An attempt at such a request has `limits.request` seconds; while the server has no
    room for it, it comes again, until `limits.batch`.
    """

    name: str
    low: float
    high: float
    fingerprint: str
    address: Address
    """The URL has no path, such as http://127.0.0.1:8100."""
    limits: Limits = field(default_factory=Limits)
    per_request: int = 16
    pixels: int = MAX_REQUEST_PIXELS
    """Of all pictures of one request together; one larger question goes alone."""
    remote: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.per_request <= MAX_QUESTIONS:
            raise UserMistake(f"per_request is {self.per_request}; a request holds 1 to {MAX_QUESTIONS} questions")

    @classmethod
    def connect(cls, address: Address, *, limits: Limits | None = None, per_request: int = 16) -> Self:
        """Asks the server who it is.

        Raises ServiceFailed when there is no server of ours, inside `limits.item`; UserMistake when its deadline is too long.
        """
        limits = limits or Limits()
        facts = asyncio.run(_who(address, limits))
        if facts.deadline is not None and facts.deadline >= limits.item:
            raise UserMistake(
                f"{address.url} gives its judge {facts.deadline:g} s for a batch, which must be below deadlines.item = "
                f"{limits.item:g} s: raise that, or start the server with a lower --deadline"
            )
        who = facts.model_dump(include=set(JudgeFacts.model_fields))
        most = min(per_request, facts.questions or per_request)
        return cls(**who, address=address, limits=limits, per_request=most, pixels=facts.pixels or MAX_REQUEST_PIXELS)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer for each question, in order. Raises ServiceFailed when the server does not answer, inside `limits`, or is
        another judge than it was."""
        return asyncio.run(self.answer_async(questions))

    async def answer_async(self, questions: Sequence[Question]) -> list[Answer]:
        """As `answer`."""
        check_ids(questions)
        sent, answers = await asyncio.to_thread(_sendable, questions)
        async with Line(self.address, concurrency=self.limits.concurrency, deadline=self.limits.batch) as line:

            async def judged(part: list[AskedQuestion], ends: float) -> list[Answer]:
                body = ScoreRequest(questions=tuple(part)).model_dump_json().encode()
                return self._understood(await line.request("/v1/score", body, ends, self.limits.request), part)

            sizes = [_pixels(questions[int(one.id)]) for one in sent]
            parts = list(_parts(sent, sizes, self.per_request, self.pixels))
            results = await line.each(parts, judged, self.limits.batch)
        for part, result in zip(parts, results, strict=True):
            failed = [Answer(one.id, Missing(f"{self.name}: {result}")) for one in part]
            answers |= {int(answer.id): answer for answer in (result if isinstance(result, list) else failed)}
        return [replace(answers[row], id=question.id) for row, question in enumerate(questions)]

    def _understood(self, reply: bytes, part: list[AskedQuestion]) -> list[Answer]:
        """The answers in a reply. Raises Refused for one that does not fit the questions."""
        try:
            response = ScoreResponse.model_validate_json(reply)
            if response.judge.fingerprint != self.fingerprint:
                raise ServiceFailed(
                    f"{self.address.url} now serves another judge than it did when this run began ({response.judge.name}, "
                    f"{response.judge.fingerprint[:12]} instead of {self.name}, {self.fingerprint[:12]}); start the old one"
                )
            given = [answer_of(answer, self.low, self.high) for answer in response.answers]
            return in_order([one.id for one in part], given)
        except ValidationError as error:
            raise Refused(f"the reply is no answer of a judge ({first_mistake(error)})") from None
        except ValueError as error:
            raise Refused(str(error)) from None


async def _who(address: Address, limits: Limits) -> ServerFacts:
    async with Line(address, concurrency=1, deadline=limits.item) as line:

        async def ask(path: str, ends: float) -> bytes:
            return await line.request(path, None, ends)

        reply = (await line.each(["/v1/judge"], ask, limits.item))[0]
    try:
        return ServerFacts.model_validate_json(reply if isinstance(reply, bytes) else b"")
    except ValidationError as error:
        raise ServiceFailed(
            f"{address.url} is no judge's server: {reply if isinstance(reply, Refused) else first_mistake(error)}"
        ) from None


def _sendable(questions: Sequence[Question]) -> tuple[list[AskedQuestion], dict[int, Answer]]:
    """The questions as they are sent, and by row the answers to those that are over the limits of the wire: none.

    Their ids are their rows: what the caller calls a question may be as long as a prompt, and is nobody else's business.
    """
    sent: list[AskedQuestion] = []
    missing: dict[int, Answer] = {}
    for row, question in enumerate(questions):
        try:
            sent.append(asked(replace(question, id=str(row))))
        except ValidationError as error:
            missing[row] = Answer(question.id, Missing(f"the question cannot be sent ({first_mistake(error)})"))
    return sent, missing


def _pixels(question: Question) -> int:
    return sum(picture.width * picture.height for picture in (question.picture, *question.sources))


def _parts(sent: Sequence[AskedQuestion], sizes: Sequence[int], most: int, most_pixels: int) -> Iterator[list[AskedQuestion]]:
    """Questions in order, `most` together and no more than MAX_REQUEST bytes and `most_pixels`; `sizes` are their pixels."""
    part: list[AskedQuestion] = []
    length = pixels = 0
    for one, its_pixels in zip(sent, sizes, strict=True):
        its_length = len(one.picture) + sum(map(len, one.sources)) + 4 * len(one.text)
        if part and (len(part) == most or length + its_length > MAX_REQUEST or pixels + its_pixels > most_pixels):
            yield part
            part, length, pixels = [], 0, 0
        part.append(one)
        length, pixels = length + its_length, pixels + its_pixels
    if part:
        yield part
