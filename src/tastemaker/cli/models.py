"""Commands that take what was trained: out of the house, and into a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tastemaker.cli.app import ConfigFile, Overrides, app


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="The folder of a run of train or distill.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", show_default=False, help="The folder to write.")],
    form: Annotated[
        str | None,
        typer.Option(
            metavar="pipeline|transformer|lora",
            show_default=False,
            help="What to write; a LoRA policy's is lora if not given, and is merged into the other two; else pipeline.",
        ),
    ] = None,
    step: Annotated[int | None, typer.Option(min=0, show_default=False, help="A saved step; the newest if not given.")] = None,
    live: Annotated[bool, typer.Option("--live", help="The last weights, where the run also keeps their average.")] = False,
    dtype: Annotated[
        str, typer.Option(metavar="auto|fp32|bf16|fp16", help="Of trained weights; auto is as trained, merged as the base is.")
    ] = "auto",
    base: Annotated[Path | None, typer.Option(show_default=False, help="The base pipeline, if it was moved.")] = None,
    evaluation: Annotated[
        Path | None, typer.Option(show_default=False, help="A summary.json of evaluate; without it the card has no numbers.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export at OUT.")] = False,
) -> None:
    """Write a trained model as plain diffusers files, which need no line of tastemaker.

    Takes the running average of the weights where the run has one. A pipeline is the base's files, copied byte for byte, with
    the trained transformer: `DiffusionPipeline.from_pretrained(OUT)` opens it. A LoRA carries its scale:
    `pipe.load_lora_weights(OUT)`. Safetensors only. `README.md` is a model card: how to sample it, base and data by hash, the
    whole recipe, and the numbers of an evaluation. OUT is there whole or not at all. docs/export.md has more.

    Example: `tastemaker export runs/first-run models/first-run`
    """
    from tastemaker.export.plan import make_plan
    from tastemaker.export.write import export as write

    options: Any = {"form": form, "step": step, "live": live, "dtype": dtype, "base": base, "evaluation": evaluation}
    typer.echo(f"exported to {write(make_plan(run, out, force=force, **options))}")


@app.command()
def evaluate(
    config: ConfigFile,
    override: Overrides = None,
    folder: Annotated[
        Path | None, typer.Option(show_default=False, help="Where to write; evaluations/NAME if not given.")
    ] = None,
) -> None:
    """Compare models on held-out prompts: same prompts, same noise, paired differences with 95% intervals.

    A model is a pipeline's folder, a run of `train` or `distill`, a LoRA or a transformer on its base, or the word miniature.
    Pictures are read by the miniature's oracle, judged by rewards as in a training's config, or both. A model with guidance
    inside is sampled without, and a line warns where more is asked for.

    Writes `report.html`, `summary.json` (accuracy and scores by category with n, forwards an image, Elo against the first
    model) and picture walls. Every mistake is listed before a model is opened. Ctrl-C stops it, with a report of what was
    judged by then, and the same command goes on: pictures and scores that are there are kept, also when a model is added.
    docs/evaluate.md has an example.

    Example: `tastemaker evaluate compare.yaml -o guidance=[3,1]`
    """
    from tastemaker.commands.evaluate import evaluate as start

    start(config, overrides=override or [], folder=folder)
