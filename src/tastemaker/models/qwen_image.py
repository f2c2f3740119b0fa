"""Qwen-Image, and what it shares with its editing models: a two-stream transformer, in which text depends on the step.

Text is modulated by the noise level and attends to the latents, so there are no keys and values that steps or samples could
share: a prefix is the encoded prompt itself. What is shared is what comes before the transformer, the embeddings and the
latents of source pictures.

A row of a batch equals the pipeline run on its prompt alone, up to rounding: prompts are encoded one at a time, text positions
count from the prompt's own start, and the padding behind it is masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from diffusers import QwenImagePipeline
from PIL.Image import Image
from torch import Tensor, nn

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import FAMILIES, base_sigmas, encode_each, freeze_all_but_transformer, scheduler_sigmas
from tastemaker.types import Condition, Task

MAX_TOKENS = 512
"""Where the pipeline's `__call__` cuts a prompt; its `encode_prompt` alone would keep 1024."""
UNSUPPORTED = ("guidance_embeds", "use_additional_t_cond", "use_layer3d_rope")
"""Options of the transformer that belong to other pipelines: distilled guidance (broken in diffusers), layered pictures."""

Grid = tuple[int, int, int]
"""Frames, rows and columns of latent tokens of one picture."""


@dataclass
class TwoStreamAdapter(ABC):
    """See `tastemaker.models.adapter.Adapter`; all but the encoding of a prompt. X is (tokens, 2 * 2 * channels), row by row.

    A condition has embeds (P, L, D), mask (P, L), sources (P, tokens, C) for edits, and as its layout the grid of the target,
    then those of the source pictures.
    """

    pipeline: Any
    transformer: nn.Module
    dtype: torch.dtype
    lora_targets: ClassVar[tuple[str, ...]] = (
        *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
    )
    rescales_guidance: ClassVar[bool] = True

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], sources: Sequence[Sequence[Image]] | None = None, *, height: int, width: int
    ) -> Condition:
        target = self._grid(height, width)
        encoded = encode_each(partial(self._encode_one, target=target), texts, sources)
        return encoded.to(next(self.transformer.parameters()).device)

    @abstractmethod
    def _encode_one(self, text: str, sources: Sequence[Image], *, target: Grid) -> Condition: ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int]:
        return prod(self._grid(height, width)), self.pipeline.transformer.config.in_channels

    def sigmas(self, num_steps: int, height: int, width: int) -> Tensor:
        """The target alone decides the shift, whatever source pictures there are."""
        grid = base_sigmas(self.pipeline, num_steps)
        return scheduler_sigmas(self.pipeline.scheduler, grid, self.latent_shape(height, width)[0])

    def prefix(self, condition: Condition) -> Condition:
        """The condition, without a mask where no prompt is padded: attention is faster then."""
        lengths_P = condition.tensors["mask"].sum(1).tolist()
        tensors = {**condition.tensors, **{name: condition.tensors[name][:, : max(lengths_P)] for name in ("embeds", "mask")}}
        if min(lengths_P) == max(lengths_P):
            del tensors["mask"]
        return Condition(tensors, condition.layout)

    def velocity(self, x_BX: Tensor, sigma_B: Tensor, prefix: Condition) -> Tensor:
        """The target's tokens come first, those of the source pictures behind it."""
        sources = prefix.tensors.get("sources")
        tokens = x_BX if sources is None else torch.cat([x_BX, sources.to(x_BX.dtype)], dim=1)
        # The pipeline rounds sigma * 1000 to the model's dtype and divides after; in bfloat16 the order matters.
        timestep = (sigma_B * 1000).to(self.dtype) / 1000
        v = self.transformer(
            hidden_states=tokens.to(self.dtype),
            timestep=timestep,
            encoder_hidden_states=prefix.tensors["embeds"].to(self.dtype),
            encoder_hidden_states_mask=prefix.tensors.get("mask"),
            img_shapes=[list(cast(tuple[Grid, ...], prefix.layout))],
            return_dict=False,
        )[0]
        return v[:, : x_BX.shape[1]].float()

    def decode(self, x_BX: Tensor, height: int, width: int) -> Tensor:
        vae = self.pipeline.vae
        latents = self.pipeline._unpack_latents(x_BX, height, width, self.pipeline.vae_scale_factor).to(vae.dtype)
        mean, std = self._statistics(latents)
        rgb = vae.decode(latents * std + mean, return_dict=False)[0][:, :, 0]
        return (rgb.float() * 0.5 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        return self._encode_pixels(images * 2 - 1).to(images.device)

    def _encode_pixels(self, rgb: Tensor) -> Tensor:
        """RGB in [-1, 1], (B, 3, H, W), to (B, tokens, C)."""
        vae = self.pipeline.vae
        latents = vae.encode(rgb.unsqueeze(2).to(next(vae.encoder.parameters()).device, vae.dtype)).latent_dist.mode()
        mean, std = self._statistics(latents)
        num_rows, channels, _, rows, columns = latents.shape
        return self.pipeline._pack_latents((latents - mean) / std, num_rows, channels, rows, columns)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.pipeline.vae.config
        mean, std = (like.new_tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
        return mean, std

    def _grid(self, height: int, width: int) -> Grid:
        side = 2 * self.pipeline.vae_scale_factor
        if height % side or width % side or min(height, width) <= 0:
            raise UserMistake(f"pictures of {height} x {width} pixels: both sides must be multiples of {side}")
        return 1, height // side, width // side


class QwenImageAdapter(TwoStreamAdapter):
    """Text to image."""

    family: ClassVar[str] = FAMILIES["QwenImagePipeline"].name
    tasks: ClassVar[tuple[Task, ...]] = FAMILIES["QwenImagePipeline"].tasks

    def _encode_one(self, text: str, sources: Sequence[Image], *, target: Grid) -> Condition:
        if sources:
            raise UserMistake("Qwen-Image draws from words alone; prompts with source pictures need an edit model")
        device = self.pipeline.text_encoder.device
        embeds, _ = self.pipeline.encode_prompt([text], device=device, max_sequence_length=MAX_TOKENS)
        return unpadded(embeds, (target,))


def unpadded(embeds: Tensor, layout: tuple[Grid, ...], **tensors: Tensor) -> Condition:
    """The condition of one prompt. The pipelines give no mask where nothing is padded; `collate` needs one."""
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    return Condition({"embeds": embeds, "mask": mask, **tensors}, layout)


def load_qwen_image(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> QwenImageAdapter:
    """Load the pipeline of `folder`; see `tastemaker.models.adapter.load`."""
    pipeline = QwenImagePipeline.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True)
    return adapt(pipeline.to(device))


def adapt(pipeline: QwenImagePipeline) -> QwenImageAdapter:
    """Wrap a loaded pipeline, all of which but the transformer is frozen."""
    check_transformer(pipeline)
    freeze_all_but_transformer(pipeline)
    return QwenImageAdapter(pipeline, pipeline.transformer, pipeline.transformer.dtype)


def check_transformer(pipeline: Any) -> None:
    """Refuses options that would be ignored here."""
    for option in UNSUPPORTED:
        if pipeline.transformer.config.get(option):
            raise UserMistake(f"this transformer has {option}=True, which {type(pipeline).__name__} has no use for")
