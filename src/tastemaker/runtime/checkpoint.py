"""Saved steps: a folder that is written whole, verified on load and never unpickled.

    checkpoints/step-00000012/model.safetensors   one file per group of tensors
                              state.json          counters and whatever else is plain data
                              manifest.json       size and SHA-256 of each file, and of itself; written last
    checkpoints/latest                            the name of the newest step, for people and scripts
    checkpoints/protected                         names of steps that are never removed, one a line
    checkpoints/held                              a number: the newest step up to it is not removed until another is held

Not here: sharded saves of several processes. One writer at a time (the run's lock sees to that).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tastemaker.errors import Corrupt, UserMistake
from tastemaker.runtime import folder as disk

Groups = Mapping[str, Mapping[str, Tensor]]
"""{"model": {"blocks.0.weight": tensor}, "optimiser": {...}}: one file per group."""

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".th"})

_STEP = re.compile(r"step-(\d{8,})")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_STATE, _MANIFEST, _POINTER, _PROTECTED, _HELD = "state.json", "manifest.json", "latest", "protected", "held"


class Checkpoint(NamedTuple):
    """A saved step: `tensors[group][name]` and plain `state`."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


# ---- saving --------------------------------------------------------------------------------------


def save(folder: Path | str, step: int, tensors: Groups, state: Mapping[str, Any]) -> Path:
    """Saves a step and returns its folder. An existing step is never overwritten: one that verifies is kept as it is, one
    that does not is moved aside.

    `state` must be JSON with text keys. Raises DiskFull with everything earlier intact.
    """
    root = Path(folder)
    target = step_folder(root, step)
    text = _state_text(state)
    _check_groups(tensors)
    disk.make_folder(root)
    disk.remove_leftovers(root)
    if target.exists() and not _damage(target):
        _point_to(root, target)
        return target
    temporary = target.with_name(f"{target.name}{disk.TEMPORARY}{os.getpid()}")
    need = size(tensors, state)
    disk.require_space(root, need)
    with disk.room_for(temporary, need):
        _write(temporary, step, tensors, text)
        if target.exists():
            move_aside(target, "corrupt")
        disk.rename_folder(temporary, target)
    _point_to(root, target)
    return target


def size(tensors: Groups, state: Mapping[str, Any] | None = None) -> int:
    """About how many bytes a save takes on disk, rounded up."""
    data = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    names = sum(len(name) + 100 for group in tensors.values() for name in group)
    return data + names + len(_state_text(state or {})) + 64 * 1024


def prune(folder: Path | str, keep: int) -> list[int]:
    """Removes all but the newest `keep` steps, the protected ones and the one that is held; returns the numbers removed.

    A crash leaves no half step behind.
    """
    root = Path(folder)
    kept = {*_protected(root), *(step_folder(root, step).name for step in [held(root)] if step is not None)}
    removed = [step for step in steps(root)[: -max(keep, 1)] if step_folder(root, step).name not in kept]
    for step in removed:
        doomed = step_folder(root, step)
        temporary = doomed.with_name(f"{doomed.name}{disk.TEMPORARY}pruned-{os.getpid()}")
        disk.rename_folder(doomed, temporary)
        disk.remove(temporary)
        disk.barrier(f"removed {doomed.name}")
    return removed


def protect(folder: Path | str, step: int) -> Path:
    """Keeps a saved step from being pruned, for good, and returns its folder."""
    root = Path(folder)
    target = step_folder(root, step)
    names = sorted({*_protected(root), target.name})
    disk.write_text_atomic(root / _PROTECTED, "".join(f"{name}\n" for name in names))
    return target


def hold(folder: Path | str, step: int) -> None:
    """Keeps the newest step up to `step`, which need not be saved yet, from being pruned until another is held."""
    disk.make_folder(Path(folder))
    disk.write_text_atomic(Path(folder) / _HELD, f"{step}\n")


def held(folder: Path | str) -> int | None:
    """The saved step that is held."""
    path = Path(folder) / _HELD
    end = int(path.read_text(encoding="utf-8")) if path.exists() else -1
    return max((step for step in steps(folder) if step <= end), default=None)


def _protected(root: Path) -> set[str]:
    path = root / _PROTECTED
    return set(path.read_text(encoding="utf-8").split()) if path.exists() else set()


def finish(folder: Path | str, keep: int) -> None:
    """Completes what a crash right after a save left undone: the pointer, and removing old steps.

    Only for a folder whose newest step has just been loaded: removing older ones would otherwise cost the last whole one.
    """
    root = Path(folder)
    if found := steps(root):
        _point_to(root, step_folder(root, found[-1]))
        prune(root, keep)


def move_aside(path: Path, why: str) -> Path:
    """Renames a step so that it is kept for inspection but never loaded: step-00000012.corrupt-1."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{why}-{number}")).exists():
        number += 1
    disk.rename_folder(path, aside)
    return aside


def _write(temporary: Path, step: int, tensors: Groups, state: str) -> None:
    temporary.mkdir()
    for group, named in tensors.items():
        stored = _separate({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()})
        disk.write_file(temporary / f"{group}.safetensors", partial(save_file, stored))
    disk.write_file(temporary / _STATE, lambda path: path.write_text(state, encoding="utf-8"))
    files = {path.name: _entry(path) for path in sorted(temporary.iterdir())}
    manifest = _manifest_text({"format": 1, "step": step, "files": files})
    disk.write_file(temporary / _MANIFEST, lambda path: path.write_text(manifest, encoding="utf-8"))
    disk.sync_folder(temporary)


def _separate(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory (tied weights, views); those are copied."""
    seen: set[int] = set()
    result = {}
    for name, tensor in named.items():
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result


def _point_to(root: Path, target: Path) -> None:
    pointer = root / _POINTER
    if not pointer.is_file() or pointer.read_text(encoding="utf-8", errors="replace").strip() != target.name:
        disk.write_text_atomic(pointer, target.name + "\n")


def _check_groups(tensors: Groups) -> None:
    for group in tensors:
        if not _GROUP.fullmatch(group) or f"{group}.json" in (_STATE, _MANIFEST):
            raise ValueError(f"group {group!r} cannot be a file name, use letters, digits, dashes and underscores")


def _state_text(state: Mapping[str, Any]) -> str:
    _check_keys(state)
    return json.dumps(dict(state), allow_nan=False, indent=1) + "\n"


def _check_keys(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"state has the key {key!r}, JSON keeps only text keys; see runtime.state.flatten")
            _check_keys(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_keys(inner)


# ---- loading -------------------------------------------------------------------------------------


def steps(folder: Path | str) -> list[int]:
    """The numbers of the saved steps, ascending; not verified."""
    root = Path(folder)
    names = (path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else ()
    return sorted(int(match[1]) for name in names if (match := _STEP.fullmatch(name)))


def step_folder(folder: Path | str, step: int) -> Path:
    """Where step number `step` is, or would be."""
    if step < 0:
        raise ValueError(f"step {step} is negative")
    return Path(folder) / f"step-{step:08d}"


def load(folder: Path | str, step: int | None = None, only: Collection[str] | None = None) -> Checkpoint:
    """Loads a step after verifying every byte of it; without `step` the newest, with a loud warning if an older one must do.

    `only` names the groups that are wanted; one that was not saved is absent from the result.
    Raises Corrupt ("checksum mismatch" and the file), and UserMistake when there is no checkpoint at all.
    """
    root = Path(folder)
    if step is not None:
        if step not in steps(root):
            raise UserMistake(f"{root}: no step {step} here, there are {steps(root) or 'none'}")
        return _load(step_folder(root, step), only)
    found = steps(root)[::-1]
    pointed = _pointed(root)
    if not found and pointed is None:
        raise UserMistake(f"{root}: no checkpoint here, give a folder with step-00000000 folders in it")
    problems = []
    if pointed is not None and pointed not in found:
        problems.append(f"{step_folder(root, pointed)} is missing though {_POINTER} names it")
    for number in found:
        try:
            loaded = _load(step_folder(root, number), only)
        except Corrupt as error:
            problems.append(str(error))
            continue
        if problems:
            lost = "; ".join(problems)
            warnings.warn(f"CHECKPOINT DAMAGED: {lost}. Falling back to step {number}.", RuntimeWarning, stacklevel=2)
        return loaded
    raise Corrupt("no checkpoint can be used:\n" + "\n".join(problems))


def verify(path: Path) -> None:
    """Raises Corrupt unless the step's folder holds exactly what was saved."""
    if damage := _damage(path):
        raise Corrupt(damage)


def load_safetensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of one file from anywhere. Pickle formats are refused without opening: they can run code."""
    path = Path(path)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise UserMistake(f"{path}: {path.suffix} files are pickles, which can run code; give a .safetensors file")
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserMistake(f"{path}: there is no such file") from error
    except SafetensorError as error:
        raise Corrupt(f"{path}: not a whole safetensors file ({error})") from error


def load_matching(module: torch.nn.Module, tensors: Mapping[str, Tensor], source: str = "checkpoint") -> None:
    """Loads `tensors` into `module` when names and shapes are the same; otherwise UserMistake lists the first five differences.

    The module is not touched unless everything fits. Values are cast to the module's dtype.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    differences = [
        f"{name}: shape {given[name]}, expected {shape}" for name, shape in expected.items() if given.get(name, shape) != shape
    ]
    differences += [f"{name}: missing" for name in expected if name not in given]
    differences += [f"{name}: unexpected" for name in given if name not in expected]
    if differences:
        more = f"\n  and {len(differences) - 5} more" if len(differences) > 5 else ""
        listed = "\n  ".join(differences[:5])
        name = type(module).__name__
        raise UserMistake(f"{source} does not fit {name}, use one saved from the same model:\n  {listed}{more}")
    module.load_state_dict(dict(tensors), strict=True)


def _load(path: Path, only: Collection[str] | None) -> Checkpoint:
    verify(path)
    groups = [Path(name).stem for name in _manifest(path)["files"] if name.endswith(".safetensors")]
    wanted = [group for group in groups if only is None or group in only]
    tensors = {group: load_safetensors(path / f"{group}.safetensors") for group in wanted}
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    return Checkpoint(_step_of(path), tensors, state)


def _step_of(path: Path) -> int:
    match = _STEP.fullmatch(path.name)
    if match is None:
        raise UserMistake(f"{path}: not a checkpoint, its name must be like step-00000012")
    return int(match[1])


def _pointed(root: Path) -> int | None:
    try:
        match = _STEP.fullmatch((root / _POINTER).read_text(encoding="utf-8", errors="replace").strip())
    except OSError:
        return None
    return int(match[1]) if match else None


# ---- the manifest --------------------------------------------------------------------------------


def _damage(path: Path) -> str:
    """How the folder differs from what was saved, naming the file; empty when it does not."""
    try:
        manifest = _manifest(path)
        present = {entry.name for entry in path.iterdir()}
        if manifest["step"] != _step_of(path):
            return f"{path / _MANIFEST}: says step {manifest['step']}, the folder was renamed"
        for name in sorted(present - set(manifest["files"]) - {_MANIFEST}):
            return f"{path / name}: was not saved with this step, remove it"
        for name, expected in manifest["files"].items():
            if name not in present or not (path / name).is_file() or (path / name).is_symlink():
                return f"{path / name}: missing"
            if (actual := _entry(path / name)) != expected:
                return f"{path / name}: checksum mismatch ({_difference(actual, expected)})"
    except Corrupt as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or path}: cannot be read ({error.strerror})"
    return ""


def _difference(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    if actual["bytes"] != expected["bytes"]:
        return f"{actual['bytes']} bytes instead of {expected['bytes']}"
    return f"SHA-256 {actual['sha256'][:12]} instead of {expected['sha256'][:12]}"


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _manifest_text(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return json.dumps({**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}, sort_keys=True, indent=1) + "\n"


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest, whose own text must be, byte for byte, what we would write."""
    file = path / _MANIFEST
    try:
        text = file.read_bytes().decode()
        content = json.loads(text)
        same = text == _manifest_text({key: content[key] for key in ("format", "step", "files")})
    except FileNotFoundError as error:
        raise Corrupt(f"{file}: missing") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"{file}: checksum mismatch (not a whole manifest: {error})") from error
    if not same:
        raise Corrupt(f"{file}: checksum mismatch")
    if any(Path(name).name != name or name in ("", ".", "..") for name in content["files"]):
        raise Corrupt(f"{file}: names a file outside its folder")
    return content
