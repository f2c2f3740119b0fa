"""Commands that tell of tastemaker itself and its built-in model."""

from __future__ import annotations

import platform
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated

import typer

from tastemaker import __version__
from tastemaker.cli.app import app, miniature
from tastemaker.errors import UserMistake


@miniature.command()
def build(
    folder: Annotated[Path, typer.Option(help="Where the model and its training state are written.")] = Path("build/miniature"),
    device: Annotated[
        str | None, typer.Option(show_default=False, help="Such as cpu or cuda; the best there is if not given.")
    ] = None,
) -> None:
    """Rebuild the miniature from nothing: its world, tokenizer, VAE, text encoder, transformer and judges.

    You do not need this to use tastemaker: the built model is part of the package. The base takes an hour or two on two CPU
    cores, the judge some hours more. Ctrl-C stops it, and the same command makes what is still missing, from the last saved
    step on.

    Writes the drawings, the parts, and in `pipeline/` a folder that plain `DiffusionPipeline.from_pretrained` loads, with
    `build.json`: the plan, and the seconds each part took; in `judging/judge` a vision-language model trained on simulated
    ratings, and in `identity/` the embedder of faces, each with its card.

    Example: `tastemaker miniature build --folder build/miniature`
    """
    from tastemaker.miniature.builder.build import build as start

    typer.echo(f"the miniature: {start(folder, device=device)}")


@miniature.command()
def card() -> None:
    """Print the card of the shipped miniature: what it is, how it was made, what it can and cannot draw.

    Instant; writes nothing.

    Example: `tastemaker miniature card > card.md`
    """
    weights = resources.files("tastemaker") / "miniature" / "weights"
    path = weights / "README.md"
    if not path.is_file():
        raise UserMistake(f"{path}: this copy of tastemaker ships no miniature; make one with `tastemaker miniature build`")
    typer.echo(path.read_text(encoding="utf-8"), nl=False)


@app.command()
def version() -> None:
    """Print the versions of tastemaker and of what it stands on, for a bug report.

    Instant; writes nothing.

    Example: `tastemaker version`
    """
    typer.echo(f"tastemaker {__version__}")
    typer.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("torch", "diffusers", "transformers", "peft"):
        typer.echo(f"{package} {_version(package)}")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
