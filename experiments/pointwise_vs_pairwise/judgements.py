"""What one panel of simulated raters says of the same pictures, as ratings and as votes, one dimension at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

from experiments.pointwise_vs_pairwise.design import DIMENSIONS, PAIRWISE, SEVERE, Design
from tastemaker.data.ratings import Rating, read_ratings
from tastemaker.miniature.judge.measure import read_truths
from tastemaker.miniature.raters import panel
from tastemaker.miniature.raters.collect import RATINGS
from tastemaker.miniature.raters.truth import DIMENSIONS as OF_TRUTH
from tastemaker.miniature.raters.truth import Truth
from tastemaker.training.reward_data import StoredQuestion, question_of
from tastemaker.training.reward_model import Compared, Example, Rated

_CHOICE = {"left": 1.0, "right": 0.0, "tie": 0.5}


@dataclass(frozen=True, eq=False)
class Pictured:
    """One picture, to be judged on one dimension; `key` is what the raters' noise on it is keyed by."""

    question: StoredQuestion
    key: str
    prompt: str
    category: str
    dimension: str
    scores: dict[str, float]
    """The hidden truth, by dimension."""

    @property
    def truth(self) -> float:
        return self.scores[self.dimension]


@dataclass(frozen=True)
class Judged:
    """Examples to learn from, and how many judgements of raters they hold."""

    examples: list[Example]
    judgements: int


def read_pictures(folder: Path) -> dict[str, list[Pictured]]:
    """The pictures of each dimension, in the order of the file, those of one prompt side by side."""
    truths = read_truths(folder)
    found: dict[str, list[Pictured]] = {name: [] for name in DIMENSIONS}
    for rating in read_ratings(folder / RATINGS):
        if rating.dimension in found:
            found[rating.dimension].append(_pictured(rating, truths[Path(rating.picture).name]))
    return found


def _pictured(rating: Rating, row: dict[str, Any]) -> Pictured:
    scores = {name: row[name] for name in OF_TRUTH if name in row}
    question = question_of(rating, rating.picture)
    return Pictured(question, row["picture"], row["prompt"], rating.category, rating.dimension, scores)


def judged(arm: str, pictures: Sequence[Pictured], design: Design, seed: int) -> Judged:
    """What the panel of `seed` says for this arm. Its severities change the scores and no vote."""
    raters = panel.panel(design.panel, seed)
    if arm == PAIRWISE:
        return votes(pictures, raters, design.votes_per_pair, seed)
    if arm == SEVERE:
        raters = [replace(rater, severity=design.severity * rater.severity) for rater in raters]
    return ratings(pictures, raters, design.raters, seed)


def ratings(pictures: Sequence[Pictured], raters: Sequence[panel.Rater], each: int, seed: int) -> Judged:
    """Every picture rated by `each` of the raters: with the seed of a sitting, what that sitting's ratings.jsonl holds."""
    examples: list[Example] = []
    for one in pictures:
        seen_by = panel.chosen(raters, each, seed, one.key)
        truth = Truth(one.scores, (), {})
        scores = [panel.score(rater, truth, one.dimension, one.category, one.key, seed) for rater in seen_by]
        examples.append(Rated.of(one.question, scores))
    return Judged(examples, each * len(examples))


def votes(pictures: Sequence[Pictured], raters: Sequence[panel.Rater], each: int, seed: int) -> Judged:
    """Every two pictures of a prompt voted on by `each` of the raters, on the dimension alone; a vote is an example."""
    examples: list[Example] = []
    for _, group in groupby(pictures, key=lambda one: one.prompt):
        for first, second in combinations(group, 2):
            sides = [(one.key, Truth({one.dimension: one.truth}, (), {})) for one in (first, second)]
            for rater in panel.chosen(raters, each, seed, f"{first.key} {second.key}"):
                choice = _CHOICE[panel.choice(rater, sides[0], sides[1], seed)]
                examples.append(Compared(first.question, second.question, choice))
    return Judged(examples, len(examples))
