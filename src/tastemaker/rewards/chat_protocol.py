"""OpenAI's chat in the hands of a judge: what may be asked in its shape, and what is answered.

Two ways to ask. The request in plain words, with the pictures: the content of the reply is the answer as JSON. Or as
`chat.ChatJudge` asks any model, in the words of the judge's own rubric: first for the rationale, then for the distribution of
one token. The judge recognises its rubric and answers with its own rationale and its own five probabilities. Rubric and
read-out are its own: settings of a request such as temperature or seed change nothing.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tastemaker.rewards.judge import Answer, Judge
from tastemaker.rewards.readout import SCORES, ReadOut
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.rubrics import Rubric
from tastemaker.rewards.schema import AskedQuestion, given

DATA_URL = "data:image/png;base64,"
NEVER = -9999.0
"""The log-probability of a score that is never said."""


@runtime_checkable
class AsksByRubric(Protocol):
    """A judge whose rubric is known."""

    rubric: Rubric
    read_out: ReadOut


class _ChatPart(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Url(_ChatPart):
    url: str


class TextPart(_ChatPart):
    """Words."""

    type: Literal["text"]
    text: str


class PicturePart(_ChatPart):
    """A picture as `data:image/png;base64,...`; no other URL is taken."""

    type: Literal["image_url"]
    image_url: _Url


Parts = Annotated[list[Annotated[TextPart | PicturePart, Field(discriminator="type")]], Field(min_length=1, max_length=64)]


class ChatMessage(_ChatPart):
    """The request in words with the pictures, of which the last one is judged; or, the assistant's, how the answer begins."""

    role: Literal["user", "assistant"]
    content: str | Parts


class ChatRequest(_ChatPart):
    """A chat of one turn. The settings after `stop` are known and change nothing; any other is refused, lest it be missed."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2)]
    n: Literal[1] = 1
    stream: Literal[False] = False
    logprobs: bool | None = None
    stop: str | list[str] | None = None
    top_logprobs: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    @model_validator(mode="after")
    def _turns(self) -> Self:
        if [message.role for message in self.messages] not in (["user"], ["user", "assistant"]):
            raise ValueError("send one message of the user, and at most how the assistant's answer begins")
        return self


@dataclass(frozen=True)
class Asked:
    """What a chat asks: the question, and whether in the words of a rubric."""

    question: AskedQuestion
    by_rubric: bool


def question_in(chat: ChatRequest, judge: Judge) -> Asked:
    """Raises ValueError where there is none that this judge could answer."""
    content = chat.messages[0].content
    parts = [TextPart(type="text", text=content)] if isinstance(content, str) else content
    urls = [part.image_url.url for part in parts if isinstance(part, PicturePart)]
    words = [part.text for part in parts if isinstance(part, TextPart)]
    if not urls or not all(url.startswith(DATA_URL) for url in urls):
        raise ValueError(
            f"send at least one picture, each as {DATA_URL}...; the last one is judged, the others are its sources"
        )
    pictures = [url.removeprefix(DATA_URL) for url in urls]
    begun, text = len(chat.messages) > 1, None
    if isinstance(judge, AsksByRubric):
        text = judge.rubric.request_in(words, len(pictures) - 1, judge.read_out.instruction)
        if begun and text is None:
            raise ValueError(
                f"this judge asks by its own rubric, {judge.rubric.label}, and its own read-out: ask by the same ones, or send "
                "the request alone, without the beginning of an answer"
            )
        if text is not None and judge.rubric.picture_first:
            pictures = [*pictures[1:], pictures[0]]
    *sources, picture = pictures
    told = "\n".join(words) if text is None else text
    question = AskedQuestion(id="chat", text=told, picture=picture, sources=tuple(sources))
    return Asked(question, by_rubric=begun or text is not None)


def completion(chat: ChatRequest, asked: Asked, answer: Answer, model: str) -> dict[str, Any]:
    """The reply. Raises ValueError where the chat has no place for what the judge says."""
    if asked.by_rubric and isinstance(answer.score, Missing):
        raise ValueError(answer.score.reason)
    logprobs = _logprobs(answer) if chat.logprobs else None
    content, stopped = given(answer).model_dump_json(exclude={"id"}), None
    if asked.by_rubric:
        content = logprobs["content"][0]["token"] if logprobs else answer.rationale
        stops = [chat.stop] if isinstance(chat.stop, str) else chat.stop or []
        stopped = None if logprobs or not stops else stops[0]
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "stop_reason": stopped, "logprobs": logprobs}
    return {
        "id": f"chatcmpl-{os.urandom(12).hex()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def _logprobs(answer: Answer) -> dict[str, Any]:
    """The five scores as the tokens of one place, likeliest first, with their share of the whole vocabulary."""
    if answer.probabilities is None or answer.mass is None:
        reason = answer.score.reason if isinstance(answer.score, Missing) else "this judge gives scores and no probabilities"
        raise ValueError(f"there are no log-probabilities: {reason}")
    tokens = [_token(str(score), p * answer.mass) for score, p in zip(SCORES, answer.probabilities, strict=True)]
    tokens.sort(key=lambda token: -token["logprob"])
    return {"content": [{**tokens[0], "top_logprobs": tokens}]}


def _token(text: str, probability: float) -> dict[str, Any]:
    logprob = math.log(probability) if probability > 0 else NEVER
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
