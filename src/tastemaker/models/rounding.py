"""How much of a small change to weights is left once the sum is rounded to the weights' precision."""

from __future__ import annotations

import torch
from torch import Tensor

ENOUGH = 0.9
"""Share of a change below which a warning tells that rounding ate the rest."""


class Kept:
    """Adds up over the tensors of a model: <kept, wanted> / <wanted, wanted>, which is 1 where nothing is lost.

    bfloat16 has 8 bits: a change below 1/512 of a weight that was bfloat16 before rounds back to that weight. What a policy
    learns is often as small, and then its rounded sum is nearly the model that it started from.
    """

    def __init__(self) -> None:
        self._kept = self._wanted = 0.0

    def add(self, before: Tensor, wanted: Tensor, after: Tensor) -> None:
        """One tensor: what it was, what was to be added to it, and what it is now."""
        change = wanted.to("cpu", torch.float32).flatten()
        kept = (after.to("cpu", torch.float32) - before.to("cpu", torch.float32)).flatten()
        self._kept += float(torch.dot(kept, change))
        self._wanted += float(torch.dot(change, change))

    @property
    def share(self) -> float:
        """1 where nothing was to be changed."""
        return self._kept / self._wanted if self._wanted > 0 else 1.0

    def told(self, dtype: torch.dtype) -> str | None:
        """In words where too little is left, else None."""
        if self.share >= ENOUGH:
            return None
        kind = str(dtype).removeprefix("torch.")
        return f"rounding to {kind} leaves {self.share:.0%} of what was learnt, the rest is below the spacing of the weights"
