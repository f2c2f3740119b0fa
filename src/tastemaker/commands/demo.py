"""`tastemaker demo`: the shipped recipe `demo` on the built-in miniature, from curation to a compared student.

    first pictures of the base -> stages of recipes/demo.yaml -> report.html, summary.json and walls in the demo's own folder

Every stage is a folder that goes on where it was interrupted, so the same command resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from rich.console import Console
from transformers.utils import logging as transformers_logging

from tastemaker.commands.evaluate import Around
from tastemaker.commands.run import shipped
from tastemaker.commands.stages.files import RESULTS
from tastemaker.commands.stages.kinds import KINDS, evaluate_stage
from tastemaker.config.recipe import load_recipe
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.evaluation.benchmark import Drawing, draw
from tastemaker.evaluation.wall import paired_wall, save_wall
from tastemaker.miniature import task
from tastemaker.miniature.builder.parts import SIDE
from tastemaker.models.adapter import load
from tastemaker.recipe import Job, open_recipe
from tastemaker.recipe import run as run_stages
from tastemaker.runtime import device as hardware
from tastemaker.runtime import folder as disk
from tastemaker.runtime.sittings import counted, spent

FIRST_PICTURES = 12
QUICK = (
    *("curated.training.data.most=16", "curated.training.rollout.prompts=4", "curated.training.rollout.group_size=4"),
    *("curated.training.budget.max_steps=2", "edit.budget.max_steps=1", "mixed.budget.max_steps=2", "t2i.monitor.every=2"),
    *("t2i.monitor.prompts=4", "t2i.monitor.seeds=2", "student.budget.max_steps=2", "student.rollout.prompts=4"),
    *("edit.data.most=16", "mixed.data.most=32", "student.data.most=32", "compared.most=14", "compared.steps=4"),
)
"""Overrides for a demo that only shows that everything runs; its numbers mean nothing, and it says so."""
NOTES = (
    "every stage was kept short, to take about a quarter of an hour in all; `tastemaker run miniature` is the same long",
    "training prompts hold none of the combinations of facts that are held out; for the base see `tastemaker miniature card`",
)
RESULT = ("report.html", "summary.json", "wall-t2i.png", "wall-edit.png")


def run(
    folder: Path,
    *,
    seed: int = 0,
    threads: int | None = None,
    processes: int | None = None,
    quick: bool = False,
    overrides: Sequence[str] = (),
) -> Path:
    """Runs or resumes the demo in `folder`; returns its report. Raises Stopped on Ctrl-C."""
    console = Console()
    stated = {"seed": seed, "threads": threads, "processes": processes}
    shared = [f"{key}={value}" for key, value in stated.items() if value is not None]
    changes = [*shared, *(f"stages.{change}" for change in (*(QUICK if quick else ()), *overrides))]
    with counted(folder) as seconds:

        def compare(job: Job) -> None:
            warning = "a quick demo: far too short to learn, its numbers mean nothing" if quick else ""
            # The stage counts its own time, which an interruption may have begun before.
            before = seconds() - spent(job.folder / RESULTS)
            evaluate_stage(job, Around("tastemaker demo", seconds_before=before, notes=NOTES, warning=warning))

        kinds = {**KINDS, "evaluate": replace(KINDS["evaluate"], run=compare)}
        text = load_recipe(shipped()["demo"], kinds, changes)
        recipe = open_recipe(text, kinds, folder, Path(), console)
        show_first_pictures(folder, seed, threads, console)
        run_stages(recipe)
        for name in RESULT:
            disk.write_bytes_atomic(folder / name, (folder / "compared" / RESULTS / name).read_bytes())
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    return folder / "report.html"


def show_first_pictures(folder: Path, seed: int, threads: int | None, console: Console) -> None:
    """A small wall of what the base draws, within seconds of starting."""
    path = folder / "base.png"
    if path.exists():
        return
    hardware.set_threads(threads)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    adapter = load(task.WEIGHTS, device="cpu", dtype=torch.float32)
    prompts = task.held_out_prompts(FIRST_PICTURES)
    cache = EmbeddingCache(adapter, height=SIDE, width=SIDE)
    some = draw(adapter, cache, prompts, Drawing(20, 1.5, seed, SIDE, SIDE))
    texts = [prompt.text for prompt in prompts]
    disk.make_folder(folder)
    save_wall(path, paired_wall("what the base draws", ["base"], texts, [some], [task.verdicts(some, prompts)]))
    console.print(f"first pictures of the base: {path}", soft_wrap=True)
