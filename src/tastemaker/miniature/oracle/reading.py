"""What the oracle answers: facts with soft scores, and the grading that turns a measurement into a score.

A fact holds exactly when its score reaches PASS, so that reward and verdict can never disagree.
"""

from dataclasses import dataclass

import numpy as np

PASS = 0.5


@dataclass(frozen=True)
class Fact:
    """One checkable claim of a prompt; `verdict` is `score >= PASS`."""

    name: str
    verdict: bool
    score: float


@dataclass(frozen=True)
class Reading:
    """What a picture shows of a description: `exact` when every fact holds, `partial` the mean score."""

    facts: tuple[Fact, ...]
    exact: bool
    partial: float


@dataclass(frozen=True)
class EditReading:
    """What an edit did: the target's facts, and what became of the rest of the source picture.

    `identity_kept` is None where no face was there to be measured.
    """

    facts: tuple[Fact, ...]
    exact: bool
    partial: float
    preserved: float
    preserved_verdict: bool
    identity_kept: bool | None
    success: bool


def reading(scores: dict[str, float]) -> Reading:
    """A reading of scores in [0, 1] by fact name."""
    facts = tuple(Fact(name, bool(score >= PASS), float(score)) for name, score in scores.items())
    return Reading(facts, all(fact.verdict for fact in facts), float(np.mean([fact.score for fact in facts])))


def graded(value: float, fail: float, passing: float, full: float) -> float:
    """0 at `fail`, PASS at `passing`, 1 at `full`, linear between; the three rise or fall together."""
    if full < fail:
        value, fail, passing, full = -value, -fail, -passing, -full
    if value < passing:
        return PASS * max(0.0, (value - fail) / (passing - fail))
    return PASS + (1 - PASS) * min(1.0, (value - passing) / (full - passing))
