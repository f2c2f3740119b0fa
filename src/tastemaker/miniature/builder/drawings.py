"""The training pictures of the miniature: drawn from the world's training split, kept on disk as plain arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tastemaker.miniature.builder.parts import SIDE
from tastemaker.miniature.world.layout import sample_layout
from tastemaker.miniature.world.mistakes import caption_of
from tastemaker.miniature.world.prompts import write_prompt
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import sample, sample_edit

Progress = Callable[[int, int], None]


def draw_t2i(folder: Path, count: int, seed: int, progress: Progress = lambda done, total: None) -> None:
    """`targets.npy` uint8 (count, 64, 64, 3) and `texts.json`, row by row; some texts are mistaken (`world.mistakes`)."""
    (targets,) = _arrays(folder, count, ("targets",))
    texts = []
    for row in range(count):
        rng = np.random.default_rng((seed, row))
        description = sample("train", rng)
        targets[row] = render(description, sample_layout(description, rng))
        texts.append(write_prompt(caption_of(description, rng), rng))
        progress(row + 1, count)
    _finish(folder, texts)


def draw_edits(folder: Path, count: int, seed: int, progress: Progress = lambda done, total: None) -> None:
    """`sources.npy`, `targets.npy` and `texts.json`."""
    sources, targets = _arrays(folder, count, ("sources", "targets"))
    texts = []
    for row in range(count):
        pair = sample_edit("train", np.random.default_rng((seed, row)))
        sources[row] = render(pair.edit.source, pair.source_layout)
        targets[row] = render(pair.edit.target, pair.target_layout)
        texts.append(pair.instruction)
        progress(row + 1, count)
    _finish(folder, texts)


def load_drawings(folder: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Texts, and the arrays by name, mapped rather than read."""
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    return json.loads((folder / "texts.json").read_text(encoding="utf-8")), arrays


def _arrays(folder: Path, count: int, names: tuple[str, ...]) -> list[np.memmap]:
    folder.mkdir(parents=True, exist_ok=True)
    shape = (count, SIDE, SIDE, 3)
    return [np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape) for name in names]


def _finish(folder: Path, texts: list[str]) -> None:
    """The texts come last: a folder that has them is complete."""
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
