"""`tastemaker train`, and what it has in common with `tastemaker distill`: several processes, and the policy as plain files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tastemaker import config as settings
from tastemaker.commands.checks import check_training
from tastemaker.config import LoraPolicy, NFTConfig, TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.evaluation.monitor import Plan, watching
from tastemaker.evaluation.monitor_chart import write_monitor_chart
from tastemaker.evaluation.watched import chosen
from tastemaker.miniature import task as miniature
from tastemaker.models.adapter import Adapter, load
from tastemaker.models.lora import save_lora
from tastemaker.models.stated_guidance import state_guidance, stated_guidance
from tastemaker.named.files import data_files
from tastemaker.named.inputs import model_folder, not_square, small_pictures
from tastemaker.named.judges import opened_rewards
from tastemaker.named.prompts import held_out_of
from tastemaker.opening import RECORD, fixed_levels, guided_on_top, said, stated
from tastemaker.runtime import folder as disk
from tastemaker.runtime.distributed import connected, num_processes
from tastemaker.runtime.metrics import read_lines
from tastemaker.runtime.progress import Progress, telling
from tastemaker.runtime.together import helped, how_many
from tastemaker.training.ranks import check_share
from tastemaker.training.start import Task, prepare_hardware, run_training
from tastemaker.training.unsteady import risen_loss, unheld_bursts
from tastemaker.types import Prompt


def train(path: Path, *, overrides: Iterable[str] = (), folder: Path | None = None, allow: Iterable[str] = ()) -> Path:
    """Trains what the file says in `folder` (runs/NAME by default), or goes on where it stopped; returns the exported policy.

    All mistakes in settings, prompts and rewards are reported before the model is loaded.
    """
    config = settings.load(path, TrainConfig, tuple(overrides))
    return run_train(config, path.parent, folder or Path("runs") / config.name, Console(), allow)


def run_train(
    config: TrainConfig,
    beside: Path,
    folder: Path,
    console: Console,
    allow: Iterable[str] = (),
    embeddings: Path | None = None,
) -> Path:
    """As `train`, of settings whose relative paths start at `beside`; in as many processes as the settings say.

    Encoded prompts are kept in `embeddings`, which several runs may share; in `folder` if it is not given.
    """
    run = partial(_run_train, embeddings=embeddings or folder / "embeddings")
    return in_processes(run, config, beside, folder, console, tuple(allow))


def in_processes(run: Callable[..., Path], config: Any, beside: Path, folder: Path, console: Console, allow: tuple) -> Path:
    """`run` of a training or a distillation, here and in as many more processes as its settings say; those print nothing."""
    count = how_many(config.processes, config.rollout.prompts)
    check_share(config.rollout.prompts, max(count, num_processes()))
    with helped(count, _quietly, run, config, beside, folder, allow):
        return run(config, beside, folder, console, allow)


def _quietly(run: Callable[..., Path], config: Any, beside: Path, folder: Path, allow: tuple) -> None:
    run(config, beside, folder, Console(quiet=True), allow)  # a console cannot be sent to another process


def _run_train(
    config: TrainConfig, beside: Path, folder: Path, console: Console, allow: Iterable[str], *, embeddings: Path
) -> Path:
    prompts = check_training(config, beside, folder)
    tell_shapes(prompts, config, console)
    plan = monitor_plan(config, beside, prompts, console)
    model = model_folder(config, beside)
    for line in warnings_of(config, model):
        warn(line, console)
    device, dtype = prepare_hardware(config)
    with connected(device, config.deadlines.step) as ranks, opened_rewards(config, beside, device) as rewards:
        adapter = load(model, device=device, dtype=dtype)
        side = config.rollout.picture_side
        cache = EmbeddingCache(adapter, height=side, width=side, folder=embeddings, encoder_key=encoder_key(model))
        try:
            state = run_training(
                config,
                adapter,
                Task(prompts, rewards, side, side),
                folder,
                embeddings=cache,
                allow_changes=allow,
                trackers=lambda start, total: [Progress(total, start=start, console=console)],
                watch=watching(plan) if plan else None,
                ranks=ranks,
                encoded=encoding(console),
                data_files=data_files(config, beside),
            )
        finally:
            if ranks.first:
                write_monitor_chart(folder)
    if not ranks.first:  # which exports for all
        return folder
    tell_unsteady(folder, config, console)
    with state.averaged():
        exported = export(config, adapter, folder)
    console.print(f"trained {state.step} steps; the policy is in {exported}")
    return exported


def tell_shapes(prompts: Sequence[Prompt], config: TrainConfig | DistillConfig, console: Console) -> None:
    if line := not_square(prompts, config.rollout.picture_side):
        warn(line, console)


def warnings_of(config: TrainConfig, model: Path) -> Iterator[str]:
    """Lines on settings that suit another model: guidance on top of what is inside, its size of pictures, its noise levels."""
    for line in guided_on_top(f"model: {config.model}", stated(model), [config.rollout.guidance]):
        yield f"{line}; set rollout.guidance to 1"
    yield from unsuited(config, model)


def unsuited(config: TrainConfig | DistillConfig, model: Path) -> Iterator[str]:
    """Lines where the base would draw the miniature's size, or has noise levels of its own, which the rollouts do not take."""
    yield from small_pictures(config.rollout, "rollout.picture_side", model, config.model)
    for line in fixed_levels(f"model: {config.model}", model, config.rollout.steps):
        yield f"{line}; set rollout.steps to theirs unless that is meant"


def warn(line: str, console: Console) -> None:
    console.print(f"warning: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def encoding(console: Console) -> Callable[[int, int], None]:
    """Says how far the encoding of prompts is, where it is done ahead and takes long."""
    return telling(partial(console.print, markup=False, highlight=False, soft_wrap=True), "encoding prompts")


def tell_unsteady(folder: Path, config: TrainConfig | DistillConfig, console: Console) -> None:
    lines = read_lines(folder / "metrics.jsonl")
    told = [unheld_bursts(lines, config.optimiser.max_grad_norm)]
    if isinstance(config, TrainConfig) and isinstance(config.algorithm, NFTConfig):
        told.append(risen_loss(lines, config.algorithm.velocity_kl))
    for line in filter(None, told):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def monitor_plan(config: TrainConfig, beside: Path, prompts: Sequence[Prompt], console: Console) -> Plan | None:
    """What the monitor watches, on held-out prompts where there are some; None where it is switched off."""
    watched = config.monitor
    if not watched.every:
        return None
    if config.data.held_out is not None:
        tasks = {prompt.task for prompt in prompts}  # the list may be of both, the policy of one
        prompts = [prompt for prompt in held_out_of(config, beside) if prompt.task in tasks] or prompts
    return Plan(
        chosen(prompts, watched.prompts, config.seed),
        every=watched.every,
        samples=watched.samples,
        seeds=watched.seeds,
        threshold=watched.threshold,
        stop=watched.stop,
        truths=miniature.truths(prompts),
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )


def export(config: TrainConfig | DistillConfig, adapter: Adapter, folder: Path) -> Path:
    """Plain diffusers files: a LoRA for `load_lora_weights`, or the transformer's folder. Both say where guidance is inside.

    The folder is whole or absent, also where one of an earlier call is replaced: a stage or a distillation may read it next.
    """
    is_lora = isinstance(config.policy, LoraPolicy)
    target = folder / ("lora" if is_lora else "transformer")
    written = [value for name, value in adapter.transformer.named_parameters() if "lora_" in name or not is_lora]
    with disk.whole_folder(target, sum(value.nbytes for value in written), replace=True) as place:
        if is_lora:
            save_lora(adapter, place)
            (place / RECORD).write_text(json.dumps(said(config, "lora"), indent=1) + "\n", encoding="utf-8")
        else:
            if (
                config.rollout.guidance == 1 or stated_guidance(adapter.transformer) is not None
            ):  # its base's, which it would keep
                state_guidance(adapter.transformer, config.rollout.guidance)
            adapter.transformer.save_pretrained(place)
    return target
