"""Qwen-Image-2.1 without the shared prefix: every call runs prompt, source pictures and target through the whole transformer.

This is what sampling and training code does that knows nothing of causal conditions. It is no strawman: it takes as many rows
into one forward as can be without padding (in the unmodified transformer padding would move the target), those of one length.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from tastemaker.models.qwen_image21 import SLOT, QwenImage21Adapter
from tastemaker.types import Condition


@dataclass(frozen=True)
class WholePrompts:
    """A `Prefix` that saves nothing: the prompts as they are, one of each row. Lengths are Python's, to wait for no device."""

    condition: Condition
    lengths: tuple[int, ...]
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Tensor) -> WholePrompts:
        return replace(self, rows=self.rows[rows.to(self.rows.device)])

    def by_length(self) -> dict[int, Tensor]:
        """Length in tokens -> which of our rows have it."""
        found: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(self.rows.tolist()):
            found[self.lengths[row]].append(place)
        return {length: torch.tensor(places) for length, places in found.items()}


class WholeSequenceAdapter(QwenImage21Adapter):
    """The same model and the same numbers, with nothing kept from call to call."""

    def prefix(self, condition: Condition) -> WholePrompts:  # type: ignore[override]
        lengths = tuple(condition.tensors["mask"].sum(1).tolist())
        return WholePrompts(condition, lengths, torch.arange(len(condition)))

    def velocity(self, x_BX: Tensor, sigma_B: Tensor, prefix: WholePrompts) -> Tensor:  # type: ignore[override]
        places, parts = [], []
        for length, rows in prefix.by_length().items():
            here = rows.to(x_BX.device)
            condition = prefix.condition.select(prefix.rows[rows])
            parts.append(self._whole(x_BX[here], sigma_B[here], condition, length))
            places.append(here)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _whole(self, x_BX: Tensor, sigma_B: Tensor, condition: Condition, length: int) -> Tensor:
        """One forward of rows that are all `length` tokens of text and image slots long."""
        tensors = condition.tensors
        slots = tensors["slots"][:, :length]
        targets = slots.new_ones(len(x_BX), prod(condition.layout[-1]) // SLOT)  # type: ignore[index]
        out = self.transformer(
            hidden_states=(torch.cat([tensors["sources"], x_BX], dim=1) if "sources" in tensors else x_BX).to(self.dtype),
            timestep=(sigma_B * 1000).to(self.dtype) / 1000,
            encoder_hidden_states=tensors["embeds"][:, :length].to(self.dtype),
            img_shapes=[list(condition.layout)],  # type: ignore[call-overload]
            img_mask=torch.cat([slots, targets], dim=1),
            return_dict=False,
        )[0]
        return out[:, -x_BX.shape[1] :].float()


def without_shared_prefix(adapter: QwenImage21Adapter) -> WholeSequenceAdapter:
    return WholeSequenceAdapter(adapter.pipeline, adapter.transformer, adapter.dtype)
