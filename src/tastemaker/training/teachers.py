"""Teachers for distillation: any number of them, one seat on the device.

A teacher is the weights of another transformer of the student's family: a whole one, a LoRA on the shared base, or what is to
be added to the base. They wait on the CPU (or on the disk); the one whose turn it is is copied into the seat, a frozen
transformer beside the student. So three teachers take no more of the device than one, and each is brought there once in an
iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import load_lora, with_transformer
from tastemaker.runtime.checkpoint import load_safetensors
from tastemaker.types import Prompt

DELTA = "delta.safetensors"
"""In a folder of its own: by name, what is to be added to each of the base's weights."""

TRIAL = "teacher"
"""The LoRA whose factors are being read."""

Route = Callable[[Prompt], str]
"""From a prompt to the name of its teacher."""


@dataclass(frozen=True)
class Weights:
    """How to make a teacher's weights from the base's: by name, those that differ."""

    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    added: Mapping[str, Tensor] = field(default_factory=dict)
    low_rank: Mapping[str, tuple[Tensor, Tensor, float]] = field(default_factory=dict)
    """B (out, r), A (r, in) and their scale: scale * B A is added."""
    files: tuple[Path, ...] = ()
    """Where `replaced` is read from each time; then it is empty here, and takes no memory."""


@dataclass(frozen=True)
class Teacher:
    """Its weights, and how it is to be sampled."""

    name: str
    weights: Weights
    guidance: float = 1.0
    rescale: bool = False
    negative_prompt: str = ""


class Teachers:
    """One seat beside the student, and those who may take it. Make it before the student gets LoRA layers or is trained.

    >>> teachers = Teachers(adapter, route=lambda prompt: prompt.task)
    >>> teachers.add("edit", folder, guidance=1.5)
    >>> for teacher, places in teachers.places(prompts): teachers.seated(teacher).velocity(...)
    """

    def __init__(self, adapter: Adapter, route: Route) -> None:
        self.by_name: dict[str, Teacher] = {}
        self.route = route
        self._seat = deepcopy(adapter.transformer).requires_grad_(False).eval()
        self._adapter = with_transformer(adapter, self._seat)
        self._seated: str | None = None
        # The base is kept once, on the CPU, whatever number of teachers is made from it.
        self._base = {name: _waiting(value) for name, value in self._seat.state_dict().items()}

    def add(
        self,
        name: str,
        folder: Path,
        *,
        guidance: float = 1.0,
        rescale: bool = False,
        negative_prompt: str = "",
        on_disk: bool = False,
    ) -> None:
        """Opens a teacher; see `read_weights` for what `folder` may be and what is refused."""
        if name in self.by_name:
            raise ValueError(f"there is a teacher {name!r} already")
        weights = read_weights(self._adapter, folder, on_disk=on_disk)
        self.by_name[name] = Teacher(name, weights, guidance, rescale, negative_prompt)

    def places(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Teacher, Tensor]]:
        """Each teacher that some of the prompts have, in one order, and the places of those prompts; the seated one first."""
        routed = [self.route(prompt) for prompt in prompts]
        if unknown := sorted({*routed} - {*self.by_name}):
            raise ValueError(f"prompts are routed to {unknown}, there are {sorted(self.by_name)}")
        order = sorted({*routed}, key=lambda name: (name != self._seated, name))
        for name in order:
            yield self.by_name[name], torch.tensor([place for place, found in enumerate(routed) if found == name])

    def seated(self, teacher: Teacher) -> Adapter:
        """The adapter around the teacher's weights, until another one is seated."""
        if self._seated != teacher.name:
            self._seated = None
            self._bring(teacher.weights)
            self._seated = teacher.name
        return self._adapter

    @torch.no_grad()
    def _bring(self, weights: Weights) -> None:
        replaced = dict(weights.replaced)
        for path in weights.files:
            replaced |= load_safetensors(path)
        for name, value in self._seat.state_dict().items():
            value.copy_(replaced.get(name, self._base[name]), non_blocking=True)
            if name in weights.added:
                value.add_(weights.added[name].to(value))
            if name in weights.low_rank:
                b, a, scale = weights.low_rank[name]
                value.add_((scale * (b.to(value.device).float() @ a.to(value.device).float())).to(value))


def read_weights(adapter: Adapter, folder: Path, *, on_disk: bool = False) -> Weights:
    """Of a transformer's folder, a pipeline's, a LoRA's, or one with a delta; tensors wait on the CPU unless `on_disk`.

    The adapter's transformer, without LoRA layers of its own, is left as it was.

    Raises UserMistake for a folder that is none of these, and for weights of another transformer, with what differs.
    """
    if (folder / DELTA).is_file():
        added = load_safetensors(folder / DELTA)
        _fit(adapter.transformer, added, folder / DELTA, whole=False)
        return Weights(added={name: _waiting(value) for name, value in added.items()})
    inner = folder / "transformer" if (folder / "model_index.json").is_file() else folder
    if (inner / "config.json").is_file():
        files = tuple(sorted(inner.glob("*.safetensors")))
        replaced = {name: value for path in files for name, value in load_safetensors(path).items()}
        _fit(adapter.transformer, replaced, inner, whole=True)
        return Weights(files=files) if on_disk else Weights({name: _waiting(value) for name, value in replaced.items()})
    if list(folder.glob("*lora*.safetensors")):
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
        load_lora(adapter, folder, name=TRIAL)
        return {
            f"{name}.weight": (
                _waiting(module.lora_B[TRIAL].weight),
                _waiting(module.lora_A[TRIAL].weight),
                float(module.scaling[TRIAL]),
            )
            for name, module in transformer.named_modules()
            if isinstance(module, LoraLayer) and TRIAL in module.lora_A
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
