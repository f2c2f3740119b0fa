"""What can be told of a stage before it runs: all mistakes in what is not another stage's to leave."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tastemaker.commands.distill import teacher_folders
from tastemaker.config import TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.errors import UserMistake
from tastemaker.named.inputs import (
    check_categories,
    check_edit_share,
    check_held_out,
    held_out_of,
    model_folder,
    prompts_of,
)
from tastemaker.named.judges import check_rewards
from tastemaker.opening import read_run
from tastemaker.recipe import Job
from tastemaker.training.distill_start import check_routes
from tastemaker.types import Prompt


def check_training(config: TrainConfig, job: Job) -> None:
    _together(
        lambda: _check_model(config, job),
        lambda: held_out_of(config, job.beside),
        lambda: _of_prompts(config, job, partial(check_categories, config), partial(check_edit_share, config)),
        lambda: check_rewards(config, job.beside, job.awaits),
    )


def check_distillation(job: Job) -> None:
    config: DistillConfig = job.config
    _together(
        lambda: _check_model(config, job),
        lambda: held_out_of(config, job.beside),
        lambda: teacher_folders(config, job.beside, job.awaits),
        lambda: _of_prompts(config, job, partial(check_routes, config.teachers), partial(check_edit_share, config)),
    )


def _check_model(config: TrainConfig | DistillConfig, job: Job) -> None:
    if not job.awaits(job.beside / config.model):
        model_folder(config, job.beside)


def _of_prompts(config: TrainConfig | DistillConfig, job: Job, *checks: Callable[[list[Prompt]], None]) -> None:
    """Nothing can be said of prompts that a stage has still to leave."""
    if not job.awaits(job.beside / config.data.prompts):
        prompts = prompts_of(config, job.beside, None)
        _together(*(partial(one, prompts) for one in checks), lambda: check_held_out(config, job.beside, prompts))


def _together(*checks: Callable[[], object]) -> None:
    """Makes all of them. Raises UserMistake with the mistakes of all."""
    mistakes: list[str] = []
    for one in checks:
        try:
            one()
        except UserMistake as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise UserMistake("\n".join(dict.fromkeys(mistakes)))


def check_export(job: Job) -> None:
    run = job.beside / job.config.run
    if not job.awaits(run):
        read_run(run)
