"""A run folder as training leaves it, around a tiny pipeline and weights that were moved at random; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tastemaker.config import TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.models.adapter import load
from tastemaker.runtime.run import Run
from tastemaker.training.start import make_state
from tiny import tiny_qwen_image21


def tiny_base(folder: Path, build: Callable[[], Any] = tiny_qwen_image21) -> Path:
    build().save_pretrained(folder)
    return folder


def tiny_config(base: Path | str, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "name": "tiny",
        "model": str(base),
        "data": {"prompts": "miniature"},
        "rewards": ({"name": "facts"},),
        "rollout": {"prompts": 2, "group_size": 2, "steps": 4, "guidance": 2.0, "window_size": 2, "picture_side": 32},
        "optimiser": {"ema_decay": 0.9},
        "budget": {"max_steps": 5},
    }
    for group, change in changes.items():
        values[group] = {**values.get(group, {}), **change} if isinstance(change, dict) else change
    return TrainConfig(**values)


def tiny_run(folder: Path, base: Path, steps: int = 1, judges: Mapping[str, str] | None = None, **changes: Any) -> Path:
    """Steps 1 to `steps` are saved, each with other weights; the average is not the last ones."""
    return _saved(folder, tiny_config(base, **changes), base, steps, {}, judges or {"facts": "f1"})


def tiny_student(folder: Path, base: Path, teachers: Mapping[str, Path]) -> Path:
    """A run of distillation, by teachers that teach what they are called."""
    named = [{"name": name, "weights": str(weights), "teaches": (name,)} for name, weights in teachers.items()]
    config = DistillConfig(
        name="student",
        model=str(base),
        teachers=tuple(named),
        data={"prompts": "miniature"},
        rollout={"prompts": 2, "steps": 4, "picture_side": 32},
        optimiser={"ema_decay": 0.9},
        budget={"max_steps": 5},
    )
    return _saved(folder, config, base, 1, {f"teachers.{name}": weights for name, weights in teachers.items()}, {})


def _saved(
    folder: Path,
    config: TrainConfig | DistillConfig,
    base: Path,
    steps: int,
    files: Mapping[str, Path],
    judges: Mapping[str, str],
) -> Path:
    state = make_state(config, load(base, device="cpu", dtype=torch.float32))
    generator = torch.Generator().manual_seed(1)

    def moved(value: torch.Tensor) -> torch.Tensor:
        return value.detach() + 0.1 * torch.randn(value.shape, generator=generator)

    with Run.open(folder, config, data_files={"model": base, **files}, judges=judges) as run:
        for step in range(1, steps + 1):
            state._put({name: moved(value) for name, value in state.named()})
            state.ema = {name: moved(value) for name, value in state.ema.items()}
            run.log(step, {})
            run.checkpoint(step, state.tensors(), state.plain())
    return folder
