"""What the numbers of an evaluation say, in sentences: what was gained, and which categories fell below their base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import ndtr

from tastemaker.evaluation.scores import ALL_JUDGES, ScoreDifference
from tastemaker.evaluation.statistics import Z95, holm
from tastemaker.evaluation.summary import (
    ALL,
    NO_GUIDANCE,
    Difference,
    Summary,
    guidance_words,
    interval,
    percent,
    points,
    score_words,
)

ONE_SIDED = 0.025
"""Of a 95% interval, what lies beyond its upper end."""
SCORE_PAIRS = 20
"""Least pairs of scores that a fall is told from: with fewer, the bootstrap's interval is too narrow to warn by."""


def headline(summary: Summary) -> str:
    """What the last model gained over the first it is compared with, or that it showed no gain: a sentence for each task."""
    overall = [d for d in summary.differences if d.category == ALL]
    if not overall:
        row = next((r for r in summary.rows if r.category == ALL), None)
        if row is None:
            return _judged_headline(summary)
        return (
            f"{row.model} gets {percent(row.accuracy)} of {row.n} held-out prompts right "
            f"(95% interval {interval(row.low, row.high)}); it was compared with no other model."
        )
    last = [d for d in overall if d.pair == next(d.pair for d in overall if d.pair[0] == overall[-1].pair[0])]
    # Both as they are meant to be sampled, which for a model without guidance may be against one with it.
    chosen = {d.task: d for d in last if d.guidance == last[0].guidance}
    return " ".join(_gain(summary, one, several=len(chosen) > 1) for one in chosen.values())


def told_of(summary: Summary, model: str) -> Summary:
    """The same numbers with what is said of this model first, so that the headline is about it."""
    return replace(
        summary,
        rows=tuple(sorted(summary.rows, key=lambda row: row.model != model)),
        differences=tuple(d for d in summary.differences if d.pair[0] == model),
        scores=tuple(sorted(summary.scores, key=lambda row: row.model != model)),
        score_differences=tuple(d for d in summary.score_differences if d.pair[0] == model),
    )


def _gain(summary: Summary, overall: Difference, *, several: bool) -> str:
    against = overall.guidance if overall.against_guidance is None else overall.against_guidance
    same = against == overall.guidance
    sides = [
        (overall.pair[0], _accuracy(summary, overall.pair[0], overall.task, overall.guidance), overall.guidance),
        (overall.pair[1], _accuracy(summary, overall.pair[1], overall.task, against), against),
    ]
    after, before = (model if same else f"{model} {_sampling(guidance)}" for model, _, guidance in sides)
    shares = [share for _, share, _ in sides]
    compared = f"{after} gets {shares[0]} right and {before} {shares[1]}" if all(shares) else f"{after} against {before}"
    shared = f" {_sampling(against)}" if same else ""
    clear = "" if overall.estimate.excludes_zero else "; no clear difference"
    what = _items(overall.task) if several else "prompts"
    return (
        f"On {overall.n} held-out {what}{shared}, {compared}: {points(overall.difference)} points "
        f"(95% interval {interval(overall.low, overall.high, points)}){clear}."
    )


def _items(task: str) -> str:
    return {"t2i": "text-to-image prompts", "edit": "edits"}.get(task, f"prompts of {task}")


def _judged_headline(summary: Summary) -> str:
    """Where no truth is known: the first difference of scores over all prompts, that of all judges if there is one."""
    overall = [d for d in summary.score_differences if d.category == ALL and d.reward == judges_score(summary)]
    if not overall:
        return "Nothing was compared." if summary.scores else "Nothing was evaluated."
    found = overall[0]
    clear = "" if found.estimate.excludes_zero else "; no clear difference"
    against = found.guidance if found.against_guidance is None else found.against_guidance
    return (
        f"On {found.n} held-out prompts, {found.pair[0]} {_sampling(found.guidance)} against {found.pair[1]} "
        f"{_sampling(against)}: {score_words(found.difference)} in the score of {found.reward} "
        f"(95% interval {interval(found.low, found.high, score_words)}){clear}."
    )


def judges_score(summary: Summary) -> str | None:
    """The score that stands for the judges where no truth is known: their weighted sum, or that of the only one."""
    names = dict.fromkeys(row.reward for row in summary.scores or summary.score_differences)
    return ALL_JUDGES if ALL_JUDGES in names else next(iter(names), None)


def _sampling(guidance: float) -> str:
    return "without guidance" if guidance == NO_GUIDANCE else f"with guidance {guidance:g}"


def _accuracy(summary: Summary, model: str, task: str, guidance: float) -> str:
    """The share in words, or nothing where the summary has no such row."""
    found = [r for r in summary.rows if (r.model, r.task, r.guidance, r.category) == (model, task, guidance, ALL)]
    return percent(found[0].accuracy) if found else ""


@dataclass(frozen=True)
class Fall:
    """A category in which the first model of a pair is worse than the second, its base, by the paired 95% interval.

    Its upper end is below 0, which happens to one unchanged category in forty. `among` were compared, and `corrected` says
    whether the fall holds when that is taken into account (Holm, one-sided, 2.5% for all of them together).
    """

    difference: Difference | ScoreDifference
    among: int
    corrected: bool

    def __str__(self) -> str:
        d = self.difference
        sure = "still clear" if self.corrected else "not clear any more"
        others = f"; {self.among} categories compared, {sure} when corrected for that (Holm)" if self.among > 1 else ""
        if isinstance(d, ScoreDifference):
            below, form = f"{score_words(-d.difference)} below {d.pair[1]} in the score of {d.reward}", score_words
        else:
            below, form = f"{points(-d.difference).lstrip('+')} points below {d.pair[1]}", points
        return (
            f"{d.category}: {d.pair[0]} is {below} (95% interval {interval(d.low, d.high, form)}, n = {d.n}, {d.task}, "
            f"guidance {guidance_words(d.guidance, d.against_guidance)}){others}"
        )


def fallen(summary: Summary) -> list[Fall]:
    """Every category that fell: by truth, or by what the judges say where no truth is known."""
    return falls(summary.differences or [d for d in summary.score_differences if d.reward == judges_score(summary)])


def falls(differences: Sequence[Difference | ScoreDifference]) -> list[Fall]:
    """Those of one measure. Categories of one pair, task and guidance are one family.

    A model that was drawn with the base's guidance too is compared there alone: that without guidance it draws worse than the
    base does with guidance is no fall.
    """
    drawn = {(d.pair[0], d.task, d.guidance) for d in differences}
    families: dict[Any, list[Difference | ScoreDifference]] = {}
    for d in differences:
        if d.category != ALL and (d.against_guidance is None or (d.pair[0], d.task, d.against_guidance) not in drawn):
            families.setdefault((d.pair, d.task, d.guidance, d.against_guidance), []).append(d)
    found = []
    for family in families.values():
        corrected = holm([_p_of_a_fall(d) for d in family], ONE_SIDED)
        found += [Fall(d, len(family), sure) for d, sure in zip(family, corrected, strict=True) if d.high < 0 and _enough(d)]
    return found


def _enough(d: Difference | ScoreDifference) -> bool:
    return isinstance(d, Difference) or d.n >= SCORE_PAIRS


def _p_of_a_fall(d: Difference | ScoreDifference) -> float:
    """One-sided, as if the upper half of the interval were a normal one's; 1 where there is no interval."""
    return 1.0 if math.isnan(d.high) or d.high <= d.difference else float(ndtr(Z95 * d.difference / (d.high - d.difference)))
