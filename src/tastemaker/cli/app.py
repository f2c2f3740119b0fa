"""The `tastemaker` command itself: its options, what several commands take, and where every failure ends."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from tastemaker.errors import Stopped, TastemakerError

ORDER = (
    *("demo", "train", "distill", "run", "check", "curate", "categorise", "export", "evaluate"),
    *("calibrate", "train-reward", "serve-reward", "miniature", "version"),
)
"""Of the commands in the help, as one comes to need them; others follow."""


class Commands(TyperGroup):
    """Where every command's failure ends: one line for each mistake, and the exit code of its class."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        there = super().list_commands(ctx)
        return sorted(there, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        debug = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            stopped = Stopped("stopped; nothing saved is damaged, the same command goes on from the last saved step")
            _give_up(stopped, error, debug)
        except TastemakerError as error:
            _give_up(error, error, debug)


def _give_up(error: TastemakerError, cause: BaseException, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exception(cause)
    for line in str(error).splitlines() or [type(error).__name__]:
        tell(line, "" if isinstance(error, Stopped) else "error: ")
    raise typer.Exit(error.exit_code)


def tell(line: str, word: str = "error: ") -> None:
    """One line on stderr."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text(word, style="bold red") + Text(line), soft_wrap=True)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Post-trains flow-matching image models towards what people want.\n\n"
    "New here? `tastemaker demo` runs the whole path on a CPU. Each command explains itself: `tastemaker train --help`.",
    epilog="Exit codes: 0 done, 2 a mistake in what you gave, 3 a service or disk failed, 4 the monitor's alarm ended the run, "
    "75 stopped and resumable, 1 anything else: a training that diverged, a damaged file.",
)
miniature = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(miniature, name="miniature", help="The built-in model: rebuild it, or read its card.")

SHARED = ("train", "distill")
"""The commands that several processes can do together."""

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", show_default=False, help="The run's settings.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="KEY=VALUE", show_default=False, help="Wins over the file; may be repeated."),
]
RunFolder = Annotated[Path | None, typer.Option(show_default=False, help="The run's folder; runs/NAME if not given.")]
Allowed = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY", show_default=False, help="A setting that may differ on resuming; may be repeated."),
]


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a mistake too.")] = False,
) -> None:
    if "WORLD_SIZE" in os.environ and context.invoked_subcommand not in SHARED:
        from tastemaker.runtime.distributed import require_one

        require_one(f"tastemaker {context.invoked_subcommand}")
