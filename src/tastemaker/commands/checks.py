"""All that can be told of a training or a distillation before its model is opened; for whatever begins one or checks it.

Nothing is said of what `awaits` is true for: paths that a stage of a recipe has still to leave.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tastemaker.config import TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.errors import UserMistake, together
from tastemaker.models.adapter import Family, family_of
from tastemaker.named.inputs import (
    check_categories,
    check_edit_share,
    check_held_out,
    model_folder,
    model_path,
    teacher_folders,
)
from tastemaker.named.judges import check_rewards
from tastemaker.named.prompts import held_out_of, prompts_of
from tastemaker.opening import Pipeline, check_base
from tastemaker.training.distill_start import check_routes
from tastemaker.training.start import check_tasks
from tastemaker.training.teacher_weights import form_of
from tastemaker.types import Prompt

Awaits = Callable[[Path], bool]


def nothing(path: Path) -> bool:
    """What is awaited outside of a recipe."""
    return False


def check_training(
    config: TrainConfig, beside: Path, folder: Path | None = None, *, decode: bool = False, awaits: Awaits = nothing
) -> list[Prompt]:
    """Its prompts, as `prompts_of` reads them; none that are still to come. Raises UserMistake with every mistake."""
    prompts: list[Prompt] = []
    together(
        lambda: _family(config, beside, awaits),
        lambda: held_out_of(config, beside),
        lambda: prompts.extend(prompts_of(config, beside, folder, decode=decode, awaits=awaits)),
        lambda: _of_prompts(config, beside, prompts, awaits, partial(check_categories, config)),
        lambda: check_rewards(config, beside, awaits),
    )
    return prompts


def check_distillation(
    config: DistillConfig, beside: Path, folder: Path | None = None, *, decode: bool = False, awaits: Awaits = nothing
) -> list[Prompt]:
    """As `check_training`."""
    prompts: list[Prompt] = []
    together(
        lambda: _family(config, beside, awaits),
        lambda: held_out_of(config, beside),
        lambda: _check_teachers(config, beside, awaits),
        lambda: prompts.extend(prompts_of(config, beside, folder, decode=decode, awaits=awaits)),
        lambda: _of_prompts(config, beside, prompts, awaits, partial(check_routes, config.teachers)),
    )
    return prompts


def _check_teachers(config: DistillConfig, beside: Path, awaits: Awaits) -> None:
    """By the names of their files, and of a LoRA or a difference that it is for the student's base, where it says so."""
    mistakes = []
    base = None if awaits(beside / config.model) else model_path(config.model, beside)
    there = {name: folder for name, folder in teacher_folders(config, beside, awaits).items() if not awaits(folder)}
    for row, teacher in enumerate(config.teachers):
        if (folder := there.get(teacher.name)) is None:
            continue
        try:
            if form_of(folder) != "whole" and base is not None and base.is_dir():
                check_base(folder, Pipeline(base))
        except UserMistake as error:
            mistakes.append(f"teachers.{row}.weights: {error}")
    if mistakes:
        raise UserMistake("\n".join(mistakes))


def _family(config: TrainConfig | DistillConfig, beside: Path, awaits: Awaits) -> Family | None:
    """Of the model; None where it is still to come."""
    if awaits(beside / config.model):
        return None
    folder = model_folder(config, beside)
    try:
        return family_of(folder)
    except UserMistake as error:
        raise UserMistake(f"model: {error}") from None


def _check_tasks(config: TrainConfig | DistillConfig, beside: Path, awaits: Awaits, prompts: list[Prompt]) -> None:
    if (family := _family(config, beside, awaits)) is not None:
        check_tasks(family.name, family.tasks, prompts)


def _of_prompts(
    config: TrainConfig | DistillConfig,
    beside: Path,
    prompts: list[Prompt],
    awaits: Awaits,
    more: Callable[[list[Prompt]], None],
) -> None:
    """Nothing can be said of prompts that could not be read, or are still to come."""
    if prompts:
        together(
            lambda: _check_tasks(config, beside, awaits, prompts),
            lambda: more(prompts),
            lambda: check_edit_share(config, prompts),
            lambda: check_held_out(config, beside, prompts),
        )
