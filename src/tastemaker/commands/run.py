"""`tastemaker run`: the kinds of stages that a recipe may have, each a command of its own, and the recipe itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tastemaker.commands.curate import run_curate
from tastemaker.commands.distill import run_distill, teacher_folders
from tastemaker.commands.evaluate import Around, run_evaluation
from tastemaker.commands.train import run_train
from tastemaker.commands.train_reward import collect, run_train_reward
from tastemaker.config import LoraPolicy, TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.config.recipe import load_recipe
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.config.stages import CurateStage, ExportStage
from tastemaker.export.plan import make_plan
from tastemaker.export.write import export
from tastemaker.miniature import task as miniature
from tastemaker.miniature.world.splits import HELD_OUT_SIZE
from tastemaker.named.inputs import MINIATURE, MINIATURE_PROMPTS, model_folder
from tastemaker.named.judges import check_rewards
from tastemaker.recipe import Job, Kind, Outlook, Recipe, open_recipe, outlook
from tastemaker.recipe import run as run_stages
from tastemaker.runtime.device import pick_device
from tastemaker.runtime.estimate import (
    BACKWARD,
    Estimate,
    matrix_rate,
    memory_of_training,
    num_bytes,
    num_parameters,
    seconds_of,
)
from tastemaker.runtime.folder import readable_size

RUN = "run"
"""In a stage's folder: that of the run."""
LIST = "curated.jsonl"
RESULTS = "evaluation"
PIXELS = 16
"""Side of the square of pixels that one latent token stands for, in the families there are; for estimates alone."""


def shipped() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))}


def run(
    path: Path,
    *,
    folder: Path | None = None,
    stage: str | None = None,
    dry_run: bool = False,
    overrides: Iterable[str] = (),
) -> None:
    """Runs the recipe's stages in `folder` (runs/NAME by default), or goes on; with `dry_run` says what would run.

    `path` may also be the name of a shipped recipe, whose relative paths start where one is.
    """
    console = Console()
    if not path.exists() and str(path) in shipped():
        text, beside = load_recipe(shipped()[str(path)], KINDS, overrides), Path()
    else:
        text, beside = load_recipe(path, KINDS, overrides), path.parent
    recipe = open_recipe(text, KINDS, folder or Path("runs") / text.name, beside, console)
    if dry_run:
        chosen = recipe.stages if stage is None else (recipe.named(stage),)
        console.print(as_table(recipe, [look for look in outlook(recipe) if look.stage in chosen]))
        return
    run_stages(recipe, stage)
    console.print(f"all of {recipe.name} is in {recipe.folder}" if stage is None else f"{stage} is in {recipe.folder / stage}")


def as_table(recipe: Recipe, looks: list[Outlook]) -> Table:
    """What would run and why, and about what it takes."""
    table = Table(
        title=f"{recipe.name}, in {recipe.folder}", caption="estimates are orders of magnitude; judges are not in them"
    )
    for column in ("stage", "kind", "runs", "time", "memory", "disk"):
        table.add_column(column)
    for look in looks:
        found = recipe.kinds[look.stage.kind].estimate(recipe.job(look.stage)) if look.why else Estimate()
        table.add_row(look.stage.name, look.stage.kind, look.why or "no: finished, unchanged", *_told(found))
    return table


def _told(estimate: Estimate) -> tuple[str, str, str]:
    seconds = estimate.seconds
    time = "" if seconds is None else f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{max(seconds / 60, 0.1):.1f} min"
    memory, disk = ("" if size is None else readable_size(size) for size in (estimate.memory, estimate.disk))
    return time, memory, disk


# ---- what the kinds do ---------------------------------------------------------------------------


def _train(job: Job) -> None:
    run_train(job.config, job.beside, job.folder / RUN, job.console)


def _distill(job: Job) -> None:
    run_distill(job.config, job.beside, job.folder / RUN, job.console)


def _curate(job: Job) -> None:
    config: CurateStage = job.config
    run_curate(
        config.training,
        job.beside,
        job.folder / RUN,
        job.console,
        above=config.above,
        keep=config.keep,
        out=job.folder / LIST,
        bring=True,
    )


def _train_reward(job: Job) -> None:
    run_train_reward(job.config, job.beside, job.folder / RUN, job.console)


def evaluate_stage(job: Job, around: Around | None = None) -> None:
    """With the curves of the trainings above it in the report."""
    runs = {name: job.folder.with_name(name) / RUN for name in job.above}
    trainings = {name: run for name, run in runs.items() if (run / "metrics.jsonl").exists()}
    told = replace(around or Around(), trainings=trainings)
    run_evaluation(job.config, job.beside, job.folder / RESULTS, job.console, told)


def _export(job: Job) -> None:
    out = job.folder / "model"
    if not out.exists():  # it is there whole or not at all
        export(make_plan(job.beside / job.config.run, out, form=job.config.form, dtype=job.config.dtype))


# ---- what they read and leave --------------------------------------------------------------------


def _policy(config: TrainConfig | DistillConfig) -> tuple[str, ...]:
    return (f"{RUN}/lora" if isinstance(config.policy, LoraPolicy) else f"{RUN}/transformer", RUN)


def _given(job: Job, files: Mapping[str, Path]) -> dict[str, Path]:
    """Those that are not in the recipe's own folder: what stages leave is looked after by the references to it."""
    inside = job.folder.parent.absolute()
    return {name: path for name, path in files.items() if inside not in path.absolute().parents}


def _inputs_of_training(config: TrainConfig, job: Job) -> dict[str, Path]:
    files = {"model": model_folder(config, job.beside)}
    if config.data.prompts not in MINIATURE_PROMPTS:
        files["data.prompts"] = job.beside / config.data.prompts
    for row, reward in enumerate(config.rewards):
        where = getattr(reward.judge, "path", None)
        if where is not None:
            files[f"rewards.{row}.judge.path"] = job.beside / where
    return _given(job, files)


def _inputs_of_distillation(job: Job) -> dict[str, Path]:
    config: DistillConfig = job.config
    files = {"model": model_folder(config, job.beside)}
    if config.data.prompts not in MINIATURE_PROMPTS:
        files["data.prompts"] = job.beside / config.data.prompts
    files |= {f"teachers.{name}": path for name, path in teacher_folders(config, job.beside).items()}
    return _given(job, files)


def _inputs_of_evaluation(job: Job) -> dict[str, Path]:
    config: EvaluateConfig = job.config
    files = {f"models.{model.name}": _model(model.path, job) for model in config.models}
    if config.prompts != MINIATURE:
        files["prompts"] = job.beside / config.prompts
    return _given(job, files)


def _model(path: str, job: Job) -> Path:
    return miniature.WEIGHTS if path == MINIATURE else job.beside / path


def _inputs_of_judging(job: Job) -> dict[str, Path]:
    config: RewardTrainConfig = job.config
    files = {name: job.beside / name for name in (*config.data.ratings, *config.data.votes)}
    return _given(job, {"base": job.beside / config.base, **files})


# ---- what they take ------------------------------------------------------------------------------


def _estimate_training(config: TrainConfig, job: Job, *, steps: int | None = None) -> Estimate:
    """Of rollouts and updates; with `steps` 0 of nothing but loading."""
    model = num_parameters(model_folder(config, job.beside) / "transformer")
    rollout, algorithm = config.rollout, config.algorithm
    pictures = rollout.prompts * rollout.group_size
    branches = 2 if rollout.guidance != 1 else 1
    trained = algorithm.points if algorithm.name == "nft" else rollout.window_size
    reference = algorithm.velocity_kl > 0
    each = rollout.steps * branches + trained * (1 + BACKWARD + reference + (branches if algorithm.name == "nft" else 0))
    count = config.budget.max_steps if steps is None else steps
    return _estimate(config, model, count * pictures * each, reference=reference)


def _estimate_distillation(job: Job) -> Estimate:
    config: DistillConfig = job.config
    model = num_parameters(model_folder(config, job.beside) / "transformer")
    rollout = config.rollout
    branches = max(2 if teacher.guidance != 1 else 1 for teacher in config.teachers)
    each = rollout.steps + (rollout.states or rollout.steps) * (1 + BACKWARD + branches)
    forwards = config.budget.max_steps * rollout.prompts * rollout.group_size * each
    return _estimate(config, model, forwards, reference=True)  # the teachers' seat is a second model


def _estimate(config: TrainConfig | DistillConfig, model: int, forwards: float, *, reference: bool) -> Estimate:
    tokens = (config.rollout.picture_side // PIXELS) ** 2
    lora = isinstance(config.policy, LoraPolicy)
    average = config.optimiser.ema_decay is not None
    memory = memory_of_training(0 if lora else model, model, average=average, reference=reference and not lora)
    saved = 0 if lora else 4 * model * (3 + average)  # weights, two means and the average, each in float32
    rate = matrix_rate(pick_device().type, torch.get_num_threads())
    disk = saved * config.checkpoint.keep + 4 * model
    return Estimate(seconds_of(forwards, model, tokens, rate), memory, disk)


def _estimate_curation(job: Job) -> Estimate:
    config: TrainConfig = job.config.training
    model = num_parameters(model_folder(config, job.beside) / "transformer")
    path = job.beside / config.data.prompts
    by_task = MINIATURE_PROMPTS.get(config.data.prompts) or ([sum(1 for _ in path.open())] if path.is_file() else None)
    if by_task is None:
        return Estimate(memory=4 * model)
    count = sum(min(one, config.data.most or one) for one in by_task)
    rollout = config.rollout
    forwards = count * rollout.group_size * rollout.steps * (2 if rollout.guidance != 1 else 1)
    tokens = (rollout.picture_side // PIXELS) ** 2
    rate = matrix_rate(pick_device().type, torch.get_num_threads())
    return Estimate(
        seconds_of(forwards, model, tokens, rate), 4 * model, count * rollout.group_size * 3 * rollout.picture_side**2
    )


def _estimate_evaluation(job: Job) -> Estimate:
    """Where the first model is there already; the others are taken to be as large."""
    config: EvaluateConfig = job.config
    folder = _model(config.models[0].path, job) / "transformer"
    if not folder.is_dir():
        return Estimate()
    model = num_parameters(folder)
    scales = [scale for one in config.models for scale in (one.guidance or config.guidance)]
    each = sum(2 if scale != 1 else 1 for scale in scales) * config.steps
    known = sum(min(config.most or HELD_OUT_SIZE[task], HELD_OUT_SIZE[task]) for task in config.tasks)
    path = job.beside / config.prompts
    count = known if config.prompts == MINIATURE else sum(1 for _ in path.open()) if path.is_file() else 0
    tokens = (config.picture_side // PIXELS) ** 2
    rate = matrix_rate(pick_device().type, torch.get_num_threads())
    pictures = count * len(scales) * 3 * config.picture_side**2
    return Estimate(seconds_of(count * each, model, tokens, rate), 4 * model, pictures)


def _estimate_export(job: Job) -> Estimate:
    return Estimate(disk=num_bytes(job.beside / job.config.run)) if (job.beside / job.config.run).is_dir() else Estimate()


KINDS: dict[str, Kind] = {
    "train-reward": Kind(
        RewardTrainConfig,
        _train_reward,
        lambda config: (f"{RUN}/judge",),
        _inputs_of_judging,
        lambda job: _discard(collect(job.config, job.beside)),
    ),
    "curate": Kind(
        CurateStage,
        _curate,
        lambda config: (LIST,),
        lambda job: _inputs_of_training(job.config.training, job),
        lambda job: check_rewards(job.config.training, job.beside),
        _estimate_curation,
    ),
    "train": Kind(
        TrainConfig,
        _train,
        _policy,
        lambda job: _inputs_of_training(job.config, job),
        lambda job: check_rewards(job.config, job.beside),
        lambda job: _estimate_training(job.config, job),
    ),
    "distill": Kind(
        DistillConfig,
        _distill,
        _policy,
        _inputs_of_distillation,
        lambda job: _discard(teacher_folders(job.config, job.beside)),
        _estimate_distillation,
    ),
    "evaluate": Kind(
        EvaluateConfig,
        evaluate_stage,
        lambda config: (f"{RESULTS}/summary.json",),
        _inputs_of_evaluation,
        lambda job: check_rewards(job.config, job.beside),
        _estimate_evaluation,
    ),
    "export": Kind(ExportStage, _export, lambda config: ("model",), lambda job: {}, estimate=_estimate_export),
}
"""By the word in a recipe."""


def _discard(value: Any) -> None:
    """For checks that also return what they found."""
