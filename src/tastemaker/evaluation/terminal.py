"""The numbers of an evaluation as tables in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Drawn
from rich.text import Text

from tastemaker.evaluation.conclusions import fallen, headline
from tastemaker.evaluation.summary import Summary
from tastemaker.evaluation.tables import Table, tables


def print_table(summary: Summary, console: Console | None = None) -> None:
    """Everything over all prompts, then what follows from it; categories are in the report."""
    console = console or Console()
    if summary.warning:
        console.print(Text(summary.warning, style="bold yellow"))
    for table in tables(summary):
        console.print(_drawn(table))
    for fall in fallen(summary):
        console.print(Text(f"fell below its base: {fall}", style="bold yellow"), soft_wrap=True)
    console.print(Text(headline(summary)))


def _drawn(table: Table) -> Drawn:
    drawn = Drawn(title=Text(table.title), title_justify="left")
    for column in table.columns:
        drawn.add_column(column, justify="left" if column in ("model", "pair", "task", "by", "reward") else "right")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))  # Text, because names are data and rich reads [brackets]
    return drawn
