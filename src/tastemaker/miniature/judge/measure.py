"""How good the miniature judge is: rank correlation with the truth within held-out prompts, the raters' own, and its speed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.data.pictures import open_picture
from tastemaker.data.ratings import Rating, read_ratings
from tastemaker.evaluation.agreement import Agreement, krippendorff_alpha, rater_table, within_prompts
from tastemaker.evaluation.statistics import Estimate
from tastemaker.miniature.judge.language import DIRECT, RUBRICS, THINKING
from tastemaker.miniature.raters.collect import RATINGS, TRUTH
from tastemaker.rewards.judge import Question
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.vlm import VLMJudge

BARS = {"alignment": 0.8, "instruction": 0.8, "aesthetic": 0.7, "portrait": 0.7}
"""Least Spearman correlation with the truth within a prompt."""
LEAST_SPEED = {DIRECT.chain_of_thought: 200.0, THINKING.chain_of_thought: 40.0}
"""Scores a second on two cores, without and with a rationale."""


@dataclass(frozen=True)
class Measure:
    """Of one dimension and read-out: Spearman within prompts of judge and truth, and of the raters' mean and truth."""

    dimension: str
    thinks: bool
    judge: Agreement
    raters: Agreement
    alpha: Agreement
    """Krippendorff's, between the simulated raters."""
    scores_per_second: float


def measure(judges: Mapping[str, VLMJudge], folder: Path) -> list[Measure]:
    """Of each judge on the held-out `folder`, which `raters.collect` wrote. A missing score stays missing, and is counted."""
    ratings, truths = read_ratings(folder / RATINGS), read_truths(folder)
    return [_measured(name, judge, [r for r in ratings if r.dimension == name], truths) for name, judge in judges.items()]


def render_measures(measures: Sequence[Measure]) -> str:
    """A Markdown table; 95% intervals in brackets."""
    lines = [
        "| dimension | rationale | pictures | prompts | Spearman with the truth | bar | simulated raters' own | alpha "
        "| missing | scores/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in measures:
        met = "met" if one.judge.value >= BARS[one.dimension] else "not met"
        lines.append(
            f"| {one.dimension} | {'yes' if one.thinks else 'no'} | {one.judge.n} | {one.judge.num_prompts} "
            f"| {told(one.judge)} | {BARS[one.dimension]:g}, {met} | {told(one.raters)} | {told(one.alpha)} "
            f"| {one.judge.missing} | "
            f"{one.scores_per_second:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _measured(name: str, judge: VLMJudge, ratings: Sequence[Rating], truths: Mapping[str, Mapping[str, Any]]) -> Measure:
    questions = [opened_question(rating) for rating in ratings]
    judge.answer(questions[:1])  # what is set up once is no part of the speed
    began = time.perf_counter()
    answers = judge.answer(questions)
    seconds = time.perf_counter() - began
    scores = [np.nan if isinstance(answer.score, Missing) else answer.score for answer in answers]
    found = [truths[Path(rating.picture).name] for rating in ratings]
    prompts, truth = [row["prompt"] for row in found], [row[name] for row in found]
    return Measure(
        name,
        judge.read_out.chain_of_thought,
        within_prompts(scores, truth, prompts),
        within_prompts([rating.mean for rating in ratings], truth, prompts),
        krippendorff_alpha(rater_table([rating.scores for rating in ratings]), prompts),
        len(questions) / seconds,
    )


def opened_question(rating: Rating) -> Question:
    """With its pictures open already: reading files is no part of a judge's speed."""
    sources = tuple(open_picture(source) for source in rating.sources) if RUBRICS[rating.dimension].looks_at_sources else ()
    return Question(rating.id, rating.prompt, open_picture(rating.picture), sources)


def read_truths(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of truth.jsonl by the picture's file name; `prompt` is an id, and each dimension is its truth."""
    rows = map(json.loads, (folder / TRUTH).read_text(encoding="utf-8").splitlines())
    return {Path(row["picture"]).name: row for row in rows}


def told(found: Estimate) -> str:
    """Value and 95% interval."""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
