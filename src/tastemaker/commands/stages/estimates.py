"""What a stage takes, in orders of magnitude: time, memory and disk."""

from __future__ import annotations

from pathlib import Path

import torch

from tastemaker.commands.train_reward import collect
from tastemaker.config import LoraPolicy, NFTConfig, TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.config.reward_training import JudgeLora, RewardTrainConfig
from tastemaker.config.stages import ExportStage
from tastemaker.export.plan import DTYPES
from tastemaker.miniature.world.splits import HELD_OUT_SIZE
from tastemaker.named.inputs import MINIATURE, model_path
from tastemaker.named.prompts import MINIATURE_PROMPTS, prompt_files
from tastemaker.opening import read_settings
from tastemaker.recipe import Job
from tastemaker.runtime.device import Precision, pick_device, pick_precision
from tastemaker.runtime.estimate import (
    BACKWARD,
    Estimate,
    matrix_rate,
    memory_of_training,
    num_bytes,
    num_parameters,
    seconds_of,
)
from tastemaker.training.reward_start import num_steps
from tastemaker.training.teacher_weights import DELTA, is_lora

PIXELS = 16
"""Side of the square of pixels that one latent token stands for, in the families there are; for estimates alone."""

QUESTION = 600
"""Tokens of a picture with what a judge is asked of it; for estimates alone."""


def estimate_training(config: TrainConfig, job: Job, *, steps: int | None = None) -> Estimate:
    """Of rollouts and updates; with `steps` 0 of nothing but loading."""
    if (model := _parameters(config.model, job)) is None:
        return Estimate()
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


def estimate_distillation(job: Job) -> Estimate:
    config: DistillConfig = job.config
    if (model := _parameters(config.model, job)) is None:
        return Estimate()
    rollout = config.rollout
    branches = max(2 if teacher.guidance != 1 else 1 for teacher in config.teachers)
    each = rollout.steps + (rollout.states or rollout.steps) * (1 + BACKWARD + branches)
    forwards = config.budget.max_steps * rollout.prompts * rollout.group_size * each
    return _estimate(config, model, forwards, copies=_copies_for_teachers(config, job))


def _copies_for_teachers(config: DistillConfig, job: Job) -> int:
    """Of the transformer: their seat, and where the device is a CPU the teachers that wait there, and the base for some."""
    folders = [job.beside / teacher.weights for teacher in config.teachers]
    loras = [_leaves_lora(folder) for folder in folders]
    if isinstance(config.policy, LoraPolicy) and all(loras):
        return 0
    if pick_device().type != "cpu":
        return 1
    waiting = [not lora and not teacher.on_disk for lora, teacher in zip(loras, config.teachers, strict=True)]
    from_base = any(loras) or any((folder / DELTA).is_file() for folder in folders)
    return 1 + from_base + sum(waiting)


def _leaves_lora(folder: Path) -> bool:
    """Whether a LoRA is there, or will be by the name that a training gives it."""
    return is_lora(folder) if folder.exists() else folder.name == "lora"


def _estimate(
    config: TrainConfig | DistillConfig, model: int, forwards: float, *, averages: int = 0, copies: int = 0
) -> Estimate:
    tokens = (config.rollout.picture_side // PIXELS) ** 2
    lora = isinstance(config.policy, LoraPolicy)
    averages += config.optimiser.ema_decay is not None
    each, rate = _machine(config.precision)
    memory = memory_of_training(0 if lora else model, model, averages=averages, copies=copies, bytes_each=each)
    saved = 0 if lora else 4 * model * (3 + averages)  # weights, two means and averages, each in float32
    disk = saved * config.checkpoint.keep + (0 if lora else each * model)
    return Estimate(seconds_of(forwards, model, tokens, rate), memory, disk)


def _machine(precision: Precision) -> tuple[int, float]:
    """Bytes of a weight in the precision of forwards, and flop a second of matrix products in it."""
    device = pick_device()
    dtype = pick_precision(precision, device)
    return dtype.itemsize, matrix_rate(device.type, torch.get_num_threads(), dtype)


def estimate_curation(job: Job) -> Estimate:
    config: TrainConfig = job.config.training
    if (model := _parameters(config.model, job)) is None:
        return Estimate()
    each, rate = _machine(config.precision)
    given = prompt_files(config, job.beside)
    if not all(path.is_file() for path in given):
        return Estimate(memory=each * model)
    counts = [one for name in config.data.lists for one in MINIATURE_PROMPTS.get(name, ())]
    counts += [sum(1 for _ in path.open()) for path in given]
    count = sum(min(one, config.data.most or one) for one in counts)
    rollout = config.rollout
    forwards = count * rollout.group_size * rollout.steps * (2 if rollout.guidance != 1 else 1)
    tokens = (rollout.picture_side // PIXELS) ** 2
    return Estimate(
        seconds_of(forwards, model, tokens, rate), each * model, count * rollout.group_size * 3 * rollout.picture_side**2
    )


def estimate_evaluation(job: Job) -> Estimate:
    """Where the first model is there already; the others are taken to be as large."""
    config: EvaluateConfig = job.config
    if (model := _parameters(config.models[0].path, job)) is None:
        return Estimate()
    scales = [scale for one in config.models for scale in (one.guidance or config.guidance)]
    forwards = sum(2 if scale != 1 else 1 for scale in scales) * config.steps
    known = sum(min(config.most or HELD_OUT_SIZE[task], HELD_OUT_SIZE[task]) for task in config.tasks)
    path = job.beside / config.prompts
    count = known if config.prompts == MINIATURE else sum(1 for _ in path.open()) if path.is_file() else 0
    tokens = (config.picture_side // PIXELS) ** 2
    each, rate = _machine(config.precision)
    pictures = count * len(scales) * 3 * config.picture_side**2
    return Estimate(seconds_of(count * forwards, model, tokens, rate), each * model, pictures)


def _parameters(path: str, job: Job) -> int | None:
    """Of the model's transformer; None where it is another stage's to leave."""
    folder = model_path(path, job.beside) / "transformer"
    return num_parameters(folder) if folder.is_dir() else None


def estimate_export(job: Job) -> Estimate:
    """Of the base that the run has or will have, all of it for a pipeline; a LoRA itself is left out as small."""
    config: ExportStage = job.config
    run = job.beside / config.run
    training = job.awaited(run) if job.awaits(run) else read_settings(run / "config.yaml")
    if not isinstance(training, TrainConfig | DistillConfig) or (model := _parameters(training.model, job)) is None:
        return Estimate()
    lora = isinstance(training.policy, LoraPolicy)
    form = config.form or ("lora" if lora else "pipeline")
    folder = model_path(training.model, job.beside)
    own = num_bytes(folder / "transformer")
    each = DTYPES[config.dtype].itemsize * model if config.dtype != "auto" else own if lora else 4 * model
    rest = num_bytes(folder) - own
    return Estimate(memory=rest + each, disk={"pipeline": rest + each, "transformer": each, "lora": None}[form])


def estimate_judging(job: Job) -> Estimate:
    """Where the base is there already. The tokens of a picture and its question depend on the processor: about so many."""
    config: RewardTrainConfig = job.config
    base = job.beside / config.base
    if job.awaits(base) or not (model := num_parameters(base)):
        return Estimate()
    lora = isinstance(config.policy, JudgeLora)
    examples = len(collect(config, job.beside, decode=False).examples)
    seen = num_steps(config, examples) * config.optimiser.batch_size * (2 if config.objective.kind == "pairwise" else 1)
    each, rate = _machine(config.precision)
    memory = memory_of_training(0 if lora else model, model, averages=0, copies=0, bytes_each=each if lora else 4)
    saved = 0 if lora else 4 * model * 3
    disk = saved * config.checkpoint.keep + (0 if lora else 4 * model)
    return Estimate(seconds_of(seen * (1 + BACKWARD), model, QUESTION, rate), memory, disk)
