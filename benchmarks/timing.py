"""How ways of doing the same work are compared: first that they do the same, then in turn, round after round.

A ratio is taken within a round, so that a machine that is busy for a while slows both of its sides; every other round runs
backwards, so that a steady drift favours no one. What is reported is the median of the rounds with their extremes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

Clock = Callable[[], float]
Outcome = Mapping[str, Tensor]
"""What a way computed, by name; the names of two ways that are compared must be the same."""


@dataclass(frozen=True, eq=False)
class Way:
    """One way of doing some work."""

    name: str
    run: Callable[[], Outcome]
    like: Way | None = None
    """The way whose outcome this one must have; None for the contest's first."""
    compared: str = ""
    """Only outcomes whose names begin like this are compared."""
    tolerance: float = 5e-3
    """Largest difference that counts as the same, as a share of the largest value of that outcome."""
    of_all: bool = False
    """Whether the difference is that of all values together (root mean square) instead of the largest."""
    target: float | None = None
    """How many times as fast as this way the contest's first is meant to be at least."""


@dataclass(frozen=True, eq=False)
class Contest:
    """The same work done in several ways. `ours` has the levers on, each of the `others` is without something."""

    title: str
    unit: str
    amount: int
    """How many of the unit one run makes."""
    ours: Way
    others: Sequence[Way]


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratios` are this way's seconds over ours, one for each round; ours itself has none."""

    contest: str
    way: str
    unit: str
    rate: float
    ratios: list[float] = field(default_factory=list)
    difference: float | None = None
    tolerance: float | None = None
    target: float | None = None

    @property
    def agrees(self) -> bool:
        return self.difference is None or self.tolerance is None or self.difference <= self.tolerance

    @property
    def speedup(self) -> float | None:
        return median(self.ratios) if self.ratios else None


def measure(contest: Contest, repeats: int, device: torch.device, clock: Clock = time.perf_counter) -> list[Row]:
    """Rows of `contest`, ours first. A way whose outcome differs is not timed, so that it cannot win; the check warms up."""
    differences = check(contest)
    ways = [contest.ours, *(way for way in contest.others if differences[way.name] <= way.tolerance)]
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(repeats):
        for way in ways if number % 2 == 0 else reversed(ways):
            seconds[way.name].append(timed(way.run, device, clock))
    ours = seconds[contest.ours.name]
    rows = [Row(contest.title, contest.ours.name, contest.unit, contest.amount / median(ours))]
    for way in contest.others:
        own = seconds.get(way.name, [])
        rate = contest.amount / median(own) if own else float("nan")
        ratios = [theirs / mine for theirs, mine in zip(own, ours, strict=False)]
        apart = differences[way.name]
        rows.append(Row(contest.title, way.name, contest.unit, rate, ratios, apart, way.tolerance, way.target))
    return rows


def timed(run: Callable[[], Outcome], device: torch.device, clock: Clock) -> float:
    synchronise(device)
    began = clock()
    run()
    synchronise(device)
    return clock() - began


def synchronise(device: torch.device) -> None:
    """Waits for an accelerator, which otherwise only has been told what to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def check(contest: Contest) -> dict[str, float]:
    """Difference of each of the other ways from the way it must equal."""
    ways = {way.name: way for way in (contest.ours, *contest.others)}
    outcomes = {name: {key: value.detach().float().cpu() for key, value in way.run().items()} for name, way in ways.items()}
    return {
        way.name: difference(outcomes[way.name], outcomes[(way.like or contest.ours).name], way.compared, way.of_all)
        for way in contest.others
    }


def difference(got: Outcome, expected: Outcome, compared: str = "", of_all: bool = False) -> float:
    """|got - expected| over |expected|, of the outcome for which that is largest; inf for one that is missing.

    |x| is the largest of x, or with `of_all` its root mean square.
    """
    names = [name for name in {**got, **expected} if name.startswith(compared)]
    if not names or any(name not in got or name not in expected for name in names):
        return float("inf")
    size = torch.linalg.vector_norm if of_all else lambda x: x.abs().max()
    return max(float(size(got[name] - expected[name]) / size(expected[name]).clamp_min(1e-30)) for name in names)
