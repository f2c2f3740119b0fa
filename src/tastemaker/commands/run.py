"""`tastemaker run`: a recipe, or what of it would run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tastemaker.commands.stages.kinds import KINDS
from tastemaker.config.recipe import load_recipe
from tastemaker.recipe import Outlook, Recipe, check, open_recipe, outlook
from tastemaker.recipe import run as run_stages
from tastemaker.runtime.estimate import (
    Estimate,
)
from tastemaker.runtime.folder import readable_size


def shipped() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))}


def run(
    path: Path,
    *,
    folder: Path | None = None,
    stage: str | None = None,
    dry_run: bool = False,
    overrides: Iterable[str] = (),
    allow: Iterable[str] = (),
) -> None:
    """Runs the recipe's stages in `folder` (runs/NAME by default), or goes on; with `dry_run` says what would run.

    `allow` names settings and inputs that may differ from when a stage was begun: it goes on where it would begin anew.
    `path` may also be the name of a shipped recipe, whose relative paths start where one is.
    """
    console = Console()
    if not path.exists() and str(path) in shipped():
        text, beside = load_recipe(shipped()[str(path)], KINDS, overrides), Path()
    else:
        text, beside = load_recipe(path, KINDS, overrides), path.parent
    recipe = open_recipe(text, KINDS, folder or Path("runs") / text.name, beside, console, allow)
    if dry_run:
        chosen = recipe.stages if stage is None else (recipe.named(stage),)
        looks = outlook(recipe)
        check(recipe, looks, stage)
        console.print(as_table(recipe, [look for look in looks if look.stage in chosen]))
        return
    run_stages(recipe, stage)
    console.print(f"all of {recipe.name} is in {recipe.folder}" if stage is None else f"{stage} is in {recipe.folder / stage}")


def as_table(recipe: Recipe, looks: list[Outlook]) -> Table:
    """What would run and why, and about what it takes."""
    table = Table(
        title=f"{recipe.name}, in {recipe.folder}", caption="estimates are orders of magnitude; judges are not in them"
    )
    for column in ("stage", "kind", "runs", "time", "memory", "disk"):
        table.add_column(column)
    unfinished = [look.stage.name for look in looks if look.why]
    for look in looks:
        found = recipe.kinds[look.stage.kind].estimate(recipe.job(look.stage, unfinished)) if look.why else Estimate()
        table.add_row(look.stage.name, look.stage.kind, look.why or "no: finished, unchanged", *_told(found))
    return table


def _told(estimate: Estimate) -> tuple[str, str, str]:
    seconds = estimate.seconds
    time = "" if seconds is None else f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{max(seconds / 60, 0.1):.1f} min"
    memory, disk = ("" if size is None else readable_size(size) for size in (estimate.memory, estimate.disk))
    return time, memory, disk
