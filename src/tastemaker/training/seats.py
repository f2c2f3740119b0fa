"""Where a teacher's weights are on the device, one teacher's at a time.

A teacher is the weights of another transformer of the student's family (`training/teacher_weights.py`). `CopySeat` takes any
of them, in a frozen transformer beside the student. `LoraSeat` needs no second transformer where student and teachers are all
LoRAs: the teachers' layers are in the student's.

Not here: who teaches what (`training/teachers.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import load_lora, with_transformer
from tastemaker.models.rounding import Kept
from tastemaker.runtime.device import waiting
from tastemaker.training.teacher_weights import TEACHER, Weights, read_weights


class Seat(Protocol):
    """Make it, and add the teachers, before the student gets LoRA layers or is trained."""

    def add(self, name: str, folder: Path, *, on_disk: bool = False) -> None:
        """Opens the weights; they wait on the CPU unless `on_disk`. Raises UserMistake for what is no such weights."""
        ...

    def bring(self, name: str) -> None:
        """Puts the weights of `name` in the place of those that were there."""
        ...

    def occupied(self) -> AbstractContextManager[Adapter]:
        """Inside the block, the adapter around what was brought last."""
        ...


class CopySeat:
    """A frozen transformer beside the student, which each teacher's weights are copied into.

    A LoRA stays apart from the weights, in its own precision: added to them in bfloat16, what is below 1/256 of a weight would
    be lost, which of a small LoRA is most. Of others that lose much by rounding a warning tells.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._seat = deepcopy(adapter.transformer).requires_grad_(False).eval()
        self._adapter = with_transformer(adapter, self._seat)
        self._waiting: dict[str, Weights] = {}
        # Kept once, on the CPU, whatever number of teachers is made from it; not at all where every teacher is whole.
        self._base: dict[str, Tensor] = {}
        self._lora: list[RemovableHandle] = []

    def add(self, name: str, folder: Path, *, on_disk: bool = False) -> None:
        found = read_weights(self._adapter, folder, on_disk=on_disk)
        if found.form != "whole" and not self._base:
            self._base = {key: waiting(value) for key, value in self._seat.state_dict().items()}
        if found.form == "delta" and (lost := self._lost(found.read())) is not None:
            warnings.warn(f"teacher {name}: {lost}; choose precision: fp32", stacklevel=2)
        self._waiting[name] = found

    def _lost(self, weights: Weights) -> str | None:
        kept, dtype = Kept(), torch.float32
        for key, change in weights.added.items():
            base = self._base[key]
            kept.add(base, change, base + change.to(base))
            dtype = base.dtype
        return kept.told(dtype)

    @torch.no_grad()
    def bring(self, name: str) -> None:
        weights = self._waiting[name].read()
        for key, value in self._seat.state_dict().items():
            value.copy_(weights.replaced[key] if key in weights.replaced else self._base[key], non_blocking=True)
            if key in weights.added:
                value.add_(weights.added[key].to(value))
        while self._lora:
            self._lora.pop().remove()
        for key, factors in weights.low_rank.items():
            layer = self._seat.get_submodule(key)
            b, a = (one.to(layer.weight.device, non_blocking=True) for one in factors[:2])
            self._lora.append(layer.register_forward_hook(partial(_add_low_rank, b, a, factors[2])))

    def occupied(self) -> AbstractContextManager[Adapter]:
        return nullcontext(self._adapter)


def _add_low_rank(b: Tensor, a: Tensor, scale: float, layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
    """What the layer gives, and scale * B A x, in the factors' precision as peft adds it."""
    product = functional.linear(functional.linear(given[0].to(a), a), b)
    return (out + scale * product).to(out)


class LoraSeat:
    """The student's own transformer: inside the block a teacher's LoRA is on there, and the student's off.

    Every teacher has its layers in it, but only the one that was brought has factors on the device; the others' are empty.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._waiting: dict[str, dict[nn.Parameter, Tensor]] = {}
        self._lora: dict[str, str] = {}
        self._here: str | None = None

    def add(self, name: str, folder: Path, *, on_disk: bool = False) -> None:
        """A LoRA is small, and waits on the CPU whatever `on_disk` says."""
        transformer, lora = self._adapter.transformer, f"{TEACHER}{len(self._lora)}"
        load_lora(self._adapter, folder, name=lora)
        transformer.eval()  # new layers are in training mode, in which those of a LoRA that was trained with dropout would drop
        transformer.set_adapter([])  # the student to come is not on top of a teacher
        factors = [value for key, value in transformer.named_parameters() if f".{lora}." in key]
        self._lora[name], self._waiting[name] = lora, {value: waiting(value) for value in factors}
        self._leave(name)

    def bring(self, name: str) -> None:
        if self._here is not None:
            self._leave(self._here)
        self._here = name
        device = next(self._adapter.transformer.parameters()).device
        for value, kept in self._waiting[name].items():
            value.data = kept.to(device, non_blocking=True)

    def _leave(self, name: str) -> None:
        for value in self._waiting[name]:
            value.data = value.data.new_empty(0)

    @contextmanager
    def occupied(self) -> Iterator[Adapter]:
        if self._here is None:
            raise ValueError("no teacher was brought")
        transformer = self._adapter.transformer
        student = transformer.active_adapters()
        transformer.set_adapter(self._lora[self._here])
        try:
            yield self._adapter
        finally:
            transformer.set_adapter(student)
