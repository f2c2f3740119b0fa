"""JSON lines with one line a step: no gap, no double, and after a crash exactly the steps that the checkpoint holds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tastemaker.runtime import folder as disk


class StepLog:
    """An append-only file of steps; `contiguous` logs must not leave one out.

    Lines are complete or absent for a reader, except for the last one after a crash, which `cut` drops.
    """

    def __init__(self, path: Path, contiguous: bool) -> None:
        self.path = path
        self.contiguous = contiguous
        self.last: int | None = None

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds the line of `step`. NaN and inf are stored as null and named under "not_finite"."""
        self._check_order(step)
        append_line(self.path, {"step": step, **encode(values)})
        self.last = step

    def cut(self, step: int | None) -> int:
        """Drops the lines after `step` (all of them for None), atomically; returns how many."""
        self.last = step
        if not self.path.exists():
            return 0
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if step is not None and (number := _step_of(line)) is not None and number <= step]
        if len(kept) < len(lines):
            disk.write_bytes_atomic(self.path, b"".join(kept))
        return len(lines) - len(kept)

    def missing(self) -> bool:
        """Whether the file ends before `last`, so that somebody else must have changed it."""
        if self.last is None or self.last == 0:
            return False
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        return not lines or _step_of(lines[-1]) != self.last

    def sync(self) -> None:
        """Puts everything appended so far on the disk."""
        if self.path.exists():
            disk.write_file(self.path, lambda path: None)

    def _check_order(self, step: int) -> None:
        if self.last is None:
            fits = step in (0, 1) or not self.contiguous
        else:
            fits = step == self.last + 1 if self.contiguous else step > self.last
        if not fits:
            name = self.path.name
            raise ValueError(f"{name}: step {step} cannot follow step {self.last}, steps are logged once and in order")


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Appends one JSON line; when the disk is full no part of it stays behind."""
    data = (json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        if before and os.pread(descriptor, 1, before - 1) != b"\n":
            data = b"\n" + data  # a line torn by a power cut must not swallow this one
        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except BaseException as error:
            os.ftruncate(descriptor, before)
            if disk.is_no_room(error):
                raise disk.disk_full(path, len(data)) from error
            raise
    finally:
        os.close(descriptor)
    disk.barrier(f"appended {path.name}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a log, in order; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


def encode(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain JSON values; tensors and numpy numbers of one element become numbers.

    >>> encode({"loss": float("nan"), "images": 8})
    {'loss': None, 'images': 8, 'not_finite': {'loss': 'nan'}}
    """
    not_finite: dict[str, str] = {}
    result = {str(key): _encode(value, str(key), not_finite) for key, value in values.items()}
    return {**result, "not_finite": not_finite} if not_finite else result


def _encode(value: Any, path: str, not_finite: dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _encode(inner, f"{path}.{key}", not_finite) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(inner, f"{path}.{row}", not_finite) for row, inner in enumerate(value)]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        not_finite[path] = str(value)
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path}: {type(value).__name__} cannot be logged, give a number, a text or a list of them")


def _step_of(line: bytes) -> int | None:
    if not line.endswith(b"\n"):
        return None
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
