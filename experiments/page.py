"""What an experiment says to people: tables as Markdown, and curves with a thin line for each seed under the mean of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tastemaker.evaluation.charts import LIGHT, render, styled
from tastemaker.evaluation.statistics import Estimate
from tastemaker.evaluation.summary import interval, points


@dataclass(frozen=True)
class Curve:
    """One arm in one panel: a value at each step (or moment) for each seed; seeds may end early. `place` chooses the colour."""

    arm: str
    place: int
    seeds: Sequence[Mapping[float, float]]

    def mean(self) -> tuple[list[float], list[float]]:
        """Over seeds, at the steps that all of them reached."""
        shared = sorted(set.intersection(*(set(one) for one in self.seeds))) if self.seeds else []
        return shared, [float(np.mean([one[step] for one in self.seeds])) for step in shared]


def markdown(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table whose cells are text."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def told(found: Estimate | Mapping[str, Any], form: Any = points) -> str:
    """`+1.2 (−0.3 to +2.7)`, in bold where the interval excludes 0."""
    value, low, high = (found[key] if isinstance(found, Mapping) else getattr(found, key) for key in ("value", "low", "high"))
    text = f"{form(value)} ({interval(low, high, form)})"
    return f"**{text}**" if low > 0 or high < 0 else text


def signed(value: float) -> str:
    """Three decimals, for what is no share."""
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def chart(panels: Mapping[str, Sequence[Curve]], columns: int = 2, over: str = "step") -> bytes:
    """PNG with one panel for each title, all of them over training steps, or over what `over` says."""
    rows = math.ceil(len(panels) / columns)
    with styled(LIGHT):
        figure = Figure(figsize=(4.6 * columns, 2.9 * rows + 0.3), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (title, curves) in zip(axes, panels.items(), strict=False):
            _draw(axis, curves, over)
            axis.set_title(title, loc="left")
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=4, frameon=False)
        return render(figure, "png")


def _draw(axis: Any, curves: Sequence[Curve], over: str) -> None:
    for curve in curves:
        colour = LIGHT.colours[1 + curve.place % (len(LIGHT.colours) - 1)]
        for one in curve.seeds:
            axis.plot(list(one), list(one.values()), color=colour, alpha=0.3, linewidth=0.8)
        axis.plot(*curve.mean(), color=colour, linewidth=1.9, label=curve.arm)
    axis.set_xlabel(over)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.grid(axis="y")
