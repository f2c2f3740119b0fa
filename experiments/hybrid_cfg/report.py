"""What became of each arm: differences to the base and to hybrid, how steadily it trained, the same as a page and as curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.arms import Point
from experiments.differences import arms_less_base_and, each_seed
from experiments.hybrid_cfg.design import HYBRID, MODES, Design, slices
from experiments.page import Curve, chart, markdown, signed, told
from tastemaker.evaluation.picture_statistics import MEANING
from tastemaker.evaluation.summary import percent, points
from tastemaker.types import Prompt

GUIDED, UNGUIDED = "guided", "unguided"
STATISTICS = tuple(name for name in MEANING if name not in ("diversity", "duplicates"))
"""Those of single pictures: there is one picture of a prompt."""
LAST = 5
"""Steps whose mean is the gradient norm "at the end"."""


@dataclass(frozen=True)
class Arm:
    """One finished training. The base has one point and no history; an arm that diverged may have no point."""

    mode: str
    seed: int
    points: Sequence[Point]
    history: Sequence[Mapping[str, Any]]
    """Lines of metrics.jsonl."""
    incidents: int
    """Values that were not finite."""

    def value(self, measure: str) -> np.ndarray:
        """(n,) of each held-out prompt at the end, NaN for an arm that diverged."""
        return np.asarray(self.points[-1].also[measure], float)


def compare(held_out: Sequence[Prompt], trained: Sequence[str], base: Arm, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Every arm less the base and less hybrid, paired by prompt, for each seed and pooled (seed null).

    Arms that diverged are in no row: their seeds are missing there.
    """
    parts = slices(held_out, trained)
    named = {"exact": parts, "style": parts, **{name: {"all": parts["all"]} for name in STATISTICS}}
    rows: list[dict[str, Any]] = []
    for guidance in (GUIDED, UNGUIDED):
        for measure, where in named.items():
            for part, places in where.items():
                what, key = {"guidance": guidance, "measure": measure, "part": part}, f"{guidance}/{measure}"
                found = {(arm.mode, arm.seed): arm.value(key)[places] for arm in arms if arm.points}
                rows += arms_less_base_and(what, found, base.value(key)[places], MODES, HYBRID) if places else []
    return rows


def stability(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """One row for each arm and seed."""
    return [_steady(arm) for arm in arms]


def _steady(arm: Arm) -> dict[str, Any]:
    norms = [line["grad_norm"] for line in arm.history if line.get("grad_norm") is not None]
    skipped = sum(line.get("updates_skipped") or 0 for line in arm.history)
    speeds = [point.images_per_second for point in arm.points if not math.isnan(point.images_per_second)]
    return {
        "arm": arm.mode,
        "seed": arm.seed,
        "steps": len(arm.history),
        "finished": bool(arm.points),
        "max_grad_norm": max(norms, default=math.nan),
        "last_grad_norm": float(np.mean(norms[-LAST:])) if norms else math.nan,
        "not_finite": arm.incidents,
        "updates_skipped": skipped,
        "images_per_second": float(np.mean(speeds)) if speeds else math.nan,
    }


def page(design: Design, rows: Sequence[Mapping[str, Any]], steady: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: what was retained against the base and against hybrid, stability, and picture statistics."""
    pooled = [row for row in rows if row["seed"] is None]
    text = [
        f"{design.seeds} seeds, {design.steps} steps of {design.prompts} prompts x 8 pictures, {design.algorithm}, trained on "
        f"{design.trained.replace(' ', ' and ')} in plain style, guidance {design.guidance:g}. Differences in points, paired "
        "by prompt and pooled over seeds, with 95% intervals that redraw prompts with the seeds as they are; in brackets the "
        "seeds.",
    ]
    for measure, against in (("exact", "base"), ("exact", HYBRID), ("style", "base")):
        for guidance in (GUIDED, UNGUIDED):
            chosen = [r for r in pooled if (r["measure"], r["guidance"], r["against"]) == (measure, guidance, against)]
            text += [f"**{_TITLES[measure]}, drawn {guidance}: arm − {against}**", _retained(chosen, rows)]
    text += ["**Stability**: mean over seeds, and in brackets each seed", _stability_table(steady)]
    for guidance in (GUIDED, UNGUIDED):
        text += [f"**Picture statistics, drawn {guidance}: arm − base**", _statistics_table(pooled, guidance)]
    return "\n\n".join(text)


_TITLES = {"exact": "every fact holds", "style": "the style is the one asked for"}


def _retained(chosen: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> str:
    arms = list(dict.fromkeys(row["arm"] for row in chosen))
    lines = []
    for part in dict.fromkeys(row["part"] for row in chosen):
        found = {row["arm"]: row for row in chosen if row["part"] == part}
        some = next(iter(found.values()))
        seeds = {arm: ", ".join(each_seed(row, rows, points)) for arm, row in found.items()}
        cells = [f"{told(found[arm])} [{seeds[arm]}]" if arm in found else "–" for arm in arms]
        lines.append([f"{part} (n = {some['n']})", percent(some["base"]), *cells])
    return markdown(["held-out prompts", "base", *arms], lines)


def _stability_table(steady: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for mode in dict.fromkeys(row["arm"] for row in steady):
        mine = [row for row in steady if row["arm"] == mode]
        measured = [_mean_and_each(mine, key) for key in ("max_grad_norm", "last_grad_norm", "images_per_second")]
        counted = [sum(row[key] for row in mine) for key in ("not_finite", "updates_skipped")]
        lines.append([mode, f"{sum(row['finished'] for row in mine)} of {len(mine)}", *measured, *(f"{n:g}" for n in counted)])
    last = f"its mean over the last {LAST} steps"
    speed = "pictures a processor second"
    return markdown(["arm", "finished", "largest gradient norm", last, speed, "values not finite", "updates skipped"], lines)


def _mean_and_each(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [row[key] for row in rows]
    return f"{np.mean(values):.3g} [{', '.join(f'{value:.3g}' for value in values)}]"


def _statistics_table(pooled: Sequence[Mapping[str, Any]], guidance: str) -> str:
    lines = []
    for name in STATISTICS:
        found = [r for r in pooled if (r["measure"], r["guidance"], r["against"]) == (name, guidance, "base")]
        if found:
            lines.append([name.replace("_", " "), f"{found[0]['base']:.3f}", *(told(row, signed) for row in found)])
    return markdown(["", "base", *(mode for mode in MODES if any(row["arm"] == mode for row in pooled))], lines)


def charts(held_out: Sequence[Prompt], trained: Sequence[str], base: Arm, arms: Sequence[Arm]) -> bytes:
    """Gradient norm and training reward of each step, and the accuracy of each part of the held-out prompts at each point."""
    panels = {
        "gradient norm": _curves(
            arms, lambda arm: {line["step"]: line["grad_norm"] for line in arm.history if "grad_norm" in line}
        ),
        "training reward (facts), as drawn": _curves(
            arms, lambda arm: {line["step"]: line["reward/facts"] for line in arm.history if "reward/facts" in line}
        ),
    }
    for part, places in slices(held_out, trained).items():
        for guidance in (GUIDED, UNGUIDED) if part != "all" and places else ():
            key = f"{guidance}/exact"

            def along(arm: Arm, key: str = key, places: list[int] = places) -> dict[int, float]:
                return {p.step: 100 * float(np.mean(np.asarray(p.also[key])[places])) for p in (*base.points, *arm.points)}

            panels[f"{part}, drawn {guidance}: exact, %"] = _curves(arms, along)
    return chart(panels)


def _curves(arms: Sequence[Arm], along: Any) -> list[Curve]:
    return [Curve(mode, place, [along(arm) for arm in arms if arm.mode == mode]) for place, mode in enumerate(MODES)]
