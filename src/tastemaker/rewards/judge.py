"""What a judge is: a model that is shown pictures with a question about them, and answers with a score and perhaps a reason.

    pictures of a rollout -> Questions -> judge (a local model, or a server) -> Answers -> scores        (JudgeReward)

A `Reward` hands over whole tensors of a rollout; a judge works on single questions, so that they can travel, be cached and be
retried one by one, each under its own id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor

from tastemaker.data.pictures import open_picture
from tastemaker.errors import ServiceFailed, UserMistake
from tastemaker.rewards.reward import Missing, as_pictures
from tastemaker.types import Prompt


@dataclass(frozen=True, eq=False)
class Question:
    """One picture to be judged: `text` is what was asked for; an edit has the pictures it started from in `sources`.

    Pictures are RGB. `id` is unique among the questions that are asked together, and stays the same when one is asked again.
    """

    id: str
    text: str
    picture: Image.Image
    sources: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The answer to the question of the same id."""

    id: str
    score: float | Missing
    rationale: str = ""
    mass: float | None = None
    """Probability that the model put on the five score tokens before renormalising; None where the judge does not say."""
    probabilities: tuple[float, ...] | None = None
    """Of the five scores, renormalised; None where the judge does not say. They do not travel with the score."""


class Judge(Protocol):
    """Scores lie in [low, high]. `fingerprint` changes whenever a question could get another score (weights, rubric ...).

    `remote`, which is optional, is true for a judge that works elsewhere; see `Reward`.
    """

    @property
    def name(self) -> str: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def fingerprint(self) -> str: ...

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer for each question, in order. Raises `ServiceFailed` when it cannot answer at all."""
        ...


@dataclass(frozen=True)
class JudgeReward:
    """A `Reward` from any judge: pictures reach it without loss, as RGB; an edit's sources are opened from the prompt.

    `floor` is in the judge's units: about what its scores of one picture under paraphrases of the request differ by.
    """

    judge: Judge
    floor: float = 0.1

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def low(self) -> float:
        return self.judge.low

    @property
    def high(self) -> float:
        return self.judge.high

    @property
    def fingerprint(self) -> str:
        return self.judge.fingerprint

    @property
    def remote(self) -> bool:
        return getattr(self.judge, "remote", False)

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> list[float | Missing]:
        """See `Reward`. With a source that cannot be opened a score is missing.

        Raises ServiceFailed when the judge answers other questions than it was asked.
        """
        pictures = as_pictures(images)
        ids = [f"{prompt.id}#{row}" for row, prompt in enumerate(prompts)]
        opened = {path: _open(path) for path in {path for prompt in prompts for path in prompt.sources}}
        scores: dict[str, float | Missing] = {}
        questions = []
        for id, picture, prompt in zip(ids, pictures, prompts, strict=True):
            sources = [opened[path] for path in prompt.sources]
            if closed := [source for source in sources if isinstance(source, Missing)]:
                scores[id] = closed[0]
            else:
                questions.append(Question(id, prompt.text, picture, tuple(s for s in sources if isinstance(s, Image.Image))))
        asked = [question.id for question in questions]
        answers = self.judge.answer(questions) if questions else []
        if sorted(answer.id for answer in answers) != sorted(asked):
            raise ServiceFailed(f"judge {self.name} answered other questions than it was asked; its answer is rejected whole")
        scores.update((answer.id, answer.score) for answer in answers)
        return [scores[id] for id in ids]


def _open(path: str) -> Image.Image | Missing:
    try:
        return open_picture(path)
    except UserMistake as error:
        return Missing(f"source picture {error}")
