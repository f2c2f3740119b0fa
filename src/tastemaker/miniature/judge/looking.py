"""Ratings that need no words, given by the eye alone: how clean a picture is, and how whole, whatever was asked for.

Captions name what is drawn and say nothing of blur or a broken face, so an eye that has learnt from captions alone does not see
them. The score is the mean of what the picture's tokens say; its loss is that of raters' distributions (soft labels).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tastemaker.miniature.judge.language import grids, patches
from tastemaker.rewards.readout import SCORES
from tastemaker.rewards.vlm_folder import VLM
from tastemaker.training.reward_loss import soft_label_loss
from tastemaker.training.reward_model import Rated

NEEDS_NO_WORDS = ("aesthetic", "portrait")
"""Dimensions that are about the picture, not about the prompt."""


class Looking:
    """The loss; no judge needs its `heads` afterwards."""

    def __init__(self, vlm: VLM) -> None:
        width = vlm.core.model.visual.config.out_hidden_size
        self._see = vlm.core.model.visual
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(SCORES)) for name in NEEDS_NO_WORDS})
        for head in self.heads.values():
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def loss(self, dimension: str, examples: Sequence[Rated]) -> Tensor:
        """(B,) -sum_s q(s) log p(s) in nats. Raises ValueError for an example without the raters' shares."""
        if any(example.shares is None for example in examples):
            raise ValueError(f"{dimension}: an example says nothing of how its raters differ")
        shares_B5 = torch.tensor([example.shares for example in examples])
        return soft_label_loss(self._log_p(dimension, examples), shares_B5)

    def _log_p(self, dimension: str, examples: Sequence[Rated]) -> Tensor:
        pictures = np.stack([np.asarray(example.question.picture.convert("RGB")) for example in examples])
        seen = self._see(patches(pictures), grid_thw=grids(len(pictures))).pooler_output
        said = self.heads[dimension](F.layer_norm(seen, seen.shape[-1:])).unflatten(0, (len(pictures), -1))
        return said.mean(1).log_softmax(-1)
