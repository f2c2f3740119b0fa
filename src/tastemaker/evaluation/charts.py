"""The charts of a report: training curves, accuracy by category, paired differences. Each function returns a file's bytes.

Figures are drawn through matplotlib's objects, never through pyplot, so nothing is shared between threads or left open.
Colours are Okabe and Ito's, which colour-blind readers can tell apart; the base model is always grey.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import itertools
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tastemaker.evaluation.scores import ScoreDifference, ScoreRow
from tastemaker.evaluation.summary import ALL, Difference, Row, guidance_words, interval, points, score_words

Format = Literal["svg", "png"]


@dataclass(frozen=True)
class Theme:
    background: str
    ink: str
    muted: str
    grid: str
    colours: tuple[str, ...]
    gain: str
    loss: str


LIGHT = Theme(
    "#ffffff",
    "#1c2330",
    "#667085",
    "#e4e7ec",
    ("#98a1b0", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"),
    "#0072b2",
    "#d55e00",
)
DARK = Theme(
    "#171b22",
    "#e7eaf0",
    "#9aa4b2",
    "#2f3742",
    ("#8992a1", "#56b4e9", "#f08a3c", "#2fc79a", "#e39cc4", "#f0e442"),
    "#56b4e9",
    "#f08a3c",
)

PANELS: Mapping[str, tuple[str, ...]] = {
    "Reward": ("reward", "reward/*", "reward_*"),
    "Log ratio": ("log_ratio", "log_ratio/*", "log_ratio_*"),
    "Clip fraction": ("clip_fraction", "clip_fraction/*", "clipped"),
    "Gradient norm": ("grad_norm", "gradient_norm"),
    "KL to the reference": ("kl", "kl/*", "kl_*"),
    "Loss": ("loss", "loss/*"),
}
"""Title of each training panel, and the metric names (shell patterns) it shows."""


def training_panels(
    history: Sequence[Mapping[str, Any]], panels: Mapping[str, Sequence[str]] = PANELS
) -> dict[str, tuple[str, ...]]:
    """The panels that have something to show, with the metric names found for each.

    What is of one category, `reward/NAME/CATEGORY`, has a panel for each NAME.
    """
    names = [n for n in dict.fromkeys(name for row in history for name in row) if _series(history, n)[0].size]
    found: dict[str, tuple[str, ...]] = {}
    for title, patterns in panels.items():
        found[title] = ()
        for name in (n for n in names if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)):
            panel = title if name.count("/") < 2 else f"{title}: {name.split('/')[1]}, by category"
            found[panel] = (*found.get(panel, ()), name)
    return {title: matching for title, matching in found.items() if matching}


def training_curves(
    history: Sequence[Mapping[str, Any]],
    panels: Mapping[str, Sequence[str]] = PANELS,
    *,
    theme: Theme = LIGHT,
    form: Format = "svg",
) -> bytes:
    """Metrics over steps: `history` is rows of {"step": k, name: number, ...}; a row need not hold every metric.

    The strong line is a bias-corrected moving average, the faint one the values themselves; missing values are gaps.
    """
    return draw_panels(history, training_panels(history, panels), theme=theme, form=form)


def draw_panels(
    history: Sequence[Mapping[str, Any]], found: Mapping[str, Sequence[str]], *, theme: Theme = LIGHT, form: Format = "svg"
) -> bytes:
    """A panel for each title, with the curves of the metrics named there."""
    columns = min(2, max(1, len(found)))
    rows = max(1, math.ceil(len(found) / columns))
    with styled(theme):
        figure = Figure(figsize=(4.4 * columns, 2.7 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (title, names) in zip(axes, found.items(), strict=False):
            _draw_panel(axis, title, names, history, theme)
        for axis in axes[len(found) :]:
            axis.set_axis_off()
        if not found:
            axes[0].text(0.5, 0.5, "no training metrics", ha="center", va="center", color=theme.muted)
        return render(figure, form)


def category_bars(
    rows: Sequence[Row | ScoreRow], *, models: Sequence[str] = (), theme: Theme = LIGHT, form: Format = "svg"
) -> bytes:
    """Accuracy, or mean score, of every model in every category with its 95% interval; a panel per task and guidance scale.

    `models` is the order that gives each model its colour, for charts that are read side by side; the rows' order unless given.
    """
    palette = dict(zip(dict.fromkeys([*models, *(row.model for row in rows)]), itertools.cycle(theme.colours), strict=False))
    models = list(dict.fromkeys(row.model for row in rows))
    facets = list(dict.fromkeys((row.task, row.guidance) for row in rows))
    counts = [len({r.category for r in rows if (r.task, r.guidance) == facet}) for facet in facets]
    heights = [0.75 + count * (0.2 * len(models) + 0.16) for count in counts] or [1.0]
    with styled(theme):
        figure = Figure(figsize=(5.4, sum(heights) + 0.45), layout="constrained")
        axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights).ravel()
        for axis, facet in zip(axes, facets, strict=False):
            chosen = [row for row in rows if (row.task, row.guidance) == facet]
            _draw_bars(axis, chosen, {model: palette[model] for model in models}, theme)
            axis.set_title(f"{facet[0]}, guidance {guidance_words(facet[1])}", loc="left")
        if not facets:
            axes[0].set_axis_off()
            axes[0].text(0.5, 0.5, "nothing was evaluated", ha="center", va="center", color=theme.muted)
        elif len(models) > 1:
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False)
        return render(figure, form)


def difference_plot(
    differences: Sequence[Difference | ScoreDifference], *, theme: Theme = LIGHT, form: Format = "svg"
) -> bytes:
    """Forest plot: paired differences, in points or of a score, with 95% intervals; coloured where these exclude zero."""
    facets: dict[tuple[Any, ...], list[Difference | ScoreDifference]] = {}
    for found in differences:
        facets.setdefault((found.pair, found.task, found.guidance, found.against_guidance), []).append(found)
    heights = [0.5 + 0.25 * len(group) for group in facets.values()] or [1.0]
    scale = _scale(differences)
    bounds = [0.0, *(scale * x for d in differences for x in (d.low, d.high, d.difference) if not math.isnan(x))]
    room = max(0.08 * (max(bounds) - min(bounds)), 0.01 * scale)
    limits = (min(bounds) - room, max(bounds) + room)
    with styled(theme):
        figure = Figure(figsize=(5.4, sum(heights) + 0.4), layout="constrained")
        axes = figure.subplots(len(heights), 1, squeeze=False, sharex=True, height_ratios=heights).ravel()
        for axis, ((pair, task, guidance, against), group) in zip(axes, facets.items(), strict=False):
            _draw_forest(axis, group, limits, theme)
            axis.set_title(f"{pair[0]} − {pair[1]}, {task}, guidance {guidance_words(guidance, against)}", loc="left")
        if facets:
            axes[-1].set_xlabel("difference in accuracy, points" if scale != 1 else "difference of scores")
        else:
            axes[0].set_axis_off()
            axes[0].text(0.5, 0.5, "nothing was compared", ha="center", va="center", color=theme.muted)
        return render(figure, form)


@dataclass(frozen=True)
class Ranges:
    """Of the prompts of one panel: the range of each, NaN where there is none, whether it is kept, and the thresholds."""

    values: Sequence[float]
    kept: Sequence[bool]
    thresholds: Sequence[float]


def range_histograms(ranges: Mapping[str, Ranges], *, theme: Theme = LIGHT, form: Format = "png") -> bytes:
    """How far apart the samples of a prompt are: a histogram for each panel, what is kept in colour, thresholds as lines."""
    highest = (
        max([x for one in ranges.values() for x in (*one.thresholds, *one.values) if not math.isnan(x)], default=0.0) or 1.0
    )
    edges = np.linspace(0, highest, 31)
    with styled(theme):
        figure = Figure(figsize=(6.4, 0.7 + 1.35 * len(ranges)), layout="constrained")
        axes = figure.subplots(len(ranges), 1, squeeze=False, sharex=True).ravel()
        for axis, (name, panel) in zip(axes, ranges.items(), strict=True):
            there = ~np.isnan(np.asarray(panel.values, dtype=float))
            values, kept = np.asarray(panel.values, dtype=float)[there], np.asarray(panel.kept, dtype=bool)[there]
            parts, colours = [values[~kept], values[kept]], [theme.colours[0], theme.gain]
            axis.hist(parts, edges, stacked=True, color=colours, rwidth=0.92, label=["dropped", "kept"])
            for threshold in panel.thresholds:
                axis.axvline(threshold, color=theme.ink, linewidth=1.1, linestyle="--")
            share = f", {100 * kept.mean():.0f}% kept" if len(values) else ""
            axis.set_title(f"{_wrap(name)} (n={len(values)}{share})", loc="left")
            axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        told = ", ".join(f"{x:.3g}" for x in dict.fromkeys(x for panel in ranges.values() for x in panel.thresholds))
        axes[-1].set_xlabel(f"range of the composite among a prompt's samples; threshold {told}")
        figure.supylabel("prompts", fontsize=9, color=theme.muted)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
        return render(figure, form)


def recolour(svg: bytes, new: Theme = DARK, old: Theme = LIGHT) -> bytes:
    """The same SVG chart in another theme, without drawing it a second time."""
    pairs = zip(_palette(old), _palette(new), strict=True)
    table = {before.encode(): after.encode() for before, after in pairs}
    return re.sub(rb"#[0-9a-f]{6}", lambda found: table.get(found.group(), found.group()), svg)


def _palette(theme: Theme) -> tuple[str, ...]:
    return (theme.background, theme.ink, theme.muted, theme.grid, *theme.colours, theme.gain, theme.loss)


def _draw_panel(axis: Any, title: str, names: Sequence[str], history: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    lowest, highest = math.inf, -math.inf
    for index, name in enumerate(names[:8]):
        steps, values = _series(history, name)
        colour = theme.colours[(index + 1) % len(theme.colours)]
        axis.plot(steps, values, color=colour, alpha=0.28, linewidth=0.9)
        axis.plot(steps, _smooth(values), color=colour, linewidth=1.9, label=_short(name, names), solid_capstyle="round")
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    if lowest > 0 and highest > 50 * lowest:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # the default writes formulas
    axis.set_title(title, loc="left")
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.grid(axis="y")
    if len(names) > 1:
        axis.legend(loc="best", fontsize=8)


def _scale(found: Sequence[Row | ScoreRow | Difference | ScoreDifference]) -> float:
    """Accuracies are shown in percent and points, scores as they are."""
    return 1 if found and isinstance(found[0], ScoreRow | ScoreDifference) else 100


def _draw_bars(axis: Any, rows: Sequence[Row | ScoreRow], colours: Mapping[str, str], theme: Theme) -> None:
    scale = _scale(rows)
    categories = sorted(dict.fromkeys(row.category for row in rows), key=lambda c: c != ALL)
    height = 0.8 / len(colours)
    for index, (model, colour) in enumerate(colours.items()):
        found = {row.category: row for row in rows if row.model == model}
        chosen = [(place, found[category]) for place, category in enumerate(categories) if category in found]
        y = np.array([place + (index - (len(colours) - 1) / 2) * height for place, _ in chosen])
        value = np.array([scale * row.estimate.value for _, row in chosen])
        ends = np.array([(scale * row.low, scale * row.high) for _, row in chosen]).reshape(-1, 2)
        error = np.abs(ends - value[:, None])
        axis.barh(y, np.nan_to_num(value), height * 0.86, color=colour, label=model)
        axis.errorbar(value, y, xerr=error.T, fmt="none", ecolor=theme.ink, elinewidth=1.1, capsize=2.2)
    sizes = {c: sorted({row.n for row in rows if row.category == c}) for c in categories}
    labels = [f"{_wrap(c)} (n={'–'.join(str(n) for n in (sizes[c][0], sizes[c][-1])[: len(sizes[c])])})" for c in categories]
    axis.set_yticks(range(len(categories)), labels)
    axis.set_ylim(len(categories) - 0.45, -0.55)
    if scale != 1:
        axis.set_xlim(0, 100)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)


def _draw_forest(
    axis: Any, differences: Sequence[Difference | ScoreDifference], limits: tuple[float, float], theme: Theme
) -> None:
    scale = _scale(differences)
    words = points if scale != 1 else score_words
    axis.axvline(0, color=theme.muted, linewidth=1)
    for place, found in enumerate(differences):
        value, low, high = (scale * x for x in (found.difference, found.low, found.high))
        colour = (theme.gain if value > 0 else theme.loss) if found.estimate.excludes_zero else theme.muted
        if not math.isnan(low + high):
            axis.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axis.plot([value], [place], "o", color=colour, markersize=7 if found.category == ALL else 5, markeredgewidth=0)
        text = f"{words(found.difference)}  ({interval(found.low, found.high, words)})"
        weight = "bold" if found.category == ALL else "normal"
        axis.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, weight=weight)
    axis.set_yticks(range(len(differences)), [_wrap(found.category) for found in differences])
    axis.set_ylim(len(differences) - 0.4, -0.6)
    axis.set_xlim(*limits)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)


def _series(history: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that hold a finite number under `name`; a row without a step counts by its place."""
    found = [
        (float(row.get("step", place)), float(row[name]))
        for place, row in enumerate(history)
        if isinstance(row.get(name), int | float | np.number) and math.isfinite(row[name])
    ]
    array = np.array(found).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Exponential moving average over about a twelfth of the curve, corrected for its start."""
    keep = 1 - 2 / (max(1.0, len(values) / 12) + 1)
    smoothed, total, weight = np.empty(len(values)), 0.0, 0.0
    for place, value in enumerate(values):
        total, weight = keep * total + value, keep * weight + 1
        smoothed[place] = total / weight
    return smoothed


def _short(name: str, names: Sequence[str]) -> str:
    """The name without what all names of the panel share up to a slash."""
    levels = min(n.count("/") for n in names)
    same = len({tuple(n.split("/")[:levels]) for n in names}) == 1
    return name.split("/", levels)[-1] if same else name


def _wrap(text: str) -> str:
    return textwrap.shorten(text, 28, placeholder="…") or text[:28]


@contextlib.contextmanager
def styled(theme: Theme) -> Iterator[None]:
    """Inside the block matplotlib draws in the report's fonts and the theme's colours."""
    settings = {
        "text.parse_math": False,  # names are data, and a "$" in one is no formula
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlepad": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "text.color": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.grid,
        "xtick.color": theme.grid,
        "ytick.color": theme.grid,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.ink,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "svg.fonttype": "path",
        "svg.hashsalt": "tastemaker",  # the same data give the same bytes
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        yield


def render(figure: Figure, form: Format) -> bytes:
    """The bytes of a file; the same figure gives the same."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    figure.savefig(buffer, format=form, dpi=160, metadata=metadata)
    return buffer.getvalue()
