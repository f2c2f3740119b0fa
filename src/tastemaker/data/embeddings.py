"""Encoded prompts, kept: on disk, for every run that shares the folder, and those used last in memory.

A prompt's encoding depends on the family, the encoder's files and dtype, the text, the source pictures and the picture size;
all of them are in the file's name. What it does not name is the machine and the versions of libraries: encodings made on
another device differ by rounding. Several processes may share a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tastemaker.data.pictures import open_picture
from tastemaker.data.whole_file import whole_file
from tastemaker.models.adapter import Adapter, collate, encoders_to_cpu
from tastemaker.types import Condition, Prompt

IN_MEMORY = 4 * 2**30
"""Bytes of encodings that a process keeps in memory beside those on the disk: about a thousand edits of full size."""


class EmbeddingCache:
    """`condition(prompts)` encodes what is new and stacks the rest from memory or `folder`; what it gives is on the CPU.

    With a folder, what was not used for longest leaves the memory above `max_bytes`; without one everything stays there.
    """

    def __init__(
        self,
        adapter: Adapter,
        *,
        height: int,
        width: int,
        folder: Path | None = None,
        encoder_key: str = "",
        max_bytes: int = IN_MEMORY,
    ):
        self._adapter, self._size, self._folder, self._max_bytes = adapter, (height, width), folder, max_bytes
        self._named = (adapter.family, encoder_key, str(adapter.dtype), str(self._size))
        self._known: dict[str, Condition] = {}
        self._bytes = 0
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

    def warm(
        self,
        prompts: Iterable[Prompt],
        negatives: Sequence[str] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Encodes ahead of time what is not there yet: the prompts, and `negatives` for each as `negative` will ask."""
        wanted = dict.fromkeys((text, prompt.sources) for prompt in prompts for text in (prompt.text, *negatives))
        absent = [one for one in wanted if not self._is_there(*one)]
        for done, (text, sources) in enumerate(absent, start=1):
            if not self._is_there(text, sources):  # another process may have been here first
                self._one(text, sources)
            progress(done, len(absent))

    def encode_ahead(
        self,
        prompts: Iterable[Prompt],
        negatives: Sequence[str] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Where the model is on an accelerator: `warm`, after which all that only encodes makes room there.

        What is asked for besides is then encoded on the CPU. A model on the CPU would gain nothing and is left to encode each
        prompt when it is first used, so that a short run does not pay for those it never comes to.
        """
        if next(self._adapter.transformer.parameters()).device.type != "cpu":
            self.warm(prompts, negatives, progress)
            encoders_to_cpu(self._adapter.pipeline)

    def _one(self, text: str, sources: tuple[str, ...]) -> Condition:
        key = self._key(text, sources)
        condition = self._known.pop(key, None)
        if condition is None:
            condition = self._load(key) or self._encode(key, text, sources)
            self._bytes += _num_bytes(condition)
        self._known[key] = condition  # last in order is what was used last
        while self._folder is not None and self._bytes > self._max_bytes:
            self._bytes -= _num_bytes(self._known.pop(next(iter(self._known))))
        return condition

    def _is_there(self, text: str, sources: tuple[str, ...]) -> bool:
        key = self._key(text, sources)
        return key in self._known or (self._folder is not None and self._path(self._folder, key).exists())

    def _encode(self, key: str, text: str, sources: tuple[str, ...]) -> Condition:
        pictures = [open_picture(source) for source in sources]
        height, width = self._size
        condition = self._adapter.encode([text], [pictures] if pictures else None, height=height, width=width).to("cpu")
        if self._folder is not None:
            path = self._path(self._folder, key)
            tensors = {name: value.contiguous() for name, value in condition.tensors.items()}
            with whole_file(path) as temporary:
                save_file(tensors, temporary, metadata={"layout": json.dumps(condition.layout)})
        return condition

    def _load(self, key: str) -> Condition | None:
        """None for a file that is absent or cut short: it is then encoded again, which costs time and nothing else."""
        path = None if self._folder is None else self._path(self._folder, key)
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                layout = json.loads(file.metadata()["layout"])
        except (SafetensorError, OSError, KeyError, ValueError):
            return None
        return Condition(tensors, _as_tuples(layout))

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / f"{key}.safetensors"

    def _key(self, text: str, sources: tuple[str, ...]) -> str:
        digest = hashlib.blake2b(digest_size=20)
        for part in (*self._named, text):
            digest.update(f"{len(part)}:{part}".encode())
        for source in sources:
            digest.update(digest_of(Path(source)))
        return digest.hexdigest()


def encoder_key(folder: Path) -> str:
    """Names the encoder of a pipeline folder by the bytes of its files, so that a retrained one never meets old embeddings."""
    digest = hashlib.blake2b(digest_size=16)
    for part in ("text_encoder", "tokenizer", "processor", "vae"):
        for path in sorted((folder / part).glob("*")):
            digest.update(path.name.encode() + digest_of(path))
    return digest.hexdigest()


def digest_of(path: Path) -> bytes:
    """BLAKE2b of a file, which this process reads again only where its size or time of change is another."""
    status = path.stat()
    return _digest(path.absolute(), status.st_size, status.st_mtime_ns)


@cache
def _digest(path: Path, size: int, changed: int) -> bytes:
    with path.open("rb") as stream:  # a shard may be larger than the memory
        return hashlib.file_digest(stream, hashlib.blake2b).digest()


def _num_bytes(condition: Condition) -> int:
    return sum(value.nbytes for value in condition.tensors.values())


def _as_tuples(value: object) -> Hashable:
    """JSON has lists only; a layout is hashable."""
    return tuple(_as_tuples(part) for part in value) if isinstance(value, list) else value  # type: ignore[return-value]
