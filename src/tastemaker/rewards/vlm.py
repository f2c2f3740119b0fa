"""A vision-language model as a judge: any image-text-to-text model of transformers.

    Question -> rubric -> chat template -> rationale -> score tokens -> Answer

A question is encoded alone and padded on the left only when it joins a batch, so its score does not depend on its neighbours.
The rationale is read as text and encoded again before the score is read: training sees the very same tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tastemaker.errors import ServiceFailed, UserMistake
from tastemaker.rewards.judge import Answer, Question
from tastemaker.rewards.readout import SCORES, QuestionEncoder, Reading, ReadOut, Row, average, read
from tastemaker.rewards.reward import Missing, fingerprint_of
from tastemaker.rewards.rubrics import Rubric, load_rubric
from tastemaker.rewards.vlm_folder import JUDGE_FILE, VLM, load_vlm, read_json


@dataclass
class VLMJudge:
    """A `Judge`. Equal questions have equal scores, alone or in a batch, up to rounding (in bf16 that may turn a rationale).

    A question has no score when the rubric cannot judge it, when the processor refuses its picture, when its rationale does not
    end in time, or when too little probability is on the scores; the reason is in the answer.
    """

    vlm: VLM
    rubric: Rubric
    read_out: ReadOut = field(default_factory=ReadOut)
    label: str | None = None
    """What the reward is called; the rubric's name when None."""
    max_pictures: int = 16
    """Pictures in one forward, those of all rationales of all its questions; a single question may have more."""
    low: float = float(SCORES[0])
    high: float = float(SCORES[-1])

    def __post_init__(self) -> None:
        if self.max_pictures < 1:
            raise UserMistake(f"max_pictures {self.max_pictures}: at least 1")
        self._encoder = QuestionEncoder(self.vlm.processor, self.rubric, self.read_out)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        rubric: Rubric | str | None = None,
        read_out: ReadOut | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        base: str | Path | None = None,
        label: str | None = None,
        max_pictures: int = 16,
    ) -> VLMJudge:
        """The judge of a model folder; arguments as of `load_vlm` and this class.

        A folder that was trained here knows its rubric and read-out (`judge.json`); for any other give the rubric.
        """
        folder = Path(folder)
        stored = read_judge_file(folder / JUDGE_FILE) if (folder / JUDGE_FILE).is_file() else None
        if rubric is None and stored is None:
            raise UserMistake(f"{folder} has no {JUDGE_FILE}: say which rubric it is to judge by, such as 'alignment.v1'")
        found = stored[0] if rubric is None and stored else rubric
        chosen = load_rubric(found) if isinstance(found, str) else found
        settings = read_out or (stored[1] if stored else ReadOut())
        assert chosen is not None
        return cls(load_vlm(folder, device=device, dtype=dtype, base=base), chosen, settings, label, max_pictures)

    @property
    def name(self) -> str:
        return self.label or self.rubric.name

    @cached_property
    def fingerprint(self) -> str:
        """Hex. Of the model's files, the rubric's text, the read-out and the precision."""
        parts = [self.vlm.sha256, self.rubric.sha256, asdict(self.read_out), str(self.vlm.dtype)]
        return fingerprint_of(parts)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """See `Judge`. Raises ValueError for ids that are not unique, ServiceFailed when the device has not enough memory."""
        if len({question.id for question in questions}) < len(questions):
            raise ValueError("two questions have the same id")
        answers = {q.id: Answer(q.id, Missing(reason)) for q in questions if (reason := self.rubric.lack(q))}
        try:
            with _judging(self.vlm.model):
                for batch in self._batches([question for question in questions if question.id not in answers]):
                    answers.update((answer.id, answer) for answer in self._answer(batch))
        except torch.OutOfMemoryError as error:
            raise ServiceFailed(
                f"judge {self.name}: out of memory with up to {self.max_pictures} pictures at once; lower max_pictures"
            ) from error
        return [answers[question.id] for question in questions]

    def _batches(self, questions: Sequence[Question]) -> Iterator[list[Question]]:
        """Questions of about one length together, since a batch is padded to its longest."""
        batch: list[Question] = []
        used = 0
        for question in sorted(questions, key=lambda question: (len(question.sources), len(question.text))):
            need = self.read_out.num_rationales * (1 + len(question.sources) * self.rubric.looks_at_sources)
            if batch and used + need > self.max_pictures:
                yield batch
                batch, used = [], 0
            batch.append(question)
            used += need
        if batch:
            yield batch

    def _answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        encoded = [(question, self._encoder.encoded(question)) for question in questions]
        yield from (Answer(question.id, row) for question, row in encoded if isinstance(row, Missing))
        if readable := [(question, row) for question, row in encoded if not isinstance(row, Missing)]:
            yield from self._judged(*zip(*readable, strict=True))

    def _judged(self, questions: Sequence[Question], encoded: Sequence[Row]) -> Iterator[Answer]:
        count, thinks = self.read_out.num_rationales, self.read_out.chain_of_thought
        rows = [row for row in encoded for _ in range(count)]
        seeds = [_seed(question, self.read_out.seed, nth) for question in questions for nth in range(count)]
        rationales = self._rationales(rows, seeds) if thinks else [""] * len(rows)
        told = [(row, text if thinks else None) for row, text in zip(rows, rationales, strict=True) if isinstance(text, str)]
        readings = iter(self._read([self._encoder.asked(row, text) for row, text in told]))
        outcomes = [text if isinstance(text, Missing) else next(readings) for text in rationales]
        for nth, question in enumerate(questions):
            mine = slice(nth * count, (nth + 1) * count)
            one = average(outcomes[mine])
            text = "\n\n".join(text for text in rationales[mine] if isinstance(text, str))
            yield Answer(question.id, one.score, text, None if math.isnan(one.mass) else one.mass, one.probabilities)

    def _rationales(self, rows: Sequence[Row], seeds: Sequence[int]) -> list[str | Missing]:
        batch = self.vlm.placed(self._encoder.collate(rows))
        core, settings = self.vlm.core, self.read_out
        with _generation(core, settings, self.vlm.tokenizer):
            whole = core.generate(
                **batch,
                tokenizer=self.vlm.tokenizer,
                logits_processor=[KeyedNoise(seeds, settings.temperature, self.vlm.device)] if settings.temperature else [],
            )
        texts = [
            self.vlm.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            for ids in whole[:, batch["input_ids"].shape[1] :].tolist()
        ]
        late = Missing(f"the rationale did not reach {settings.stop!r} within {settings.max_rationale_tokens} tokens")
        return [text[: text.index(settings.stop)].strip() if settings.stop in text else late for text in texts]

    def _read(self, rows: Sequence[Row]) -> list[Reading]:
        if not rows:
            return []
        batch = self.vlm.placed(self._encoder.collate(rows))
        logits_BV = self.vlm.core(**batch, logits_to_keep=1, use_cache=False).logits[:, -1]
        return read(logits_BV, self._encoder.tokens, self.read_out.min_mass)


class KeyedNoise:
    """Makes greedy decoding draw from softmax(logits / temperature), each row by its own seed.

    argmax(logits / T + g) with standard Gumbel noise g is such a draw. A row's noise does not depend on the other rows, so its
    text does not either; with a shared generator it would.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, logits_BV: Tensor) -> Tensor:
        noise_BV = torch.empty_like(logits_BV, dtype=torch.float32)
        for row, generator in zip(noise_BV, self._generators, strict=True):
            row.exponential_(generator=generator)
        return logits_BV.float() / self._temperature - noise_BV.log()


def read_judge_file(path: Path) -> tuple[Rubric, ReadOut]:
    """Rubric and read-out of a judge that was trained here; see `judge_file`. Raises UserMistake for anything else."""
    content = read_json(path)
    try:
        rubric = Rubric(**content["rubric"])
        read_out = ReadOut(**content["read_out"])
    except (KeyError, TypeError) as error:
        raise UserMistake(f"{path} does not describe a judge: {error!r}") from None
    if content.get("range") != [SCORES[0], SCORES[-1]]:
        raise UserMistake(f"{path}: range {content.get('range')!r}, judges here score from {SCORES[0]} to {SCORES[-1]}")
    return rubric, read_out


def judge_file(rubric: Rubric, read_out: ReadOut) -> str:
    """The text of judge.json: all that a model folder does not say of itself. The rubric is in it as a whole."""
    content = {"format": 1, "rubric": asdict(rubric), "read_out": asdict(read_out), "range": [SCORES[0], SCORES[-1]]}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


@contextmanager
def _judging(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout, also for a model that is being trained."""
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was)


@contextmanager
def _generation(core: Any, settings: ReadOut, tokenizer: Any) -> Iterator[None]:
    """Decodes by our settings alone: what is left open is otherwise filled in from the folder's (temperature, penalties)."""
    from transformers import GenerationConfig

    kept = core.generation_config
    ends = kept.eos_token_id if kept.eos_token_id is not None else tokenizer.eos_token_id
    end_ids = ends if isinstance(ends, list) else [ends]
    core.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=settings.max_rationale_tokens,
        stop_strings=[settings.stop],
        eos_token_id=end_ids,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_ids[0],
        suppress_tokens=sorted({*tokenizer.all_special_ids} - {*end_ids, tokenizer.convert_tokens_to_ids(settings.stop)})
        or None,
    )
    try:
        yield
    finally:
        core.generation_config = kept


def _seed(question: Question, seed: int, nth: int) -> int:
    """In [0, 2**63), from what is asked, not from its id: the same question has the same rationale."""
    whole = hashlib.blake2b(f"{seed} {nth} {len(question.text)} {question.text}".encode(), digest_size=8)
    for picture in (question.picture, *question.sources):
        whole.update(f"{picture.mode} {picture.size}".encode() + picture.tobytes())
    return int.from_bytes(whole.digest(), "little") >> 1
