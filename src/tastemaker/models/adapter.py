"""What every model family offers to the rest of the house, and `load`, which picks the family of a pipeline folder.

An adapter converts at its edge: whatever time scale, sign, packing or pixel range a family uses, outside of it sigma is in
[0, 1] with 1 = noise, velocity = noise - data, and pictures are float32 in [0, 1]. It knows nothing of loops over steps,
optimisers, low-rank adapters of weights (LoRA) or processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn

from tastemaker.errors import UserMistake
from tastemaker.flow.schedule import dynamic_shift
from tastemaker.types import Condition, Task

PrefixT = TypeVar("PrefixT", bound="Prefix")


class Prefix(Protocol):
    """What of a forward pass depends on the prompt alone, neither on the step nor on the sample: computed once, used by all."""

    def __len__(self) -> int: ...

    def select(self: PrefixT, rows: Tensor) -> PrefixT:
        """The prefix whose row i is this one's row `rows[i]`; gradients of repeated rows add up."""
        ...


class Adapter(Protocol):
    """One model family. `transformer` is what is trained; everything else of `pipeline` is frozen."""

    family: str
    """Its name in `FAMILIES`."""
    pipeline: Any
    transformer: nn.Module
    dtype: torch.dtype
    """That the pipeline was loaded in, and forwards are computed in."""
    lora_targets: tuple[str, ...]
    tasks: tuple[Task, ...]
    """As in `FAMILIES`."""
    rescales_guidance: bool
    """Whether the pipeline rescales a guided velocity to the norm of the conditional one (`flow.guidance.guided`)."""

    def encode(
        self, texts: Sequence[str], sources: Sequence[Sequence[Image]] | None = None, *, height: int, width: int
    ) -> Condition:
        """Encode P prompts (and the source pictures of each) for pictures of `height` x `width` pixels, without gradient.

        A prompt's encoding never depends on the other prompts of the call.
        """
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """X: the shape of one sample's latents, the shape noise is drawn in."""
        ...

    def sigmas(self, num_steps: int, height: int, width: int) -> Tensor:
        """(N + 1,) float32, from 1 down to 0: exactly the schedule the pipeline would use, but see `base_sigmas`."""
        ...

    def prefix(self, condition: Condition) -> Any:
        """The `Prefix` of P prompts; differentiable when gradients are enabled."""
        ...

    def velocity(self, x_BX: Tensor, sigma_B: Tensor, prefix: Any) -> Tensor:
        """noise - data, (B, *X) float32, of B latents at B noise levels; `prefix` has B rows."""
        ...

    def decode(self, x_BX: Tensor, height: int, width: int) -> Tensor:
        """Latents to pictures, (B, 3, H, W) float32 in [0, 1]."""
        ...

    def encode_images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] to normalised latents (B, *X), the mode of the VAE's posterior; without gradient."""
        ...


def encode_each(
    encode_one: Callable[[str, Sequence[Image]], Condition], texts: Sequence[str], sources: Sequence[Sequence[Image]] | None
) -> Condition:
    """Every prompt encoded alone: in a batch the encoder's padding moves the last digits of every shorter prompt."""
    pictures = sources or [()] * len(texts)
    if len(pictures) != len(texts):
        raise UserMistake(f"{len(texts)} prompts came with {len(pictures)} lists of source pictures; give one list each")
    return collate([encode_one(text, some) for text, some in zip(texts, pictures, strict=True)])


def decode_all(adapter: Adapter, x_BX: Tensor, height: int, width: int, max_batch: int | None = None) -> Tensor:
    """`Adapter.decode` of any number of latents, at most `max_batch` pictures in one pass of the VAE."""
    if max_batch is None or len(x_BX) <= max_batch:
        return adapter.decode(x_BX, height, width)
    return torch.cat([adapter.decode(some_BX, height, width) for some_BX in x_BX.split(max_batch)])


def freeze_all_but_transformer(pipeline: Any) -> None:
    """Also switches VAE tiling off: its seams would be judged, and learnt."""
    pipeline.vae.requires_grad_(False).eval()
    pipeline.text_encoder.requires_grad_(False).eval()
    pipeline.transformer.eval()
    pipeline.vae.disable_tiling()


def encoders_to_cpu(pipeline: Any) -> None:
    """Makes room on the device: the text encoder and the encoding half of the VAE go, and encode on the CPU from here on."""
    for part in (pipeline.text_encoder, pipeline.vae.encoder, pipeline.vae.quant_conv):
        part.to("cpu")


def collate(conditions: Sequence[Condition]) -> Condition:
    """Stack conditions along P; what differs in length on axis 1 is padded on the right with zeros."""
    layouts = {condition.layout for condition in conditions}
    if len(layouts) > 1:
        raise UserMistake(
            f"these prompts cannot share a batch, their layouts differ: {sorted(map(str, layouts))}; "
            "group prompts by picture size, and edits by the number and shape of their source pictures"
        )
    tensors = {name: _stack([c.tensors[name] for c in conditions]) for name in conditions[0].tensors}
    return Condition(tensors, conditions[0].layout)


def _stack(parts: Sequence[Tensor]) -> Tensor:
    length = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, [0, 0] * (part.ndim - 2) + [0, length - part.shape[1]]) for part in parts])


def base_sigmas(pipeline: Any, num_steps: int) -> list[float]:
    """The base grid: what a model's author fixed (`sample_sigmas`) where it has `num_steps` steps, else an even one.

    Its pipeline would take the fixed one whatever the number of steps; `opening.fixed_levels` warns where that is another.
    """
    fixed = pipeline.config.get("sample_sigmas")
    return list(fixed) if fixed and len(fixed) == num_steps else np.linspace(1.0, 1 / num_steps, num_steps).tolist()


def scheduler_sigmas(scheduler: Any, grid: Sequence[float], num_tokens: int) -> Tensor:
    """(N + 1,) what a pipeline's flow-matching scheduler makes of the base grid the pipeline passes to it.

    The scheduler itself is asked, in its float32 arithmetic, because the last bit matters: models embed 1000 sigma, where one
    unit in the last place of sigma moves a float32 velocity by 1e-5. `flow.schedule` states the same schedule as a formula.
    """
    config = scheduler.config
    mu = dynamic_shift(
        num_tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    fresh = type(scheduler).from_config(config)
    fresh.set_timesteps(sigmas=grid, mu=mu if config.get("use_dynamic_shifting") else None)
    return fresh.sigmas


class Family(NamedTuple):
    """What can be said of a model family without importing it."""

    name: str
    tasks: tuple[Task, ...]
    """What the pipeline can be asked for: "t2i" needs prompts without source pictures, "edit" prompts with some."""
    loader: str
    """Where it lives, imported only when asked for."""


FAMILIES = {
    "QwenImage21Pipeline": Family("qwen-image-2.1", ("t2i", "edit"), "tastemaker.models.qwen_image21:load_qwen_image21"),
    "QwenImagePipeline": Family("qwen-image", ("t2i",), "tastemaker.models.qwen_image:load_qwen_image"),
    "QwenImageEditPlusPipeline": Family(
        "qwen-image-edit-plus", ("edit",), "tastemaker.models.qwen_image_edit:load_qwen_image_edit_plus"
    ),
}
"""By the pipeline class named in model_index.json."""


def load(folder: str | Path, *, device: torch.device | str, dtype: torch.dtype) -> Adapter:
    """Open a local diffusers folder as the adapter of its family: safetensors only, no network, never code from the folder."""
    folder = Path(folder)
    module, _, name = family_of(folder).loader.partition(":")
    opened: Adapter = getattr(import_module(module), name)(folder, device=device, dtype=dtype)
    return opened


def family_of(folder: Path) -> Family:
    """Raises UserMistake for a pipeline's folder that is none of a family, or asks for code of its own."""
    family = FAMILIES[_pipeline_class(folder)]
    _refuse_code(folder)
    return family


def _pipeline_class(folder: Path) -> str:
    index = folder / "model_index.json"
    try:
        name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except FileNotFoundError:
        raise UserMistake(f"{folder} is not a diffusers pipeline folder: it has no model_index.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserMistake(f"{index} is not a pipeline index: {error!r}") from None
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserMistake(f"{index} names the pipeline {name!r}; tastemaker knows {', '.join(sorted(FAMILIES))}")
    return name


def _refuse_code(folder: Path) -> None:
    """Refuse configs that point to Python classes outside the installed libraries, before any library reads them."""
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        if '"auto_map"' not in path.read_text(encoding="utf-8", errors="replace"):
            continue
        raise UserMistake(f"{path} has an 'auto_map', which asks to run code that comes with the model; remove that key")
