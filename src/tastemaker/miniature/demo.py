"""`tastemaker demo`: trains the shipped base on a CPU, then measures and shows what changed. The same command resumes.

    first pictures of the base -> training -> held-out pictures of base and trained, with and without guidance -> report

Every part leaves a file in the run's folder and is skipped when that file is there, so an interruption costs one part at most.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from rich.console import Console
from torch import Tensor
from transformers.utils import logging as transformers_logging

from tastemaker import config as settings
from tastemaker.config import TrainConfig
from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.evaluation import picture_statistics
from tastemaker.evaluation.benchmark import Drawing, draw
from tastemaker.evaluation.comparison import Side, compare
from tastemaker.evaluation.drawn import Drawn, Opened, draw_kept
from tastemaker.evaluation.monitor import Plan, watching
from tastemaker.evaluation.report import write_report
from tastemaker.evaluation.summary import Summary
from tastemaker.evaluation.summary_file import write_summary
from tastemaker.evaluation.terminal import print_table
from tastemaker.evaluation.wall import Wall, paired_wall, save_wall
from tastemaker.evaluation.watched import chosen
from tastemaker.miniature import task
from tastemaker.miniature.builder.parts import SIDE
from tastemaker.models.adapter import Adapter, load
from tastemaker.runtime import folder as disk
from tastemaker.runtime.changes import fingerprint
from tastemaker.runtime.metrics import read_lines
from tastemaker.runtime.progress import Progress
from tastemaker.runtime.sittings import counted
from tastemaker.training.start import Task, prepare_hardware, run_training
from tastemaker.training.state import PolicyState
from tastemaker.types import Prompt

TRAINING_PROMPTS = 4000
FIRST_PICTURES = 12
WALL_CASES = 12
QUICK = (
    *("rollout.prompts=4", "rollout.group_size=4", "budget.max_steps=2", "evaluation.prompts=16", "evaluation.steps=4"),
    *("monitor.every=1", "monitor.prompts=4", "monitor.seeds=2"),
)
"""Overrides for a demo that only shows that everything runs; its numbers mean nothing, and it says so."""
MODELS = ("base", "trained")
Pictures = dict[tuple[str, float], Drawn]
"""Held-out pictures by model and guidance scale."""


@dataclass(frozen=True)
class Stage:
    """What every part of the demo needs."""

    config: TrainConfig
    adapter: Adapter
    embeddings: EmbeddingCache
    held_out: Sequence[Prompt]
    folder: Path
    console: Console
    pool: Executor | None

    def drawing(self, guidance: float) -> Drawing:
        return Drawing(self.config.evaluation.steps, guidance, self.config.seed, SIDE, SIDE)

    @property
    def scales(self) -> tuple[float, float]:
        """With the guidance of training, and without."""
        return self.config.rollout.guidance, 1.0


def run(
    folder: Path, *, seed: int = 0, threads: int | None = None, quick: bool = False, overrides: Sequence[str] = ()
) -> Summary:
    """Runs or resumes the demo in `folder`; writes report.html, summary.json and pictures. Raises Stopped on Ctrl-C."""
    changes = [f"seed={seed}", *([f"threads={threads}"] if threads else []), *(QUICK if quick else ()), *overrides]
    config = settings.load(Path(__file__).with_name("demo.yaml"), TrainConfig, changes)
    device, dtype = prepare_hardware(config)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    adapter = load(task.WEIGHTS, device=device, dtype=dtype)
    cache = EmbeddingCache(
        adapter, height=SIDE, width=SIDE, folder=folder / "embeddings", encoder_key=encoder_key(task.WEIGHTS)
    )
    with counted(folder) as seconds, task.reading_processes(torch.get_num_threads()) as pool:
        stage = Stage(config, adapter, cache, task.held_out_prompts(config.evaluation.prompts), folder, Console(), pool)
        show_first_pictures(stage)
        pictures = {("base", scale): drawn(stage, "base", scale) for scale in stage.scales}
        state = trained(stage)
        with state.averaged():
            adapter.transformer.save_pretrained(folder / "transformer")
            pictures |= {("trained", scale): drawn(stage, "trained", scale) for scale in stage.scales}
        sides = [measured(stage, model, scale, pictures[model, scale]) for scale in stage.scales for model in MODELS]
        summary = summarise(stage, sides, seconds(), quick)
        report(stage, pictures, sides, summary)
    return summary


def trained(stage: Stage) -> PolicyState:
    config = stage.config
    prompts = task.training_prompts(TRAINING_PROMPTS, config.seed)
    return run_training(
        config,
        stage.adapter,
        Task(prompts, task.rewards(stage.pool), SIDE, SIDE),
        stage.folder,
        embeddings=stage.embeddings,
        trackers=lambda start, total: [Progress(total, start=start, console=stage.console)],
        data_files={"model": task.WEIGHTS},
        after_step=lambda step, images, batch: keep_pictures(stage.folder, step, images, config.rollout.group_size),
        watch=watching(monitor_plan(stage, prompts)) if config.monitor.every else None,
    )


def monitor_plan(stage: Stage, prompts: Sequence[Prompt]) -> Plan:
    watched = stage.config.monitor
    return Plan(
        chosen(prompts, watched.prompts, stage.config.seed),
        every=watched.every,
        samples=watched.samples,
        seeds=watched.seeds,
        threshold=watched.threshold,
        stop=watched.stop,
        truths=task.truths(),
        say=lambda line: stage.console.print(line, markup=False, highlight=False, soft_wrap=True),
    )


def report(stage: Stage, pictures: Pictures, sides: Sequence[Side], summary: Summary) -> None:
    """Table, summary.json, walls and report.html."""
    folder, guided = stage.folder, stage.scales[0]
    write_summary(folder / "summary.json", summary)
    print_table(summary, stage.console)
    walls = [wall_of(stage, pictures, [side for side in sides if side.guidance == scale]) for scale in stage.scales]
    for name, wall in zip(("guided", "unguided"), walls, strict=True):
        save_wall(folder / f"wall-{name}.png", wall)
    shifts = picture_statistics.compare(pictures["base", guided].pictures(), pictures["trained", guided].pictures())
    history = read_lines(folder / "metrics.jsonl")
    watched = read_lines(folder / "monitor.jsonl")
    page = write_report(folder, summary, title="tastemaker demo", history=history, walls=walls, shifts=shifts, watched=watched)
    stage.console.print(f"report: {page}")


def show_first_pictures(stage: Stage) -> None:
    """A small wall of what the base draws, within seconds of starting."""
    path = stage.folder / "images" / "base.png"
    if path.exists():
        return
    prompts = stage.held_out[:FIRST_PICTURES]
    some = draw(stage.adapter, stage.embeddings, prompts, stage.drawing(stage.scales[0]))
    disk.make_folder(path.parent)
    save_wall(
        path,
        paired_wall(
            "what the base draws", ["base"], [p.text for p in prompts], [some], [task.verdicts(some, prompts, stage.pool)]
        ),
    )
    stage.console.print(f"first pictures of the base: {path}")


def drawn(stage: Stage, model: str, scale: float) -> Drawn:
    """The held-out pictures of a model, from disk where a former run of this folder drew them."""
    after = stage.config.budget.max_steps if model == "trained" else 0
    guidance = f"guidance {scale:g}" if scale != 1 else "no guidance"

    @cache
    def opened() -> Opened:
        stage.console.print(f"drawing {model}, {guidance}: {len(stage.held_out)} held-out pictures")
        return stage.adapter, stage.embeddings

    key = f"{fingerprint(task.WEIGHTS)} after {after} steps"
    folder = stage.folder / "evaluation" / f"{model}-{guidance.replace(' ', '-')}"
    return draw_kept(folder, key, stage.held_out, stage.drawing(scale), opened)


def measured(stage: Stage, model: str, scale: float, pictures: Drawn) -> Side:
    """What the oracle says of them."""
    images = pictures.pictures()
    return Side(
        model,
        scale,
        stage.drawing(scale).forwards_per_image,
        verdicts=task.verdicts(images, stage.held_out, stage.pool).astype(float),
        scores={"quality": task.qualities(images, stage.held_out, stage.pool)},
        missing={"quality": np.zeros(len(images), bool)},
    )


def keep_pictures(folder: Path, step: int, images: Tensor, group_size: int) -> None:
    """Every tenth step, one picture of each prompt, so that a person can watch what is being bought."""
    if step % 10 and step != 1:
        return
    row = (images[::group_size][:12].permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(row), axis=1)).save(buffer, "png")
    disk.make_folder(folder / "images")
    disk.write_bytes_atomic(folder / "images" / f"step-{step:04d}.png", buffer.getvalue())


def summarise(stage: Stage, sides: Sequence[Side], seconds: float, quick: bool) -> Summary:
    notes = (
        "accuracy: the share of held-out prompts of which every fact holds in the picture, by the miniature's oracle",
        "training used the oracle as a verifiable reward, on prompts without held-out combinations; for the base see its card",
    )
    return Summary(
        **vars(compare(sides, stage.held_out, against=("base",))),
        wall_seconds=seconds,
        seed=stage.config.seed,
        versions={name: version(name) for name in ("tastemaker", "torch", "diffusers", "transformers")},
        settings=stage.config.model_dump(mode="json"),
        rewards={reward.name: f"weight {reward.weight:g}" for reward in stage.config.rewards},
        notes=notes,
        warning="a quick demo: far too short to learn, its numbers mean nothing" if quick else "",
    )


def wall_of(stage: Stage, pictures: Pictures, sides: Sequence[Side]) -> Wall:
    """Sides of one guidance scale."""
    places = range(min(WALL_CASES * 2, len(stage.held_out)))
    guidance = f"guidance {sides[0].guidance:g}" if sides[0].guidance != 1 else "no guidance"
    return paired_wall(
        f"same prompts, same noise, {guidance}",
        [side.model for side in sides],
        [stage.held_out[place].text for place in places],
        [pictures[side.model, side.guidance].pictures(places) for side in sides],
        [side.verdicts[: len(places)] for side in sides if side.verdicts is not None],
    )
