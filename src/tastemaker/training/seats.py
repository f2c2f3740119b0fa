"""Where a teacher's weights are on the device, one teacher's at a time.

A teacher is the weights of another transformer of the student's family: a whole one, a LoRA on the shared base, or what is to
be added to the base. `CopySeat` takes any of them, in a frozen transformer beside the student. `LoraSeat` needs no second
transformer where student and teachers are all LoRAs: the teachers' layers are in the student's.

Not here: who teaches what (`training/teachers.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import load_lora, with_transformer
from tastemaker.runtime.checkpoint import load_safetensors

DELTA = "delta.safetensors"
"""In a folder of its own: by name, what is to be added to each of the base's weights."""

TEACHER = "teacher"
"""How the LoRAs of teachers are called in a transformer, before their number."""


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


@dataclass(frozen=True)
class Weights:
    """How to make a teacher's weights from the base's: by name, those that differ."""

    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    added: Mapping[str, Tensor] = field(default_factory=dict)
    low_rank: Mapping[str, tuple[Tensor, Tensor, float]] = field(default_factory=dict)
    """B (out, r), A (r, in) and their scale: scale * B A is added."""
    files: tuple[Path, ...] = ()
    """Where `replaced`, or `added` of a delta, is read from each time; then it is empty here, and takes no memory."""

    def read(self) -> Weights:
        """The same with what is on the disk in memory."""
        if not self.files:
            return self
        found = {name: value for path in self.files for name, value in load_safetensors(path).items()}
        return Weights(added=found) if self.files[0].name == DELTA else Weights(found)


class CopySeat:
    """A frozen transformer beside the student, which each teacher's weights are copied into."""

    def __init__(self, adapter: Adapter) -> None:
        self._seat = deepcopy(adapter.transformer).requires_grad_(False).eval()
        self._adapter = with_transformer(adapter, self._seat)
        self._waiting: dict[str, Weights] = {}
        # The base is kept once, on the CPU, whatever number of teachers is made from it.
        self._base = {name: _waiting(value) for name, value in self._seat.state_dict().items()}

    def add(self, name: str, folder: Path, *, on_disk: bool = False) -> None:
        self._waiting[name] = read_weights(self._adapter, folder, on_disk=on_disk)

    @torch.no_grad()
    def bring(self, name: str) -> None:
        weights = self._waiting[name].read()
        for key, value in self._seat.state_dict().items():
            value.copy_(weights.replaced.get(key, self._base[key]), non_blocking=True)
            if key in weights.added:
                value.add_(weights.added[key].to(value))
            if key in weights.low_rank:
                b, a, scale = weights.low_rank[key]
                value.add_((scale * (b.to(value.device).float() @ a.to(value.device).float())).to(value))

    def occupied(self) -> AbstractContextManager[Adapter]:
        return nullcontext(self._adapter)


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
        self._lora[name], self._waiting[name] = lora, {value: _waiting(value) for value in factors}
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


def is_lora(folder: Path) -> bool:
    """Whether the folder is that of a LoRA alone."""
    others = (DELTA, "config.json", "model_index.json")
    return any(folder.glob("*lora*.safetensors")) and not any((folder / name).is_file() for name in others)


def read_weights(adapter: Adapter, folder: Path, *, on_disk: bool = False) -> Weights:
    """Of a transformer's folder, a pipeline's, a LoRA's, or one with a delta.

    Tensors wait on the CPU; with `on_disk` they do not, but for a LoRA's, which is small.

    The adapter's transformer, without LoRA layers of its own, is left as it was.

    Raises UserMistake for a folder that is none of these, and for weights of another transformer, with what differs.
    """
    if (folder / DELTA).is_file():
        added = load_safetensors(folder / DELTA)
        _fit(adapter.transformer, added, folder / DELTA, whole=False)
        waiting = {} if on_disk else {name: _waiting(value) for name, value in added.items()}
        return Weights(added=waiting, files=(folder / DELTA,) if on_disk else ())
    inner = folder / "transformer" if (folder / "model_index.json").is_file() else folder
    if (inner / "config.json").is_file():
        files = tuple(sorted(inner.glob("*.safetensors")))
        replaced = {name: value for path in files for name, value in load_safetensors(path).items()}
        _fit(adapter.transformer, replaced, inner, whole=True)
        return Weights(files=files) if on_disk else Weights({name: _waiting(value) for name, value in replaced.items()})
    if is_lora(folder):
        return Weights(low_rank=_low_rank(adapter, folder))
    raise UserMistake(
        f"{folder}: neither a transformer (config.json), a pipeline (model_index.json), a LoRA (*lora*.safetensors) nor a "
        f"difference to the base ({DELTA}); give what a training or an export left"
    )


def _low_rank(adapter: Adapter, folder: Path) -> dict[str, tuple[Tensor, Tensor, float]]:
    """The factors of a diffusers LoRA folder, by the name of the weight that they are added to."""
    pipeline, transformer = adapter.pipeline, adapter.transformer
    kept, pipeline.transformer = pipeline.transformer, transformer  # LoRA files are opened by a pipeline
    try:
        load_lora(adapter, folder, name=TEACHER)
        return {
            f"{name}.weight": (
                _waiting(module.lora_B[TEACHER].weight),
                _waiting(module.lora_A[TEACHER].weight),
                float(module.scaling[TEACHER]),
            )
            for name, module in transformer.named_modules()
            if isinstance(module, LoraLayer) and TEACHER in module.lora_A
        }
    finally:
        transformer.unload_lora()
        pipeline.transformer = kept


def _fit(transformer: nn.Module, weights: Mapping[str, Tensor], where: Path, *, whole: bool) -> None:
    own = {name: tuple(value.shape) for name, value in transformer.state_dict().items()}
    wrong = [f"{name} has no place" for name in weights if name not in own]
    wrong += [
        f"{name} has shape {tuple(value.shape)}, not {own[name]}"
        for name, value in weights.items()
        if name in own and tuple(value.shape) != own[name]
    ]
    wrong += [f"{name} is missing" for name in own if whole and name not in weights]
    if wrong:
        listed = "\n  ".join(wrong[:5]) + (f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise UserMistake(f"{where}: weights of another transformer than the student's:\n  {listed}")


def _waiting(value: Tensor) -> Tensor:
    """On the CPU, in memory that a GPU can read from directly if there is one."""
    kept = value.detach().to("cpu", copy=True)
    return kept.pin_memory() if torch.cuda.is_available() else kept
