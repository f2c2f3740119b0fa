"""The words of a caption found in its picture: how the miniature judge's eye learns what things look like.

As vision encoders are trained before they meet a language model. Every token of the picture says of every word how likely it
is to be true of what it sees, and the picture's word is that of its surest token (softly: the log of the summed exponentials),
held against the captions' words by binary cross-entropy. A picture costs a quarter of what one in a question costs.

A token says a word by pointing where the language model's embedding of that word points. So a word of a request and the place
of a picture that shows it are alike from the first layer on, and attention finds one by the other; with a readout of its own
the eye could name everything in a language that the rest of the model would have to learn word by word.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tastemaker.miniature.judge.language import PICTURE_TOKENS, grids, patches
from tastemaker.miniature.world.wording import LETTERS, pieces, vocabulary
from tastemaker.rewards.vlm_folder import VLM
from tastemaker.runtime import seeds

Drawer = Callable[[np.random.Generator], tuple[np.ndarray, str]]
"""A new picture, uint8 (64, 64, 3), and its caption."""


class Naming:
    """The loss, keyed by seed and step; `sureness`, which a token has to have for each word, no judge needs afterwards."""

    def __init__(self, vlm: VLM, drawer: Drawer, seed: int) -> None:
        self.words = {word: place for place, word in enumerate((*vocabulary(), *LETTERS))}
        forms = [word if word in LETTERS else f" {word}" for word in self.words]  # as they stand in a request
        self._ids = [vlm.tokenizer(form, add_special_tokens=False).input_ids[-1] for form in forms]
        rare = -4.0 - float(np.log(PICTURE_TOKENS))  # most words are of no picture
        self.sureness = nn.ParameterDict({"scale": torch.ones(()), "bias": torch.full((len(forms),), rare)})
        self._see, self._drawer, self._seed = vlm.core.model.visual, drawer, seed
        self._table = vlm.core.model.language_model.embed_tokens

    def loss(self, count: int, step: int) -> Tensor:
        """(count,): binary cross-entropy in nats, summed over the vocabulary."""
        drawn = [self._drawer(seeds.random(self._seed, "naming", step, number)) for number in range(count)]
        there_BV = torch.zeros(count, len(self.words))
        for row, (_, caption) in enumerate(drawn):
            there_BV[row, [self.words[piece] for piece in pieces(caption)]] = 1.0
        seen = self._see(patches(np.stack([picture for picture, _ in drawn])), grid_thw=grids(count)).pooler_output
        said = F.layer_norm(seen, seen.shape[-1:]) @ self._directions().T
        logits_BV = (self.sureness["scale"] * said + self.sureness["bias"]).unflatten(0, (count, -1)).logsumexp(1)
        return F.binary_cross_entropy_with_logits(logits_BV, there_BV, reduction="none").sum(1)

    def _directions(self) -> Tensor:
        """(V, D) of length 1: what tells a word from the others. Without gradient: the eye learns the words as they are."""
        table_VD = self._table.weight.detach()[self._ids]
        return F.normalize(table_VD - table_VD.mean(0), dim=-1)
