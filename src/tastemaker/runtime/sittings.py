"""How long something took that was interrupted and taken up again: the seconds of all its sittings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tastemaker.runtime import folder as disk

FILE = "seconds.txt"


def spent(folder: Path) -> float:
    """The seconds of the sittings that are over."""
    path = folder / FILE
    return float(path.read_text()) if path.exists() else 0.0


@contextmanager
def counted(folder: Path) -> Iterator[Callable[[], float]]:
    """Gives the seconds of all sittings of this folder so far; an interrupted one counts too."""
    before, began = spent(folder), time.monotonic()
    try:
        yield lambda: before + time.monotonic() - began
    finally:
        disk.make_folder(folder)
        disk.write_text_atomic(folder / FILE, f"{before + time.monotonic() - began}\n")
