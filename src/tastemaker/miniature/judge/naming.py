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
    """The loss, keyed by seed and step; its own parameters are a threshold for each word and a scale.

    A word is read out along the language model's own embedding of it. So a token of the picture comes to lie near the words that
    are true of it, where the language model finds it by the words of a request.
    """

    def __init__(self, vlm: VLM, drawer: Drawer, seed: int) -> None:
        super().__init__()
        self.words = {word: place for place, word in enumerate((*vocabulary(), *LETTERS))}
        self.scale = nn.Parameter(torch.tensor(0.5))
        # Most words are of no picture.
        self.bias = nn.Parameter(torch.full((len(self.words),), -4.0 - float(np.log(PICTURE_TOKENS))))
        self._ids = [vlm.processor.tokenizer(f" {word}", add_special_tokens=False).input_ids[-1] for word in self.words]
        self._embedding, self._see = vlm.core.model.language_model.embed_tokens, vlm.core.model.visual
        self._drawer, self._seed = drawer, seed

    @property
    def own(self) -> list[nn.Parameter]:
        """What is not part of the judge."""
        return [self.scale, self.bias]

    def loss(self, count: int, step: int) -> Tensor:
        """(count,): binary cross-entropy in nats, summed over the vocabulary."""
        drawn = [self._drawer(seeds.random(self._seed, "naming", step, number)) for number in range(count)]
        there_BV = torch.zeros(count, len(self.words))
        for row, (_, caption) in enumerate(drawn):
            there_BV[row, [self.words[piece] for piece in pieces(caption)]] = 1.0
        seen = self._see(patches(np.stack([picture for picture, _ in drawn])), grid_thw=grids(count)).pooler_output
        words_VD = F.normalize(self._embedding.weight[self._ids].detach(), dim=1)
        logits_TV = self.scale * F.layer_norm(seen, seen.shape[-1:]) @ words_VD.T + self.bias
        logits_BV = logits_TV.unflatten(0, (count, -1)).logsumexp(1)
        return F.binary_cross_entropy_with_logits(logits_BV, there_BV, reduction="none").sum(1)
