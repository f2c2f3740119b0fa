"""`tastemaker run`: the kinds of stages that a recipe may have, each a command of its own, and the recipe itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tastemaker.commands.curate import run_curate
from tastemaker.commands.distill import run_distill, teacher_folders
from tastemaker.commands.evaluate import Around, named_by, run_evaluation
from tastemaker.commands.train import run_train
from tastemaker.commands.train_reward import collect, run_train_reward
from tastemaker.config import LoraPolicy, NFTConfig, TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.config.recipe import REFERENCE, load_recipe
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.config.stages import CurateStage, ExportStage
from tastemaker.errors import Corrupt, UserMistake
from tastemaker.export.plan import make_plan
from tastemaker.export.write import export
from tastemaker.miniature.world.splits import HELD_OUT_SIZE
from tastemaker.named.files import (
    Files,
    data_files,
    grouped,
    judge_files,
    judges_files,
    list_files,
    rubric_files,
    said_files,
    vlm_files,
    world_files,
)
from tastemaker.named.inputs import (
    MINIATURE,
    MINIATURE_PROMPTS,
    check_categories,
    check_edit_share,
    check_held_out,
    held_out_of,
    model_folder,
    model_path,
    prompts_of,
)
from tastemaker.named.judges import check_rewards
from tastemaker.opening import find_model, read_run
from tastemaker.recipe import Job, Kind, Outlook, Recipe, check, open_recipe, outlook
from tastemaker.recipe import run as run_stages
from tastemaker.runtime import checkpoint
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
from tastemaker.training.distill_start import check_routes
from tastemaker.training.reward_start import num_steps
from tastemaker.training.seats import is_lora
from tastemaker.types import Prompt

RUN = "run"
"""In a stage's folder: that of the run."""
LIST = "curated.jsonl"
RESULTS = "evaluation"
EMBEDDINGS = "embeddings"
"""In the recipe's folder: encoded prompts, for all stages."""
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
    allow: Iterable[str] = (),
) -> None:
    """Runs the recipe's stages in `folder` (runs/NAME by default), or goes on; with `dry_run` says what would run.

    `allow` names settings and inputs that may differ from when a stage was begun: it goes on where it would begin anew.
    `path` may also be the name of a shipped recipe, whose relative paths start where one is.
    """
    console = Console()
    if not path.exists() and str(path) in shipped():
        text, beside = load_recipe(shipped()[str(path)], KINDS, overrides), Path()
    else:
        text, beside = load_recipe(path, KINDS, overrides), path.parent
    recipe = open_recipe(text, KINDS, folder or Path("runs") / text.name, beside, console, allow)
    if dry_run:
        chosen = recipe.stages if stage is None else (recipe.named(stage),)
        looks = outlook(recipe)
        check(recipe, looks, stage)
        console.print(as_table(recipe, [look for look in looks if look.stage in chosen]))
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
    run_train_reward(job.config, job.beside, job.folder / RUN, job.console, _allowed(job))


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
    if not out.exists():  # it is there whole or not at all
        numbers = None if config.evaluation is None else job.beside / config.evaluation
        export(make_plan(job.beside / config.run, out, form=config.form, dtype=config.dtype, evaluation=numbers))


# ---- what they read and leave --------------------------------------------------------------------


def _policy(config: TrainConfig | DistillConfig) -> tuple[str, ...]:
    return (f"{RUN}/lora" if isinstance(config.policy, LoraPolicy) else f"{RUN}/transformer", RUN)


def _trained(run: Path) -> list[str]:
    """Of a run, below the stage's folder: its settings and the newest saved step, which is what others read of it."""
    saved = checkpoint.steps(run / "checkpoints")
    return [f"{RUN}/config.yaml", *(f"{RUN}/checkpoints/{checkpoint.step_folder(run, step).name}" for step in saved[-1:])]


def _results_of_curation(job: Job) -> list[str]:
    pictures = list_files(LIST, job.folder / LIST).get(f"{LIST}.pictures", [])
    return [LIST, *(path.relative_to(job.folder).as_posix() for path in _paths(pictures))]


def _extends(run: Path, end: int) -> bool:
    """Not beyond the step `end`: what was trained for longer is not what is asked for."""
    return all(step <= end for step in checkpoint.steps(run / "checkpoints"))


def _extends_judge(job: Job) -> bool:
    config: RewardTrainConfig = job.config
    return _extends(job.folder / RUN, num_steps(config, len(collect(config, job.beside, decode=False).examples)))


def _outside(job: Job, files: Files) -> dict[str, Path | list[Path]]:
    """Those that are not in the recipe's own folder: what stages leave is looked after by the references to it."""
    inside = job.folder.parent.absolute()
    found: dict[str, Path | list[Path]] = {}
    for name, place in files.items():
        paths = [path for path in _paths(place) if not path.absolute().is_relative_to(inside)]
        found |= {name: paths[0] if isinstance(place, Path) else paths} if paths else {}
    return found


def _paths(place: Path | list[Path]) -> list[Path]:
    return [place] if isinstance(place, Path) else place


def _inputs_of_training(config: TrainConfig, job: Job) -> dict[str, Path | list[Path]]:
    return _outside(job, {**_data(config, job), **grouped("judges", judges_files(config, job.beside))})


def _inputs_of_distillation(job: Job) -> dict[str, Path | list[Path]]:
    config: DistillConfig = job.config
    teachers: Files = {f"teachers.{teacher.name}": job.beside / teacher.weights for teacher in config.teachers}
    return _outside(job, {**_data(config, job), **grouped("data_files", teachers)})


def _data(config: TrainConfig | DistillConfig, job: Job) -> Files:
    """The program that makes the miniature's prompts is their file."""
    made: Files = {"prompts": world_files()} if config.data.prompts in MINIATURE_PROMPTS else {}
    return grouped("data_files", {**data_files(config, job.beside), **made})


def _inputs_of_evaluation(job: Job) -> dict[str, Path | list[Path]]:
    config: EvaluateConfig = job.config
    files: Files = {}
    for model in config.models:
        files[f"models.{model.name}"] = _model_files(model.path, job, model.base, model.step, model.live)
    if config.prompts == MINIATURE:
        files |= {"prompts": [*world_files(), *judge_files(None, job.beside)]}
    else:
        files |= list_files("prompts", job.beside / config.prompts)
    return _outside(job, {**grouped("data_files", files), **grouped("judges", judges_files(config, job.beside))})


def _model_files(path: str, job: Job, base: str | None = None, step: int | None = None, live: bool = False) -> list[Path]:
    """Of a run what is read of it; of anything else, also of what is not there yet, the folders that are named."""
    with suppress(UserMistake, Corrupt):
        return list(find_model(path, job.beside, base=base, step=step, live=live).files)
    return [model_path(one, job.beside) for one in (path, base) if one is not None]


def _inputs_of_export(job: Job) -> dict[str, Path | list[Path]]:
    config: ExportStage = job.config
    numbers: Files = {} if config.evaluation is None else {"data_files.evaluation": job.beside / config.evaluation}
    return _outside(job, {"data_files.run": _model_files(config.run, job), **numbers})


def _inputs_of_judging(job: Job) -> dict[str, Path | list[Path]]:
    config: RewardTrainConfig = job.config
    files: Files = {"base": vlm_files(job.beside / config.base), "rubric": rubric_files(config.rubric, job.beside)}
    return _outside(job, grouped("data_files", {**files, **said_files(config, job.beside)}))


# ---- what can be told of them before they run -----------------------------------------------------


def _check_training(config: TrainConfig, job: Job) -> None:
    _together(
        lambda: _check_model(config, job),
        lambda: held_out_of(config, job.beside),
        lambda: _of_prompts(config, job, partial(check_categories, config), partial(check_edit_share, config)),
        lambda: check_rewards(config, job.beside, job.awaits),
    )


def _check_distillation(job: Job) -> None:
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


def _check_export(job: Job) -> None:
    run = job.beside / job.config.run
    if not job.awaits(run):
        read_run(run)


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
    lagging = isinstance(algorithm, NFTConfig) and algorithm.old_policy is not None
    copies = int(reference and not isinstance(config.policy, LoraPolicy))  # a LoRA has its base for a reference
    return _estimate(config, model, count * pictures * each, averages=int(lagging), copies=copies)


def _estimate_distillation(job: Job) -> Estimate:
    config: DistillConfig = job.config
    model = num_parameters(model_folder(config, job.beside) / "transformer")
    rollout = config.rollout
    branches = max(2 if teacher.guidance != 1 else 1 for teacher in config.teachers)
    each = rollout.steps + (rollout.states or rollout.steps) * (1 + BACKWARD + branches)
    forwards = config.budget.max_steps * rollout.prompts * rollout.group_size * each
    return _estimate(config, model, forwards, copies=_copies_for_teachers(config, job))


def _copies_for_teachers(config: DistillConfig, job: Job) -> int:
    """Of the transformer: their seat, and where the device is a CPU the base and the teachers that wait there."""
    loras = [_leaves_lora(job.beside / teacher.weights) for teacher in config.teachers]
    if isinstance(config.policy, LoraPolicy) and all(loras):
        return 0
    if pick_device().type != "cpu":
        return 1
    waiting = [not lora and not teacher.on_disk for lora, teacher in zip(loras, config.teachers, strict=True)]
    return 2 + sum(waiting)


def _leaves_lora(folder: Path) -> bool:
    """Whether a LoRA is there, or will be by the name that a training gives it."""
    return is_lora(folder) if folder.exists() else folder.name == "lora"


def _estimate(
    config: TrainConfig | DistillConfig, model: int, forwards: float, *, averages: int = 0, copies: int = 0
) -> Estimate:
    tokens = (config.rollout.picture_side // PIXELS) ** 2
    lora = isinstance(config.policy, LoraPolicy)
    averages += config.optimiser.ema_decay is not None
    memory = memory_of_training(0 if lora else model, model, averages=averages, copies=copies)
    saved = 0 if lora else 4 * model * (3 + averages)  # weights, two means and averages, each in float32
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
    folder = model_path(config.models[0].path, job.beside) / "transformer"
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
        inputs=_inputs_of_judging,
        check=lambda job: _discard(collect(job.config, job.beside, decode=False, awaits=job.awaits)),
        extends=_extends_judge,
    ),
    "curate": Kind(
        CurateStage,
        _curate,
        lambda config: (LIST,),
        results=_results_of_curation,
        inputs=lambda job: _inputs_of_training(job.config.training, job),
        check=lambda job: _check_training(job.config.training, job),
        estimate=_estimate_curation,
    ),
    "train": Kind(
        TrainConfig,
        _train,
        _policy,
        results=lambda job: [_policy(job.config)[0], *_trained(job.folder / RUN)],
        inputs=lambda job: _inputs_of_training(job.config, job),
        check=lambda job: _check_training(job.config, job),
        extends=lambda job: _extends(job.folder / RUN, job.config.budget.max_steps),
        estimate=lambda job: _estimate_training(job.config, job),
    ),
    "distill": Kind(
        DistillConfig,
        _distill,
        _policy,
        results=lambda job: [_policy(job.config)[0], *_trained(job.folder / RUN)],
        inputs=_inputs_of_distillation,
        check=_check_distillation,
        extends=lambda job: _extends(job.folder / RUN, job.config.budget.max_steps),
        estimate=_estimate_distillation,
    ),
    "evaluate": Kind(
        EvaluateConfig,
        evaluate_stage,
        lambda config: (f"{RESULTS}/summary.json",),
        inputs=_inputs_of_evaluation,
        check=lambda job: _discard(named_by(job.config, job.beside, None, job.awaits)),
        estimate=_estimate_evaluation,
    ),
    "export": Kind(
        ExportStage,
        _export,
        lambda config: ("model",),
        inputs=_inputs_of_export,
        check=_check_export,
        estimate=_estimate_export,
    ),
}
"""By the word in a recipe."""


def _discard(value: Any) -> None:
    """For checks that also return what they found."""
