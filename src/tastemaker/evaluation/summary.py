"""The numbers of an evaluation, as `summary.json` holds them and as a table in the terminal.

Shares are in [0, 1]. In the file a number that the data do not give is null; here it is NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.special import ndtr

from tastemaker.errors import UserMistake
from tastemaker.evaluation.ranking import Elo
from tastemaker.evaluation.scores import ALL_JUDGES, ScoreDifference, ScoreRow
from tastemaker.evaluation.statistics import Z95, Estimate, holm, paired_difference, proportion
from tastemaker.runtime.folder import make_folder, write_text_atomic

ALL = "all"
"""The category that stands for every prompt."""
NO_GUIDANCE = 1.0
"""The guidance scale at which only the conditional branch is evaluated."""
ONE_SIDED = 0.025
"""Of a 95% interval, what lies beyond its upper end."""

Verdicts = Sequence[bool | float | None] | np.ndarray


@dataclass(frozen=True)
class Row:
    """How often one model, sampled one way, got a prompt of one category right.

    >>> Row.of([True, False, None], model="base", task="t2i", guidance=1.0, forwards_per_image=10).missing
    1
    """

    model: str
    task: str
    guidance: float
    forwards_per_image: int
    n: int
    accuracy: float
    low: float
    high: float
    category: str = ALL
    missing: int = 0

    @classmethod
    def of(
        cls, verdicts: Verdicts, *, model: str, task: str, guidance: float, forwards_per_image: int, category: str = ALL
    ) -> Row:
        found = proportion(verdicts)
        numbers = (found.n, found.value, found.low, found.high)
        return cls(model, task, float(guidance), forwards_per_image, *numbers, category=category, missing=found.missing)

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.n, self.accuracy, self.low, self.high, self.missing)


@dataclass(frozen=True)
class Difference:
    """Accuracy of the first model of `pair` less that of the second, on the same prompts and seeds.

    `against_guidance` is the second model's guidance where it is not the first's: a student without guidance against its
    guided base.
    """

    pair: tuple[str, str]
    task: str
    guidance: float
    category: str
    n: int
    difference: float
    low: float
    high: float
    against_guidance: float | None = None
    missing: int = 0

    @classmethod
    def of(
        cls,
        after: Verdicts,
        before: Verdicts,
        *,
        pair: tuple[str, str],
        task: str,
        guidance: float,
        category: str = ALL,
        against_guidance: float | None = None,
    ) -> Difference:
        found = paired_difference(after, before)
        numbers = (found.n, found.value, found.low, found.high)
        return cls(pair, task, float(guidance), category, *numbers, against_guidance=against_guidance, missing=found.missing)

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.n, self.difference, self.low, self.high, self.missing)


@dataclass(frozen=True)
class Summary:
    """Everything a run's report says in numbers.

    `rewards` names each reward and says what it is; `notes` are sentences for the reader; `warning` is shown above all else,
    e.g. "incomplete, n=700" or "fabricated data".
    """

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    wall_seconds: float
    seed: int
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    rewards: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warning: str = ""
    elo: tuple[Elo, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    score_differences: tuple[ScoreDifference, ...] = ()


def rows_by_category(
    verdicts: Verdicts, categories: Sequence[str], *, model: str, task: str, guidance: float, forwards_per_image: int
) -> tuple[Row, ...]:
    """The row of all prompts, then one of each category in order of first appearance."""
    return tuple(
        Row.of(
            np.asarray(verdicts, dtype=float)[chosen],
            model=model,
            task=task,
            guidance=guidance,
            forwards_per_image=forwards_per_image,
            category=category,
        )
        for category, chosen in split_by_category(categories, len(verdicts))
    )


def differences_by_category(
    after: Verdicts,
    before: Verdicts,
    categories: Sequence[str],
    *,
    pair: tuple[str, str],
    task: str,
    guidance: float,
    against_guidance: float | None = None,
) -> tuple[Difference, ...]:
    """The difference over all prompts, then over each category in order of first appearance."""
    if len(after) != len(before):
        raise ValueError(f"{len(after)} verdicts after but {len(before)} before; pairs need the same prompts in the same order")
    return tuple(
        Difference.of(
            np.asarray(after, dtype=float)[chosen],
            np.asarray(before, dtype=float)[chosen],
            pair=pair,
            task=task,
            guidance=guidance,
            category=category,
            against_guidance=against_guidance,
        )
        for category, chosen in split_by_category(categories, len(after))
    )


def split_by_category(categories: Sequence[str], count: int) -> Iterator[tuple[str, np.ndarray]]:
    """ALL and the mask of every prompt, then each category and its own, in order of first appearance."""
    if len(categories) != count:
        raise ValueError(f"{count} verdicts but {len(categories)} categories; each verdict needs its prompt's category")
    names = list(dict.fromkeys(categories))
    if ALL in names:
        raise ValueError(f"a category is called {ALL!r}, which stands for every prompt; rename it")
    yield ALL, np.ones(count, bool)
    if len(names) > 1:
        for name in names:
            yield name, np.array([category == name for category in categories])


# words and numbers, the same in the terminal, the charts and the report


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}%"


def points(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:+.1f}".replace("-", "−")


def elo_words(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.0f}".replace("-", "−")


def score_words(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def interval(low: float, high: float, form: Any = percent) -> str:
    return "no interval" if math.isnan(low) or math.isnan(high) else f"{form(low)} to {form(high)}"


def guidance_words(guidance: float, against: float | None = None) -> str:
    words = "off" if guidance == NO_GUIDANCE else f"{guidance:g}"
    return words if against is None or against == guidance else f"{words} vs {guidance_words(against)}"


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def headline(summary: Summary) -> str:
    """What the last model gained over the first it is compared with, or that it showed no gain: a sentence for each task."""
    overall = [d for d in summary.differences if d.category == ALL]
    if not overall:
        row = next((r for r in summary.rows if r.category == ALL), None)
        if row is None:
            return _judged_headline(summary)
        return (
            f"{row.model} gets {percent(row.accuracy)} of {row.n} held-out prompts right "
            f"(95% interval {interval(row.low, row.high)}); it was compared with no other model."
        )
    last = [d for d in overall if d.pair == next(d.pair for d in overall if d.pair[0] == overall[-1].pair[0])]
    # Both as they are meant to be sampled, which for a model without guidance may be against one with it.
    chosen = {d.task: d for d in last if d.guidance == last[0].guidance}
    return " ".join(_gain(summary, one, several=len(chosen) > 1) for one in chosen.values())


def _gain(summary: Summary, overall: Difference, *, several: bool) -> str:
    against = overall.guidance if overall.against_guidance is None else overall.against_guidance
    same = against == overall.guidance
    sides = [
        (overall.pair[0], _accuracy(summary, overall.pair[0], overall.task, overall.guidance), overall.guidance),
        (overall.pair[1], _accuracy(summary, overall.pair[1], overall.task, against), against),
    ]
    after, before = (model if same else f"{model} {_sampling(guidance)}" for model, _, guidance in sides)
    shares = [share for _, share, _ in sides]
    compared = f"{after} gets {shares[0]} right and {before} {shares[1]}" if all(shares) else f"{after} against {before}"
    shared = f" {_sampling(against)}" if same else ""
    clear = "" if overall.estimate.excludes_zero else "; no clear difference"
    what = _items(overall.task) if several else "prompts"
    return (
        f"On {overall.n} held-out {what}{shared}, {compared}: {points(overall.difference)} points "
        f"(95% interval {interval(overall.low, overall.high, points)}){clear}."
    )


def _items(task: str) -> str:
    return {"t2i": "text-to-image prompts", "edit": "edits"}.get(task, f"prompts of {task}")


def _judged_headline(summary: Summary) -> str:
    """Where no truth is known: the first difference of scores over all prompts, that of all judges if there is one."""
    overall = [d for d in summary.score_differences if d.category == ALL]
    found = next((d for d in overall if d.reward == ALL_JUDGES), next(iter(overall), None))
    if found is None:
        return "Nothing was compared." if summary.scores else "Nothing was evaluated."
    clear = "" if found.low > 0 or found.high < 0 else "; no clear difference"
    against = found.guidance if found.against_guidance is None else found.against_guidance
    return (
        f"On {found.n} held-out prompts, {found.pair[0]} {_sampling(found.guidance)} against {found.pair[1]} "
        f"{_sampling(against)}: {score_words(found.difference)} in the score of {found.reward} "
        f"(95% interval {interval(found.low, found.high, score_words)}){clear}."
    )


def _sampling(guidance: float) -> str:
    return "without guidance" if guidance == NO_GUIDANCE else f"with guidance {guidance:g}"


def _accuracy(summary: Summary, model: str, task: str, guidance: float) -> str:
    """The share in words, or nothing where the summary has no such row."""
    found = [r for r in summary.rows if (r.model, r.task, r.guidance, r.category) == (model, task, guidance, ALL)]
    return percent(found[0].accuracy) if found else ""


@dataclass(frozen=True)
class Fall:
    """A category in which the first model of a pair is worse than the second, its base, by the paired 95% interval.

    Its upper end is below 0, which happens to one unchanged category in forty. `among` were compared, and `corrected` says
    whether the fall holds when that is taken into account (Holm, one-sided, 2.5% for all of them together).
    """

    difference: Difference
    among: int
    corrected: bool

    def __str__(self) -> str:
        d = self.difference
        sure = "still clear" if self.corrected else "not clear any more"
        others = f"; {self.among} categories compared, {sure} when corrected for that (Holm)" if self.among > 1 else ""
        return (
            f"{d.category}: {d.pair[0]} is {points(-d.difference).lstrip('+')} points below {d.pair[1]} "
            f"(95% interval {interval(d.low, d.high, points)}, n = {d.n}, {d.task}, guidance "
            f"{guidance_words(d.guidance, d.against_guidance)}){others}"
        )


def falls(differences: Sequence[Difference]) -> list[Fall]:
    """Every category that fell. Categories of one pair, task and guidance are one family."""
    families: dict[Any, list[Difference]] = {}
    for d in differences:
        if d.category != ALL:
            families.setdefault((d.pair, d.task, d.guidance, d.against_guidance), []).append(d)
    found = []
    for family in families.values():
        corrected = holm([_p_of_a_fall(d) for d in family], ONE_SIDED)
        found += [Fall(d, len(family), sure) for d, sure in zip(family, corrected, strict=True) if d.high < 0]
    return found


def _p_of_a_fall(d: Difference) -> float:
    """One-sided, as if the upper half of the interval were a normal one's; 1 where there is no interval."""
    return 1.0 if math.isnan(d.high) or d.high <= d.difference else float(ndtr(Z95 * d.difference / (d.high - d.difference)))


# the file


def write_summary(path: str | Path, summary: Summary) -> Path:
    """Write strict JSON, whole or not at all; NaN and infinite numbers become null."""
    text = json.dumps(_strict(asdict(summary)), indent=2, allow_nan=False, ensure_ascii=False)
    path = Path(path)
    make_folder(path.parent)
    write_text_atomic(path, text + "\n")
    return path


def read_summary(path: str | Path) -> Summary:
    """What `write_summary` wrote; raises UserMistake, naming the field, for anything else."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        tables = {name: tuple(_rows(kind, name, data.pop(name))) for name, kind in REQUIRED.items()}
        tables |= {name: tuple(_rows(kind, name, data.pop(name, ()))) for name, kind in OPTIONAL.items()}
        return _restore(Summary, {**data, **tables, "notes": tuple(data.pop("notes", ()))}, "summary")
    except (OSError, UnicodeDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserMistake(f"{path}: not a summary of an evaluation ({reason}); write it again with `evaluate`") from error


REQUIRED = {"rows": Row, "differences": Difference}
OPTIONAL = {"elo": Elo, "scores": ScoreRow, "score_differences": ScoreDifference}
"""Tables of a summary, and what a line of each is."""


def _rows(kind: Any, table: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    for number, row in enumerate(rows):
        yield _restore(kind, {**row, "pair": tuple(row["pair"])} if "pair" in row else row, f"{table}[{number}]")


def _restore(kind: Any, data: Mapping[str, Any], where: str) -> Any:
    unknown = set(data) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    missing = {f.name for f in fields(kind) if f.type == "float"}
    try:
        return kind(**{key: math.nan if value is None and key in missing else value for key, value in data.items()})
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        return [_strict(item) for item in value]
    if isinstance(value, np.generic):
        return _strict(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


# the terminal


def print_table(summary: Summary, console: Console | None = None) -> None:
    """Accuracies over all prompts, then every difference over all prompts; categories are in the report."""
    console = console or Console()
    if summary.warning:
        console.print(Text(summary.warning, style="bold yellow"))
    accuracies = [
        (
            r.model,
            r.task,
            guidance_words(r.guidance),
            str(r.forwards_per_image),
            str(r.n),
            percent(r.accuracy),
            interval(r.low, r.high),
        )
        for r in summary.rows
        if r.category == ALL
    ]
    columns = ("model", "task", "guidance", "forwards", "n", "accuracy", "95% interval")
    console.print(_table("Accuracy on held-out prompts", columns, accuracies))
    differences = [
        (
            " − ".join(d.pair),
            d.task,
            guidance_words(d.guidance, d.against_guidance),
            str(d.n),
            points(d.difference),
            interval(d.low, d.high, points),
        )
        for d in summary.differences
        if d.category == ALL
    ]
    if differences:
        pair_columns = ("pair", "task", "guidance", "n", "difference", "95% interval")
        console.print(_table("Paired differences, in points", pair_columns, differences))
    for fall in falls(summary.differences):
        console.print(Text(f"fell below its base: {fall}", style="bold yellow"), soft_wrap=True)
    _print_judged(summary, console)
    console.print(Text(headline(summary)))


def _print_judged(summary: Summary, console: Console) -> None:
    """Ratings and the judges' scores, over all prompts, where there are any."""
    ratings = [
        (
            " − ".join(e.pair),
            e.task,
            guidance_words(e.guidance, e.against_guidance),
            e.by,
            f"{e.wins}/{e.ties}/{e.losses}",
            elo_words(e.rating),
            interval(e.low, e.high, elo_words),
        )
        for e in summary.elo
        if e.category == ALL
    ]
    if ratings:
        columns = ("pair", "task", "guidance", "by", "won/tied/lost", "Elo", "95% interval")
        console.print(_table("Elo from paired verdicts", columns, ratings))
    scores = [
        (*(s.model, s.task, guidance_words(s.guidance), s.reward), *(str(s.n), str(s.missing), score_words(s.mean)), _span(s))
        for s in summary.scores
        if s.category == ALL
    ]
    if scores:
        score_columns = ("model", "task", "guidance", "reward", "n", "missing", "mean", "95% interval")
        console.print(_table("Mean scores", score_columns, scores))


def _span(row: ScoreRow) -> str:
    return interval(row.low, row.high, score_words)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", "pair", "task", "by", "reward") else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text, because names are data and rich reads [brackets]
    return table
