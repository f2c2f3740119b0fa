"""Rewards of your own: a function of a Python file, or a class of which one object is made and then called.

    def sharpness(images, prompts):                    # (B, 3, H, W) in [0, 1] on the CPU, and the B prompts they answer
        return (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))

    class PickScore:
        def __init__(self, folder, device): ...         # `options` of the settings; `device` is the run's if it is asked for
        def __call__(self, images, prompts): ...

What is called gives B scores: a list, an array or a tensor. A score that is None is missing.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tastemaker.errors import UserMistake
from tastemaker.rewards.reward import Missing, fingerprint_of
from tastemaker.types import Prompt

Scoring = Callable[[Tensor, Sequence[Prompt]], Any]


@dataclass(frozen=True)
class OwnReward:
    """`call` gives the scores; a picture for which it gives None has none. `path` is where it comes from, for messages."""

    name: str
    low: float
    high: float
    floor: float
    call: Scoring
    path: Path
    fingerprint: str

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> list[float | Missing]:
        """Raises UserMistake with file and line where the function failed, and where it gave anything but a number each."""
        try:
            given = self.call(images, prompts)
        except Exception as error:
            raise UserMistake(f"reward {self.name!r}: {_told(error, self.path)}") from error
        try:
            rows = given.tolist() if hasattr(given, "tolist") else list(given)
            if len(rows) != len(prompts):
                raise ValueError(f"of {len(rows)}")
            return [Missing("it was given as None") if score is None else float(score) for score in rows]
        except (TypeError, ValueError) as error:
            rule = f"gave {type(given).__name__} ({error}); give a number or None for each of the {len(prompts)} pictures"
            raise UserMistake(f"reward {self.name!r} of {self.path} {rule}") from error


def open_own(path: Path, name: str, options: Mapping[str, Any], device: torch.device) -> tuple[Scoring, str]:
    """What `name` in the file is with `options`, ready to be called, and its fingerprint: the file's text and the options.

    Raises UserMistake where the file cannot be run, has no such name, or takes no such options.
    """
    found = getattr(_module(path), name, None)
    if not callable(found):
        raise UserMistake(f"call: {path} has no function or class {name!r}")
    is_class = inspect.isclass(found)
    given = dict(options)
    if "device" in _parameters(found) and "device" not in given:
        given["device"] = device
    try:
        inspect.signature(found).bind(*(() if is_class else (None, None)), **given)
    except TypeError as error:
        wants = "the options alone" if is_class else "images, prompts and the options"
        raise UserMistake(f"options: {name} of {path} has to take {wants}: {error}") from None
    mark = fingerprint_of({"file": path, "call": name, "options": dict(options)})
    if not is_class:
        return lambda images, prompts: found(images, prompts, **given), mark
    try:
        made = found(**given)
    except Exception as error:
        raise UserMistake(f"call: {name} could not be made: {_told(error, path)}") from error
    if not callable(made):
        raise UserMistake(
            f"call: an object of {name} in {path} cannot be called; give the class __call__(self, images, prompts)"
        )
    return made, mark


def _module(path: Path) -> ModuleType:
    """The file, run once for each text of it; its own folder is where it may import from."""
    name = f"tastemaker_own_{fingerprint_of([str(path.resolve()), path])[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserMistake(f"path: {path} is no Python file; its name has to end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses and pickle expect it
    beside = str(path.resolve().parent)
    if beside not in sys.path:
        sys.path.append(beside)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserMistake(f"path: {_told(error, path)}") from error
    return module


def _parameters(found: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(found).parameters
    except (TypeError, ValueError):  # some that are written in C
        return {}


def _told(error: Exception, path: Path) -> str:
    """The last line of the user's own file on the way to the error, and the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    if isinstance(error, SyntaxError) and not lines:
        lines = [error.lineno]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return f"{where}: {type(error).__name__}: {error}"
