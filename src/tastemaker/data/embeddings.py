"""Encoded prompts, kept: in memory for the run, and on disk so that the next run needs no text encoder pass.

A prompt's encoding depends on the encoder, the text, the source pictures and the picture size, and on nothing else; all four
are in the file's name.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tastemaker.data.pictures import open_picture
from tastemaker.models.adapter import Adapter, collate
from tastemaker.types import Condition, Prompt


class EmbeddingCache:
    """`condition(prompts)` encodes what is new and stacks the rest from memory or `folder`; what it gives is on the CPU."""

    def __init__(self, adapter: Adapter, *, height: int, width: int, folder: Path | None = None, encoder_key: str = ""):
        self._adapter, self._size, self._folder, self._encoder_key = adapter, (height, width), folder, encoder_key
        self._known: dict[str, Condition] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def by_layout(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The places of those prompts that can share a forward, in order, for each layout as it first occurs."""
        places: dict[Hashable, list[int]] = {}
        for place, prompt in enumerate(prompts):
            places.setdefault(self._one(prompt.text, prompt.sources).layout, []).append(place)
        return list(places.values())

    def condition(self, prompts: Sequence[Prompt]) -> Condition:
        """One row for each prompt, in order. Raises UserMistake where their layouts differ."""
        return collate([self._one(prompt.text, prompt.sources) for prompt in prompts])

    def negative(self, text: str, prompts: Sequence[Prompt]) -> Condition:
        """The unconditional branch: one row in all without source pictures, else one for each prompt, with its pictures."""
        if not any(prompt.sources for prompt in prompts):
            return self._one(text, ())
        return collate([self._one(text, prompt.sources) for prompt in prompts])

    def warm(self, prompts: Sequence[Prompt], progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Encode everything ahead of time; the text encoder may then leave the device."""
        for done, prompt in enumerate(prompts, start=1):
            self._one(prompt.text, prompt.sources)
            progress(done, len(prompts))

    def _one(self, text: str, sources: tuple[str, ...]) -> Condition:
        key = self._key(text, sources)
        if key not in self._known:
            self._known[key] = self._load(key) or self._encode(key, text, sources)
        return self._known[key]

    def _encode(self, key: str, text: str, sources: tuple[str, ...]) -> Condition:
        pictures = [open_picture(source) for source in sources]
        height, width = self._size
        condition = self._adapter.encode([text], [pictures] if pictures else None, height=height, width=width).to("cpu")
        if self._folder is not None:
            path = self._folder / f"{key}.safetensors"
            temporary = path.with_suffix(f".{secrets.token_hex(8)}.tmp")  # other machines may write the same
            tensors = {name: value.contiguous() for name, value in condition.tensors.items()}
            save_file(tensors, temporary, metadata={"layout": json.dumps(condition.layout)})
            os.replace(temporary, path)
        return condition

    def _load(self, key: str) -> Condition | None:
        """None for a file that is absent or cut short: it is then encoded again, which costs time and nothing else."""
        path = None if self._folder is None else self._folder / f"{key}.safetensors"
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                layout = json.loads(file.metadata()["layout"])
        except (SafetensorError, OSError, KeyError, ValueError):
            return None
        return Condition(tensors, _as_tuples(layout))

    def _key(self, text: str, sources: tuple[str, ...]) -> str:
        digest = hashlib.blake2b(digest_size=20)
        for part in (self._encoder_key, text, str(self._size)):
            digest.update(f"{len(part)}:{part}".encode())
        for source in sources:
            digest.update(hashlib.blake2b(Path(source).read_bytes()).digest())
        return digest.hexdigest()


def encoder_key(folder: Path) -> str:
    """Names the encoder of a pipeline folder by the bytes of its files, so that a retrained one never meets old embeddings."""
    digest = hashlib.blake2b(digest_size=16)
    for part in ("text_encoder", "tokenizer", "processor", "vae"):
        for path in sorted((folder / part).glob("*")):
            digest.update(path.name.encode() + hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def _as_tuples(value: object) -> Hashable:
    """JSON has lists only; a layout is hashable."""
    return tuple(_as_tuples(part) for part in value) if isinstance(value, list) else value  # type: ignore[return-value]
