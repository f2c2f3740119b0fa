"""The monitor's records as charts: each statistic against the base's band, alarms marked; rewards and truths with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tastemaker.evaluation.alarm import PROMPT_EFFECT, REWARD, SWAPPED, TRUTH
from tastemaker.evaluation.charts import LIGHT, Format, Theme, render, styled
from tastemaker.evaluation.picture_statistics import MEANING
from tastemaker.runtime.folder import write_bytes_atomic
from tastemaker.runtime.metrics import read_lines

Records = Sequence[Mapping[str, Any]]
"""Lines of monitor.jsonl."""
VELOCITY = "velocity_distance"
COLUMNS = 4


def panels(records: Records) -> list[str]:
    """What there is to show, in order: rewards and truths, what they depend on, then the pictures."""
    known = dict.fromkeys(name for record in records for name in record["statistics"])
    intervals = dict.fromkeys(name for record in records for name in record["intervals"])
    judged = [name for name in intervals if name.startswith(("reward/", TRUTH))]
    order = (REWARD, SWAPPED, PROMPT_EFFECT, *MEANING)
    return [*judged, *(name for name in order if name in known), *([VELOCITY] if records else [])]


def monitor_curves(
    records: Records, names: Sequence[str] | None = None, *, theme: Theme = LIGHT, form: Format = "svg"
) -> bytes:
    """One panel for each of `names`, all there are by default; see `panels`."""
    names = panels(records) if names is None else names
    columns = min(COLUMNS, max(len(names), 1))
    rows = max(1, math.ceil(len(names) / columns))
    with styled(theme):
        figure = Figure(figsize=(3.7 * columns, 2.5 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, name in zip(axes, names, strict=False):
            _draw(axis, name, records, theme)
        for axis in axes[len(names) :]:
            axis.set_axis_off()
        if not names:
            axes[0].text(0.5, 0.5, "nothing was watched", ha="center", va="center", color=theme.muted)
        return render(figure, form)


def write_monitor_chart(folder: Path) -> Path | None:
    """`folder/monitor.png` from the run's monitor.jsonl, whole or not at all; None where nothing was watched."""
    records = read_lines(folder / "monitor.jsonl")
    if not records:
        return None
    write_bytes_atomic(folder / "monitor.png", monitor_curves(records, form="png"))
    return folder / "monitor.png"


def _draw(axis: Any, name: str, records: Records, theme: Theme) -> None:
    if name == VELOCITY:
        axis.plot(*_series(records, lambda record: record.get(VELOCITY)), "o-", color=theme.colours[1], markersize=3.5)
    elif name.startswith(("reward/", TRUTH)):
        _draw_intervals(axis, name, records, theme)
    else:
        _draw_band(axis, name, records, theme)
    for number, step in enumerate(record["step"] for record in records if record["alarms"]):
        axis.axvline(step, color=theme.loss, linewidth=1.2 if number == 0 else 0.5, linestyle="--", alpha=0.9)
    axis.set_title(name.replace("_", " "), loc="left")
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.grid(axis="y")


def _draw_band(axis: Any, name: str, records: Records, theme: Theme) -> None:
    """The dark band is one spread of the base to either side, the light one the limit; what is noted is marked."""
    some = [
        (record["step"], record["statistics"][name], name in record["moved"])
        for record in records
        if name in record["statistics"]
    ]
    steps = [step for step, _, _ in some]
    for width, alpha in (("limit", 0.22), (None, 0.4)):
        half = [one["spread"] * (one[width] if width else 1) for _, one, _ in some]
        low = [one["base"] - h for (_, one, _), h in zip(some, half, strict=True)]
        high = [one["base"] + h for (_, one, _), h in zip(some, half, strict=True)]
        axis.fill_between(steps, low, high, color=theme.colours[0], alpha=alpha, linewidth=0)
    axis.plot(steps, [one["value"] for _, one, _ in some], "o-", color=theme.colours[1], markersize=3.5)
    away = [(step, one["value"]) for step, one, moved in some if moved]
    axis.plot([step for step, _ in away], [value for _, value in away], "o", color=theme.loss, markersize=6)


def _draw_intervals(axis: Any, name: str, records: Records, theme: Theme) -> None:
    """Mean over prompts with its 95% interval; of a reward also what it gives for other prompts."""
    swapped = name.replace("reward/", "swapped/", 1)
    kinds = [(name, theme.colours[1], "own prompt"), (swapped, theme.colours[2], "other prompt")]
    for key, colour, label in kinds if swapped != name else kinds[:1]:
        rows = [(record["step"], record["intervals"][key]) for record in records if key in record["intervals"]]
        steps = [step for step, _ in rows]
        ends = ([row["low"] for _, row in rows], [row["high"] for _, row in rows])
        axis.fill_between(steps, *ends, color=colour, alpha=0.16, linewidth=0)
        axis.plot(steps, [row["mean"] for _, row in rows], "o-", color=colour, markersize=3.5, label=label)
    if swapped != name:
        axis.legend(loc="best", fontsize=8)


def _series(records: Records, value: Any) -> tuple[list[float], list[float]]:
    rows = [(record["step"], value(record)) for record in records if value(record) is not None]
    return [step for step, _ in rows], [found for _, found in rows]
