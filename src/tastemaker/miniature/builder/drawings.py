"""The training pictures of the miniature: drawn from the world's training split, kept on disk as plain arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Executor
from itertools import repeat
from pathlib import Path

import numpy as np

from tastemaker.miniature.builder.parts import SIDE
from tastemaker.miniature.world.layout import sample_layout
from tastemaker.miniature.world.mistakes import caption_of, edit_asked_for
from tastemaker.miniature.world.prompts import write_prompt
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import sample, sample_edit
from tastemaker.runtime import folder as disk

PART = 1000
"""Rows that are drawn at once by one process. What is drawn depends on seed and row alone."""
Rows = Callable[[Path, int, range], list[str]]


def draw(folder: Path, rows: Rows, count: int, seed: int, pool: Executor | None = None) -> None:
    """Arrays and `texts.json` of `count` drawings by `rows` (`draw_t2i`, `draw_edits`), in the processes of `pool`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _ARRAYS[rows]:
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=(count, SIDE, SIDE, 3)).flush()
    parts = [range(start, min(start + PART, count)) for start in range(0, count, PART)]
    told = (map if pool is None else pool.map)(rows, repeat(folder), repeat(seed), parts)
    texts = [text for some in told for text in some]
    disk.write_text_atomic(folder / "texts.json", json.dumps(texts))  # last: a folder that has it is complete


def draw_t2i(folder: Path, seed: int, rows: range) -> list[str]:
    """`targets.npy` uint8 (count, 64, 64, 3); returns captions, some of which are mistaken (`world.mistakes`)."""
    (targets,) = _open(folder, draw_t2i)
    texts = []
    for row in rows:
        rng = np.random.default_rng((seed, row))
        description = sample("train", rng)
        targets[row] = render(description, sample_layout(description, rng))
        texts.append(write_prompt(caption_of(description, rng), rng))
    return texts


def draw_edits(folder: Path, seed: int, rows: range) -> list[str]:
    """`sources.npy` and `targets.npy`; returns instructions, some of which are mistaken."""
    sources, targets = _open(folder, draw_edits)
    texts = []
    for row in rows:
        rng = np.random.default_rng((seed, row))
        pair = sample_edit("train", rng)
        sources[row] = render(pair.edit.source, pair.source_layout)
        targets[row] = render(pair.edit.target, pair.target_layout)
        texts.append(edit_asked_for(pair, rng).instruction)
    return texts


_ARRAYS: dict[Rows, tuple[str, ...]] = {draw_t2i: ("targets",), draw_edits: ("sources", "targets")}


def _open(folder: Path, rows: Rows) -> list[np.ndarray]:
    return [np.load(folder / f"{name}.npy", mmap_mode="r+") for name in _ARRAYS[rows]]


def load_drawings(folder: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Texts, and the arrays by name, mapped rather than read."""
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    return json.loads((folder / "texts.json").read_text(encoding="utf-8")), arrays
