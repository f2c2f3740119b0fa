"""What differs between a run and its resumption: settings, package versions, data files, judges, processes, hardware."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from tastemaker import __version__
from tastemaker.errors import UserMistake
from tastemaker.runtime.distributed import num_processes

PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy")
"""Those whose versions can change a result."""

ABSENT = "(absent)"

Place = Path | str | Sequence[Path]
"""A file, a folder, or several of them that count as one, such as the pictures of a list."""
_digests: dict[tuple[str, int, int], str] = {}
"""Of the files that were read in this process, by name, size and time of change."""
_SETTLED = 2.0
"""Seconds after which another change of a file surely has another time."""


class Change(NamedTuple):
    """One difference: optimiser.learning_rate: 8e-05 -> 1e-05."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


def environment(data_files: Mapping[str, Place], judges: Mapping[str, str], hardware: Mapping[str, str]) -> dict[str, Any]:
    """What besides the settings decides a result: `data_files` are files, folders or lists of them, `judges` fingerprints.

    `hardware` is what `runtime.device.resolved` says of where the model is, which settings leave to the machine.

    "places" and "machine" are written down but not compared.
    """
    ours = {"python": platform.python_version(), "tastemaker": __version__}
    return {
        "packages": ours | {name: _version(name) for name in PACKAGES},
        "processes": num_processes(),
        "data_files": {name: fingerprint(path) for name, path in data_files.items()},
        "judges": dict(judges),
        "hardware": dict(hardware),
        "places": {name: str(Path(path).absolute()) for name, path in data_files.items() if isinstance(path, str | Path)},
        "machine": {"host": platform.node(), "system": platform.platform(), "processors": os.cpu_count()},
    }


def fingerprint(place: Place) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes in a folder, without hidden files and pages about it (.md).

    Of several places that of their fingerprints in order, whatever they are called.
    """
    if not isinstance(place, str | Path):
        return hashlib.sha256("".join(f"{fingerprint(one)}\n" for one in place).encode()).hexdigest()
    try:
        return _folder_fingerprint(Path(place)) if Path(place).is_dir() else _file_fingerprint(Path(place))
    except OSError as error:
        raise UserMistake(f"{place}: cannot be read ({error.strerror}), correct the path") from error


def names_in(folder: Path) -> list[Path]:
    """The files of a folder that count, relative to it: neither hidden ones nor pages about it (.md)."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    return [name for name in names if not any(part.startswith(".") for part in name.parts)]


def _folder_fingerprint(folder: Path) -> str:
    lines = (f"{fingerprint(folder / name)}  {name.as_posix()}\n" for name in names_in(folder))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_fingerprint(path: Path) -> str:
    """Remembered, so that what several ask about is read once; but not of a file that has only just been written."""
    status = path.stat()
    key = (str(path.absolute()), status.st_size, status.st_mtime_ns)
    if key in _digests:
        return _digests[key]
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if is_settled(status):
        _digests[key] = digest
    return digest


def is_settled(status: os.stat_result) -> bool:
    """Whether another change of the file would show in its time: two that follow at once may have one time."""
    return time.time() - status.st_mtime > _SETTLED


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every leaf that differs, by dotted key."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    keys = [*old, *(key for key in new if key not in old)]
    pairs = ((key, old.get(key, ABSENT), new.get(key, ABSENT)) for key in keys)
    return [Change(key, a, b) for key, a, b in pairs if a != b or not (type(a) is type(b) or _numbers(a, b))]


def allowed(key: str, names: Iterable[str]) -> bool:
    """Whether `key` is one of `names` or inside one: packages allows packages.torch."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def free_settings(config: BaseModel) -> tuple[str, ...]:
    """Settings, and groups of them, that change no weight and may differ on resumption: the fields marked free_on_resume.

    A mark that names another setting, of the innermost group around it that has one, holds while that one is null.
    """
    return tuple(_free((config,), ""))


def _free(groups: tuple[BaseModel, ...], path: str) -> Iterator[str]:
    for name, field in type(groups[-1]).model_fields.items():
        extra, value = field.json_schema_extra, getattr(groups[-1], name)
        mark = extra.get("free_on_resume") if isinstance(extra, dict) else None
        if mark is True or (isinstance(mark, str) and _is_null(mark, groups)):
            yield path + name
        elif isinstance(value, BaseModel):
            yield from _free((*groups, value), f"{path}{name}.")


def _is_null(setting: str, groups: tuple[BaseModel, ...]) -> bool:
    for group in reversed(groups):
        with suppress(AttributeError):
            return attrgetter(setting)(group) is None
    return False


def refuse(folder: Path, changes: list[Change], names: Iterable[str]) -> None:
    """Raises UserMistake that lists the changes nobody allowed."""
    refused = [change for change in changes if not allowed(change.key, names)]
    if refused:
        listed = "\n".join(f"  {change}" for change in refused)
        keys = ", ".join(dict.fromkeys(change.key for change in refused))
        raise UserMistake(
            f"{folder}: this run was started with other settings:\n{listed}\n"
            f"restore them, choose another folder, or allow the changes by name: {keys}"
        )


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}".lstrip("."))
    elif isinstance(tree, (list, tuple)) and tree:
        for row, value in enumerate(tree):
            yield from _leaves(value, f"{path}.{row}".lstrip("."))
    else:
        yield path, tree


def _numbers(a: Any, b: Any) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (a, b))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ABSENT
