"""Trains one arm from the start it shares with the others, and has it judge the held-out pictures. Resumes; keeps what is done.

FOLDER/seed-0/start      what all arms of a seed start from   FOLDER/seed-0/ARM/steps        checkpoint, log.jsonl beside
FOLDER/training, held-out   pictures and their truth           FOLDER/seed-0/ARM/arm.json     scores and costs: it is finished
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pointwise_vs_pairwise.design import Design, cost
from experiments.pointwise_vs_pairwise.judgements import Pictured, judged
from tastemaker.miniature.judge.language import DIRECT, RUBRICS
from tastemaker.miniature.judge.model import new_judge
from tastemaker.miniature.judge.train import JudgeTrainer, train
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.vlm import VLMJudge
from tastemaker.rewards.vlm_folder import VLM
from tastemaker.runtime import folder as disk

READ_OUT = replace(DIRECT, min_mass=1e-9)
"""Every score counts, however little probability is on the five tokens: no arm gains by abstaining where it is unsure."""
AT_ONCE = 64
"""Pictures judged in one forward."""
Pictures = Mapping[str, Sequence[Pictured]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Arm:
    """A finished arm of one seed. Scores are by dimension and in the order of the held-out pictures, NaN where there is none.

    `again` is a second judgement, with other neighbours in the batch: what a pair shown in the other order is judged by.
    """

    name: str
    seed: int
    shown: dict[str, list[float]]
    again: dict[str, list[float]]
    mass: dict[str, float]
    """Mean probability of the five tokens together."""
    costs: dict[str, dict[str, int]]
    pictures_per_second: float
    """Through the network in training, sources included; of the last sitting, NaN where training was done already."""


def run_arm(folder: Path, name: str, seed: int, design: Design, training: Pictures, held_out: Pictures, say: Say) -> Arm:
    home = folder / f"seed-{seed}"
    place = home / name.replace(", ", "-").replace(" ", "-")
    if (place / "arm.json").exists():
        return _read(place / "arm.json")
    vlm, plan = start(home / "start", design, seed, say), design.plan(name, seed)
    said = {dimension: judged(name, pictures, design, seed) for dimension, pictures in training.items()}
    examples = {dimension: found.examples for dimension, found in said.items()}
    trainer = _Timed(vlm, examples, plan, read_outs=(READ_OUT,), pointwise="regression")
    say(f"seed {seed}, {name}: {plan.steps} updates")
    train(trainer, place, say)
    judge = trainer.finish()
    shown, again = ({key: _scores(judge, key, rows, order) for key, rows in held_out.items()} for order in (1, -1))
    costs = {key: cost(one.examples, one.judgements, plan, key) for key, one in said.items()}
    each = sum(one.passes * (1 + RUBRICS[key].looks_at_sources) for key, one in costs.items()) / plan.steps
    speed = each * trainer.steps / trainer.seconds if trainer.steps else float("nan")
    arm = Arm(
        name,
        seed,
        {key: scores for key, (scores, _) in shown.items()},
        {key: scores for key, (scores, _) in again.items()},
        {key: mass for key, (_, mass) in shown.items()},
        {key: asdict(one) for key, one in costs.items()},
        speed,
    )
    disk.write_bytes_atomic(place / "arm.json", (json.dumps(finite(asdict(arm))) + "\n").encode())
    return arm


def start(folder: Path, design: Design, seed: int, say: Say) -> VLM:
    """A model that sees and compares, with its averaged weights: the same for all arms of a seed."""
    trainer = JudgeTrainer(new_judge(seed), {}, design.start(seed))
    say(f"seed {seed}: learning to see and to compare")
    train(trainer, folder, say)
    return trainer.finish()


class _Timed(JudgeTrainer):
    """Counts steps and the seconds they took."""

    steps, seconds = 0, 0.0

    def step(self, step: int) -> dict[str, float]:
        began = time.perf_counter()
        metrics = super().step(step)
        self.steps, self.seconds = self.steps + 1, self.seconds + time.perf_counter() - began
        return metrics


def _scores(vlm: VLM, dimension: str, pictures: Sequence[Pictured], order: int) -> tuple[list[float], float]:
    """Scores in the order of the pictures, asked from the first on or, with `order` -1, from the last; and the mean mass."""
    judge = VLMJudge(vlm, RUBRICS[dimension], READ_OUT, dimension, AT_ONCE)
    answers = judge.answer([one.question for one in pictures][::order])[::order]
    scores = [float("nan") if isinstance(answer.score, Missing) else answer.score for answer in answers]
    return scores, float(np.mean([answer.mass if answer.mass is not None else np.nan for answer in answers]))


def finite(value: Any) -> Any:
    """NaN becomes null, which is all that JSON has."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _read(path: Path) -> Arm:
    row = json.loads(path.read_text(encoding="utf-8"))
    for name in ("shown", "again"):
        row[name] = {key: [float("nan") if one is None else one for one in scores] for key, scores in row[name].items()}
    row["pictures_per_second"] = row["pictures_per_second"] or float("nan")
    return Arm(**row)
