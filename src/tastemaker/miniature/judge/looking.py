"""Ratings that need no words, given by the eye alone: how clean a picture is, and how whole, whatever was asked for.

Captions name what is drawn and say nothing of blur or a broken face, so an eye that has learnt from captions alone does not see
them. Raters score quality and fidelity as such, and the aesthetic score follows from both; so the eye learns those two as well,
though no judge is asked for them. All that was said of a picture is learnt from one look. The score is the mean of what the
picture's tokens say; its loss is that of raters' distributions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tastemaker.miniature.judge.language import grids, patches
from tastemaker.rewards.readout import SCORES
from tastemaker.rewards.vlm_folder import VLM
from tastemaker.training.reward_loss import soft_label_loss
from tastemaker.training.reward_model import Rated

NEEDS_NO_WORDS = ("quality", "fidelity", "aesthetic", "portrait")
"""Dimensions that are about the picture, not about the prompt."""
Looked = Mapping[str, Rated]
"""What was said of one picture, by dimension."""


class Looking:
    """The loss; no judge needs its `heads` afterwards."""

    def __init__(self, vlm: VLM) -> None:
        width = vlm.core.model.visual.config.out_hidden_size
        self._see = vlm.core.model.visual
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(SCORES)) for name in NEEDS_NO_WORDS})
        for head in self.heads.values():
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def losses(self, pictures: Sequence[Looked]) -> dict[str, Tensor]:
        """Of each dimension that somebody scored, of those pictures: (n,) -sum_s q(s) log p(s) in nats.

        Raises ValueError for an example without the raters' shares.
        """
        for name, one in ((name, one) for picture in pictures for name, one in picture.items()):
            if one.shares is None:
                raise ValueError(f"{name} of {one.question.id}: an example says nothing of how its raters differ")
        shown = [next(iter(picture.values())).question.picture for picture in pictures]
        pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in shown])
        seen = self._see(patches(pixels), grid_thw=grids(len(pixels))).pooler_output
        seen = F.layer_norm(seen, seen.shape[-1:]).unflatten(0, (len(pixels), -1))
        found = {}
        for name, head in self.heads.items():
            places = [place for place, picture in enumerate(pictures) if name in picture]
            if places:
                log_p = head(seen[places]).mean(1).log_softmax(-1)
                found[name] = soft_label_loss(log_p, torch.tensor([pictures[place][name].shares for place in places]))
        return found


def by_picture(examples: Mapping[str, Sequence[Rated]]) -> list[Looked]:
    """What was said of each picture that anyone scored without need of words, in the order in which they come.

    A picture is told by the id of its question, so that is its file's name for all its dimensions.
    """
    found: dict[str, dict[str, Rated]] = {}
    for name in NEEDS_NO_WORDS:
        for one in examples.get(name, ()):
            found.setdefault(one.question.id, {})[name] = one
    return list(found.values())
