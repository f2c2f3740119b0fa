"""A tiny instance of every model family, and how its pipeline is called: what the conformance suite runs over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL.Image import Image

from tastemaker.models import qwen_image, qwen_image21, qwen_image_edit
from tastemaker.models.adapter import Adapter
from tastemaker.types import Condition
from tiny import picture, tiny_qwen_image, tiny_qwen_image21, tiny_qwen_image_edit_plus

SHORT, LONG = "red", "a red circle on a blue background and three squares left of one green triangle, make it so"
TEXTS = [SHORT, LONG, "zebras at night"]
HEIGHT, WIDTH = 64, 96
STEPS = 6


def sources(count: int, rows: int = len(TEXTS)) -> list[list[Image]] | None:
    """`count` pictures for each row, of different shapes; None for text-to-image."""
    shapes = [(150, 50), (64, 80)]
    return None if count == 0 else [[picture(10 * row + i, *shapes[i]) for i in range(count)] for row in range(rows)]


@contextmanager
def small_sources() -> Iterator[None]:
    """Sources of about 64 x 64 pixels, which the text encoder sees at 96 x 96, instead of a million."""
    with patch.object(edit_plus, "VAE_IMAGE_SIZE", 64 * 64), patch.object(edit_plus, "CONDITION_IMAGE_SIZE", 96 * 96):
        yield


@contextmanager
def token_types(pipeline: Any) -> Iterator[None]:
    """Tells the text encoder which tokens are pictures: transformers 4 found out, 5 has to be told, the pipeline does not."""
    forward, slot = pipeline.text_encoder.forward, pipeline.text_encoder.config.image_token_id

    def told(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        return forward(input_ids=input_ids, **{**kwargs, "mm_token_type_ids": (input_ids == slot).int()})

    with patch.object(pipeline.text_encoder, "forward", told):
        yield


@dataclass(frozen=True)
class Case:
    """A pipeline class, and prompts with `num_sources` source pictures each."""

    name: str
    build: Callable[[], Any]
    adapt: Callable[[Any], Adapter]
    num_sources: int = 0
    arguments: Callable[[Sequence[Image]], dict[str, Any]] = lambda pictures: {}
    """Of the pipeline's call, for the source pictures."""
    around: Callable[[Any], Any] = nullcontext
    """What has to hold while the pipeline is called."""

    def fresh(self) -> Adapter:
        return self.adapt(self.build())

    def encode(self, adapter: Adapter, texts: Sequence[str] = TEXTS) -> tuple[Condition, Condition]:
        """The condition, and the negative one: one row for text, one for each row's pictures."""
        pictures = sources(self.num_sources, len(texts))
        blank = [""] if pictures is None else [""] * len(texts)
        both = ((texts, pictures), (blank, pictures))
        condition, negative = (adapter.encode(words, some, height=HEIGHT, width=WIDTH) for words, some in both)
        return condition, negative

    def drawn(self, pipeline: Any, row: int, *, guidance: float = 1.0, output_type: str = "latent", **kwargs: Any) -> Any:
        """What the pipeline itself makes of prompt `row` alone."""
        pictures = sources(self.num_sources)
        with self.around(pipeline):
            images = pipeline(
                prompt=TEXTS[row],
                negative_prompt="" if guidance > 1 else None,
                true_cfg_scale=guidance,
                output_type=output_type,
                **{"height": HEIGHT, "width": WIDTH, "num_inference_steps": STEPS, **kwargs},
                **self.arguments(() if pictures is None else pictures[row]),
            ).images
        return images[0][:3] if output_type == "pt" else images[0]


def latents(adapter: Adapter, rows: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, *adapter.latent_shape(HEIGHT, WIDTH), generator=torch.Generator().manual_seed(seed))


def _qwen_image21(pictures: Sequence[Image]) -> dict[str, Any]:
    return {"image": list(pictures) or None, "output_resolution": (HEIGHT * WIDTH) ** 0.5}


def _edit(name: str, num_sources: int, **kwargs: Any) -> Case:
    build = partial(tiny_qwen_image_edit_plus, **kwargs)
    return Case(name, build, qwen_image_edit.adapt, num_sources, lambda pictures: {"image": list(pictures)}, token_types)


CASES = (
    Case("qwen-image-2.1", tiny_qwen_image21, qwen_image21.adapt, 0, _qwen_image21),
    Case("qwen-image-2.1 edit", tiny_qwen_image21, qwen_image21.adapt, 1, _qwen_image21),
    Case("qwen-image-2.1 edit of two", tiny_qwen_image21, qwen_image21.adapt, 2, _qwen_image21),
    Case("qwen-image", tiny_qwen_image, qwen_image.adapt),
    _edit("qwen-image-edit-2509", 1),
    _edit("qwen-image-edit-2509 of two", 2),
    _edit("qwen-image-edit-2511 of two", 2, zero_cond_t=True),
)
