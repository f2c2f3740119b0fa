"""The numbers of an evaluation as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tastemaker.evaluation.conclusions import falls, headline
from tastemaker.evaluation.scores import ScoreRow
from tastemaker.evaluation.summary import ALL, Summary, elo_words, guidance_words, interval, percent, points, score_words


def print_table(summary: Summary, console: Console | None = None) -> None:
    """Accuracies over all prompts, then every difference over all prompts; categories are in the report."""
    console = console or Console()
    if summary.warning:
        console.print(Text(summary.warning, style="bold yellow"))
    _print_verdicts(summary, console)
    for fall in falls(summary.differences):
        console.print(Text(f"fell below its base: {fall}", style="bold yellow"), soft_wrap=True)
    _print_judged(summary, console)
    console.print(Text(headline(summary)))


def _print_verdicts(summary: Summary, console: Console) -> None:
    """Shares of right pictures, and paired differences where models are compared."""
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
