"""What differs between a run and its resumption: settings, package versions, data files, judges, number of processes."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
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


class Change(NamedTuple):
    """One difference: optimiser.learning_rate: 8e-05 -> 1e-05."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


def environment(data_files: Mapping[str, Path | str], judges: Mapping[str, str]) -> dict[str, Any]:
    """What besides the settings decides a result: `data_files` are files or folders, `judges` fingerprints.

    "places" and "machine" are written down but not compared.
    """
    ours = {"python": platform.python_version(), "tastemaker": __version__}
    return {
        "packages": ours | {name: _version(name) for name in PACKAGES},
        "processes": num_processes(),
        "data_files": {name: fingerprint(path) for name, path in data_files.items()},
        "judges": dict(judges),
        "places": {name: str(Path(path).absolute()) for name, path in data_files.items()},
        "machine": {"host": platform.node(), "system": platform.platform(), "processors": os.cpu_count()},
    }


def fingerprint(path: Path | str) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes in a folder, without hidden files and pages about it (.md)."""
    try:
        if Path(path).is_dir():
            return _folder_fingerprint(Path(path))
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserMistake(f"{path}: cannot be read ({error.strerror}), correct the path") from error


def _folder_fingerprint(folder: Path) -> str:
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    seen = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    lines = (f"{fingerprint(folder / name)}  {name.as_posix()}\n" for name in seen)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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

    A mark that names another setting holds while that one is null.
    """
    return tuple(_free(config, config, ""))


def _free(group: BaseModel, config: BaseModel, path: str) -> Iterator[str]:
    for name, field in type(group).model_fields.items():
        extra, value = field.json_schema_extra, getattr(group, name)
        mark = extra.get("free_on_resume") if isinstance(extra, dict) else None
        if mark is True or (isinstance(mark, str) and attrgetter(mark)(config) is None):
            yield path + name
        elif isinstance(value, BaseModel):
            yield from _free(value, config, f"{path}{name}.")


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
