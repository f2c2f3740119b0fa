"""Levers of the rollout: prefix shared by samples and steps, all prompts in one batch, embeddings kept, precision, compilation.

Every way draws the same pictures, from the same noise, guided, by deterministic steps (which the pipeline has too).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.plain import without_shared_prefix
from benchmarks.timing import Contest, Outcome, Way
from benchmarks.workload import Workload
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.data.pictures import open_picture
from tastemaker.miniature.builder.parts import SIDE
from tastemaker.models.qwen_image21 import QwenImage21Adapter
from tastemaker.rollout import Sampler, denoise

PREFIX_TARGET = {"t2i": 1.5, "edit": 2.0}
"""At least so many times as fast as recomputing the prompt at every step."""
LOW_PRECISION = 0.1
"""Two precisions part ways over the steps of a rollout, in single pictures far; this only says that as a whole the pictures are
the same ones (0.03 with the miniature): any two are 0.9 apart."""


def rollout_contest(workload: Workload) -> Contest:
    """Ours against ours without one lever, and against the diffusers pipeline."""
    adapter = workload.adapter
    plain = without_shared_prefix(adapter)
    target = PREFIX_TARGET[workload.prompts[0].task]
    others = [
        Way("without shared prefix", lambda: drawn(workload, plain), target=target),
        Way("without embedding cache", lambda: drawn(workload, adapter, fresh_cache(adapter))),
        *pipeline_ways(workload),
    ]
    return _contest(workload, Way("tastemaker", lambda: drawn(workload, adapter)), others)


def prefix_contest(workload: Workload) -> Contest:
    plain = without_shared_prefix(workload.adapter)
    others = [Way("without shared prefix", lambda: drawn(workload, plain), target=PREFIX_TARGET[workload.prompts[0].task])]
    return _contest(workload, Way("tastemaker", lambda: drawn(workload, workload.adapter)), others)


def precision_contest(workload: Workload, low: QwenImage21Adapter) -> Contest:
    others = [Way("without bf16 (float32)", lambda: drawn(workload, workload.adapter), tolerance=LOW_PRECISION, of_all=True)]
    return _contest(workload, Way("tastemaker, bf16", lambda: drawn(workload, low)), others)


def compile_contest(workload: Workload, compiled: QwenImage21Adapter) -> Contest:
    others = [Way("without compiled blocks", lambda: drawn(workload, workload.adapter))]
    return _contest(workload, Way("tastemaker, compiled blocks", lambda: drawn(workload, compiled)), others)


def _contest(workload: Workload, ours: Way, others: Sequence[Way]) -> Contest:
    return Contest(f"rollout, {workload.title}", "images/s", workload.size.images, ours, others)


def fresh_cache(adapter: QwenImage21Adapter) -> EmbeddingCache:
    """Remembers nothing from the run before: encodes what a step without a cache would."""
    return EmbeddingCache(adapter, height=SIDE, width=SIDE)


def drawn(workload: Workload, adapter: QwenImage21Adapter, embeddings: EmbeddingCache | None = None) -> Outcome:
    """All pictures of the workload by our rollout."""
    cache, size = embeddings or workload.embeddings, workload.size
    trajectory = denoise(
        adapter,
        cache.condition(workload.prompts).to(workload.device),
        cache.negative("", workload.prompts).to(workload.device),
        group_size=size.group,
        sampler=Sampler(adapter.sigmas(size.steps, SIDE, SIDE), guidance=size.guidance),
        noise=workload.noise,
    )
    return {"latents": trajectory.final_BX}


def pipeline_ways(workload: Workload) -> list[Way]:
    """The plain way: diffusers' pipeline, called for one prompt's pictures at a time, guidance in two passes."""
    pictures = [[open_picture(source) for source in prompt.sources] for prompt in workload.prompts]
    return [
        Way(f"diffusers pipeline, {words}", lambda kept=kept: drawn_by_pipeline(workload, pictures, use_kv_cache=kept))
        for words, kept in (("its own cache", True), ("no cache", False))
    ]


def drawn_by_pipeline(workload: Workload, pictures: Sequence[Sequence[Image.Image]], **settings: Any) -> Outcome:
    size, pipeline = workload.size, workload.adapter.pipeline
    pipeline.set_progress_bar_config(disable=True)
    groups = workload.noise("init").split(size.group)
    finals: list[Tensor] = [
        pipeline(
            prompt=prompt.text,
            image=list(sources) or None,
            negative_prompt="",
            true_cfg_scale=size.guidance,
            height=SIDE,
            width=SIDE,
            output_resolution=SIDE,
            num_inference_steps=size.steps,
            num_images_per_prompt=size.group,
            latents=latents,
            output_type="latent",
            **settings,
        ).images
        for prompt, sources, latents in zip(workload.prompts, pictures, groups, strict=True)
    ]
    return {"latents": torch.cat(finals)}
