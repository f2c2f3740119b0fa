"""Pictures for the raters that the miniature's base draws, at several guidance scales and numbers of steps.

The base may be slow, so samples come in batches, each a file that is whole or absent: started again, a sitting goes on where
the last one ended. Which prompt is drawn how depends on seed and prompt alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.evaluation.benchmark import Drawing, draw
from tastemaker.miniature.builder.parts import SIDE
from tastemaker.models.adapter import Adapter
from tastemaker.runtime import folder as disk
from tastemaker.runtime import seeds
from tastemaker.types import Prompt

SETTINGS: tuple[tuple[float, int], ...] = ((1.0, 6), (1.0, 16), (2.0, 12), (3.0, 6), (3.0, 20), (5.0, 12))
"""(guidance, steps)."""
BATCH = 48


def name_of(setting: tuple[float, int]) -> str:
    """The generator's name: 'base-g3-s20'."""
    return f"base-g{setting[0]:g}-s{setting[1]}"


def setting_of(prompt: str, seed: int) -> tuple[float, int]:
    """How the prompt of this id is drawn."""
    return SETTINGS[int(seeds.random(seed, "setting", prompt).integers(len(SETTINGS)))]


def sample(
    adapter: Adapter, prompts: Sequence[Prompt], folder: Path, seed: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, tuple[str, np.ndarray]]:
    """Prompt id to generator and picture, one for each prompt, from disk where an earlier call drew it.

    All prompts are of one task. The files are named by setting and place: keep prompts and seed of a folder the same.
    """
    disk.make_folder(folder)
    embeddings = EmbeddingCache(adapter, height=SIDE, width=SIDE)
    found: dict[str, tuple[str, np.ndarray]] = {}
    for setting in SETTINGS:
        mine = [prompt for prompt in prompts if setting_of(prompt.id, seed) == setting]
        for start in range(0, len(mine), BATCH):
            some = mine[start : start + BATCH]
            path = folder / f"{some[0].task}-{name_of(setting)}-{seed}-{start:06d}-{len(some)}.npy"
            if not path.exists():
                say(f"drawing {path.stem}")
                guidance, steps = setting
                buffer = io.BytesIO()
                np.save(buffer, draw(adapter, embeddings, some, Drawing(steps, guidance, seed, SIDE, SIDE)))
                disk.write_bytes_atomic(path, buffer.getvalue())
            pictures = np.load(path)
            found |= {p.id: (name_of(setting), picture) for p, picture in zip(some, pictures, strict=True)}
    return found
