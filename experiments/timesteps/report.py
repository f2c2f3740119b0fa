"""Proxy and truth of each arm along the way, at the end, and truth where all arms have bought as much of the proxy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.arms import Point
from experiments.differences import by_seed, each_seed
from experiments.page import Curve, chart, markdown, signed, told
from experiments.timesteps.design import HIGH, NOISE, WEIGHTS, Design
from tastemaker.evaluation.summary import points

EDITS, SATURATION, PROXY, EXACT = "edits", "saturation", "proxy", "exact"
MEASURES = {PROXY: "proxy", EXACT: "truth: every fact holds", EDITS: "truth: edits do what they say"}
SHARES = (EXACT, EDITS)
"""Told in points; the proxy is told as it is."""
_BOUGHT = 0.1  # share of the largest gain of the proxy below which an arm has bought none


@dataclass(frozen=True)
class Arm:
    """One finished training; without points if it diverged."""

    algorithm: str
    noise: str
    seed: int
    points: Sequence[Point]

    @property
    def name(self) -> str:
        return f"{self.algorithm}, {self.noise}"


def values(point: Point, measure: str) -> np.ndarray:
    """(n,) of each held-out prompt, or of each held-out edit."""
    if measure == PROXY:
        parts = {SATURATION: point.also[SATURATION], "quality": point.quality}
        return np.sum([weight * np.asarray(parts[name], float) for name, weight in WEIGHTS.items()], axis=0)
    return np.asarray(point.exact if measure == EXACT else point.also[measure], float)


def rows_of(base: Point, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Every difference, paired by prompt, for each seed and pooled (seed null).

    `at` is a step, "end", or "equal proxy": where every arm that gained any has gained as much as the one that gained least.
    """
    rows: list[dict[str, Any]] = []
    for algorithm in dict.fromkeys(arm.algorithm for arm in arms):
        mine = [arm for arm in arms if arm.algorithm == algorithm and arm.points]
        for noise in NOISE:
            rows += _along(base, [arm for arm in mine if arm.noise == noise])
        rows += _against_high(mine)
        rows += _at_equal_proxy(base, mine)
    return rows


def _along(base: Point, seeds: Sequence[Arm]) -> list[dict[str, Any]]:
    """One arm less the base at each point."""
    rows = []
    for place in range(min((len(arm.points) for arm in seeds), default=0)):
        step = seeds[0].points[place].step
        for measure in MEASURES:
            after = [values(arm.points[place], measure) for arm in seeds]
            what = {"what": f"{seeds[0].name} − base", "measure": measure, "at": step}
            rows += by_seed(what, [arm.seed for arm in seeds], after, [values(base, measure)] * len(seeds))
    return rows


def _against_high(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Every arm less that of high noise, after all steps."""
    high = {arm.seed: arm for arm in arms if arm.noise == HIGH}
    rows = []
    for noise in NOISE:
        paired = [arm for arm in arms if arm.noise == noise != HIGH and arm.seed in high]
        for measure in MEASURES if paired else ():
            after, before = (
                [values(arm.points[-1], measure) for arm in some] for some in (paired, [high[arm.seed] for arm in paired])
            )
            what = {"what": f"{paired[0].name} − {HIGH}", "measure": measure, "at": "end"}
            rows += by_seed(what, [arm.seed for arm in paired], after, before)
    return rows


def _at_equal_proxy(base: Point, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Each arm less the base, in a straight line between the two points where its proxy passes the gain that all reach.

    An arm that bought less than a tenth of what another did, in any seed, has nothing to be compared at, and is left out.
    """
    before = values(base, PROXY).mean()
    reached: dict[str, list[float]] = {}
    for arm in arms:
        reached.setdefault(arm.noise, []).append(max(values(point, PROXY).mean() for point in arm.points) - before)
    most = max((gain for gains in reached.values() for gain in gains), default=math.nan)
    bought = [noise for noise in NOISE if min(reached.get(noise, [math.nan])) > _BOUGHT * most > 0]
    gain = min((min(reached[noise]) for noise in bought), default=math.nan)
    rows = []
    for noise in bought if len(bought) > 1 else ():
        seeds = [arm for arm in arms if arm.noise == noise]
        places = [crossing([values(point, PROXY).mean() - before for point in (base, *arm.points)], gain) for arm in seeds]
        for measure in SHARES if seeds else ():
            after = [_between((base, *arm.points), measure, place) for arm, place in zip(seeds, places, strict=True)]
            what = {"what": f"{seeds[0].name} − base", "measure": measure, "at": "equal proxy", "gain": gain}
            rows += by_seed(what, [arm.seed for arm in seeds], after, [values(base, measure)] * len(seeds))
    return rows


def crossing(gains: Sequence[float], gain: float) -> float:
    """Where the gains first reach `gain`, as a place between them; the last place if that is by rounding."""
    for place in range(1, len(gains)):
        if gains[place] >= gain:
            return place - 1 + (gain - gains[place - 1]) / (gains[place] - gains[place - 1])
    return float(len(gains) - 1)


def _between(along: Sequence[Point], measure: str, place: float) -> np.ndarray:
    before = min(int(place), len(along) - 2)
    share = place - before
    return (1 - share) * values(along[before], measure) + share * values(along[before + 1], measure)


def page(design: Design, rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: each arm at its first and last point, at equal proxy, and against high noise."""
    text = [
        f"{design.seeds} seeds, {design.steps} steps of {design.prompts} prompts x 8 pictures, {design.sampling} sampling "
        "steps, no guidance. Truth in points, the proxy from 0 to 1; paired by prompt and pooled over seeds, with 95% "
        "intervals that redraw prompts with the seeds as they are; in brackets the seeds.",
    ]
    steps = [row["at"] for row in rows if isinstance(row["at"], int)]
    for at in (min(steps), max(steps)) if steps else ():
        text += [f"**After {at} steps: arm − base**", _table(rows, at)]
    text += ["**After all steps: arm − high noise**", _table(rows, "end")]
    equal = [row for row in rows if row["at"] == "equal proxy"]
    for gain in dict.fromkeys(row["gain"] for row in equal):
        some = [row for row in equal if row["gain"] == gain]
        text += [f"**Where the proxy has risen by {gain:.3f}: arm − base**", _table(some, "equal proxy")]
    return "\n\n".join(text)


def _table(rows: Sequence[Mapping[str, Any]], at: int | str) -> str:
    chosen = [row for row in rows if row["at"] == at]
    pooled = {(row["what"], row["measure"]): row for row in chosen if row["seed"] is None}
    measures = [name for name in MEASURES if any(measure == name for _, measure in pooled)]
    lines = []
    for what in dict.fromkeys(what for what, _ in pooled):
        cells = []
        for measure in measures:
            form = points if measure in SHARES else signed
            seeds = each_seed(pooled[what, measure], chosen, form)
            cells.append(f"{told(pooled[what, measure], form)} [{', '.join(seeds)}]")
        lines.append([what, *cells])
    sizes = {measure: next(row["n"] for (_, name), row in pooled.items() if name == measure) for measure in measures}
    return markdown(["difference", *(f"{MEASURES[name]} (n = {n})" for name, n in sizes.items())], lines)


def charts(base: Point, arms: Sequence[Arm]) -> bytes:
    """Proxy and both truths over steps, a column for each algorithm."""
    panels: dict[str, list[Curve]] = {}
    algorithms = list(dict.fromkeys(arm.algorithm for arm in arms))
    for measure, title in MEASURES.items():
        scale = 100 if measure in SHARES else 1
        for algorithm in algorithms:
            mine = [arm for arm in arms if arm.algorithm == algorithm]
            panels[f"{algorithm}, {title}{', %' if measure in SHARES else ''}"] = [
                Curve(noise, place, [_series(base, arm, measure, scale) for arm in mine if arm.noise == noise])
                for place, noise in enumerate(NOISE)
            ]
    return chart(panels, columns=len(algorithms))


def _series(base: Point, arm: Arm, measure: str, scale: float) -> dict[float, float]:
    return {point.step: scale * float(values(point, measure).mean()) for point in (base, *arm.points)}
