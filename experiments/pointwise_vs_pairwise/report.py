"""The comparison for people, as a table and a picture, and for programs, as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.pointwise_vs_pairwise.arms import Arm, finite
from experiments.pointwise_vs_pairwise.comparison import MEASURES, Row
from experiments.pointwise_vs_pairwise.design import Design
from tastemaker.evaluation.charts import LIGHT
from tastemaker.miniature.judge.measure import told

NOTE = (
    "95% intervals redraw the held-out prompts, with the seeds as they are: the rows of the seeds show how far seeds differ. "
    "The raters are simulated."
)


def as_json(rows: Sequence[Row], arms: Sequence[Arm], design: Design) -> str:
    about = [
        {"arm": a.name, "seed": a.seed, "costs": a.costs, "mass": a.mass, "pictures_per_second": a.pictures_per_second}
        for a in arms
    ]
    whole = {"design": asdict(design), "note": NOTE, "arms": about, "rows": [asdict(row) for row in rows]}
    return json.dumps(finite(whole), indent=1) + "\n"


def show(rows: Sequence[Row], design: Design, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=NOTE, caption_justify="left")
    for heading in ("dimension, measure", "arm or difference", "all seeds", *(f"seed {seed}" for seed in range(design.seeds))):
        table.add_column(heading)
    for dimension, measure in dict.fromkeys((row.dimension, row.measure) for row in rows):
        mine = [row for row in rows if (row.dimension, row.measure) == (dimension, measure)]
        for place, what in enumerate(dict.fromkeys(row.what for row in mine)):
            pooled, *seeds = (row.found for row in mine if row.what == what)
            where = (f"{dimension}, {measure}", f"{mine[0].prompts} prompts")[place] if place < 2 else ""
            values = (f"{found.value:.3f}" for found in seeds)
            strong = "bold" if len(what) == 2 and pooled.excludes_zero else ""
            table.add_row(where, " − ".join(what), told(pooled), *values, style=strong)
        table.add_section()
    console.print(table)


def chart(rows: Sequence[Row]) -> bytes:
    """PNG: the differences, a panel for each measure; large with an interval pooled, small for each seed."""
    differences = [row for row in rows if len(row.what) == 2]
    pairs, dimensions = (
        list(dict.fromkeys(values)) for values in zip(*((r.what, r.dimension) for r in differences), strict=True)
    )
    places = {(d, pair): (len(pairs) + 1) * nth + at for nth, d in enumerate(dimensions) for at, pair in enumerate(pairs)}
    figure = Figure(figsize=(12, 1.2 + 0.3 * len(places)), layout="constrained")
    axes: Any = figure.subplots(1, len(MEASURES), sharey=True)
    for axis, measure in zip(axes, MEASURES, strict=True):
        axis.axvline(0, color=LIGHT.muted, linewidth=1)
        for row in differences:
            if row.measure == measure:
                _draw(axis, row, places[row.dimension, row.what], LIGHT.colours[1 + pairs.index(row.what)])
        axis.set_title(measure, loc="left", fontsize=10)
        axis.set_yticks([*places.values()], [f"{d}: {' − '.join(pair)}" for d, pair in places], fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.supxlabel("difference in agreement with the hidden truth, 95% intervals (simulated raters)", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axis: Any, row: Row, place: int, colour: str) -> None:
    found = row.found
    if row.seed is None:
        axis.plot([found.low, found.high], [place, place], color=colour, linewidth=2)
        axis.plot([found.value], [place], "o", color=colour, markersize=7)
    else:
        axis.plot([found.value], [place], "|", color=LIGHT.ink, markersize=8)
