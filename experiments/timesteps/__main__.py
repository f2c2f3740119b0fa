"""`python -m experiments.timesteps FOLDER`: the whole experiment, or on from where it was; see the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from experiments.arms import Bench, Draw, Say, base_point, claim, command, finite, run_arm
from experiments.monitor_alarm.runs import Saturation
from experiments.timesteps.design import GRPO, HIGH, Design
from experiments.timesteps.report import EDITS, SATURATION, Arm, charts, page, rows_of
from tastemaker.errors import Diverged
from tastemaker.evaluation import picture_statistics
from tastemaker.miniature import task
from tastemaker.miniature.oracle import Reading
from tastemaker.runtime import folder as disk

QUICK = Design(1, 2, 1, 2, 4, 1, 8, 2, overrides=("rollout.group_size=2",))


def main(arguments: list[str] | None = None) -> int:
    return command(arguments, name="timesteps", about=__doc__, full=Design(), quick=QUICK, run=run)


def run(folder: Path, design: Design, threads: int = 1, say: Say = lambda text: None) -> None:
    """Whatever `folder` lacks of the design, and the result."""
    claim(folder, design)
    edits = task.held_out_edits(folder / "sources", design.edits)
    with task.reading_processes(threads) as pool:

        def also(draw: Draw, pictures: np.ndarray, readings: Sequence[Reading]) -> dict[str, list[float]]:
            done = task.edit_verdicts(draw(edits, 1.0), edits, pool).facts
            return {EDITS: done.astype(float).tolist(), SATURATION: picture_statistics.measure(pictures)[SATURATION].tolist()}

        bench = Bench(folder, task.held_out_prompts(design.held_out), pool, say, also, {SATURATION: Saturation()})
        base = base_point(bench, design.config(GRPO, HIGH, 0, threads))
        arms = [_arm(bench, design, *which, seed, threads) for seed in range(design.seeds) for which in design.arms]
    rows = rows_of(base, arms)
    found = {"design": asdict(design), "rows": rows}
    disk.write_text_atomic(folder / "result.json", json.dumps(finite(found), indent=1) + "\n")
    disk.write_bytes_atomic(folder / "result.png", charts(base, arms))
    disk.write_text_atomic(folder / "result.md", page(design, rows))
    say(f"written: {folder / 'result.json'}, {folder / 'result.png'}, {folder / 'result.md'}")


def _arm(bench: Bench, design: Design, algorithm: str, noise: str, seed: int, threads: int) -> Arm:
    """One that diverged has no points."""
    folder = bench.folder / f"seed-{seed}" / f"{algorithm}-{noise.replace(' ', '-')}"
    config = design.config(algorithm, noise, seed, threads)
    try:
        points = run_arm(folder, config, task.training_prompts(4000, seed), bench, design.every)
    except Diverged as error:
        bench.say(f"{folder.relative_to(bench.folder)}: {error}")
        points = []
    return Arm(algorithm, noise, seed, points)


if __name__ == "__main__":
    sys.exit(main())
