"""Qwen-Image-2.1: one transformer for text-to-image and editing, with a prefix shared by all samples and steps.

Text and source pictures come first in the sequence, are modulated at sigma = 0 and never attend to the target, so their keys
and values depend on the prompt alone. `prefix` computes them once per prompt, `velocity` only runs the target's tokens. Both
call the unmodified diffusers transformer; a prefix made with gradients enabled carries those of every velocity made from it.

One thing differs from the pipeline, on purpose. There the target's position on the frame axis follows the *padded* text, so a
prompt's picture depends on the longest prompt of its batch. Here each row's keys are turned on that axis by the missing
distance (rotary positions are relative), which makes every row equal to the pipeline run on its prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import ClassVar, cast

import torch
from diffusers import QwenImage21Pipeline
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import calculate_dimensions
from PIL.Image import Image
from torch import Tensor, nn

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import FAMILIES, base_sigmas, encode_each, freeze_all_but_transformer, scheduler_sigmas
from tastemaker.models.processor_shim import allow_processors_without_torchvision
from tastemaker.types import Condition, Task

PIXELS = 16
"""Side of the square of pixels that one latent token stands for."""
SLOT = 4
"""Latent tokens (2 x 2) that one image slot of the text encoder stands for."""

Grid = tuple[int, int, int]
"""Frames, rows and columns of latent tokens of one picture."""


@dataclass(frozen=True)
class QwenImage21Prefix:
    """Keys and values of P prompts in every layer, read by B rows; rows are gathered layer by layer, when they are used."""

    layers: tuple[_Layer, ...]
    mask_PL: Tensor | None
    """False where a prompt is padded to the longest; None if none is."""
    slots_L: Tensor
    """True at the image slots of the sequence, the same in all rows."""
    grids: tuple[Grid, ...]
    """Source pictures, and the target last."""
    rows: Tensor | None = None

    def __len__(self) -> int:
        return self.layers[0].keys.shape[0] if self.rows is None else self.rows.shape[0]

    def select(self, rows: Tensor) -> QwenImage21Prefix:
        rows = rows.to(self.slots_L.device)
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def get_layer(self, index: int) -> _Layer:
        """What the transformer asks of a cache: an object whose `get()` gives the keys and values of a layer."""
        return replace(self.layers[index], rows=self.rows)

    @property
    def mask(self) -> Tensor | None:
        return None if self.mask_PL is None else _gather(self.mask_PL, self.rows)


@dataclass(frozen=True)
class _Layer:
    keys: Tensor
    values: Tensor
    rows: Tensor | None = None

    def get(self) -> tuple[Tensor, Tensor]:
        return _gather(self.keys, self.rows), _gather(self.values, self.rows)


def _gather(tensor: Tensor, rows: Tensor | None) -> Tensor:
    if rows is None:
        return tensor
    if tensor.shape[0] == 1:
        return tensor.expand(rows.shape[0], *tensor.shape[1:])
    return tensor.index_select(0, rows)


@dataclass
class QwenImage21Adapter:
    """See `tastemaker.models.adapter.Adapter`. X is (tokens, channels), row by row, unpatched."""

    pipeline: QwenImage21Pipeline
    transformer: nn.Module
    dtype: torch.dtype
    family: ClassVar[str] = FAMILIES["QwenImage21Pipeline"].name
    lora_targets: ClassVar[tuple[str, ...]] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("img_mlp.proj", "img_mlp.gate_layer", "img_mlp.out"),
    )
    tasks: ClassVar[tuple[Task, ...]] = FAMILIES["QwenImage21Pipeline"].tasks
    rescales_guidance: ClassVar[bool] = False

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], sources: Sequence[Sequence[Image]] | None = None, *, height: int, width: int
    ) -> Condition:
        """Tensors: embeds (P, L, D), mask (P, L), slots (P, L), and sources (P, tokens, C) for edits.

        As in the pipeline, source pictures keep their shape and are resized to about height * width pixels, and "" becomes " ".
        """
        encode_one = partial(self._encode_one, height=height, width=width)
        return encode_each(encode_one, texts, sources).to(next(self.transformer.parameters()).device)

    def _encode_one(self, text: str, sources: Sequence[Image], *, height: int, width: int) -> Condition:
        pictures = [picture.convert("RGBA") for picture in sources]
        sizes = [_source_size(picture, height * width) for picture in pictures]
        resize = self.pipeline.image_processor.resize
        resized = [resize(picture, height=h, width=w) for picture, (h, w) in zip(pictures, sizes, strict=True)]
        embeds, _, slots = self.pipeline.encode_prompt([text], image=resized or None, device=self.pipeline.text_encoder.device)
        tensors = {"embeds": embeds, "mask": torch.ones_like(slots), "slots": slots}
        grids = tuple(_grid(h, w) for h, w in sizes)
        if SLOT * int(slots.sum()) != sum(prod(grid) for grid in grids):
            raise UserMistake(
                f"the processor gave {int(slots.sum())} image slots to source pictures of {sizes} pixels, "
                f"not one per {2 * PIXELS} x {2 * PIXELS}: its pixel limits do not fit pictures of {height} x {width}"
            )
        if pictures:
            preprocess = self.pipeline.image_processor.preprocess
            pixels = [preprocess(p, height=h, width=w) for p, (h, w) in zip(pictures, sizes, strict=True)]
            tensors["sources"] = torch.cat([self._encode_pixels(p) for p in pixels], dim=1).to(embeds.device)
        return Condition(tensors, layout=(*grids, _grid(height, width)))

    def latent_shape(self, height: int, width: int) -> tuple[int, int]:
        return prod(_grid(height, width)), self._config.in_channels

    def sigmas(self, num_steps: int, height: int, width: int) -> Tensor:
        grid = base_sigmas(self.pipeline, num_steps)
        return scheduler_sigmas(self.pipeline.scheduler, grid, self.latent_shape(height, width)[0])

    def prefix(self, condition: Condition) -> QwenImage21Prefix:
        lengths = condition.tensors["mask"].sum(1).tolist()
        missing = torch.tensor([max(lengths) - length for length in lengths])
        embeds, mask, slots = (condition.tensors[name][:, : max(lengths)] for name in ("embeds", "mask", "slots"))
        mask = mask if missing.any() else None
        grids = cast(tuple[Grid, ...], condition.layout)
        cache = self._extract(embeds, mask, slots, condition.tensors.get("sources"), grids)
        keys = [layer.k for layer in cache.layer_caches]
        if mask is not None:
            turn = self._turn(missing).to(embeds.device)
            keys = [_turn_frame_axis(key, turn) for key in keys]
        layers = tuple(_Layer(key, layer.v) for key, layer in zip(keys, cache.layer_caches, strict=True))
        return QwenImage21Prefix(layers, mask, slots[0], grids)

    def _extract(
        self, embeds: Tensor, mask: Tensor | None, slots: Tensor, sources: Tensor | None, grids: tuple[Grid, ...]
    ) -> QwenImage21KVCache:
        """Fill a cache by one pass over the prefix, with the smallest target there is: the prefix never sees it."""
        num_prompts = len(embeds)
        target = embeds.new_zeros(num_prompts, SLOT, self._config.in_channels)
        cache = QwenImage21KVCache(self._config.num_layers)
        self.transformer(
            hidden_states=(target if sources is None else torch.cat([sources, target], dim=1)).to(self.dtype),
            timestep=embeds.new_zeros(num_prompts, dtype=self.dtype),
            encoder_hidden_states=embeds.to(self.dtype),
            encoder_hidden_states_mask=mask,
            img_shapes=[[*grids[:-1], (1, 2, 2)]],
            img_mask=torch.cat([slots, slots.new_ones(num_prompts, 1)], dim=1),
            kv_cache=cache,
            kv_cache_mode="extract",
            return_dict=False,
        )
        return cache

    def _turn(self, positions_P: Tensor) -> Tensor:
        """(P, dims / 2) complex: the rotation of each frame-axis pair by so many positions."""
        rope = self.pipeline.transformer.pos_embed
        return rope.rope_params(positions_P, rope.axes_dim[0], rope.theta)

    def velocity(self, x_BX: Tensor, sigma_B: Tensor, prefix: QwenImage21Prefix) -> Tensor:
        """A cached call wants the prefix's inputs only for their number and throws them away: it gets zeros without storage."""
        num_rows, num_tokens, channels = x_BX.shape
        pictures = x_BX.new_zeros(1, sum(prod(grid) for grid in prefix.grids[:-1]), channels)
        embeds = x_BX.new_zeros(1, len(prefix.slots_L), self._config.context_in_dim, dtype=self.dtype)
        slots = torch.cat([prefix.slots_L, prefix.slots_L.new_ones(num_tokens // SLOT)])
        # The pipeline rounds sigma * 1000 to the model's dtype and divides after; in bfloat16 the order matters.
        timestep = (sigma_B * 1000).to(self.dtype) / 1000
        return self.transformer(
            hidden_states=torch.cat([pictures.expand(num_rows, -1, -1), x_BX], dim=1).to(self.dtype),
            timestep=timestep,
            encoder_hidden_states=embeds.expand(num_rows, -1, -1),
            encoder_hidden_states_mask=prefix.mask,
            img_shapes=[list(prefix.grids)],
            img_mask=slots[None],
            kv_cache=prefix,
            kv_cache_mode="cached",
            return_dict=False,
        )[0].float()

    def decode(self, x_BX: Tensor, height: int, width: int) -> Tensor:
        vae = self.pipeline.vae
        latents = x_BX.transpose(1, 2).unflatten(2, _grid(height, width)).to(vae.dtype)
        mean, std = self._statistics(latents)
        rgba = vae.decode(latents * std + mean, return_dict=False)[0][:, :, 0]
        return (rgba[:, :3].float() * 0.5 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        opaque = torch.cat([images, torch.ones_like(images[:, :1])], dim=1)
        return self._encode_pixels(opaque * 2 - 1).to(images.device)

    def _encode_pixels(self, rgba: Tensor) -> Tensor:
        """RGBA in [-1, 1], (B, 4, H, W), to (B, tokens, C)."""
        vae = self.pipeline.vae
        latents = vae.encode(rgba.unsqueeze(2).to(next(vae.encoder.parameters()).device, vae.dtype)).latent_dist.mode()
        mean, std = self._statistics(latents)
        return ((latents - mean) / std).flatten(2).transpose(1, 2)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.pipeline.vae.config
        mean, std = (like.new_tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
        return mean, std

    @property
    def _config(self):
        return self.pipeline.transformer.config


def _grid(height: int, width: int) -> Grid:
    if height % (2 * PIXELS) or width % (2 * PIXELS) or min(height, width) <= 0:
        raise UserMistake(f"pictures of {height} x {width} pixels: both sides must be multiples of {2 * PIXELS}")
    return 1, height // PIXELS, width // PIXELS


def _source_size(picture: Image, area: int) -> tuple[int, int]:
    width, height, _ = calculate_dimensions(area, picture.width / picture.height)
    if min(width, height) <= 0:
        raise UserMistake(f"a source picture of {picture.width} x {picture.height} pixels is too narrow to use")
    return height, width


def _turn_frame_axis(keys: Tensor, turn: Tensor) -> Tensor:
    """Rotate the frame-axis pairs of keys (P, tokens, heads, head_dim), which come first in a head, by `turn` (P, pairs)."""
    dims = 2 * turn.shape[1]
    pairs = torch.view_as_complex(keys[..., :dims].float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turn[:, None, None]).flatten(-2)
    return torch.cat([turned.type_as(keys), keys[..., dims:]], dim=-1)


def load_qwen_image21(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> QwenImage21Adapter:
    """Load the pipeline of `folder`; see `tastemaker.models.adapter.load`."""
    allow_processors_without_torchvision()
    pipeline = QwenImage21Pipeline.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True)
    return adapt(pipeline.to(device))


def adapt(pipeline: QwenImage21Pipeline) -> QwenImage21Adapter:
    """Wrap a loaded pipeline, all of which but the transformer is frozen."""
    if not pipeline.transformer.config.causal_condition:
        raise UserMistake("this transformer has causal_condition=False: its prefix depends on the step and cannot be shared")
    freeze_all_but_transformer(pipeline)
    return QwenImage21Adapter(pipeline, pipeline.transformer, pipeline.transformer.dtype)
