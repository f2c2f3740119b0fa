"""`python -m experiments.categories FOLDER`: the whole experiment, or on from where it was; see the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.arms import Bench, Point, Say, base_point, claim, command, finite, run_arm, t2i_config
from experiments.differences import by_seed, each_seed
from tastemaker.evaluation.summary import ALL, interval, points
from tastemaker.miniature import task
from tastemaker.runtime import folder as disk
from tastemaker.types import Prompt

UNIFORM, BY_CATEGORY = ARMS = ("uniform", "by category")
WEIGHTS = (
    "categories={general: {facts: 1.0}, portrait: {facts: 0.75, quality: 0.25}, landscape: {facts: 0.85, quality: 0.15}, "
    "typography: {facts: 1.0}}"
)
"""Of things and lettering the base gets the facts wrong; faces and landscapes it draws rightly, but not always cleanly."""
MEASURES = ("exact", "quality")


@dataclass(frozen=True)
class Design:
    """What is run."""

    seeds: int = 3
    prompts: int = 4000
    steps: int = 90
    every: int = 30
    held_out: int = 600
    overrides: tuple[str, ...] = ()


QUICK = Design(1, 8, 2, 1, 8, ("rollout.prompts=4", "rollout.group_size=2", "rollout.steps=4", "evaluation.steps=2"))


def main(arguments: list[str] | None = None) -> int:
    return command(arguments, name="categories", about=__doc__, full=Design(), quick=QUICK, run=run)


def run(folder: Path, design: Design, threads: int = 1, say: Say = lambda text: None) -> None:
    """Whatever `folder` lacks of the design, and the result."""
    claim(folder, design)
    with task.reading_processes(threads) as pool:
        bench = Bench(folder, task.held_out_prompts(design.held_out), pool, say)
        base = base_point(bench, t2i_config(f"threads={threads}", *design.overrides))
        runs = [_seed(bench, design, seed, threads) for seed in range(design.seeds)]
    rows = compare(bench.held_out, base, runs)
    disk.write_text_atomic(
        folder / "result.json", json.dumps(finite({"design": asdict(design), "rows": rows}), indent=1) + "\n"
    )
    console = Console()
    show(rows, console if console.is_terminal else Console(width=150))
    say(f"written: {folder / 'result.json'}")


def _seed(bench: Bench, design: Design, seed: int, threads: int) -> dict[str, Point]:
    """The last point of each arm."""
    more = (f"seed={seed}", f"threads={threads}", f"budget.max_steps={design.steps}", "checkpoint.keep=1", *design.overrides)
    configs = {UNIFORM: t2i_config(*more), BY_CATEGORY: t2i_config(*more, WEIGHTS)}
    prompts, home = task.training_prompts(design.prompts, seed), bench.folder / f"seed-{seed}"
    return {arm: run_arm(home / arm.replace(" ", "-"), configs[arm], prompts, bench, design.every)[-1] for arm in ARMS}


def compare(held_out: Sequence[Prompt], base: Point, runs: Sequence[dict[str, Point]]) -> list[dict[str, object]]:
    """Every difference of every measure and category, paired by prompt: each seed, and all of them together (seed null)."""
    categories = np.array([prompt.category for prompt in held_out])
    after_all = {"base": [base] * len(runs), **{arm: [run[arm] for run in runs] for arm in ARMS}}
    rows: list[dict[str, object]] = []
    for measure in MEASURES:
        values = {name: np.array([getattr(point, measure) for point in found], float) for name, found in after_all.items()}
        for after, before in ((BY_CATEGORY, UNIFORM), (UNIFORM, "base"), (BY_CATEGORY, "base")):
            for category in (ALL, *dict.fromkeys(categories.tolist())):
                chosen = np.ones(len(categories), bool) if category == ALL else categories == category
                a, b = values[after][:, chosen], values[before][:, chosen]
                what = {"measure": measure, "what": f"{after} − {before}", "category": category}
                rows += by_seed(what, range(len(runs)), a, b)
    return rows


def show(rows: Sequence[dict], console: Console) -> None:
    table = Table(
        title="held-out differences, in points (95% intervals redraw prompts, seeds as they are)", title_justify="left"
    )
    seeds = [seed for seed in dict.fromkeys(row["seed"] for row in rows) if seed is not None]
    for heading in ("measure", "difference", "category", "n", "all seeds", *(f"seed {seed}" for seed in seeds)):
        table.add_column(heading)
    for row in (row for row in rows if row["seed"] is None):
        pooled = f"{points(row['value'])} ({interval(row['low'], row['high'], points)})"
        each = each_seed(row, rows, points)
        table.add_row(row["measure"], row["what"], row["category"], str(row["n"]), pooled, *each)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
