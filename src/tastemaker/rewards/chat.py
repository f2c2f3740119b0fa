"""A judge that is a vision-language model behind the OpenAI chat protocol, as vLLM and SGLang speak it.

Tested against our own server and against fakes of theirs, in the fields and endings that their documentation gives; not against
a running vLLM or SGLang.

Two requests make a score: the rationale up to its stop string, then the distribution of the one token that follows the words
which announce the score. No text is searched for digits. What is cut, is no JSON or says no score is missing, with the reason;
a server that does not answer at all is a `ServiceFailed`, inside the deadline.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tastemaker.rewards.judge import Answer, Question
from tastemaker.rewards.readout import SCORES, Reading, ReadOut, ScoreTokens, average, read
from tastemaker.rewards.reward import Missing, fingerprint_of
from tastemaker.rewards.rubrics import Rubric
from tastemaker.rewards.schema import check_ids, first_mistake, png_base64
from tastemaker.rewards.service import Address, Limits, Line

LAST_TOKEN = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "logprobs": True, "top_logprobs": 20}
"""At temperature 1 without top-p the distribution is the model's own, also in servers that show it after applying them."""
NEVER = -9999.0
"""The log-probability of a token that is not among the likeliest."""

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ChatJudge:
    """A model behind an OpenAI-compatible server, asked in the words of a rubric. Scores lie in [1, 5].

    It is read as a local one is (`vlm.VLMJudge`), but tokens are the server's: several rationales are drawn from its seeds. The
    server must know `stop_reason` (vLLM) or `matched_stop` (SGLang), by which a rationale that ended by itself is told
    from one that came to its stop string, and `continue_final_message`, by which the model goes on after our words.
    """

    name: str
    address: Address
    """The URL ends in /v1."""
    model: str
    """As the server calls it."""
    rubric: Rubric
    read_out: ReadOut = field(default_factory=ReadOut)
    limits: Limits = field(default_factory=Limits)
    template_opens: bool = False
    """Whether the server's chat template opens the rationale itself (`<think>`), as those of reasoning models do.

    If it does and this is false, the model sees a second opening, at times after an empty thought. No reply tells that."""
    revision: str = ""
    """Which weights the server has under that name; part of the fingerprint, and nothing else tells it."""
    low: float = float(SCORES[0])
    high: float = float(SCORES[-1])
    remote: ClassVar[bool] = True

    @property
    def fingerprint(self) -> str:
        words = [self.rubric.label, self.rubric.sha256, asdict(self.read_out), self.template_opens]
        return fingerprint_of(["chat", self.model, self.revision, words])

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer for each question, in order. Raises ServiceFailed when the server does not answer, inside `limits`."""
        return asyncio.run(self.answer_async(questions))

    async def answer_async(self, questions: Sequence[Question]) -> list[Answer]:
        """As `answer`."""
        check_ids(questions)
        async with Line(self.address, concurrency=self.limits.concurrency, deadline=self.limits.batch) as line:

            async def judged(question: Question, ends: float) -> Answer:
                return await self._judged(line, question, ends)

            results = await line.each(questions, judged, self.limits.item)
        return [
            result if isinstance(result, Answer) else Answer(question.id, Missing(f"{self.name}: {result}"))
            for question, result in zip(questions, results, strict=True)
        ]

    async def _judged(self, line: Line, question: Question, ends: float) -> Answer:
        try:
            parts = self.rubric.render(question, self.read_out.instruction, self.read_out.markers)
        except ValueError as error:
            return Answer(question.id, Missing(str(error)))
        told: Message = {"role": "user", "content": [await asyncio.to_thread(as_part, part) for part in parts]}
        ways = [self._one_way(line, told, number, ends) for number in range(self.read_out.num_rationales)]
        results = await asyncio.gather(*ways, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        readings = [reading for reading, _ in results]  # type: ignore[misc]
        whole = average(readings)
        rationale = "\n\n".join(text for _, text in results if text)  # type: ignore[misc]
        return Answer(question.id, whole.score, rationale, None if math.isnan(whole.mass) else whole.mass)

    async def _one_way(self, line: Line, told: Message, number: int, ends: float) -> tuple[Reading | Missing, str]:
        """The reading after one rationale, or after none in the arm without chain of thought, and the rationale."""
        how = self.read_out
        opening = "" if self.template_opens else how.start
        if not how.chain_of_thought:
            choice = await self._complete(line, ends, told, (how.close if self.template_opens else "") + how.lead, LAST_TOKEN)
            return _reading(choice, how.min_mass), ""
        thinking = {
            "max_tokens": how.max_rationale_tokens,
            "temperature": how.temperature,
            "top_p": 1.0,
            "seed": how.seed + number,
            "stop": [how.stop],
        }
        rationale = _rationale(await self._complete(line, ends, told, opening, thinking), how.stop)
        if isinstance(rationale, Missing):
            return rationale, ""
        choice = await self._complete(line, ends, told, opening + rationale + how.close + how.lead, LAST_TOKEN)
        return _reading(choice, how.min_mass), rationale

    async def _complete(
        self, line: Line, ends: float, told: Message, begun: str, settings: Mapping[str, Any]
    ) -> _Choice | Missing:
        """What the model says after `begun`, the words its answer begins with."""
        messages = [told, {"role": "assistant", "content": begun}] if begun else [told]
        going_on = {"continue_final_message": True, "add_generation_prompt": False} if begun else {}
        body = {"model": self.model, "messages": messages, "n": 1, "stream": False, **going_on, **settings}
        reply = await line.request("/chat/completions", json.dumps(body).encode(), ends)
        try:
            return Completion.model_validate_json(reply).choices[0]
        except ValidationError as error:
            return Missing(f"the reply is no chat completion ({first_mistake(error)})")


class _Reply(BaseModel):
    """The part of a reply that is read; servers add much to it."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Token(_Reply):
    token: str
    logprob: Annotated[float, Field(le=1e-3, allow_inf_nan=False)]


class _Place(_Reply):
    top_logprobs: list[_Token]


class _Logprobs(_Reply):
    content: list[_Place] | None = None


class _Said(_Reply):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(_Reply):
    message: _Said
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    matched_stop: str | int | None = None
    logprobs: _Logprobs | None = None


class Completion(_Reply):
    """The reply to one request."""

    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]


def _rationale(choice: _Choice | Missing, stop: str) -> str | Missing:
    """What was said up to the stop string; a model that stopped elsewhere has not come to its score."""
    if isinstance(choice, Missing):
        return choice
    text = choice.message.content or choice.message.reasoning_content or choice.message.reasoning or ""
    if stop not in (choice.stop_reason, choice.matched_stop) and not text.endswith(stop):
        return Missing(f"the rationale did not come to {stop!r} (it ended by {choice.finish_reason or 'nothing'!r})")
    # Words that the model copied from a picture must not become control tokens when they are sent back.
    return text.removesuffix(stop).strip("\n").replace("<|", "< |")


def _reading(choice: _Choice | Missing, min_mass: float) -> Reading | Missing:
    """The score in the distribution of one token; what is not among the likeliest tokens counts as never said."""
    if isinstance(choice, Missing):
        return choice
    places = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    if len(places) != 1 or not places[0].top_logprobs:
        return Missing("the reply has not the log-probabilities of one token; does the server allow 20 top_logprobs?")
    top = places[0].top_logprobs
    logits = [_log_sum(token.logprob for token in top if token.token in (str(score), f" {score}")) for score in SCORES]
    mass = math.fsum(map(math.exp, logits))
    if mass > 1.01:
        return Missing(f"the probabilities of the scores add up to {mass:g}")
    rest = math.log1p(-mass) if mass < 1 else NEVER
    reading = read(torch.tensor([[*logits, rest]], dtype=torch.float64), ScoreTokens((), (0, 1, 2, 3, 4)), min_mass)[0]
    if isinstance(reading.score, Missing):
        likeliest = max(top, key=lambda token: token.logprob).token[:20]
        return Reading(Missing(f"{reading.score.reason}; the likeliest token is {likeliest!r}"), reading.mass)
    return reading


def _log_sum(log_probabilities: Iterator[float]) -> float:
    total = math.fsum(math.exp(value) for value in log_probabilities)
    return math.log(total) if total > 0 else NEVER


def as_part(part: str | Image.Image) -> dict[str, Any]:
    """Words or a picture, as a part of a message."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png_base64(part)}"}}
