"""What the kinds of stages read, by which it is known whether they are finished, and what they leave."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tastemaker.commands.train_reward import collect
from tastemaker.config import LoraPolicy, TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.config.stages import ExportStage
from tastemaker.errors import Corrupt, UserMistake
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
from tastemaker.named.inputs import MINIATURE, model_path
from tastemaker.named.prompts import prompt_files
from tastemaker.opening import find_model
from tastemaker.recipe import Job
from tastemaker.rewards.vlm_folder import CARD_FILE
from tastemaker.runtime import changes, checkpoint
from tastemaker.training.reward_start import num_steps

RUN = "run"
"""In a stage's folder: that of the run."""
LIST = "curated.jsonl"
RESULTS = "evaluation"


def policy(config: TrainConfig | DistillConfig) -> tuple[str, ...]:
    return (f"{RUN}/lora" if isinstance(config.policy, LoraPolicy) else f"{RUN}/transformer", RUN)


def trained(run: Path) -> list[str]:
    """Of a run, below the stage's folder: its settings and the newest saved step, which is what others read of it."""
    saved = checkpoint.steps(run / "checkpoints")
    return [f"{RUN}/config.yaml", *(f"{RUN}/checkpoints/{checkpoint.step_folder(run, step).name}" for step in saved[-1:])]


def results_of_curation(job: Job) -> list[str]:
    pictures = list_files(LIST, job.folder / LIST).get(f"{LIST}.pictures", [])
    return [LIST, *(path.relative_to(job.folder).as_posix() for path in _paths(pictures))]


def results_of_judging(job: Job) -> list[str]:
    """The judge without its card, which may be measured anew and changes no score."""
    names = changes.names_in(job.folder / RUN / "judge")
    return [f"{RUN}/judge/{name.as_posix()}" for name in names if name.name != CARD_FILE]


def extends(run: Path, end: int) -> bool:
    """Not beyond the step `end`: what was trained for longer is not what is asked for."""
    return all(step <= end for step in checkpoint.steps(run / "checkpoints"))


def extends_judge(job: Job) -> bool:
    config: RewardTrainConfig = job.config
    return extends(job.folder / RUN, num_steps(config, len(collect(config, job.beside, decode=False).examples)))


def _outside(job: Job, files: Files) -> dict[str, Path | list[Path]]:
    """Those that no stage leaves, which are looked after by the references to them; a list beside the stages is one."""
    inside = [job.folder.with_name(name).absolute() for name in job.above]
    found: dict[str, Path | list[Path]] = {}
    for name, place in files.items():
        paths = [path for path in _paths(place) if not any(map(path.absolute().is_relative_to, inside))]
        found |= {name: paths[0] if isinstance(place, Path) else paths} if paths else {}
    return found


def _paths(place: Path | list[Path]) -> list[Path]:
    return [place] if isinstance(place, Path) else place


def inputs_of_training(config: TrainConfig, job: Job) -> dict[str, Path | list[Path]]:
    return _outside(job, {**_data(config, job), **grouped("judges", judges_files(config, job.beside))})


def inputs_of_distillation(job: Job) -> dict[str, Path | list[Path]]:
    config: DistillConfig = job.config
    teachers: Files = {f"teachers.{teacher.name}": job.beside / teacher.weights for teacher in config.teachers}
    return _outside(job, {**_data(config, job), **grouped("data_files", teachers)})


def _data(config: TrainConfig | DistillConfig, job: Job) -> Files:
    """The program that makes the miniature's prompts is their file."""
    files, given = data_files(config, job.beside), prompt_files(config, job.beside)
    if len(given) < len(config.data.lists):
        files["prompts"] = [*given, *world_files()]
    return grouped("data_files", files)


def inputs_of_evaluation(job: Job) -> dict[str, Path | list[Path]]:
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


def inputs_of_export(job: Job) -> dict[str, Path | list[Path]]:
    config: ExportStage = job.config
    numbers: Files = {} if config.evaluation is None else {"data_files.evaluation": job.beside / config.evaluation}
    return _outside(job, {"data_files.run": _model_files(config.run, job), **numbers})


def inputs_of_judging(job: Job) -> dict[str, Path | list[Path]]:
    config: RewardTrainConfig = job.config
    files: Files = {"base": vlm_files(job.beside / config.base), "rubric": rubric_files(config.rubric, job.beside)}
    return _outside(job, grouped("data_files", {**files, **said_files(config, job.beside)}))
