"""Requests held against pictures: how the miniature judge learns to compare before it learns to score.

A new drawing of the training split, and a request that is its caption or one with a fact or two changed; or the source and the
output of an edit, which does what was asked or something else. In the very layout of a judge's question the model says, by the
tokens of the highest and the lowest score, at each word of a caption whether it holds, at each place of an edit's output
whether it shows what the source shows there, and at the place of the answer whether all is as asked. Captions with wrong
words in them are how vision-language models usually learn to match texts with pictures; no rated prompt and no rating is used.

Words and places are asked of the last layer but one. The answer can then gather what was found at them; verdicts that are first
there at the very end no layer is left to gather.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tastemaker.miniature.builder.parts import SIDE
from tastemaker.miniature.judge.language import DIRECT, MERGE, PATCH, RUBRICS, as_picture
from tastemaker.miniature.raters.corruptions import worn
from tastemaker.miniature.raters.drawings import changed, draw
from tastemaker.miniature.world.layout import sample_layout
from tastemaker.miniature.world.prompts import write_prompt
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import Item, sample, sample_edit
from tastemaker.rewards.judge import Question
from tastemaker.rewards.readout import QuestionEncoder, Row
from tastemaker.rewards.rubrics import quoted
from tastemaker.rewards.vlm_folder import VLM
from tastemaker.runtime import seeds

EDITS = 0.5
"""Share of edits among what is held against pictures, and among what is described."""
_TRUE = 0.3  # share of requests that are the drawing's own caption
_DONE = 0.4  # share of edits that are done as asked
_UNDONE = ("world-other", "world-other", "world-untouched", "world-elsewhere")
_TOUCHED = 1.0  # mean absolute difference of a place from the source, of 255, above which it shows something else
_MOST_WRONG = 6  # words; with more, the changed fact changed the wording too
_PAUSES = frozenset('",') | {"and", "with", "of", "on", "in", "at", "the", "a", "an"}
"""After these a wrong word before them says nothing of the words that follow."""


def request_of(rng: np.random.Generator) -> tuple[np.ndarray, str, str]:
    """uint8 (64, 64, 3), its true caption, and the request: in one wording, so that only changed facts change words."""
    while True:
        description = sample("train", rng)
        told = description if rng.random() < _TRUE else changed(description, "train", rng)
        wording = int(rng.integers(2**32))
        own, request = (write_prompt(one, np.random.default_rng(wording)) for one in (description, told))
        wrong = len({*request.split()} ^ {*own.split()})
        if wrong <= _MOST_WRONG and (told == description) == (request == own):
            return worn(render(description, sample_layout(description, rng)), rng), own, request


def held(own: list[int], request: list[int], pauses: frozenset[int]) -> list[bool]:
    """For each token of the request whether it holds; a wrong word makes the rest of its phrase wrong."""
    found = [False] * len(request)
    for tag, _, _, start, end in SequenceMatcher(None, own, request, autojunk=False).get_opcodes():
        if tag == "equal":
            found[start:end] = [True] * (end - start)
    for place in range(1, len(request)):
        if request[place] not in pauses and not found[place - 1] and request[place - 1] not in pauses:
            found[place] = False
    return found


def same(source: np.ndarray, picture: np.ndarray) -> list[bool]:
    """For each place (token) of the picture, row by row, whether it is as in the source."""
    apart = np.abs(source.astype(float) - picture).mean(axis=2)
    side = SIDE // (PATCH * MERGE)
    return (apart.reshape(side, PATCH * MERGE, side, PATCH * MERGE).mean(axis=(1, 3)) <= _TOUCHED).flatten().tolist()


@dataclass(frozen=True, eq=False)
class Shown:
    """What a model is shown, and what it should find: `own` is a true caption, `kept` is for each place of an edit's output."""

    question: Question
    holds: bool
    own: str | None = None
    kept: Sequence[bool] = ()


def shown(rng: np.random.Generator) -> Shown:
    """A caption held against a drawing, or an edit's instruction against its source and an output."""
    if rng.random() >= EDITS:
        picture, own, request = request_of(rng)
        return Shown(Question("caption", request, as_picture(picture)), own == request, own)
    pair = sample_edit("train", rng)
    item = Item("edit", pair.instruction, pair.edit.target, pair)
    done = bool(rng.random() < _DONE)
    kind = "world" if done else _UNDONE[int(rng.integers(len(_UNDONE)))]
    source = render(pair.edit.source, pair.source_layout)
    picture = draw(item, kind, "train", rng)[1]
    done = np.array_equal(picture, render(pair.edit.target, pair.target_layout))
    question = Question("edit", pair.instruction, as_picture(worn(picture, rng)), (as_picture(source),))
    return Shown(question, done, kept=same(source, picture))


class Matching:
    """The loss of requests held against pictures, keyed by seed and step."""

    def __init__(self, vlm: VLM, seed: int) -> None:
        self._vlm, self._seed = vlm, seed
        self._encoders = {name: QuestionEncoder(vlm.processor, RUBRICS[name], DIRECT) for name in ("alignment", "instruction")}
        self._encoder = self._encoders["alignment"]
        self._pauses = frozenset(id for word in _PAUSES for id in self._encoder.ids(f" {word}") + self._encoder.ids(word))

    def losses(self, count: int, step: int, precision: torch.dtype) -> dict[str, Tensor]:
        """`answer` and `words`, (count,): cross-entropies; words, or an edit's places, of each kind weigh the same."""
        cases = [shown(seeds.random(self._seed, "match", step, number)) for number in range(count)]
        rows = [self._row(case) for case in cases]
        batch = self._vlm.placed(self._encoder.collate(rows))
        with self._early() as early, torch.autocast(self._vlm.device.type, precision, enabled=precision != torch.float32):
            answers_BV = self._vlm.core(**batch, use_cache=False, logits_to_keep=1).logits[:, -1]
            words_BL2 = self._verdicts(early[0])
        holds_B = torch.tensor([case.holds for case in cases], device=answers_BV.device).long()
        answer_B = F.cross_entropy(answers_BV[:, self._ends].float(), holds_B, reduction="none")
        labels_BL = self._labels(cases, rows).to(words_BL2.device)
        losses_BL = F.cross_entropy(words_BL2.float().flatten(0, 1), labels_BL.flatten(), ignore_index=-1, reduction="none")
        losses_BL = losses_BL.view_as(labels_BL)
        means = [_mean(losses_BL, labels_BL == kind) for kind in (0, 1)]
        weights = [(labels_BL == kind).any(1).float() for kind in (0, 1)]
        words_B = sum(m * w for m, w in zip(means, weights, strict=True)) / sum(weights).clamp(min=1)  # type: ignore[union-attr]
        return {"answer": answer_B, "words": words_B}

    @property
    def _ends(self) -> list[int]:
        """The tokens of the lowest and the highest score: does not hold, holds."""
        return [self._encoder.tokens.scores[0], self._encoder.tokens.scores[-1]]

    @contextmanager
    def _early(self) -> Iterator[list[Tensor]]:
        """Collects what the last layer but one gives, (B, L, D)."""
        found: list[Tensor] = []
        layer = self._vlm.core.model.language_model.layers[-2]
        handle = layer.register_forward_hook(lambda module, args, output: found.append(output))
        try:
            yield found
        finally:
            handle.remove()

    def _verdicts(self, states_BLD: Tensor) -> Tensor:
        """(B, L, 2) logits of not holding and of holding, read out as those of the last layer are."""
        core = self._vlm.core
        return F.linear(core.model.language_model.norm(states_BLD), core.lm_head.weight[self._ends])

    def _row(self, case: Shown) -> Row:
        encoder = self._encoders["instruction" if case.question.sources else "alignment"]
        return encoder.asked(encoder.row(case.question), None)

    def _labels(self, cases: list[Shown], rows: list[Row]) -> Tensor:
        """(B, L): 1 at words that hold and places that are kept, 0 at others, -1 elsewhere; padded on the left."""
        length = max(row["input_ids"].shape[1] for row in rows)
        labels_BL = torch.full((len(rows), length), -1)
        for place, (case, row) in enumerate(zip(cases, rows, strict=True)):
            ids = row["input_ids"][0].tolist()
            if case.kept:
                places = (row["mm_token_type_ids"][0] == 1).nonzero().flatten()[-len(case.kept) :]  # of the last picture
                labels_BL[place, places + length - len(ids)] = torch.tensor(case.kept).long()
            if case.own is not None:
                text = self._encoder.ids(quoted(case.question.text))
                start = next(n for n in range(len(ids)) if ids[n : n + len(text)] == text) + length - len(ids)
                found = held(self._encoder.ids(quoted(case.own)), text, self._pauses)
                labels_BL[place, start : start + len(text)] = torch.tensor(found).long()
        return labels_BL


def _mean(values_BL: Tensor, where_BL: Tensor) -> Tensor:
    return (values_BL * where_BL).sum(1) / where_BL.sum(1).clamp(min=1)
