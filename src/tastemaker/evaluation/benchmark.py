"""Draws a held-out set with one model, the same prompts and starting noise for every model, so that comparisons are paired."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.models.adapter import Adapter
from tastemaker.rewards.reward import to_uint8
from tastemaker.rollout import Sampler, denoise
from tastemaker.runtime import seeds
from tastemaker.types import Prompt


@dataclass(frozen=True)
class Drawing:
    """How a benchmark is drawn."""

    steps: int
    guidance: float
    seed: int
    height: int
    width: int
    negative_prompt: str = ""
    batch: int = 100

    @property
    def forwards_per_image(self) -> int:
        return self.steps * (2 if self.guidance != 1 else 1)


@torch.no_grad()
def draw(
    adapter: Adapter,
    embeddings: EmbeddingCache,
    prompts: Sequence[Prompt],
    drawing: Drawing,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """uint8 (n, height, width, 3), one picture a prompt, deterministic (ODE); noise is keyed by (seed, prompt id) alone.

    Prompts may be of both tasks and have any source pictures: those of one layout are drawn together.
    """
    sampler = Sampler(adapter.sigmas(drawing.steps, drawing.height, drawing.width), guidance=drawing.guidance)
    shape = adapter.latent_shape(drawing.height, drawing.width)
    device = next(adapter.transformer.parameters()).device
    pictures = np.empty((len(prompts), drawing.height, drawing.width, 3), dtype=np.uint8)
    done = 0
    for places in _batches(embeddings, prompts, drawing.batch):
        some = [prompts[place] for place in places]
        noise = seeds.noise_rows(shape, [(drawing.seed, "evaluation", prompt.id) for prompt in some]).to(device)
        condition = embeddings.condition(some).to(device)
        negative = embeddings.negative(drawing.negative_prompt, some).to(device) if sampler.guided else None
        trajectory = denoise(
            adapter, condition, negative, group_size=1, sampler=sampler, noise=lambda where, noise=noise: noise
        )
        images = adapter.decode(trajectory.final_BX, drawing.height, drawing.width)
        pictures[places] = to_uint8(images).numpy()
        done += len(some)
        progress(done, len(prompts))
    return pictures


def _batches(embeddings: EmbeddingCache, prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Places of prompts that are drawn together."""
    for places in embeddings.by_layout(prompts):
        yield from (places[start : start + size] for start in range(0, len(places), size))
