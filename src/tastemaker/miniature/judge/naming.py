"""The words of a caption found in its picture: how the miniature judge's eye learns what things look like.

As vision encoders are trained before they meet a language model. Every token of the picture says of every word how likely it
is to be true of what it sees, and the picture's word is that of its surest token (softly: the log of the summed exponentials),
held against the captions' words by binary cross-entropy. A picture costs a quarter of what one in a question costs.
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


class Naming(nn.Module):
    """The loss, keyed by seed and step, and the readout from the eye's tokens to words, which no judge needs afterwards."""

    def __init__(self, vlm: VLM, drawer: Drawer, seed: int) -> None:
        super().__init__()
        self.words = {word: place for place, word in enumerate((*vocabulary(), *LETTERS))}
        self.head = nn.Linear(vlm.core.model.visual.config.out_hidden_size, len(self.words))
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -4.0 - float(np.log(PICTURE_TOKENS)))  # most words are of no picture
        self._see, self._drawer, self._seed = vlm.core.model.visual, drawer, seed

    def loss(self, count: int, step: int) -> Tensor:
        """(count,): binary cross-entropy in nats, summed over the vocabulary."""
        drawn = [self._drawer(seeds.random(self._seed, "naming", step, number)) for number in range(count)]
        there_BV = torch.zeros(count, len(self.words))
        for row, (_, caption) in enumerate(drawn):
            there_BV[row, [self.words[piece] for piece in pieces(caption)]] = 1.0
        seen = self._see(patches(np.stack([picture for picture, _ in drawn])), grid_thw=grids(count)).pooler_output
        logits_BV = self.head(F.layer_norm(seen, seen.shape[-1:])).unflatten(0, (count, -1)).logsumexp(1)
        return F.binary_cross_entropy_with_logits(logits_BV, there_BV, reduction="none").sum(1)
