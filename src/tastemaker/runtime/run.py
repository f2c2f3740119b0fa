"""The folder of one run: settings, versions, lock, metrics, incidents, checkpoints. Killed anywhere, it resumes exactly.

    run/config.yaml        every setting, defaults written out
        environment.json   versions, fingerprints of data and judges, number of processes, device and dtype
        changes.jsonl      what was knowingly changed on a resumption
        metrics.jsonl      one line a step
        monitor.jsonl      one line a check of the monitor, whose baseline is in monitor/
        incidents.jsonl    NaN, fallbacks, whatever a person should look at; never cut
        checkpoints/       see checkpoint.py
        images/            pictures for people
        lock               who is writing here

Commands add embeddings/ (encoded prompts), sources/ (pictures of the miniature's edits) and, at the end, the result: lora/,
transformer/ or judge/.

The number of a step counts from 1. A loop calls, for each step, `log` and then, where one is due, `checkpoint`: a checkpoint of
step n holds everything up to and including step n, and after `restore` the next step is n + 1.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal

from pydantic import BaseModel

from tastemaker import config as settings
from tastemaker.config import strict_yaml
from tastemaker.errors import Corrupt, UserMistake
from tastemaker.runtime import changes, checkpoint
from tastemaker.runtime import folder as disk
from tastemaker.runtime.checkpoint import Checkpoint, Groups
from tastemaker.runtime.lock import Lock
from tastemaker.runtime.metrics import StepLog, append_line, encode
from tastemaker.runtime.progress import Tracker

Resume = Literal["auto", "never", "must"]

_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR}


class Run:
    """One process's hold on a run folder. Make it with `Run.open`, use it as a context manager."""

    def __init__(self, folder: Path, lock: Lock, keep: int, trackers: Iterable[Tracker], is_new: bool) -> None:
        self.folder = folder
        self.is_new = is_new
        self._lock = lock
        self._keep = keep
        self._trackers = list(trackers)
        self._logs: dict[str, StepLog] = {"metrics": StepLog(folder / "metrics.jsonl", contiguous=True)}
        self._ready = is_new

    @classmethod
    def open(
        cls,
        folder: Path | str,
        config: BaseModel,
        *,
        resume: Resume = "auto",
        allow_changes: Iterable[str] = (),
        data_files: Mapping[str, changes.Place] | None = None,
        judges: Mapping[str, str] | None = None,
        hardware: Mapping[str, str] | None = None,
        keep: int = 3,
        trackers: Iterable[Tracker] = (),
    ) -> Run:
        """Creates the folder, or opens it again when settings, versions, data, judges and hardware are the same.

        `judges` are fingerprints by the name of the reward, `hardware` is what `device.resolved` gives. `allow_changes` names
        what may differ ("optimiser.learning_rate", "packages", "data_files.prompts", "judges.alignment", "hardware.dtype").
        The number of processes may: no result depends on it.
        Raises UserMistake for a folder in use, unwritable, or with other settings.
        """
        folder = Path(folder)
        now = changes.environment(data_files or {}, judges or {}, hardware or {})
        try:
            disk.make_folder(folder)
            lock = Lock(folder / "lock")
        except OSError as error:
            raise _cannot_write(folder, error) from error
        try:
            for place in (folder, folder / "checkpoints", *(folder / "images").rglob("*/"), folder / "images"):
                disk.remove_leftovers(place)
            is_new = _prepare(folder, config, now, resume, tuple(allow_changes))
        except OSError as error:
            lock.release()
            raise _cannot_write(folder, error) from error
        except BaseException:
            lock.release()
            raise
        return cls(folder, lock, keep, trackers, is_new)

    @property
    def checkpoints(self) -> Path:
        """The folder of saved steps."""
        return self.folder / "checkpoints"

    @property
    def images(self) -> Path:
        """The folder of pictures, made when first asked for."""
        disk.make_folder(self.folder / "images")
        return self.folder / "images"

    def write_image(self, name: str, data: bytes) -> Path:
        """Stores an encoded picture under images/, whole or not at all; `name` such as "step-12/prompt-3.png"."""
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not pure.name:
            raise ValueError(f"{name!r} would leave the folder of images")
        path = self.images / pure
        disk.make_folder(path.parent)
        disk.write_bytes_atomic(path, data)
        return path

    def require_space(self, tensors: Groups, extra: int = 0) -> None:
        """Raises DiskFull unless the checkpoints that will be kept, one in the making and `extra` bytes fit.

        Call it before the first step.
        """
        existing = min(len(checkpoint.steps(self.checkpoints)), self._keep)
        disk.require_space(self.folder, (self._keep + 1 - existing) * checkpoint.size(tensors) + extra)

    def restore(self, step: int | None = None) -> Checkpoint | None:
        """The newest whole checkpoint, or None before the first; metrics after it are cut off so that they are logged again.

        An explicit `step` goes back to it: newer ones are moved aside.
        """
        found = self._load(step)
        for newer in checkpoint.steps(self.checkpoints):
            if step is not None and newer > step:
                checkpoint.move_aside(checkpoint.step_folder(self.checkpoints, newer), "abandoned")
        for path in self.folder.glob("*.jsonl"):
            if path.stem not in ("incidents", "changes"):
                self._log(path.stem).cut(found.step if found else None)
        if found and found.step == checkpoint.steps(self.checkpoints)[-1]:
            checkpoint.finish(self.checkpoints, self._keep)
        metrics = self._logs["metrics"]
        metrics.last = found.step if found else None
        if metrics.missing():
            warnings.warn(f"{metrics.path}: lines before step {metrics.last} are missing, it was changed", stacklevel=2)
        self._ready = True
        return found

    def follow(self, tracker: Tracker) -> None:
        """Adds a tracker; it sees the steps logged from here on."""
        self._trackers.append(tracker)

    def log(self, step: int, metrics: Mapping[str, Any], stream: str = "metrics") -> None:
        """Appends the line of a step. In "metrics" no step may be left out; other streams (evaluation) may be sparse.

        Trackers see the "metrics" afterwards; one that fails is dropped with a warning, the file is the truth.
        """
        if not self._ready:
            raise ValueError("call restore() before log(): this folder already holds steps")
        time = datetime.now().astimezone().isoformat(timespec="milliseconds")
        self._log(stream).append(step, {**metrics, "time": time})
        for tracker in list(self._trackers) if stream == "metrics" else ():
            try:
                tracker.log(step, metrics)
            except Exception as error:
                self._trackers.remove(tracker)
                warnings.warn(f"{type(tracker).__name__} failed and is left out from here on: {error}", stacklevel=2)

    def incident(self, record: Mapping[str, Any]) -> None:
        """Writes down, for a person, something that went wrong; at once on the disk."""
        time = datetime.now().astimezone().isoformat(timespec="milliseconds")
        path = self.folder / "incidents.jsonl"
        append_line(path, encode({**record, "time": time}))
        StepLog(path, contiguous=False).sync()

    def checkpoint(self, step: int, tensors: Groups, state: Mapping[str, Any]) -> Path:
        """Saves step `step`, whose metrics must have been logged; older ones beyond `keep` are removed."""
        last = self._logs["metrics"].last
        if last != step and not (last is None and step == 0):
            raise ValueError(f"checkpoint of step {step} after the metrics of step {last}: log a step before saving it")
        for log in self._logs.values():
            log.sync()
        disk.sync_folder(self.folder)
        path = checkpoint.save(self.checkpoints, step, tensors, state)
        checkpoint.prune(self.checkpoints, self._keep)
        return path

    def hold(self, step: int) -> None:
        """All is well up to `step`: the newest checkpoint up to it, also one still to be saved, stays until the next call."""
        checkpoint.hold(self.checkpoints, step)

    def protect_held(self) -> Path | None:
        """Keeps the checkpoint that is held for good, and returns its folder; None without one."""
        step = checkpoint.held(self.checkpoints)
        return None if step is None else checkpoint.protect(self.checkpoints, step)

    def close(self) -> None:
        """Ends trackers and lets other processes in."""
        for tracker in self._trackers:
            tracker.close()
        self._trackers.clear()
        self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _log(self, stream: str) -> StepLog:
        if stream in ("incidents", "changes"):
            raise ValueError(f"{stream} is not a stream of steps")
        if stream not in self._logs:
            self._logs[stream] = StepLog(self.folder / f"{stream}.jsonl", contiguous=False)
        return self._logs[stream]

    def _load(self, step: int | None) -> Checkpoint | None:
        if step is None and not checkpoint.steps(self.checkpoints) and not (self.checkpoints / "latest").exists():
            return None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = checkpoint.load(self.checkpoints, step)
        for warning in caught:
            warnings.warn(str(warning.message), warning.category, stacklevel=3)
            if issubclass(warning.category, RuntimeWarning):
                self.incident({"kind": "checkpoint damaged", "what": str(warning.message), "step": found.step})
        return found


def _prepare(folder: Path, config: BaseModel, now: dict[str, Any], resume: Resume, allow: tuple[str, ...]) -> bool:
    """Writes or compares settings and environment; returns whether the run is new."""
    if (folder / "config.yaml").exists():
        if resume == "never":
            raise UserMistake(f"{folder}: already holds a run, choose another folder or resume it")
        _compare(folder, config, now, allow)
        return False
    if resume == "must":
        raise UserMistake(f"{folder}: holds no run to resume (no config.yaml), check the path")
    if checkpoint.steps(folder / "checkpoints") or (folder / "metrics.jsonl").exists():
        raise UserMistake(f"{folder}: holds steps but no config.yaml; put that file back or choose another folder")
    _write_settings(folder, config, now)
    return True


def _write_settings(folder: Path, config: BaseModel, now: dict[str, Any]) -> None:
    """config.yaml last: with it the run exists."""
    disk.write_text_atomic(folder / "environment.json", json.dumps(now, indent=1) + "\n")
    disk.write_text_atomic(folder / "config.yaml", settings.dump(config))


def _compare(folder: Path, config: BaseModel, now: dict[str, Any], allow: tuple[str, ...]) -> None:
    was_config, was = _stored(folder)
    found = changes.differences(_with_defaults(folder, was_config, type(config)), config.model_dump(mode="json"))
    for group in ("packages", "processes", "data_files", "judges", "hardware"):
        found += changes.differences({group: _known(was, now, group)}, {group: now[group]})
    if found:
        changes.refuse(folder, found, (*allow, *changes.free_settings(config), "processes"))
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        append_line(folder / "changes.jsonl", {"time": time, "pid": os.getpid(), "changes": [c._asdict() for c in found]})
    if found or now.keys() - was.keys() or now["places"] != was["places"]:
        _write_settings(folder, config, now)


def _known(was: dict[str, Any], now: dict[str, Any], group: str) -> Any:
    """What was not written down yet when the run began, a group or a data file, is taken to be as it is now."""
    before = was.get(group, now[group])
    return {**now[group], **before} if group == "data_files" else before


def _with_defaults(folder: Path, was: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Settings that did not exist when the run began had what is now their default; invalid ones stay as written."""
    try:
        return settings.load(folder / "config.yaml", model).model_dump(mode="json")
    except UserMistake:
        return was


def _stored(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        document = strict_yaml.read((folder / "config.yaml").read_text(encoding="utf-8"))
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise Corrupt(f"{folder}: config.yaml or environment.json cannot be read ({error})") from error
    if document.faults or not isinstance(document.data, dict) or not isinstance(environment, dict):
        raise Corrupt(f"{folder / 'config.yaml'}: is not what was written: {document.faults or 'no settings'}")
    return document.data, environment


def _cannot_write(folder: Path, error: OSError) -> BaseException:
    if disk.is_no_room(error):
        return disk.disk_full(folder, 64 * 1024)
    if error.errno in _UNWRITABLE:
        return UserMistake(f"{folder}: cannot be written to ({error.strerror}), choose a folder you may write to")
    return error
