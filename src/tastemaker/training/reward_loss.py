"""Losses of reward models, one value for each example: tensors in, tensors out.

Suffixes: B examples (questions or pairs), 5 scores 1 to 5, K positions of the answer, V tokens of the vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of a position whose token is not learnt."""


def squared_error(score_B: Tensor, target_B: Tensor) -> Tensor:
    """(B,) (R - y)^2 (Eq. 2), in squared points; y is the mean human score, in [1, 5] like R."""
    return (score_B - target_B).square()


def soft_label_loss(log_p_B5: Tensor, shares_B5: Tensor) -> Tensor:
    """(B,) -sum_s q(s) log p(s) in nats: q are the raters' shares, which sum to 1, p the renormalised scores (Eq. 3).

    Unlike Eq. 2 it asks for the raters' disagreement too, not for their mean alone. Least at p = q.
    """
    return -(shares_B5 * log_p_B5).sum(-1)


def bradley_terry(first_B: Tensor, second_B: Tensor, choice_B: Tensor) -> Tensor:
    """(B,) -c log sigmoid(R_1 - R_2) - (1 - c) log sigmoid(R_2 - R_1) in nats (Eq. 1).

    The choice c is 1 where the first was preferred, 0 where the second was, and one half for a tie: least at R_1 = R_2.
    """
    difference_B = first_B - second_B
    return choice_B * F.softplus(-difference_B) + (1 - choice_B) * F.softplus(difference_B)


def rationale_loss(logits_BKV: Tensor, labels_BK: Tensor) -> Tensor:
    """(B,) mean of -log p(token) in nats over the labelled positions of each example; 0 for an example without any.

    `labels_BK[b, k]` is the token that `logits_BKV[b, k]` predicts, or IGNORED. Each example counts alike, however long.
    """
    losses_BK = F.cross_entropy(logits_BKV.float().transpose(1, 2), labels_BK, ignore_index=IGNORED, reduction="none")
    return losses_BK.sum(1) / (labels_BK != IGNORED).sum(1).clamp(min=1)
