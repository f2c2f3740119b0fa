"""`python -m experiments.curation FOLDER`: the whole experiment, or on from where it was; see the package."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.arms import (
    ArmConfig,
    Bench,
    Point,
    Say,
    base_point,
    claim,
    command,
    finite,
    run_arm,
    t2i_config,
)
from experiments.differences import by_seed
from tastemaker.data.curation import select, thresholds_of
from tastemaker.evaluation.summary import interval, percent, points
from tastemaker.miniature import task
from tastemaker.miniature.builder.parts import SIDE
from tastemaker.runtime import folder as disk
from tastemaker.runtime import seeds
from tastemaker.runtime.signals import StopRequest
from tastemaker.runtime.sittings import counted
from tastemaker.training.curate import judge_prompts
from tastemaker.training.start import make_setup
from tastemaker.types import Prompt

ARMS = ("all", "curated", "random")


@dataclass(frozen=True)
class Design:
    """What is run. The pool is smaller than what the steps use up, so that a prompt comes more than once in every arm."""

    seeds: int = 3
    pool: int = 600
    keep: float = 0.5
    samples: int = 8
    """Of each prompt, for the curation."""
    steps: int = 90
    every: int = 15
    held_out: int = 600
    overrides: tuple[str, ...] = ()


QUICK = Design(1, 6, 0.5, 2, 2, 1, 8, ("rollout.prompts=2", "rollout.group_size=2", "rollout.steps=4", "evaluation.steps=2"))


@dataclass(frozen=True)
class Run:
    """The finished arms of one seed."""

    points: Mapping[str, Sequence[Point]]
    curation_seconds: float
    kept: int


def main(arguments: list[str] | None = None) -> int:
    return command(arguments, name="curation", about=__doc__, full=Design(), quick=QUICK, run=run)


def run(folder: Path, design: Design, threads: int = 1, say: Say = lambda text: None) -> None:
    """Whatever `folder` lacks of the design, and the result."""
    claim(folder, design)
    with task.reading_processes(threads) as pool:
        bench = Bench(folder, task.held_out_prompts(design.held_out), pool, say)
        base = base_point(bench, _config(design, 0, threads))
        runs = [_seed(bench, design, seed, threads) for seed in range(design.seeds)]
    found = {"design": asdict(design), "base": base.accuracy, "times": times(base, runs), "differences": differences(runs)}
    disk.write_text_atomic(folder / "result.json", json.dumps(finite(found), indent=1) + "\n")
    console = Console()
    show(found, console if console.is_terminal else Console(width=150))
    say(f"written: {folder / 'result.json'}")


def _config(design: Design, seed: int, threads: int) -> ArmConfig:
    more = (f"seed={seed}", f"threads={threads}", f"budget.max_steps={design.steps}", "checkpoint.keep=1")
    return t2i_config(*more, *design.overrides)


def _seed(bench: Bench, design: Design, seed: int, threads: int) -> Run:
    config, home = _config(design, seed, threads), bench.folder / f"seed-{seed}"
    prompts = task.training_prompts(design.pool, seed)
    kept, seconds = curated(bench, config, prompts, design, home / "curation")
    order = seeds.random(seed, "as many at random").permutation(len(prompts))
    lists = {"all": prompts, "curated": kept, "random": [prompts[row] for row in sorted(order[: len(kept)])]}
    points = {arm: run_arm(home / arm, config, lists[arm], bench, design.every) for arm in ARMS}
    return Run(points, seconds, len(kept))


def curated(bench: Bench, config: ArmConfig, prompts: list[Prompt], design: Design, folder: Path) -> tuple[list[Prompt], float]:
    """The share of the prompts with the largest ranges, and the seconds that finding them took."""
    bench.say(f"{folder.relative_to(bench.folder)}: {len(prompts)} prompts")
    rollout = config.rollout.model_copy(update={"group_size": design.samples})
    adapter, cache = bench.open(config)
    setup = make_setup(
        config.model_copy(update={"rollout": rollout}),
        adapter,
        prompts,
        task.rewards(bench.pool),
        cache,
        height=SIDE,
        width=SIDE,
    )
    with counted(folder) as seconds, StopRequest() as stop:
        samples = judge_prompts(setup, folder, trackers=[], stop=stop)
        taken = seconds()
    outcomes = select(samples, thresholds_of(samples, design.keep))
    return [one.prompt for one, outcome in zip(samples, outcomes, strict=True) if outcome.kept], taken


def seconds_to(target: float, base: Point, points: Sequence[Point]) -> float:
    """Seconds of training until the accuracy first is at `target`, between two points in a straight line; NaN if never."""
    before = base
    for point in (base, *points):
        if point.accuracy >= target:
            rise = point.accuracy - before.accuracy
            return before.seconds + ((target - before.accuracy) / rise if rise else 0) * (point.seconds - before.seconds)
        before = point
    return math.nan


def times(base: Point, runs: Sequence[Run]) -> list[dict[str, float | int | str]]:
    """For each seed and arm: seconds to the accuracy at which the arm `all` of that seed ends, with the curation's on top."""
    rows: list[dict[str, float | int | str]] = []
    for seed, one in enumerate(runs):
        target = one.points["all"][-1].accuracy
        for arm in ARMS:
            training = seconds_to(target, base, one.points[arm])
            extra = one.curation_seconds if arm == "curated" else 0.0
            last = one.points[arm][-1]
            numbers = {"target": target, "seconds": training, "curation": extra, "final": last.accuracy, "in all": last.seconds}
            rows.append({"seed": seed, "arm": arm, **numbers, "prompts kept": one.kept})
    return rows


def differences(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Accuracy after all steps, paired by held-out prompt: each seed, and all of them together (seed null)."""
    rows: list[dict[str, object]] = []
    for after, before in (("curated", "all"), ("curated", "random"), ("random", "all")):
        exact = [[run.points[arm][-1].exact for run in runs] for arm in (after, before)]
        rows += by_seed({"what": f"{after} − {before}"}, range(len(runs)), *exact)
    return rows


def show(found: Mapping, console: Console) -> None:
    table = Table(title=f"seconds to where `all` ends; base {percent(found['base'])}", title_justify="left")
    for heading in ("seed", "arm", "target", "training", "with curation", "after all steps"):
        table.add_column(heading)
    for row in found["times"]:
        both = (row["seconds"], row["seconds"] + row["curation"])
        reached = ["not reached" if math.isnan(value) else f"{value:.0f}" for value in both]
        table.add_row(str(row["seed"]), row["arm"], percent(row["target"]), *reached, percent(row["final"]))
    console.print(table)
    table = Table(title="held-out accuracy after all steps, in points (95% intervals redraw prompts)", title_justify="left")
    for heading in ("difference", "seed", "n", "points", "95% interval"):
        table.add_column(heading)
    for row in found["differences"]:
        seed = "all" if row["seed"] is None else str(row["seed"])
        table.add_row(row["what"], seed, str(row["n"]), points(row["value"]), interval(row["low"], row["high"], points))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
