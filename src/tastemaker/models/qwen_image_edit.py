"""Qwen-Image-Edit-Plus (2509, 2511): Qwen-Image's transformer with one or several source pictures for each prompt.

The text encoder sees the source pictures small, beside the words; the transformer sees them whole, as latents behind the
target's. Both sizes are constants of the pipeline (about 384 x 384 and 1024 x 1024 pixels, in the picture's own shape) and do
not follow the size of the target. In Edit-2511 (`zero_cond_t`) the transformer modulates the latents of sources at sigma = 0.

Two things differ from the pipeline, on purpose. It takes one prompt at a time, here rows with sources of the same shapes share
a batch, each equal to the pipeline run on it alone. And with transformers 5 the pipeline forgets to tell the text encoder which
tokens are pictures, so that these get positions as if they were words, not the rows and columns that the model was trained
with; here all that the processor says is passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL.Image import Image
from torch import Tensor

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import FAMILIES, freeze_all_but_transformer
from tastemaker.models.processor_shim import allow_processors_without_torchvision
from tastemaker.models.qwen_image import Grid, TwoStreamAdapter, check_transformer, unpadded
from tastemaker.types import Condition, Task

PICTURE = "Picture {}: <|vision_start|><|image_pad|><|vision_end|>"
SLOT = "<|image_pad|>"


class QwenImageEditPlusAdapter(TwoStreamAdapter):
    """Editing; every prompt needs a source picture."""

    family: ClassVar[str] = FAMILIES["QwenImageEditPlusPipeline"].name
    tasks: ClassVar[tuple[Task, ...]] = FAMILIES["QwenImageEditPlusPipeline"].tasks

    def _encode_one(self, text: str, sources: Sequence[Image], *, target: Grid) -> Condition:
        if not sources:
            raise UserMistake(f"Qwen-Image-Edit needs a source picture for each prompt, {text[:40]!r} has none")
        if SLOT in text:
            raise UserMistake(f"{text[:40]!r} has {SLOT} in it, which stands for a picture; remove it")
        pictures = [picture.convert("RGB") for picture in sources]
        processor = self.pipeline.image_processor
        small = [processor.resize(p, *_size(p, edit_plus.CONDITION_IMAGE_SIZE)) for p in pictures]
        sizes = [_size(picture, edit_plus.VAE_IMAGE_SIZE) for picture in pictures]
        pixels = [processor.preprocess(picture, *size) for picture, size in zip(pictures, sizes, strict=True)]
        embeds = self._embed(text, small)
        latents = torch.cat([self._encode_pixels(some) for some in pixels], dim=1).to(embeds.device)
        return unpadded(embeds, (target, *(self._grid(*size) for size in sizes)), sources=latents)

    def _embed(self, text: str, pictures: list[Image]) -> Tensor:
        """(1, L, D): the pipeline's template and its cut, with all that the processor says handed to the encoder."""
        encoder, template = self.pipeline.text_encoder, self.pipeline.prompt_template_encode
        words = template.format("".join(PICTURE.format(n) for n in range(1, len(pictures) + 1)) + text)
        inputs = self.pipeline.processor(text=[words], images=pictures, return_tensors="pt").to(encoder.device)
        hidden = encoder(**inputs, output_hidden_states=True).hidden_states[-1]
        return hidden[:, self.pipeline.prompt_template_encode_start_idx :]


def _size(picture: Image, area: int) -> tuple[int, int]:
    """Height and width of about `area` pixels in the picture's shape."""
    width, height = edit_plus.calculate_dimensions(area, picture.width / picture.height)
    if min(width, height) <= 0:
        raise UserMistake(f"a source picture of {picture.width} x {picture.height} pixels is too narrow to use")
    return height, width


def load_qwen_image_edit_plus(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> QwenImageEditPlusAdapter:
    """Load the pipeline of `folder`; see `tastemaker.models.adapter.load`."""
    allow_processors_without_torchvision()
    pipeline = QwenImageEditPlusPipeline.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True)
    return adapt(pipeline.to(device))


def adapt(pipeline: QwenImageEditPlusPipeline) -> QwenImageEditPlusAdapter:
    """Wrap a loaded pipeline, all of which but the transformer is frozen."""
    check_transformer(pipeline)
    freeze_all_but_transformer(pipeline)
    return QwenImageEditPlusAdapter(pipeline, pipeline.transformer, pipeline.transformer.dtype)
