"""The numbers of an evaluation over all prompts as words in tables: for the terminal and for model cards.

Categories are in the report.
"""

from __future__ import annotations

from dataclasses import dataclass

from tastemaker.evaluation.summary import ALL, Summary, elo_words, guidance_words, interval, percent, points, score_words

INTERVAL = "95% interval"


@dataclass(frozen=True)
class Table:
    """A row has a word for each column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(summary: Summary) -> list[Table]:
    """Those that have rows."""
    return [table for table in (_accuracies(summary), _differences(summary), _elo(summary), _scores(summary)) if table.rows]


def _accuracies(summary: Summary) -> Table:
    columns = ("model", "task", "guidance", "forwards", "n", "accuracy", INTERVAL)
    rows = []
    for r in (row for row in summary.rows if row.category == ALL):
        who = (r.model, r.task, guidance_words(r.guidance))
        rows.append((*who, str(r.forwards_per_image), str(r.n), percent(r.accuracy), interval(r.low, r.high)))
    return Table("Accuracy on held-out prompts", columns, tuple(rows))


def _differences(summary: Summary) -> Table:
    columns = ("pair", "task", "guidance", "n", "difference", INTERVAL)
    rows = []
    for d in (row for row in summary.differences if row.category == ALL):
        who = (" − ".join(d.pair), d.task, guidance_words(d.guidance, d.against_guidance))
        rows.append((*who, str(d.n), points(d.difference), interval(d.low, d.high, points)))
    return Table("Paired differences, in points", columns, tuple(rows))


def _elo(summary: Summary) -> Table:
    columns = ("pair", "task", "guidance", "by", "n", "won/tied/lost", "Elo", INTERVAL)
    rows = []
    for e in (row for row in summary.elo if row.category == ALL):
        who = (" − ".join(e.pair), e.task, guidance_words(e.guidance, e.against_guidance), e.by)
        counts = (str(e.n), f"{e.wins}/{e.ties}/{e.losses}")
        rows.append((*who, *counts, elo_words(e.rating), interval(e.low, e.high, elo_words)))
    return Table("Elo from paired verdicts", columns, tuple(rows))


def _scores(summary: Summary) -> Table:
    columns = ("model", "task", "guidance", "reward", "n", "missing", "mean", INTERVAL)
    rows = []
    for s in (row for row in summary.scores if row.category == ALL):
        who = (s.model, s.task, guidance_words(s.guidance), s.reward)
        rows.append((*who, str(s.n), str(s.missing), score_words(s.mean), interval(s.low, s.high, score_words)))
    return Table("Mean scores", columns, tuple(rows))
