"""SHA-256 of files and folders, remembered between commands: gigabytes that stay as they are, are read once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tastemaker.runtime import changes
from tastemaker.runtime import folder as disk


class Digests:
    """As `changes.fingerprint`, with a memory in `folder`, which the end of a `with` block writes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "digests.json"
        self._kept: dict[str, list[Any]] = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._new = False

    def of(self, place: Path | Sequence[Path]) -> str:
        """An empty word where there is nothing."""
        if not isinstance(place, Path):
            return hashlib.sha256("".join(f"{self.of(one)}\n" for one in place).encode()).hexdigest()
        if not place.is_dir():
            return self._of_file(place) if place.is_file() else ""
        lines = (f"{self._of_file(place / name)}  {name.as_posix()}\n" for name in changes.names_in(place))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _of_file(self, path: Path) -> str:
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        key = str(path.absolute())
        if self._kept.get(key, [])[:2] == stamp:
            return str(self._kept[key][2])
        digest = changes.fingerprint(path)
        if changes.is_settled(status):
            self._kept[key], self._new = [*stamp, digest], True
        return digest

    def __enter__(self) -> Digests:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._new and self._path.parent.is_dir():
            disk.write_text_atomic(self._path, json.dumps(self._kept) + "\n")
            self._new = False
