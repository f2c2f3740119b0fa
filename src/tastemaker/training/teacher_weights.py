"""A teacher's weights as they are found on the disk: a whole transformer, a LoRA on the shared base, or a difference to it.

Not here: where they are on the device (`training/seats.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import load_lora
from tastemaker.runtime.checkpoint import load_safetensors
from tastemaker.runtime.device import waiting

DELTA = "delta.safetensors"
"""In a folder of its own: by name, what is to be added to each of the base's weights."""

TEACHER = "teacher"
"""How the LoRAs of teachers are called in a transformer, before their number."""

Form = Literal["whole", "delta", "lora"]


@dataclass(frozen=True)
class Weights:
    """How to make a teacher's weights from the base's: by name, those that differ."""

    form: Form
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    added: Mapping[str, Tensor] = field(default_factory=dict)
    low_rank: Mapping[str, tuple[Tensor, Tensor, float]] = field(default_factory=dict)
    """By the name of a linear layer, B (out, r), A (r, in) and their scale: scale * B A x is added to what it gives."""
    files: tuple[Path, ...] = ()
    """Where `replaced`, or `added` of a delta, is read from each time; then it is empty here, and takes no memory."""

    def read(self) -> Weights:
        """The same with what is on the disk in memory."""
        if not self.files:
            return self
        found = {name: value for path in self.files for name, value in load_safetensors(path).items()}
        return Weights(self.form, added=found) if self.form == "delta" else Weights(self.form, found)


def form_of(folder: Path) -> Form:
    """By the names of the files alone. Raises UserMistake for a folder that holds no weights of a teacher."""
    if (folder / DELTA).is_file():
        return "delta"
    if (_transformer(folder) / "config.json").is_file() and any(_transformer(folder).glob("*.safetensors")):
        return "whole"
    if is_lora(folder):
        return "lora"
    inside = [folder / name for name in ("transformer", "lora") if (folder / "config.yaml").is_file()]
    if left := [path for path in inside if path.is_dir()]:
        raise UserMistake(f"{folder}: is the folder of a run; name the weights that it left, {left[0]}")
    raise UserMistake(
        f"{folder}: neither a transformer nor a pipeline (config.json or model_index.json, with *.safetensors), a LoRA "
        f"(*lora*.safetensors) nor a difference to the base ({DELTA}); give what a training or an export left"
    )


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
    form = form_of(folder)
    if form == "lora":
        return Weights(form, low_rank=_low_rank(adapter, folder))
    inner = _transformer(folder)
    files = (folder / DELTA,) if form == "delta" else tuple(sorted(inner.glob("*.safetensors")))
    found = {name: value for path in files for name, value in load_safetensors(path).items()}
    _fit(adapter.transformer, found, files[0] if form == "delta" else inner, whole=form == "whole")
    if on_disk:
        return Weights(form, files=files)
    kept = {name: waiting(value) for name, value in found.items()}
    return Weights(form, added=kept) if form == "delta" else Weights(form, kept)


def _transformer(folder: Path) -> Path:
    """In a pipeline's folder, or the folder itself."""
    return folder / "transformer" if (folder / "model_index.json").is_file() else folder


def _low_rank(adapter: Adapter, folder: Path) -> dict[str, tuple[Tensor, Tensor, float]]:
    """The factors of a diffusers LoRA folder, by the name of the linear layer that they belong to."""
    pipeline, transformer = adapter.pipeline, adapter.transformer
    kept, pipeline.transformer = pipeline.transformer, transformer  # LoRA files are opened by a pipeline
    try:
        load_lora(adapter, folder, name=TEACHER)
        layers = {
            name: module
            for name, module in transformer.named_modules()
            if isinstance(module, LoraLayer) and TEACHER in module.lora_A
        }
        if odd := [name for name, layer in layers.items() if not isinstance(layer.get_base_layer(), nn.Linear)]:
            raise UserMistake(f"{folder}: a LoRA of {odd[0]}, which is no linear layer; give the whole transformer")
        return {
            name: (
                waiting(layer.lora_B[TEACHER].weight),
                waiting(layer.lora_A[TEACHER].weight),
                float(layer.scaling[TEACHER]),
            )
            for name, layer in layers.items()
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
