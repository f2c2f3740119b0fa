"""The two conventions every formula of this folder shares: at least float32, and means over the elements of one sample."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(tensor: Tensor) -> Tensor:
    """float32, or float64 where the input is: bfloat16 has 3 digits, and a step or a ratio needs 6."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def mean_over_elements(values: Tensor) -> Tensor:
    """(B, *X) -> (B,), also for an empty X: torch's mean over no axes would average over the batch."""
    return values.unsqueeze(-1).flatten(1).mean(1)


def require_same_shape(**tensors: Tensor) -> None:
    """Raises ValueError naming the shapes unless all are equal: broadcasting here would be a silent mistake."""
    if len({t.shape for t in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise ValueError(f"shapes differ: {shapes}; they must be equal")
