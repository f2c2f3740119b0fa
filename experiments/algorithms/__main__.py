"""`python -m experiments.algorithms FOLDER`: the whole experiment, or on from where it was; see the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.arms import (
    ArmConfig,
    Bench,
    Draw,
    Point,
    Say,
    base_point,
    claim,
    command,
    finite,
    run_arm,
    t2i_config,
)
from experiments.differences import arms_less_base_and, each_seed
from experiments.page import Curve, chart, markdown, told
from tastemaker.errors import Diverged, UserMistake
from tastemaker.evaluation.summary import percent, points
from tastemaker.miniature import task
from tastemaker.miniature.oracle import Reading
from tastemaker.runtime import folder as disk

GRPO, GUARD, NFT = ARMS = ("grpo", "grpo-guard", "nft")
GUIDED, UNGUIDED = "guided", "unguided"


@dataclass(frozen=True)
class Design:
    """What is run. Raises UserMistake, one line for each setting that cannot be."""

    seeds: int = 3
    seconds: float = 210.0
    """Of training, in every arm."""
    every: int = 35
    """Steps between two points."""
    held_out: int = 600
    grpo_rate: float = 1e-4
    guard_rate: float = 1e-4
    nft_rate: float = 1e-3
    guard_clip: float = 4e-4
    """Clip range of the normalised log ratio, which is 3.5 times the other; in bf16 1e-4 is below its rounding."""
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"seeds": self.seeds, "every": self.every, "held_out": self.held_out}
        broken = [f"{name} {value}: at least 1" for name, value in least.items() if value < 1]
        if not self.seconds > 0:
            broken.append(f"seconds {self.seconds:g}: above 0")
        if broken:
            raise UserMistake("\n".join(f"algorithms: {rule}" for rule in broken))

    def config(self, arm: str, seed: int, threads: int) -> ArmConfig:
        grpo = "algorithm={name: grpo, updates_per_rollout: 4, velocity_kl: 0.0}"
        adam = ("optimiser.epsilon=1e-8", "optimiser.max_grad_norm=1.0")  # whose steps do not grow with the gradient
        guard = ("algorithm.ratio_norm=true", f"algorithm.clip_range={self.guard_clip}")
        changed = {
            GRPO: (grpo, *adam, f"optimiser.learning_rate={self.grpo_rate}"),
            GUARD: (grpo, *adam, f"optimiser.learning_rate={self.guard_rate}", *guard),
            NFT: (f"optimiser.learning_rate={self.nft_rate}",),
        }
        shared = (f"seed={seed}", f"threads={threads}", "checkpoint.keep=1", "optimiser.ema_ramp=10")  # runs are shorter
        return t2i_config(*shared, *changed[arm], *self.overrides)


# The last but one of so few steps has little noise, so that the rounding of bf16 alone would be a large ratio: fp32.
SMALL = ("rollout.prompts=4", "rollout.group_size=2", "rollout.steps=4", "evaluation.steps=2", "precision=fp32")
QUICK = Design(1, 1.0, 1, 8, overrides=SMALL)


@dataclass(frozen=True)
class Arm:
    """One training; it may have ended early because it diverged."""

    name: str
    seed: int
    points: Sequence[Point]


def main(arguments: list[str] | None = None) -> int:
    return command(arguments, name="algorithms", about=__doc__, full=Design(), quick=QUICK, run=run)


def run(folder: Path, design: Design, threads: int = 1, say: Say = lambda text: None) -> None:
    """Whatever `folder` lacks of the design, and the result."""
    claim(folder, design)
    held_out = task.held_out_prompts(design.held_out)
    with task.reading_processes(threads) as pool:

        def also(draw: Draw, pictures: np.ndarray, readings: Sequence[Reading]) -> dict[str, list[float]]:
            plain = task.readings(draw(held_out, 1.0), held_out, pool)
            return {UNGUIDED: [float(one.exact) for one in plain], GUIDED: [float(one.exact) for one in readings]}

        bench = Bench(folder, held_out, pool, say, also)
        base = base_point(bench, design.config(NFT, 0, threads))
        arms = [_arm(bench, design, name, seed, threads) for seed in range(design.seeds) for name in ARMS]
    rows = compare(base, arms, design.seconds)
    found = {"design": asdict(design), "rows": rows}
    disk.write_text_atomic(folder / "result.json", json.dumps(finite(found), indent=1) + "\n")
    disk.write_bytes_atomic(folder / "result.png", charts(base, arms, design.seconds))
    disk.write_text_atomic(folder / "result.md", page(design, rows, arms))
    say(f"written: {folder / 'result.json'}, {folder / 'result.png'}, {folder / 'result.md'}")


def _arm(bench: Bench, design: Design, name: str, seed: int, threads: int) -> Arm:
    """Trained until its time is up, and to the point after that."""
    folder, config = bench.folder / f"seed-{seed}" / name, design.config(name, seed, threads)
    prompts = task.training_prompts(4000, seed)
    along: list[Point] = []
    try:
        while not along or along[-1].seconds < design.seconds:
            budget = config.budget.model_copy(update={"max_steps": (len(along) + 1) * design.every})
            along = run_arm(folder, config.model_copy(update={"budget": budget}), prompts, bench, design.every)
    except Diverged as error:
        bench.say(f"{folder.relative_to(bench.folder)}: {error}")
    return Arm(name, seed, along)


def at(base: Point, along: Sequence[Point], seconds: float, measure: str) -> np.ndarray:
    """(n,) of each held-out prompt after `seconds` of training, in a straight line between two points.

    Raises ValueError where the training was shorter.
    """
    before = base
    for point in along:
        if point.seconds >= seconds:
            share = (seconds - before.seconds) / (point.seconds - before.seconds)
            return (1 - share) * np.asarray(before.also[measure], float) + share * np.asarray(point.also[measure], float)
        before = point
    raise ValueError(f"trained for {before.seconds:.0f} s, asked for {seconds:g} s")


def compare(base: Point, arms: Sequence[Arm], seconds: float) -> list[dict[str, Any]]:
    """Every arm less the base and less GRPO when the time is up: each seed, and all of them together (seed null).

    An arm that diverged before is in no row: its seed is missing there.
    """
    ended = {(arm.name, arm.seed): arm.points for arm in arms if arm.points and arm.points[-1].seconds >= seconds}
    rows: list[dict[str, Any]] = []
    for measure in (GUIDED, UNGUIDED):
        found = {key: at(base, along, seconds, measure) for key, along in ended.items()}
        rows += arms_less_base_and({"drawn": measure}, found, np.asarray(base.also[measure], float), ARMS, GRPO)
    return rows


def page(design: Design, rows: Sequence[Mapping[str, Any]], arms: Sequence[Arm]) -> str:
    """Markdown: where each arm stood when its time was up, against the base and against GRPO."""
    lines = []
    for row in (row for row in rows if row["seed"] is None):
        each = ", ".join(each_seed(row, rows, points))
        lines.append([row["drawn"], f"{row['arm']} − {row['against']}", percent(row["base"]), f"{told(row)} [{each}]"])
    steps = {name: [_steps(arm, design.seconds) for arm in arms if arm.name == name] for name in ARMS}
    told_steps = "; ".join(f"{name} {', '.join(f'{n:.0f}' for n in found)}" for name, found in steps.items())
    return "\n\n".join(
        [
            f"{design.seeds} seeds, {design.seconds:g} s of training each, n = {design.held_out} held-out prompts. Share of "
            "exact pictures, differences in points, paired by prompt and pooled over seeds, with 95% intervals that redraw "
            "prompts with the seeds as they are; in brackets the seeds.",
            markdown(["drawn", "difference", "base", "points"], lines),
            f"Steps within that time, by seed: {told_steps}.",
        ]
    )


def _steps(arm: Arm, seconds: float) -> float:
    """Steps that the arm had done after so many seconds, as far as it came."""
    after = [0.0, *(point.seconds for point in arm.points)]
    return float(np.interp(seconds, after, [0.0, *(float(point.step) for point in arm.points)]))


def charts(base: Point, arms: Sequence[Arm], seconds: float) -> bytes:
    """Accuracy over seconds of training, a panel with guidance and one without."""
    moments = np.linspace(0, seconds, 11)
    panels = {}
    for measure in (GUIDED, UNGUIDED):

        def along(arm: Arm, measure: str = measure) -> dict[float, float]:
            reached = moments[moments <= max((point.seconds for point in arm.points), default=0.0)]
            return {float(t): 100 * float(at(base, arm.points, t, measure).mean()) for t in reached if arm.points}

        panels[f"drawn {measure}: exact, %"] = [
            Curve(name, place, [along(arm) for arm in arms if arm.name == name]) for place, name in enumerate(ARMS)
        ]
    return chart(panels, over="seconds of training")


if __name__ == "__main__":
    sys.exit(main())
