"""The specialists that a distilled student learnt from: what each was trained with, where its folder still tells.

One generation is looked at: a teacher that was itself distilled is told of, its own teachers are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tastemaker.config import TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.errors import Corrupt, UserMistake
from tastemaker.opening import RECORD, TrainedRun, is_run, read_json, read_settings
from tastemaker.runtime.changes import fingerprint


@dataclass(frozen=True)
class Specialist:
    """A teacher; `key` is the fingerprint of the weights that taught."""

    name: str
    key: str
    config: TrainConfig | DistillConfig | None = None
    """Of its run; None where its weights are no run's, or not there any more."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """With data_files and judges, of its run or of what its export wrote down; empty where neither is there."""


def specialists(run: TrainedRun) -> tuple[Specialist, ...]:
    """Those of a distillation, in the order of its settings; none of a training."""
    if not isinstance(run.config, DistillConfig):
        return ()
    places, keys = run.environment.get("places", {}), run.environment.get("data_files", {})
    named = ((teacher.name, f"teachers.{teacher.name}", teacher.weights) for teacher in run.config.teachers)
    return tuple(_specialist(name, Path(places.get(file, weights)), keys.get(file, "")) for name, file, weights in named)


def _specialist(name: str, folder: Path, key: str) -> Specialist:
    """Other weights that lie there now tell nothing of those that taught, and a file that cannot be read forbids no export."""
    try:
        if not folder.is_dir() or fingerprint(folder) != key:
            return Specialist(name, key)
        if is_run(folder.parent):
            config = read_settings(folder.parent / "config.yaml")
            return Specialist(name, key, config, read_json(folder.parent / "environment.json"))
        return Specialist(name, key, environment=read_json(folder / RECORD))
    except (UserMistake, Corrupt):
        return Specialist(name, key)
