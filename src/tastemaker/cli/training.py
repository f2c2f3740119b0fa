"""Commands that train: the whole recipe or one stage of it; and the look at their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.app import Allowed, ConfigFile, Overrides, RunFolder, app, tell


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="All randomness follows from this number.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all physical cores if not given.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that train; one for each core up to 4 if not given.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Far shorter: does everything run? Its numbers mean nothing.")] = False,
) -> None:
    """Run the whole recipe on the built-in miniature, in short, and measure what it gained.

    Chooses prompts that teach, trains a specialist for text to image and one for edits, one model on both at once, and a
    student of both specialists that needs no guidance; then all draw the held-out prompts and are compared with the base,
    with intervals. No GPU, no download; sized for 15 minutes on two cores. It is the shipped recipe `demo`.

    Writes `report.html` (open it in a browser: tables, pictures, curves), `summary.json`, and a folder for each stage. Ctrl-C
    stops at a safe point; the same command resumes.

    Example: `tastemaker demo --seed 1 --folder runs/demo-1`
    """
    from tastemaker.commands.demo import run

    run(folder=folder, seed=seed, threads=threads, processes=processes, quick=quick)


@app.command()
def train(
    config: ConfigFile,
    override: Overrides = None,
    folder: RunFolder = None,
    allow: Allowed = None,
) -> None:
    """Train a model with reinforcement learning, as the config says.

    Checks config, prompts and rewards before it loads the model. Writes into the run's folder: `config.yaml` with every default
    spelled out, `metrics.jsonl` with one line a step, checkpoints, each whole or absent, and at the end the policy as plain
    diffusers files, `lora/` or `transformer/`.

    Relative paths in the config start at the config's own folder.

    Ctrl-C, SIGTERM or the end of `budget.max_minutes` saves and leaves with exit code 75. The same command resumes, also after
    a crash, and ends at the same weights. With other settings, data, judges, package versions, device or precision it lists the
    differences and refuses, except for those you `--allow`.

    With `monitor: {every: 10}` pictures of fixed prompts are held against the base's while it trains (`monitor.jsonl`,
    `monitor.png`), and signs that a reward is being bought are reported; with `stop: true` they end the run with exit code 4.

    Several processes share each step's work and end at the weights of one:
    `torchrun --standalone --nproc-per-node 8 -m tastemaker train run.yaml`; see docs/scale.md.

    Example: `tastemaker train run.yaml -o rollout.group_size=16 -o budget.max_steps=200`
    """
    from tastemaker.commands.train import train as start

    start(config, overrides=override or [], folder=folder, allow=allow or [])


@app.command()
def distill(
    config: ConfigFile,
    override: Overrides = None,
    folder: RunFolder = None,
    allow: Allowed = None,
) -> None:
    """Merge specialists into one student that needs no guidance, by on-policy distillation.

    The student starts at the base and draws by itself, without guidance; where it came to, each prompt's teacher says, with
    guidance, where to go. Any number of teachers, each a transformer's folder, a pipeline, a LoRA or a difference to the base;
    they share one place on the device. No reward is asked.

    Writes what `tastemaker train` writes, at the end the student as `transformer/` or `lora/`. Sample it at scale 1, with one
    forward a step. Stops, resumes and refuses changes as `tastemaker train` does.

    Example: `tastemaker distill student.yaml -o budget.max_steps=300`
    """
    from tastemaker.commands.distill import distill as start

    start(config, overrides=override or [], folder=folder, allow=allow or [])


@app.command("run")
def run_recipe(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE.yaml", show_default=False, help="The stages, or the name of a shipped one: miniature."),
    ],
    folder: Annotated[
        Path | None, typer.Option(show_default=False, help="The recipe's folder; runs/NAME if not given.")
    ] = None,
    override: Overrides = None,
    stage: Annotated[str | None, typer.Option(show_default=False, help="Run this stage alone.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, why, and about what it takes.")] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            show_default=False,
            help="A setting or input that may have changed: its stages go on, and do not begin anew; may be repeated.",
        ),
    ] = None,
) -> None:
    """Run a recipe: judges, curation, specialists, distillation, evaluation, export, in one go or one after the other.

    A recipe names stages, each with the settings of its own command; `stage:NAME/FILE` takes what a stage above leaves. Each
    has a folder. What is finished is not run again; when its settings or the bytes of anything it reads have changed, it is,
    and so is what depends on it, while what was there before is kept under another name. Where only the budget has changed, or
    what you `--allow`, a stage goes on from where it was.

    All mistakes in the settings, paths and prompts of all stages are told at once, before the first one runs, also with
    `--dry-run`. Ctrl-C stops at a safe point; the same command goes on.

    Example: `tastemaker run recipe.yaml --dry-run`
    """
    from tastemaker.commands.run import run as start

    start(recipe, folder=folder, stage=stage, dry_run=dry_run, overrides=override or [], allow=allow or [])


@app.command()
def check(
    config: ConfigFile,
    override: Overrides = None,
    show: Annotated[bool, typer.Option("--show", help="Print every setting with its value, as YAML.")] = False,
) -> None:
    """List every mistake in a file at once, before a model is opened.

    Any file of settings will do: of `train`, `distill`, `evaluate`, `train-reward`, `categorise`, or a recipe. Each line names
    file, line, key and value, the rule that does not hold and what to do. Unknown keys get the nearest known one.

    What is wrong with the settings is told in about a second. Then follows what the command itself would find before it opens a
    model: folders of models and teachers, judges with their rubrics, tokens and extras, prompts row by row with their source
    pictures, held-out prompts, categories. That takes as long as reading them does. No model is opened, no server asked.

    A recipe is looked at as by `tastemaker run --dry-run`. Exit code 2 where there are mistakes; warnings are none.

    Example: `tastemaker check run.yaml --show`
    """
    from tastemaker.commands.check import check as start
    from tastemaker.errors import UserMistake

    if not start(config, overrides=override or [], show=show, tell=tell, say=typer.echo):
        raise typer.Exit(UserMistake.exit_code)
