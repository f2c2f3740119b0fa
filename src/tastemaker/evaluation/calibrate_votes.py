"""Votes with the scores of both pictures, from a file; out come a table for a person and YAML for a config.

A line is a vote, and a side is its scores by reward; a score that did not arrive is null:

    {"prompt": "p1", "category": "portrait", "choice": "left", "left": {"alignment": 4.1}, "right": {"alignment": null}}

`choice` is left, right or tie. Optional are `category`, an `id`, which no two votes share, and `rater`, which is not used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tastemaker.data.jsonl import Fields, read_rows, shorten
from tastemaker.evaluation.calibrate import MIN_PROMPTS, Calibration, Fit, calibrate
from tastemaker.runtime.folder import write_text_atomic

CHOICES = {"left": 1.0, "tie": 0.5, "right": 0.0}
EXAMPLE = '{"prompt": "p1", "choice": "left", "left": {"alignment": 0.9}, "right": {"alignment": 0.4}}'

Ranges = Mapping[str, tuple[float, float]]
"""The lowest and highest score of each reward."""


@dataclass(frozen=True)
class ScoredVote:
    """A person's choice, and what the rewards say of both pictures; None is a score that is missing."""

    id: str
    prompt: str
    category: str
    choice: float
    """1 for left, 0.5 for a tie, 0 for right."""
    left: Mapping[str, float | None]
    right: Mapping[str, float | None]


def run(
    votes: Sequence[ScoredVote],
    path: Path,
    *,
    ranges: Ranges | None,
    strength: float,
    resamples: int,
    seed: int,
    out: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Fits, prints the table, writes the fragment (beside `path`, the votes, if `out` is None) and returns its path.

    Both sides of a vote, and all votes of a category, name the same rewards; without `ranges` they all range from 0 to 1.
    """
    names = sorted({name for vote in votes for name in vote.left}, key=list(ranges).index if ranges else None)
    bounds = {name: ranges[name] if ranges else (0.0, 1.0) for name in names}
    found = calibrate(
        _scores([vote.left for vote in votes], names),
        _scores([vote.right for vote in votes], names),
        np.array([vote.choice for vote in votes]),
        np.array([vote.category for vote in votes]),
        np.array([vote.prompt for vote in votes]),
        np.array(list(bounds.values())),
        strength=strength,
        resamples=resamples,
        seed=seed,
    )
    how = f"{path.name}; shrinkage strength {strength:g}, {resamples} resamples, seed {seed}"
    console = console or Console()
    silent = _silent(votes, found, names)
    console.print(table(found, names, title=how, silent=silent))
    for category, rewards in silent.items():
        for name in rewards:
            console.print(
                f"{category}: no vote has a score of {name} on both sides, so it counts nothing there; "
                "where it was meant to count, see why its judge gave none, and calibrate again"
            )
    console.print(
        "Weights with 95% intervals (bootstrap over prompts). A category is told apart from the pooled fit when a weight of it "
        f"differs at 5%, on at least {MIN_PROMPTS} prompts; else it takes the pooled weights of the rewards it asks."
    )
    out = out or path.with_name(f"{path.stem}.weights.yaml")
    write_text_atomic(out, fragment(found, bounds, comment=f"{how}; 95% intervals by bootstrap over prompts"))
    console.print(f"to paste into a config: {out}")
    return out


def read_scored_votes(path: Path, ranges: Ranges | None) -> list[ScoredVote]:
    """Every vote of the file. Raises UserMistake with a line for each mistake: file, line, field, rule and remedy.

    Both sides of a vote, and all votes of a category, name the same rewards; a prompt has one category.
    """
    return read_rows(
        path, _Reader(ranges), kind="votes", example=EXAMPLE, unique=lambda vote: [("id", vote.id)] if vote.id else []
    )


@dataclass
class _Reader:
    """Reads one row after the other, and remembers what later rows have to agree with."""

    ranges: Ranges | None
    rewards_of: dict[str, frozenset[str]] = field(default_factory=dict)
    category_of: dict[str, str] = field(default_factory=dict)

    def __call__(self, fields: Fields) -> ScoredVote:
        fields.get("rater")
        name, prompt, category = fields.text("id", ""), fields.text("prompt"), fields.text("category", "general")
        choice = fields.choice("choice", CHOICES)
        left, right = (self._side(fields, side) for side in ("left", "right"))
        if not fields.mistakes:
            self._agreement(fields, prompt, category, left.keys(), right.keys())
        return ScoredVote(name, prompt, category, CHOICES[choice] if choice in list(CHOICES) else math.nan, left, right)

    def _side(self, fields: Fields, side: str) -> dict[str, float | None]:
        scores = fields.get(side)
        if not isinstance(scores, dict) or not scores:
            fields.wrong(side, 'missing, empty or not an object; write the scores by reward, such as {"alignment": 0.9}')
            return {}
        for name, score in scores.items():
            if mistake := self._mistake(name, score):
                fields.wrong(f"{side}.{name}", mistake)
        return scores

    def _mistake(self, name: str, score: object) -> str | None:
        if self.ranges is not None and name not in self.ranges:
            near = get_close_matches(name, self.ranges, 1)
            return f"unknown reward; {f'did you mean {near[0]!r}?' if near else 'known are ' + ', '.join(self.ranges)}"
        if score is None:
            return None
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            return f"{shorten(score)} is no number; write null where the score did not arrive"
        low, high = self.ranges[name] if self.ranges else (0.0, 1.0)
        if not low <= score <= high:
            remedy = "correct one of them" if self.ranges else "give the config that states its range"
            return f"{shorten(score)} is outside of {low:g} to {high:g}, the range of {name}; {remedy}"
        return None

    def _agreement(self, fields: Fields, prompt: str, category: str, left: Iterable[str], right: Iterable[str]) -> None:
        first = self.category_of.setdefault(prompt, category)
        if category != first:
            fields.wrong("category", f"{category!r}, but an earlier vote on prompt {prompt!r} has {first!r}; a prompt has one")
            return
        expected = self.rewards_of.setdefault(category, frozenset(left))
        for side, names in (("left", frozenset(left)), ("right", frozenset(right))):
            for name in sorted(expected - names):
                fields.wrong(
                    f"{side}.{name}", f"missing, the first vote of {category!r} has it; write null where it did not arrive"
                )
            for name in sorted(names - expected):
                fields.wrong(f"{side}.{name}", f"the first vote of {category!r} does not have it; all votes of a category do")


def table(found: Calibration, names: Sequence[str], title: str, silent: Mapping[str, Sequence[str]]) -> Table:
    """A row for the pooled fit and one for each category, each number with its n or its interval.

    `silent` names the rewards that a category's votes ask and have no score of; the others without a weight were not asked.
    """
    result = Table(title=title)
    for heading in ("category", "votes", "prompts", "missing", *names, "temperature", "told apart"):
        result.add_column(heading, justify="left" if heading == "category" else "right")
    nowhere = [name for name, asked in zip(names, found.pooled.asked_R, strict=True) if not asked]
    result.add_row("pooled", *_cells(found.pooled, names, nowhere), "")
    for category, fit in found.categories.items():
        cells = _cells(fit, names, silent.get(category, ()))
        result.add_row(category, *cells, "yes" if fit.told_apart else f"no: {_why_not(fit)}")
    return result


def fragment(found: Calibration, bounds: Ranges, comment: str) -> str:
    """YAML: `rewards` with the pooled weights, and `categories` with those that differ. Weights have three decimals."""
    names = list(bounds)
    own = {c: rounded(found.recommended_R(c)) for c, fit in found.categories.items() if fit.told_apart or not fit.asked_R.all()}
    pooled = rounded(found.pooled.weights_R)
    used: np.ndarray = np.any([pooled, *own.values()], axis=0)
    return "\n".join(
        [
            f"# {comment}",
            "# Set weight, low and high of your rewards of these names; a weight goes with its range.",
            "rewards:",
            *(_reward_line(k, name, bounds[name], found.pooled, pooled[k], bool(used[k])) for k, name in enumerate(names)),
            "categories:" if own else "categories: {}",
            *_category_lines(found, names, own),
            "",
        ]
    )


def rounded(weights_R: np.ndarray, decimals: int = 3) -> np.ndarray:
    """Rounded so that they still add up to 1: what is over goes to the largest remainders."""
    units_R = weights_R * 10**decimals
    whole_R = np.floor(units_R + 1e-9)
    left_over = round(10**decimals - whole_R.sum())
    whole_R[np.argsort(whole_R - units_R, kind="stable")[:left_over]] += 1
    return whole_R / 10**decimals


def _scores(sides: Sequence[Mapping[str, float | None]], names: Sequence[str]) -> np.ndarray:
    """(N, R) with NaN for what is missing or not asked."""
    return np.array([[math.nan if (score := side.get(name)) is None else score for name in names] for side in sides])


def _silent(votes: Sequence[ScoredVote], found: Calibration, names: Sequence[str]) -> dict[str, list[str]]:
    """By category, the rewards that its votes name and that never scored both sides of one; the fit has them as not asked."""
    named = {vote.category: vote.left.keys() for vote in votes}
    silent = {
        category: [name for name, asked in zip(names, fit.asked_R, strict=True) if name in named[category] and not asked]
        for category, fit in found.categories.items()
    }
    return {category: rewards for category, rewards in silent.items() if rewards}


def _cells(fit: Fit, names: Sequence[str], silent: Sequence[str]) -> Iterator[str]:
    yield from (f"{fit.num_votes:,}", f"{fit.num_prompts:,}", f"{fit.num_missing:,}")
    for name, asked, *numbers in zip(names, fit.asked_R, fit.weights_R, fit.low_R, fit.high_R, strict=True):
        yield _with_interval(*numbers) if asked else "no score" if name in silent else "not asked"
    yield _with_interval(fit.temperature, fit.temperature_low, fit.temperature_high)


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _why_not(fit: Fit) -> str:
    if np.isnan(fit.weights_R).any():
        return "no reward agrees with its votes"
    if fit.asked_R.sum() == 1:
        return "one reward"
    return f"fewer than {MIN_PROMPTS} prompts" if fit.num_prompts < MIN_PROMPTS else "too few votes, or alike"


def _reward_line(k: int, name: str, bounds: tuple[float, float], pooled: Fit, weight: float, used: bool) -> str:
    line = f"- {{name: {_word(name)}, weight: {weight:g}, low: {bounds[0]:g}, high: {bounds[1]:g}}}"
    interval = f"{pooled.low_R[k]:.2f} to {pooled.high_R[k]:.2f}, n = {pooled.num_votes}"
    return f"{line}  # {interval}" if used else f"# {line}  # {interval}: counts nowhere, leave it out"


def _category_lines(found: Calibration, names: Sequence[str], own: Mapping[str, np.ndarray]) -> Iterator[str]:
    for category, fit in found.categories.items():
        size = f"{fit.num_votes} votes on {fit.num_prompts} prompts"
        if category not in own:
            yield f"  # {_word(category)} takes the weights above; {size} do not tell it from the pooled fit"
            continue
        weights = ", ".join(f"{_word(name)}: {w:g}" for name, w in zip(names, own[category], strict=True) if w > 0)
        reason = "told apart from the pooled fit" if fit.told_apart else "pooled weights of the rewards it asks"
        yield f"  {_word(category)}: {{{weights}}}  # {size}; {reason}"


def _word(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w.-]*", name) else json.dumps(name)
