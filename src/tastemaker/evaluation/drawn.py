"""Held-out pictures that stay on the disk, a file for each batch: what was drawn before an interruption is not drawn again.

A file is named by all that decides its pictures (model, dtype, prompts, sources, sampling), so another model, or another text,
never meets old pictures. What it does not name is the machine: pictures drawn on another device differ by rounding.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tastemaker.data.embeddings import EmbeddingCache, digest_of
from tastemaker.evaluation.benchmark import Drawing, draw
from tastemaker.models.adapter import Adapter
from tastemaker.runtime import folder as disk
from tastemaker.types import Prompt

Opened = tuple[Adapter, EmbeddingCache]


@dataclass(frozen=True)
class Drawn:
    """A set's pictures, uint8 (H, W, 3) each, read from the disk when they are asked for; batch i has file i."""

    prompts: tuple[Prompt, ...]
    batch: int
    files: tuple[Path, ...]

    def batches(self) -> Iterator[tuple[Path, slice, np.ndarray]]:
        """File, places of the prompts, and pictures of each batch."""
        for number, file in enumerate(self.files):
            yield file, slice(number * self.batch, (number + 1) * self.batch), np.load(file)

    def pictures(self, places: Sequence[int] | None = None) -> np.ndarray:
        """All of them, or those at `places`."""
        if places is None:
            return np.concatenate([pictures for _, _, pictures in self.batches()])
        opened = [np.load(file, mmap_mode="r") for file in self.files]
        return np.stack([opened[place // self.batch][place % self.batch] for place in places])


def draw_kept(
    folder: Path,
    key: str,
    prompts: Sequence[Prompt],
    drawing: Drawing,
    opened: Callable[[], Opened],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Drawn:
    """The pictures of `prompts` by the model that `key` names, in `folder`. The model is opened when something has to be drawn.

    `key` also names the dtype that the model is run in.

    `progress` hears of what was drawn now. Pictures are those of `draw` on each batch by itself.
    """
    drawn = kept(folder, key, prompts, drawing)
    for number, file in enumerate(drawn.files):
        some = prompts[number * drawing.batch : (number + 1) * drawing.batch]
        if not _is_whole(file, (len(some), drawing.height, drawing.width, 3)):
            buffer = io.BytesIO()
            np.save(buffer, draw(*opened(), some, drawing))
            disk.make_folder(folder)
            disk.write_bytes_atomic(file, buffer.getvalue())
            progress(number * drawing.batch + len(some), len(prompts))
    return drawn


def kept(folder: Path, key: str, prompts: Sequence[Prompt], drawing: Drawing) -> Drawn:
    """Where the pictures are or will be."""
    starts = range(0, len(prompts), drawing.batch)
    names = (_name(key, prompts[start : start + drawing.batch], drawing) for start in starts)
    files = tuple(folder / f"{start:05d}-{name}.npy" for start, name in zip(starts, names, strict=True))
    return Drawn(tuple(prompts), drawing.batch, files)


def missing_bytes(drawn: Drawn, drawing: Drawing) -> int:
    """About how much room the pictures that are not there yet will take."""
    absent = sum(not file.exists() for file in drawn.files)
    return absent * drawing.batch * drawing.height * drawing.width * 3


def _name(key: str, prompts: Sequence[Prompt], drawing: Drawing) -> str:
    sources = {source: digest_of(Path(source)).hex() for prompt in prompts for source in prompt.sources}
    asked = [(prompt.id, prompt.text, [sources[source] for source in prompt.sources]) for prompt in prompts]
    return hashlib.blake2b(json.dumps([key, asdict(drawing), asked]).encode(), digest_size=12).hexdigest()


def _is_whole(file: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(file, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):
        return False
