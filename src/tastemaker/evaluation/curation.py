"""What a curation found, for people: a table of prompts, a summary by category, a chart of ranges, and walls of pictures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tastemaker.data.curation import KEPT, OUTCOMES, Outcome, Samples, composite_range
from tastemaker.evaluation.agreement import across_prompts
from tastemaker.evaluation.charts import Ranges, range_histograms
from tastemaker.evaluation.statistics import Estimate
from tastemaker.evaluation.summary import ALL, percent
from tastemaker.evaluation.wall import Case, Picture, Wall, save_wall
from tastemaker.runtime.folder import write_bytes_atomic, write_text_atomic
from tastemaker.types import Task

WALL_PROMPTS = 12
WALL_SAMPLES = 12
"""Most prompts of a wall, and most samples of each that it shows."""


@dataclass(frozen=True)
class Share:
    """What became of the prompts of one category, by `called` where there are several tasks; `outcomes` counts them."""

    category: str
    n: int
    kept: int
    outcomes: Mapping[str, int]


def write_findings(
    folder: Path, samples: Sequence[Samples], outcomes: Sequence[Outcome], thresholds: Mapping[Task, float], rule: str
) -> list[Share]:
    """table.csv, summary.json and ranges.png; returns the shares by category, those of all prompts first."""
    shares = shares_by_category(samples, outcomes)
    write_text_atomic(folder / "table.csv", as_csv(samples, outcomes))
    found = {"rule": rule, "thresholds": thresholds, "categories": [asdict(share) for share in shares]}
    halves = {key: None if isinstance(x, float) and math.isnan(x) else x for key, x in asdict(half_agreement(samples)).items()}
    text = json.dumps({**found, "half_agreement": halves}, indent=1, allow_nan=False, ensure_ascii=False)
    write_text_atomic(folder / "summary.json", text + "\n")
    kinds, ranges = headings(samples), {}
    for share in shares:
        rows = [row for row, kind in enumerate(kinds) if share.category in (ALL, kind)]
        bounds = {thresholds[samples[row].prompt.task] for row in rows}
        ranges[share.category] = Ranges([outcomes[r].range for r in rows], [outcomes[r].kept for r in rows], sorted(bounds))
    write_bytes_atomic(folder / "ranges.png", range_histograms(ranges))
    return shares


def headings(samples: Sequence[Samples]) -> list[str]:
    """Of each prompt its category, with its task before it where there are several, which are judged by other rewards."""
    several = len({one.prompt.task for one in samples}) > 1
    return [f"{one.prompt.task}/{one.prompt.category}" if several else one.prompt.category for one in samples]


def told(thresholds: Mapping[Task, float]) -> str:
    """In words: one number, or one for each task where they differ."""
    if len(set(thresholds.values())) == 1:
        return f"{next(iter(thresholds.values())):.4g}"
    return ", ".join(f"{value:.4g} ({task})" for task, value in thresholds.items())


def shares_by_category(samples: Sequence[Samples], outcomes: Sequence[Outcome]) -> list[Share]:
    """All prompts, then each category by name where there are several."""
    whats = [outcome.what for outcome in outcomes]
    categories = headings(samples)
    shares = [_share(ALL, whats)]
    if len(set(categories)) > 1:
        for name in sorted(set(categories)):
            shares.append(_share(name, [what for what, category in zip(whats, categories, strict=True) if category == name]))
    return shares


def _share(category: str, whats: Sequence[str]) -> Share:
    counts = Counter(whats)
    return Share(category, len(whats), counts[KEPT], {what: counts[what] for what in OUTCOMES})


def half_agreement(samples: Sequence[Samples]) -> Estimate:
    """Spearman over prompts of the range in the first half of the samples with that in the second; n counts prompts.

    How far a range can be trusted: it is one draw of a noisy quantity, and half as many samples are noisier than all of them.
    """
    halves = [(composite_range(c[: len(c) // 2]), composite_range(c[len(c) // 2 :])) for c in (s.composite_G for s in samples)]
    first, second = np.array(halves).T
    found = across_prompts(first, second, [one.prompt.id for one in samples], resamples=1000)
    return Estimate(found.n, found.value, found.low, found.high, found.missing)


def as_csv(samples: Sequence[Samples], outcomes: Sequence[Outcome]) -> str:
    """A line for each prompt, in the order of the list. A cell is empty where there is no number; sd divides by the count."""
    rewards = list(samples[0].scores)
    columns = [f"{name} {statistic}" for name in rewards for statistic in ("mean", "sd")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["id", "task", "category", "outcome", "range", "mean", "samples", "scores missing", *columns, "why missing", "text"]
    )
    for one, outcome in zip(samples, outcomes, strict=True):
        why = "; ".join(f"{reason} ({count})" for reason, count in Counter(one.missing).most_common(3))
        numbers = [_cell(outcome.range), _cell(outcome.mean), outcome.num_judged, len(one.missing)]
        statistics = [cell for name in rewards for cell in _mean_and_sd(one.scores[name])]
        prompt = one.prompt
        writer.writerow([prompt.id, prompt.task, prompt.category, outcome.what, *numbers, *statistics, why, prompt.text])
    return buffer.getvalue()


def _mean_and_sd(scores_G: np.ndarray) -> tuple[str, str]:
    present = scores_G[~np.isnan(scores_G)]
    return (_cell(present.mean()), _cell(present.std())) if len(present) else ("", "")


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def print_shares(shares: Sequence[Share], console: Console) -> None:
    """Counts by category, and why prompts were dropped."""
    table = Table(title=Text("Prompts by category"), title_justify="left")
    for heading in ("category", "n", "kept", "share", *OUTCOMES[1:]):
        table.add_column(heading, justify="left" if heading == "category" else "right")
    for share in shares:
        counts = [str(share.outcomes[what]) for what in OUTCOMES[1:]]
        table.add_row(Text(share.category), str(share.n), str(share.kept), percent(share.kept / share.n), *counts)
    console.print(table)
    if gone := [share.category for share in shares[1:] if not share.kept]:
        console.print(Text(f"no prompt is kept of: {', '.join(gone)}; training on the list will not see them", style="yellow"))


def write_walls(
    folder: Path,
    samples: Sequence[Samples],
    outcomes: Sequence[Outcome],
    pictures: Mapping[str, np.ndarray],
    thresholds: Mapping[Task, float],
) -> list[Path]:
    """wall-kept.png and wall-dropped.png, of the prompts that have `pictures`; a wall without prompts is not written."""
    shown = [(one, outcome) for one, outcome in zip(samples, outcomes, strict=True) if one.prompt.id in pictures]
    written = []
    for name, kept in (("kept", True), ("dropped", False)):
        mine = [(one, outcome) for one, outcome in shown if outcome.kept == kept]
        if mine:
            cases = tuple(_case(one, outcome, pictures[one.prompt.id]) for one, outcome in _spread_out(mine))
            heading = f"{name}: {len(cases)} of {sum(outcome.kept == kept for outcome in outcomes)} prompts"
            wall = Wall(f"{heading}; the range has to be above {told(thresholds)}", ("",) * len(cases[0].pictures), cases)
            written.append(save_wall(folder / f"wall-{name}.png", wall, columns=1))
    return written


def _spread_out(found: Sequence[tuple[Samples, Outcome]]) -> Iterator[tuple[Samples, Outcome]]:
    """Some of every outcome, the rare ones first, each from the largest range to the smallest in equal steps."""
    by_outcome = sorted(([pair for pair in found if pair[1].what == what] for what in OUTCOMES), key=len)
    by_outcome = [sorted(mine, key=lambda pair: -np.nan_to_num(pair[1].range)) for mine in by_outcome if mine]
    left = WALL_PROMPTS
    for place, mine in enumerate(by_outcome):
        count = min(len(mine), left // (len(by_outcome) - place))
        yield from (mine[row] for row in _evenly(len(mine), count))
        left -= count


def _evenly(length: int, count: int) -> list[int]:
    return np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()


def _case(one: Samples, outcome: Outcome, pictures: np.ndarray) -> Case:
    """The samples from the best to the worst; of many, some in equal steps."""
    order = sorted(range(len(pictures)), key=lambda g: -np.nan_to_num(one.composite_G[g], nan=-1.0))
    shown = [order[row] for row in _evenly(len(order), WALL_SAMPLES)]
    labels = ["no score" if math.isnan(one.composite_G[g]) else f"{one.composite_G[g]:.2f}" for g in shown]
    numbers = "" if math.isnan(outcome.range) else f", range {outcome.range:.3f}, mean {outcome.mean:.3f}"
    tiles = tuple(Picture(pictures[g], label=label) for g, label in zip(shown, labels, strict=True))
    return Case(one.prompt.text, tiles, f"{one.prompt.category}: {outcome.what}{numbers}")
