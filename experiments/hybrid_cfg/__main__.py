"""`python -m experiments.hybrid_cfg FOLDER`: the whole experiment, or on from where it was; see the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.arms import Bench, Draw, Say, base_point, claim, command, finite, run_arm
from experiments.hybrid_cfg.design import MODES, Design
from experiments.hybrid_cfg.report import GUIDED, UNGUIDED, Arm, charts, compare, page, stability
from tastemaker.errors import Diverged
from tastemaker.evaluation import picture_statistics
from tastemaker.miniature import task
from tastemaker.miniature.oracle import Reading
from tastemaker.runtime import folder as disk
from tastemaker.runtime.metrics import read_lines
from tastemaker.types import Prompt

QUICK = Design(1, 2, 1, 2, 40, 16, 4, 2, overrides=("rollout.group_size=2",))


def main(arguments: list[str] | None = None) -> int:
    return command(arguments, name="hybrid_cfg", about=__doc__, full=Design(), quick=QUICK, run=run)


def run(folder: Path, design: Design, threads: int = 1, say: Say = lambda text: None) -> None:
    """Whatever `folder` lacks of the design, and the result."""
    claim(folder, design)
    held_out = task.held_out_prompts(design.held_out)
    with task.reading_processes(threads) as pool:

        def also(draw: Draw, pictures: np.ndarray, readings: Sequence[Reading]) -> dict[str, list[float]]:
            plain = draw(held_out, 1.0)
            return read_both(pictures, readings, plain, task.readings(plain, held_out, pool))

        bench = Bench(folder, held_out, pool, say, also)
        base = base_point(bench, design.config(MODES[0], 0, threads))
        arms = [_arm(bench, design, mode, seed, threads) for seed in range(design.seeds) for mode in MODES]
    write(folder, design, held_out, Arm("base", 0, [base], [], 0), arms)
    say(f"written: {folder / 'result.json'}, {folder / 'result.png'}, {folder / 'result.md'}")


def read_both(
    pictures: np.ndarray, readings: Sequence[Reading], plain: np.ndarray, plain_readings: Sequence[Reading]
) -> dict[str, list[float]]:
    """Facts, style and picture statistics of each prompt, with guidance and without; a name is `GUIDANCE/MEASURE`."""
    found: dict[str, list[float]] = {}
    for name, drawn, read in ((GUIDED, pictures, readings), (UNGUIDED, plain, plain_readings)):
        found[f"{name}/exact"] = [float(one.exact) for one in read]
        found[f"{name}/style"] = [float(fact.verdict) for one in read for fact in one.facts if fact.name == "style"]
        found |= {f"{name}/{key}": values.tolist() for key, values in picture_statistics.measure(drawn).items()}
    return found


def _arm(bench: Bench, design: Design, mode: str, seed: int, threads: int) -> Arm:
    """One that diverged has the points it reached; its weights were not touched by what was not finite."""
    folder = bench.folder / f"seed-{seed}" / mode
    prompts, every = design.training_prompts(seed), design.every
    config = design.config(mode, seed, threads)
    points = []
    try:
        points = run_arm(folder, config, prompts, bench, every)
    except Diverged as error:
        bench.say(f"{folder.relative_to(bench.folder)}: {error}")
    incidents = [line for line in read_lines(folder / "incidents.jsonl") if line.get("kind") == "not finite"]
    return Arm(mode, seed, points, read_lines(folder / "metrics.jsonl"), len(incidents))


def write(folder: Path, design: Design, held_out: Sequence[Prompt], base: Arm, arms: Sequence[Arm]) -> None:
    rows, steady = compare(held_out, design.categories, base, arms), stability(arms)
    found: dict[str, Any] = {"design": asdict(design), "rows": rows, "stability": steady}
    disk.write_text_atomic(folder / "result.json", json.dumps(finite(found), indent=1) + "\n")
    disk.write_bytes_atomic(folder / "result.png", charts(held_out, design.categories, base, arms))
    disk.write_text_atomic(folder / "result.md", page(design, rows, steady))


if __name__ == "__main__":
    sys.exit(main())
