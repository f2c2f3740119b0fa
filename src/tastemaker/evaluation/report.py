"""One page that says what a run gained: numbers with intervals, curves, pictures, settings and what the numbers are not.

The page is a single file: charts and pictures are inlined, nothing is fetched (its content policy forbids it), it follows the
reader's light or dark theme and reads on a phone. Every text is escaped by the template, for prompts are data.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from tastemaker.evaluation.charts import category_bars, difference_plot, draw_panels, recolour, training_panels
from tastemaker.evaluation.conclusions import fallen, headline, judges_score
from tastemaker.evaluation.monitor_chart import monitor_curves, panels
from tastemaker.evaluation.picture_statistics import MEANING, Shift
from tastemaker.evaluation.pixels import as_image
from tastemaker.evaluation.scores import ScoreDifference, ScoreRow
from tastemaker.evaluation.summary import (
    ALL,
    Difference,
    Row,
    Summary,
    duration,
    elo_words,
    guidance_words,
    interval,
    percent,
    points,
    score_words,
)
from tastemaker.evaluation.wall import Picture, Wall, png_bytes
from tastemaker.runtime.folder import make_folder, write_text_atomic

Lines = Sequence[Mapping[str, Any]]
"""Of a run's metrics.jsonl or monitor.jsonl."""
LARGE_SHIFT = 5.0
"""|z| from which a shift of a picture statistic is marked for the reader."""


@dataclass(frozen=True)
class Chart:
    """A chart in both themes, as data URLs, and what it shows for those who do not see it."""

    light: str
    dark: str
    description: str


def write_report(
    folder: str | Path,
    summary: Summary,
    *,
    title: str = "tastemaker report",
    history: Lines | Mapping[str, Lines] = (),
    walls: Sequence[Wall] = (),
    shifts: Sequence[Shift] = (),
    watched: Lines | Mapping[str, Lines] = (),
) -> Path:
    """Write `folder/report.html` whole or not at all, and return its path.

    `history` are the lines of a training's metrics.jsonl and `watched` of its monitor.jsonl, or such lines by stage name;
    `shifts` come from picture_statistics.compare. Sections without content are left out.
    """
    page = render_report(summary, title=title, history=history, walls=walls, shifts=shifts, watched=watched)
    path = Path(folder) / "report.html"
    make_folder(path.parent)
    write_text_atomic(path, page)
    return path


def render_report(
    summary: Summary,
    *,
    title: str = "tastemaker report",
    history: Lines | Mapping[str, Lines] = (),
    walls: Sequence[Wall] = (),
    shifts: Sequence[Shift] = (),
    watched: Lines | Mapping[str, Lines] = (),
) -> str:
    """The page as text."""
    stages, monitors = (lines if isinstance(lines, Mapping) else {"": lines} for lines in (history, watched))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "points": points, "number": _number}
    environment.globals |= {"interval": interval, "guidance_words": guidance_words, "points": points, "isnan": math.isnan}
    environment.globals |= {"elo_words": elo_words, "score_words": score_words}
    template = environment.from_string((files("tastemaker.evaluation") / "report.html").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        headline=headline(summary),
        falls=fallen(summary),
        summary=summary,
        many_tasks=len({row.task for row in summary.rows}) > 1,
        duration=duration(summary.wall_seconds),
        overall_rows=[row for row in summary.rows if row.category == ALL],
        category_rows=[row for row in summary.rows if row.category != ALL],
        overall_differences=[d for d in summary.differences if d.category == ALL],
        elo=[e for e in summary.elo if e.category == ALL],
        scores=[s for s in summary.scores if s.category == ALL],
        category_scores=[s for s in summary.scores if s.category != ALL],
        category_score_differences=[d for d in summary.score_differences if d.category != ALL],
        score_differences=[d for d in summary.score_differences if d.category == ALL],
        curves=_curves(stages),
        measure=_measure(summary),
        bars=_bars(summary),
        forests=_forests(summary),
        walls=[(wall, [[_picture(picture) for picture in case.pictures] for case in wall.cases]) for wall in walls],
        shifts=[(shift, MEANING.get(shift.name, ""), abs(shift.z) >= LARGE_SHIFT) for shift in shifts],
        monitors=[(stage, _alarms(lines), _monitor(lines)) for stage, lines in monitors.items() if lines],
        settings=_flat(summary.settings),
        notes=(*_standing_notes(summary), *summary.notes),
    )


def _curves(stages: Mapping[str, Lines]) -> list[tuple[str, list[Chart]]]:
    """Each panel is a chart of its own, so that a phone shows them below each other."""
    found = []
    for stage, rows in stages.items():
        charts = [
            _chart(partial(draw_panels, rows, {panel: names}), f"{panel} over training steps")
            for panel, names in training_panels(rows).items()
        ]
        if charts:
            found.append((stage, charts))
    return found


def _monitor(lines: Lines) -> list[Chart]:
    return [_chart(partial(monitor_curves, lines, [name]), _described(name)) for name in panels(lines)]


def _described(name: str) -> str:
    return f"{name.replace('_', ' ')} of the fixed prompts over training steps, against the base"


def _alarms(lines: Lines) -> list[tuple[int, str]]:
    """Step and kind of each alarm, when it was first raised."""
    first: dict[str, int] = {}
    for record in lines:
        for kind in record["alarms"]:
            first.setdefault(kind, record["step"])
    return [(step, kind) for kind, step in first.items()]


def _measure(summary: Summary) -> str:
    """What bars and forests show: accuracy where truth is known, else what stands for the judges."""
    return "accuracy" if summary.rows or summary.differences else f"the mean score of {judges_score(summary)}"


def _bars(summary: Summary) -> list[Chart]:
    rows: Sequence[Row | ScoreRow] = summary.rows or [s for s in summary.scores if s.reward == judges_score(summary)]
    models = list(dict.fromkeys(row.model for row in rows))
    facets = list(dict.fromkeys((row.task, row.guidance) for row in rows if row.category != ALL))
    what = _measure(summary)
    return [
        _chart(
            partial(category_bars, [r for r in rows if (r.task, r.guidance) == facet], models=models),
            f"{what[0].upper()}{what[1:]} by category, {facet[0]}, guidance {guidance_words(facet[1])}; the table below holds "
            "the numbers",
        )
        for facet in facets
    ]


def _forests(summary: Summary) -> list[Chart]:
    judged = [d for d in summary.score_differences if d.reward == judges_score(summary)]
    found: Sequence[Difference | ScoreDifference] = summary.differences or judged
    return [
        _chart(
            partial(difference_plot, [d for d in found if d.pair == pair]),
            f"Paired differences in {_measure(summary)}, {pair[0]} minus {pair[1]}",
        )
        for pair in dict.fromkeys(d.pair for d in found)
    ]


def _chart(draw: Callable[[], bytes], description: str) -> Chart:
    svg = draw()
    return Chart(_url(svg, "svg+xml"), _url(recolour(svg), "svg+xml"), description)


def _picture(picture: Picture) -> tuple[str | None, bool | None]:
    image = as_image(picture.image)
    return (None if image is None else _url(png_bytes(image), "png")), picture.verdict


def _url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}".replace("-", "−")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names, in their own order."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", str(value)))
    return rows


def _standing_notes(summary: Summary) -> list[str]:
    """What every report owes its reader."""
    sizes = sorted({row.n for row in summary.rows if row.category == ALL} | {s.n for s in summary.scores if s.category == ALL})
    notes = [
        f"Held-out prompts, n = {' and '.join(str(n) for n in sizes) or 'none'}; seed {summary.seed}. Every model draws "
        "the same prompts from the same starting noise, so differences are between pairs.",
        "Intervals are 95%: Wilson's for shares, Tango's for paired differences. They cover the choice of prompts and noise, "
        "not the luck of a training run: another training seed can move a model by more.",
    ]
    if summary.elo:
        notes.append(
            "Elo is 400 log10(p / (1 - p)), where p is the share of prompts that the first model of a pair won, ties counted "
            "as half; its interval is that of the paired difference. Ties pull it towards 0, so it depends on how many prompts "
            "both models get right, or wrong."
        )
    lost = sum(row.missing for row in summary.scores if row.category == ALL)
    if lost:
        notes.append(f"Scores missing over all rows: {lost}. They are left out, with their pairs, and count neither way.")
    missing = sum(row.missing for row in summary.rows if row.category == ALL)
    if missing:
        notes.append(f"Verdicts missing over all rows: {missing}. They are left out, with their pairs, and count neither way.")
    differences: list[Difference | ScoreDifference] = [*summary.differences, *summary.score_differences]
    if len([d for d in differences if d.category != ALL]) > 5:
        notes.append("The intervals by category are not corrected for their number: about one in twenty misses the truth.")
    return notes
