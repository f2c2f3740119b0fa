"""Answers kept on disk, so that the same picture is not judged twice with the same question by the same judge.

An answer belongs to pixels, text, source pictures and the judge's fingerprint; all of them are in its file's name, the
question's id is not. Only scores are kept: what is missing is asked again. Whatever is wrong with a file costs a warning and
one more question, never a wrong score. Several processes may share a folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from PIL import Image

from tastemaker.rewards.judge import Answer, Judge, Question
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.schema import GivenAnswer, answer_of, given, in_order

KEPT = 0.8
"""Share of the size that is left after an eviction."""
RECOUNT = 0.05
"""After writing this share of the size the folder is looked at again: other processes write too."""

_log = logging.getLogger(__name__)


class CachedJudge:
    """A judge that asks `judge` only what `folder` does not know.

    The folder stays below about `max_bytes`; answers that were not used for longest go first. Each process may overshoot by
    `RECOUNT` of it.
    """

    def __init__(self, judge: Judge, folder: Path, *, max_bytes: int = 2**30):
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}; it must be positive")
        self.hits = self.misses = 0
        self._judge, self._folder, self._max_bytes = judge, folder, max_bytes
        self._written = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._evict()

    @property
    def name(self) -> str:
        return self._judge.name

    @property
    def low(self) -> float:
        return self._judge.low

    @property
    def high(self) -> float:
        return self._judge.high

    @property
    def fingerprint(self) -> str:
        return self._judge.fingerprint

    @property
    def remote(self) -> bool:
        return getattr(self._judge, "remote", False)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer for each question, in order. Questions that differ in their ids alone are asked once."""
        keys = [self._key(question) for question in questions]
        known = {key: found for key in dict.fromkeys(keys) if (found := self._load(key)) is not None}
        new = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        served = sum(key in known for key in keys)
        self.hits, self.misses = self.hits + served, self.misses + len(new)
        asked = list(new.values())
        answers = in_order([question.id for question in asked], self._judge.answer(asked)) if asked else []
        for key, answer in zip(new, answers, strict=True):
            known[key] = answer
            self._store(key, answer)
        return [replace(known[key], id=question.id) for key, question in zip(keys, questions, strict=True)]

    def _key(self, question: Question) -> str:
        digest = hashlib.sha256()
        pictures = (question.picture, *question.sources)
        for part in (self._judge.fingerprint.encode(), question.text.encode(), *map(_pixels, pictures)):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

    def _load(self, key: str) -> Answer | None:
        path = self._path(key)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("cached answer %s cannot be read (%s); it is asked again", path, error)
            return None
        try:
            answer = answer_of(_opened(text, key), self.low, self.high)
            if isinstance(answer.score, Missing):
                raise ValueError(answer.score.reason)
        except ValueError as error:
            _log.warning("cached answer %s is corrupt (%s); it is asked again", path, str(error).splitlines()[0])
            return None
        with suppress(OSError):
            os.utime(path)  # was used
        return answer

    def _store(self, key: str, answer: Answer) -> None:
        """Keeps a score. A full or read-only disk loses the answer's copy and nothing else."""
        checked = answer_of(given(answer), self.low, self.high)
        if isinstance(checked.score, Missing):
            return
        data = _sealed(given(replace(answer, id=key)))
        path = self._path(key)
        temporary = path.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            _log.warning("an answer cannot be kept in %s: %s", self._folder, error)
            return
        self._written += _on_disk(len(data))
        if self._written > RECOUNT * self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        """Removes the oldest answers, and what crashed writers left, down to `KEPT` of the size if it is exceeded."""
        self._written = 0
        files = sorted(_files(self._folder))
        total = sum(size for _, size, _ in files)
        if total <= self._max_bytes:
            return
        for _, size, path in files:
            with suppress(OSError):
                path.unlink()  # another process may have been here first
            total -= size
            if total <= KEPT * self._max_bytes:
                return


def _pixels(picture: Image.Image) -> bytes:
    """Size and RGB values: two pictures with the same of both are the same picture."""
    width, height = picture.size
    return f"{width}x{height}:".encode() + picture.convert("RGB").tobytes()


def _sealed(answer: GivenAnswer) -> bytes:
    """Digest and answer, one line each: a flipped bit in a score must not become another score."""
    body = answer.model_dump_json().encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body + b"\n"


def _opened(data: bytes, key: str) -> GivenAnswer:
    """Raises ValueError for anything but what `_sealed` made of the answer of this key."""
    digest, _, rest = data.partition(b"\n")
    body = rest.removesuffix(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its checksum does not match")
    answer = GivenAnswer.model_validate_json(body)
    if answer.id != key:
        raise ValueError("it is another question's")
    return answer


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """(last use, bytes on the disk, path) of all files."""
    found = []
    for path in folder.glob("??/*"):
        with suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime, _on_disk(status.st_size), path))
    return found


def _on_disk(size: int) -> int:
    """Disks give whole blocks, most of them of 4096 bytes; an answer is smaller than one."""
    return -(-size // 4096) * 4096
