"""The kinds of stages that a recipe may have, each a command of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tastemaker.commands.checks import check_distillation, check_training
from tastemaker.commands.contest import named_by
from tastemaker.commands.curate import run_curate
from tastemaker.commands.distill import run_distill
from tastemaker.commands.evaluate import PICTURES, Around, run_evaluation
from tastemaker.commands.stages.estimates import (
    estimate_curation,
    estimate_distillation,
    estimate_evaluation,
    estimate_export,
    estimate_judging,
    estimate_training,
)
from tastemaker.commands.stages.files import (
    LIST,
    RESULTS,
    RUN,
    extends,
    extends_judge,
    inputs_of_distillation,
    inputs_of_evaluation,
    inputs_of_export,
    inputs_of_judging,
    inputs_of_training,
    policy,
    results_of_curation,
    results_of_judging,
    trained,
)
from tastemaker.commands.train import run_train
from tastemaker.commands.train_reward import BASE, collect, run_train_reward
from tastemaker.config import FullPolicy, LoraPolicy, TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.config.recipe import REFERENCE
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.config.stages import CurateStage, ExportStage
from tastemaker.errors import UserMistake, together
from tastemaker.export.plan import make_plan
from tastemaker.export.write import export
from tastemaker.opening import read_run
from tastemaker.recipe import Job, Kind
from tastemaker.runtime import changes
from tastemaker.training.curate import unread_settings

EMBEDDINGS = "embeddings"
"""In the recipe's folder: encoded prompts, for all stages."""


def _embeddings(job: Job) -> Path:
    return job.folder.with_name(EMBEDDINGS)


def _train(job: Job) -> None:
    run_train(job.config, job.beside, job.folder / RUN, job.console, _allowed(job), embeddings=_embeddings(job))


def _distill(job: Job) -> None:
    run_distill(job.config, job.beside, job.folder / RUN, job.console, _allowed(job), embeddings=_embeddings(job))


def _curate(job: Job) -> None:
    config: CurateStage = job.config
    run_curate(
        config.training,
        job.beside,
        job.folder / RUN,
        job.console,
        above=config.above,
        keep=config.keep,
        allow=[key.removeprefix("training.") for key in _allowed(job)],
        out=job.folder / LIST,
        bring=True,
        embeddings=_embeddings(job),
    )


def _train_reward(job: Job) -> None:
    allow = _allowed(job)
    if changes.allowed("data_files.base", allow):  # which the run knows file by file
        allow += [f"data_files.{BASE}{file.name}" for file in (job.beside / job.config.base).glob("*")]
    run_train_reward(job.config, job.beside, job.folder / RUN, job.console, allow)


def _allowed(job: Job) -> list[str]:
    """As a run's own folder knows them: what a stage above left is one of its files there."""
    return [*job.allow, *(["data_files"] if any(key.startswith(REFERENCE) for key in job.allow) else [])]


def evaluate_stage(job: Job, around: Around | None = None) -> None:
    """With the curves of the trainings above it in the report."""
    runs = {name: job.folder.with_name(name) / RUN for name in job.above}
    trainings = {name: run for name, run in runs.items() if (run / "metrics.jsonl").exists()}
    told = replace(around or Around(), trainings=trainings)
    run_evaluation(job.config, job.beside, job.folder / RESULTS, job.console, told, _embeddings(job))


def _export(job: Job) -> None:
    out = job.folder / "model"
    config: ExportStage = job.config
    numbers = None if config.evaluation is None else job.beside / config.evaluation
    plan = make_plan(job.beside / config.run, out, form=config.form, dtype=config.dtype, evaluation=numbers, force=out.exists())
    export(plan)


def _check_distillation(job: Job) -> None:
    together(lambda: _check_teachers_to_come(job), lambda: check_distillation(job.config, job.beside, awaits=job.awaits))


def _check_teachers_to_come(job: Job) -> None:
    """Of trainings above, as their settings tell; those that are there are looked at themselves."""
    config: DistillConfig = job.config
    mistakes = []
    for row, teacher in enumerate(config.teachers):
        path, where = job.beside / teacher.weights, f"teachers.{row}.weights"
        training = job.awaited(path)
        if not isinstance(training, TrainConfig | DistillConfig):
            continue
        if path.name == RUN:
            mistakes.append(f"{where}: {path} is a run; name the weights that it leaves, {path.parent / policy(training)[0]}")
        if isinstance(training.policy, LoraPolicy) and training.model != config.model:
            mistakes.append(f"{where}: a LoRA on {training.model}; the student is {config.model}, and both need one base")
    if mistakes:
        raise UserMistake("\n".join(mistakes))


def _check_export(job: Job) -> None:
    """Also of a run to come, whether it will have what the form asks for."""
    config: ExportStage = job.config
    run = job.beside / config.run
    training = job.awaited(run) if job.awaits(run) else read_run(run).config
    if config.form == "lora" and isinstance(getattr(training, "policy", None), FullPolicy):
        raise UserMistake(f"form: {run} trains all weights, so there is no LoRA; export it as pipeline or transformer")


KINDS: dict[str, Kind] = {
    "train-reward": Kind(
        RewardTrainConfig,
        _train_reward,
        lambda config: (f"{RUN}/judge",),
        results=results_of_judging,
        inputs=inputs_of_judging,
        check=lambda job: _discard(collect(job.config, job.beside, decode=False, awaits=job.awaits)),
        estimate=estimate_judging,
        extends=extends_judge,
    ),
    "curate": Kind(
        CurateStage,
        _curate,
        lambda config: (LIST,),
        results=results_of_curation,
        inputs=lambda job: inputs_of_training(job.config.training, job),
        check=lambda job: _discard(check_training(job.config.training, job.beside, awaits=job.awaits)),
        estimate=estimate_curation,
        unread=lambda config: [f"training.{name}" for name in unread_settings(config.training)],
    ),
    "train": Kind(
        TrainConfig,
        _train,
        policy,
        results=lambda job: [policy(job.config)[0], *trained(job.folder / RUN)],
        inputs=lambda job: inputs_of_training(job.config, job),
        check=lambda job: _discard(check_training(job.config, job.beside, awaits=job.awaits)),
        extends=lambda job: extends(job.folder / RUN, job.config.budget.max_steps),
        estimate=lambda job: estimate_training(job.config, job),
    ),
    "distill": Kind(
        DistillConfig,
        _distill,
        policy,
        results=lambda job: [policy(job.config)[0], *trained(job.folder / RUN)],
        inputs=inputs_of_distillation,
        check=_check_distillation,
        extends=lambda job: extends(job.folder / RUN, job.config.budget.max_steps),
        estimate=estimate_distillation,
    ),
    "evaluate": Kind(
        EvaluateConfig,
        evaluate_stage,
        lambda config: (f"{RESULTS}/summary.json",),
        inputs=inputs_of_evaluation,
        check=lambda job: _discard(named_by(job.config, job.beside, None, job.awaits)),
        estimate=estimate_evaluation,
        carries=(f"{RESULTS}/{PICTURES}",),
    ),
    "export": Kind(
        ExportStage,
        _export,
        lambda config: ("model",),
        inputs=inputs_of_export,
        check=_check_export,
        estimate=estimate_export,
    ),
}
"""By the word in a recipe."""


def _discard(value: Any) -> None:
    """For checks that also return what they found."""
