"""How a score is read from a language model: after its chain of thought, as the expectation over five tokens (Eq. 3).

    request ── rationale ── </think> ── "Score: " ── [ p(1) p(2) p(3) p(4) p(5) ]  ->  sum of s * p(s)

The model writes a rationale up to its stop string. The words that announce the score are ours, and then the distribution of one
token is read. No text is ever searched for digits: whatever prompt, picture or rationale say, the score is that distribution.
Here are the mathematics and how a question becomes tokens, the same for judging and for training; `vlm.py` knows models.

Suffixes: B questions, V tokens of the vocabulary, 5 scores 1 to 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tastemaker.errors import UserMistake
from tastemaker.rewards.judge import Question
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.rubrics import Rubric

SCORES = (1, 2, 3, 4, 5)

ROUNDING = 1e-6
"""How far a sum of probabilities in float32 may lie from what it is: a mass of 0.9 is not "less than 0.9" on some machines."""

Row = dict[str, Tensor]
"""One encoded question: `input_ids` and its like (1, L), and whatever the model wants of the pictures."""

ALONG_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""Inputs with one entry for each token; all others are of pictures and are stacked on their first axis."""


@dataclass(frozen=True)
class ReadOut:
    """How a judge's score is read. Part of its fingerprint. Raises UserMistake, one line for each setting that cannot be.

    With a `temperature` of 0 a rationale is the most likely one, token by token. Above 0 it is drawn, with noise that is keyed
    by the question and `seed`: the same question has the same score, alone or in a batch.
    """

    chain_of_thought: bool = True
    num_rationales: int = 1
    """How many rationales a score is averaged over."""
    temperature: float = 0.0
    max_rationale_tokens: int = 512
    """A rationale that has not reached `stop` by then has no score."""
    min_mass: float = 0.9
    """Least probability of the five score tokens together; with less, the model was about to say something else."""
    start: str = "<think>\n"
    stop: str = "</think>"
    lead: str = "Score: "
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            f"num_rationales {self.num_rationales}: at least 1": self.num_rationales >= 1,
            f"max_rationale_tokens {self.max_rationale_tokens}: at least 1": self.max_rationale_tokens >= 1,
            f"temperature {self.temperature}: 0 or above, and finite": 0 <= self.temperature < math.inf,
            f"min_mass {self.min_mass}: above 0 and at most 1": 0 < self.min_mass <= 1,
            f"stop {self.stop!r}: needs text other than white space": bool(self.stop.strip()),
            f"num_rationales {self.num_rationales} without chain of thought: there is nothing to average, set it to 1": (
                self.chain_of_thought or self.num_rationales <= 1
            ),
            f"num_rationales {self.num_rationales} at temperature 0: all would be the same, raise the temperature": (
                self.num_rationales <= 1 or self.temperature > 0
            ),
        }
        if broken := [f"read-out: {rule}" for rule, holds in rules.items() if not holds]:
            raise UserMistake("\n".join(broken))

    @property
    def instruction(self) -> str:
        """What a rubric's [[answer]] says, so that the text which is read out is the likely one."""
        if not self.chain_of_thought:
            return f"Answer with one line and nothing else: `{self.lead}` and one digit from 1 to 5."
        return (
            f"First think, between {self.start.strip()} and {self.stop}: go through what you were told to look at, and say "
            f"what you see. Then write one line: `{self.lead}` and one digit from 1 to 5."
        )

    @property
    def close(self) -> str:
        """What stands between the last word of a rationale and the lead."""
        return f"\n{self.stop}\n\n"

    @property
    def markers(self) -> tuple[str, ...]:
        """Strings with a meaning here; a prompt that holds one has it escaped."""
        return (self.start.strip(), self.stop, self.lead.strip())


@dataclass(frozen=True)
class ScoreTokens:
    """The ids of a tokenizer for the lead and, right after it, for each of the five scores."""

    lead: tuple[int, ...]
    scores: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any, lead: str) -> ScoreTokens:
        """Tokenizers either keep the space before a digit as a token of its own or make it part of the digit's; both work.

        Raises UserMistake when a score is not one token after the lead.
        """

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False).input_ids)

        bare = lead.rstrip(" ")
        for start, gap in ((lead, ""), (bare, lead[len(bare) :] or " ")):
            whole = [ids(f"{start}{gap}{score}") for score in SCORES]
            last = tuple(tokens[-1] for tokens in whole)
            if all(tokens[:-1] == ids(start) for tokens in whole) and len({*last}) == len(SCORES):
                return cls(ids(start), last)
        shown = ", ".join(f"{lead}{score} is {ids(f'{lead}{score}')}" for score in SCORES)
        raise UserMistake(
            f"this tokenizer has no single token for each score after {lead!r} ({shown}); set another `lead` in the read-out"
        )


@dataclass(frozen=True)
class Reading:
    """One score, and the probability that was on the five score tokens before renormalising."""

    score: float | Missing
    mass: float
    probabilities: tuple[float, ...] | None = None
    """Of the five scores, renormalised."""


def score_log_probabilities(logits_BV: Tensor, scores: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(B, 5) log p(s), renormalised over the five tokens, and (B,) the log of their mass before; float32, or float64 if given.

    mass = sum_s softmax(logits)[s],  p(s) = softmax(logits)[s] / mass. Differentiable in the logits.
    """
    wide = logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()
    chosen_B5 = wide[:, list(scores)]
    log_sum_B = chosen_B5.logsumexp(-1)
    return chosen_B5 - log_sum_B[:, None], log_sum_B - wide.logsumexp(-1)


def expected_score(log_p_B5: Tensor) -> Tensor:
    """(B,) in [1, 5]: R = sum_s s p(s) (Eq. 3)."""
    values_5 = torch.tensor(SCORES, dtype=log_p_B5.dtype, device=log_p_B5.device)
    return (log_p_B5.exp() * values_5).sum(-1)


def read(logits_BV: Tensor, tokens: ScoreTokens, min_mass: float) -> list[Reading]:
    """What the logits at the lead's last token say. Missing where they are not finite or too little is on the scores."""
    log_p_B5, log_mass_B = score_log_probabilities(logits_BV.detach(), tokens.scores)
    # Rounding of the five products may leave the range by an ulp, and a score outside its range counts as missing.
    scores = expected_score(log_p_B5).clamp(SCORES[0], SCORES[-1]).tolist()
    rows = zip(scores, log_mass_B.exp().tolist(), log_p_B5.exp().tolist(), strict=True)
    return [_reading(score, mass, tuple(p_5), min_mass) for score, mass, p_5 in rows]


def average(readings: Sequence[Reading | Missing]) -> Reading:
    """The mean over the rationales of one question that gave a score; missing, with the first reason, when none did."""
    scored = [r for r in readings if isinstance(r, Reading) and not isinstance(r.score, Missing)]
    scores = [r.score for r in scored if not isinstance(r.score, Missing)]
    masses = [r.mass for r in (scored or readings) if isinstance(r, Reading)]
    mass = sum(masses) / len(masses) if masses else math.nan
    if scores:
        told = [r.probabilities for r in scored if r.probabilities is not None]
        mean = tuple(sum(column) / len(told) for column in zip(*told, strict=True)) if len(told) == len(scores) else None
        return Reading(sum(scores) / len(scores), mass, mean)
    reasons = [reading if isinstance(reading, Missing) else reading.score for reading in readings]
    return Reading(next(reason for reason in reasons if isinstance(reason, Missing)), mass)


def _reading(score: float, mass: float, p_5: tuple[float, ...], min_mass: float) -> Reading:
    if not (math.isfinite(score) and math.isfinite(mass)):
        return Reading(Missing("the judge's logits are not finite"), mass)
    if mass < min_mass - ROUNDING:
        return Reading(Missing(f"only {mass:.3f} of the probability is on the scores 1 to 5, less than {min_mass:g}"), mass)
    return Reading(score, mass, p_5)


class QuestionEncoder:
    """Turns questions and rationales into the inputs of a model whose `processor` has a chat template and a tokenizer.

    Raises UserMistake when the tokenizer has no single token for each score.
    """

    def __init__(self, processor: Any, rubric: Rubric, read_out: ReadOut) -> None:
        self.processor, self.rubric, self.read_out = processor, rubric, read_out
        self.tokens = ScoreTokens.of(processor.tokenizer, read_out.lead)
        self._markers = (*read_out.markers, *processor.tokenizer.get_added_vocab())
        self._start = self.ids(read_out.start)
        self._close = self.ids(read_out.close)

    def ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False).input_ids

    def row(self, question: Question) -> Row:
        """The chat up to where the model's answer begins; with chain of thought, up to where its rationale begins."""
        parts = self.rubric.render(question, self.read_out.instruction, self._markers)
        content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
        row = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        return self._opened(dict(row))

    def encoded(self, question: Question) -> Row | Missing:
        """As `row`; missing where the processor refuses a picture, as Qwen's does one 200 times as long as wide."""
        try:
            return self.row(question)
        except ValueError as error:
            return Missing(f"the judge's processor refuses its picture: {error}")

    def reason(self, rationale: str) -> list[int]:
        """The ids of a rationale and its end. Its words never become control tokens, whatever they are."""
        words = self.processor.tokenizer(rationale, add_special_tokens=False, split_special_tokens=True).input_ids
        return [*words, *self._close]

    def overlong(self, rationale: str) -> str | None:
        """What is wrong with a rationale that is longer than the judge may write: learnt, it would never come to its score."""
        length, most = len(self.reason(rationale)), self.read_out.max_rationale_tokens
        if length <= most:
            return None
        return (
            f"its rationale takes {length} tokens with its end, more than max_rationale_tokens {most}; raise that or shorten it"
        )

    def asked(self, row: Row, rationale: str | None) -> Row:
        """A row with its rationale, if any, and the lead: the logits of its last token are the score's."""
        return _extended(row, [*(self.reason(rationale) if rationale is not None else ()), *self.tokens.lead])

    def collate(self, rows: Sequence[Row]) -> Row:
        """Rows as one batch, padded on the left; pictures in the order of the rows."""
        length = max(row["input_ids"].shape[1] for row in rows)
        pad, end = self.processor.tokenizer.pad_token_id, self.processor.tokenizer.eos_token_id
        batch = {}
        for name in rows[0]:
            values = [row[name] for row in rows]
            if name in ALONG_TEXT:
                fill = (end if pad is None else pad) if name == "input_ids" else 0
                values = [F.pad(value, (length - value.shape[1], 0), value=fill) for value in values]
            batch[name] = torch.cat(values)
        return batch

    def _opened(self, row: Row) -> Row:
        """Chat templates of reasoning models open the rationale themselves; where they do not, it is opened here."""
        ids = row["input_ids"][0].tolist()
        is_open = ids[-len(self._start) :] == self._start
        if self.read_out.chain_of_thought:
            return row if is_open else _extended(row, self._start)
        return _extended(row, self._close) if is_open else row


def _extended(row: Row, ids: Sequence[int]) -> Row:
    """The row with text appended."""
    new = torch.tensor([ids], dtype=torch.long)
    tails = {"input_ids": new, "attention_mask": torch.ones_like(new)}
    return {
        name: torch.cat([value, tails.get(name, torch.zeros_like(new)).to(value.dtype)], 1) if name in ALONG_TEXT else value
        for name, value in row.items()
    }
