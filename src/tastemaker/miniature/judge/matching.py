"""Words held against a picture: how the miniature judge learns to compare before it learns to score.

A new drawing of the training split, and a request that is its caption or one with a fact or two changed. At each word of the
request, read in the very layout of an alignment question, the model says whether it holds: the token of the highest score where
it does, that of the lowest where it does not. Captions with wrong words in them are how vision-language models usually learn to
match texts with pictures; no rating and no prompt that is rated is used.
"""

from __future__ import annotations

from difflib import SequenceMatcher

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tastemaker.miniature.judge.language import DIRECT, RUBRICS, as_picture
from tastemaker.miniature.raters.drawings import changed
from tastemaker.miniature.world.layout import sample_layout
from tastemaker.miniature.world.prompts import write_prompt
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import sample
from tastemaker.rewards.judge import Question
from tastemaker.rewards.readout import QuestionEncoder
from tastemaker.rewards.rubrics import quoted
from tastemaker.rewards.vlm_folder import VLM
from tastemaker.runtime import seeds

_TRUE = 0.3  # share of requests that are the drawing's own caption
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
            return render(description, sample_layout(description, rng)), own, request


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


class Matching:
    """The loss of requests held against drawings, keyed by seed and step."""

    def __init__(self, vlm: VLM, seed: int) -> None:
        self._vlm, self._seed = vlm, seed
        self._encoder = QuestionEncoder(vlm.processor, RUBRICS["alignment"], DIRECT)
        self._pauses = frozenset(id for word in _PAUSES for id in self._encoder.ids(f" {word}") + self._encoder.ids(word))

    def loss(self, count: int, step: int, precision: torch.dtype) -> Tensor:
        """(count,): cross-entropy of right and wrong over a request's words, those of each kind weighing the same."""
        rows, labels = [], []
        for number in range(count):
            picture, own, request = request_of(seeds.random(self._seed, "match", step, number))
            row = self._encoder.row(Question(str(number), request, as_picture(picture)))
            rows.append(row)
            labels.append(self._labels(row["input_ids"][0].tolist(), own, request))
        batch = self._vlm.placed(self._encoder.collate(rows))
        with torch.autocast(self._vlm.device.type, precision, enabled=precision != torch.float32):
            logits_BLV = self._vlm.core(**batch, use_cache=False).logits
        length = logits_BLV.shape[1]
        labels_BL = torch.stack([F.pad(one, (length - len(one), 0), value=-1) for one in labels]).to(logits_BLV.device)
        low, high = self._encoder.tokens.scores[0], self._encoder.tokens.scores[-1]
        log_p_BL2 = logits_BLV[..., [low, high]].float().log_softmax(-1)
        losses_BL = -log_p_BL2.gather(-1, labels_BL.clamp(min=0)[..., None])[..., 0]
        means = [_mean(losses_BL, labels_BL == kind) for kind in (0, 1)]
        weights = [(labels_BL == kind).any(1).float() for kind in (0, 1)]
        return sum(m * w for m, w in zip(means, weights, strict=True)) / sum(weights)

    def _labels(self, row: list[int], own: str, request: str) -> Tensor:
        """(L,): 1 at words that hold, 0 at those that do not, -1 elsewhere."""
        text = self._encoder.ids(quoted(request))
        start = next(n for n in range(len(row)) if row[n : n + len(text)] == text)
        labels = torch.full((len(row),), -1)
        labels[start : start + len(text)] = torch.tensor(held(self._encoder.ids(quoted(own)), text, self._pauses)).long()
        return labels


def _mean(values_BL: Tensor, where_BL: Tensor) -> Tensor:
    return (values_BL * where_BL).sum(1) / where_BL.sum(1).clamp(min=1)
