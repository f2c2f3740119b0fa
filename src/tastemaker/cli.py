"""The command line: reads the arguments, calls one function, and turns a mistake into one clear line and an exit code.

Commands import what they need when they run, so that help, version and a mistake in a config take less than a second.
Exit codes: 0 done, 2 the user's mistake, 3 a service we depend on failed, 4 the monitor's alarm ended the run,
75 stopped and resumable, 1 anything else.
"""

from __future__ import annotations

import os
import platform
import signal
import traceback
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from tastemaker import __version__
from tastemaker.errors import Stopped, TastemakerError, UserMistake


class Commands(TyperGroup):
    """Where every command's failure ends: one line for each mistake, and the exit code of its class."""

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
    from rich.console import Console
    from rich.text import Text

    if debug:
        traceback.print_exception(cause)
    word = Text() if isinstance(error, Stopped) else Text("error: ", style="bold red")
    console = Console(stderr=True, highlight=False)
    for line in str(error).splitlines() or [type(error).__name__]:
        console.print(word + Text(line), soft_wrap=True)
    raise typer.Exit(error.exit_code)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Post-trains flow-matching image models towards what people want.\n\n"
    "New here? `tastemaker demo` runs the whole path on a CPU. Each command explains itself: `tastemaker train --help`.",
    epilog="Exit codes: 0 done, 2 a mistake in what you gave, 3 a service or disk failed, 4 the monitor's alarm ended the run, "
    "75 stopped and resumable.",
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
    """List every mistake in a config at once, before anything is loaded.

    Each line names file, line, key and value, the rule that does not hold and what to do. Unknown keys get the nearest known
    one. Takes about a second and writes nothing. It looks whether the files of judges are there, and, where `data.held_out` is
    set, whether a file of prompts shares any with it; otherwise it reads no model, prompts or pictures.

    Example: `tastemaker check run.yaml --show`
    """
    from tastemaker.config import TrainConfig, check_judges, dump, load

    settings = load(config, TrainConfig, override or [])
    check_judges(settings.judges, config.parent)
    if settings.data.held_out is not None:
        from tastemaker.named.inputs import MINIATURE_PROMPTS, check_held_out, prompts_of_file

        if settings.data.prompts not in MINIATURE_PROMPTS:
            check_held_out(settings, config.parent, prompts_of_file(settings, config.parent))
    if show:
        typer.echo(dump(settings), nl=False)
        return
    rollout, budget = settings.rollout, settings.budget
    trained = f"steps {rollout.window_start} to {rollout.window_start + rollout.window_size - 1} of which are trained"
    if settings.algorithm.name == "nft":
        trained = f"trained on {settings.algorithm.points} points of the forward process"
    typer.echo(
        f"{config}: no mistakes. {settings.algorithm.name} on {settings.model}, at most {budget.max_steps} steps of "
        f"{rollout.prompts} prompts x {rollout.group_size} pictures; {rollout.steps} sampling steps, "
        f"{trained}; guidance {rollout.guidance:g}."
    )


@app.command()
def curate(
    config: ConfigFile,
    above: Annotated[
        float | None, typer.Option(min=0, max=1, show_default=False, help="Keep prompts whose range is above this.")
    ] = None,
    keep: Annotated[
        float | None, typer.Option(min=0.001, max=1, show_default=False, help="Keep this share with the largest ranges; 0.5.")
    ] = None,
    override: Overrides = None,
    folder: Annotated[Path | None, typer.Option(show_default=False, help="runs/NAME/curation if not given.")] = None,
    allow: Allowed = None,
    out: Annotated[
        Path | None, typer.Option(show_default=False, help="The list; PROMPTS.curated.jsonl beside PROMPTS if not given.")
    ] = None,
) -> None:
    """Keep the prompts that can teach: those of which the model draws some samples clearly better than others.

    Takes the config of `train`. The untrained model draws `rollout.group_size` samples of every prompt with training's own
    sampler, they are judged, and the range (max - min) of the weighted composite decides: above `--above`, or the `--keep`
    largest. A prompt without half of its scores is dropped.

    Writes the list as JSONL of the same form, for `data.prompts`; into the folder `table.csv` (each prompt with its range,
    scores, and why it was dropped), `summary.json` by category, `ranges.png`, and walls of kept and dropped prompts.

    Costs one rollout for each prompt; the estimate is shown. Killed or stopped, the same command goes on; with another
    threshold it draws nothing anew. See docs/curation.md.

    Example: `tastemaker curate run.yaml --keep 0.5`
    """
    from tastemaker.commands.curate import curate as start

    start(config, above=above, keep=keep, overrides=override or [], folder=folder, allow=allow or [], out=out)


@app.command()
def categorise(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS.jsonl", show_default=False, help="The prompts.")],
    rules: Annotated[Path, typer.Argument(metavar="RULES.yaml", show_default=False, help="How they get a category.")],
    out: Annotated[
        Path | None, typer.Option(show_default=False, help="The list; PROMPTS.categorised.jsonl beside PROMPTS if not given.")
    ] = None,
) -> None:
    """Give every prompt a category, by which rewards are weighed and results are told.

    A category that a prompt states itself stays. Else the first of the `rules` that matches its words decides, then what stands
    under `otherwise`, or a vision-language model (`judge`) that may answer with one of the `names`. An answer that is none of
    them is missing, and such a prompt is left out of the list.

    Writes the list as JSONL for `data.prompts`, and a CSV beside it that says of each prompt which rule or model decided, or
    why nothing did. Takes seconds with rules; a model is asked once for each prompt. See docs/curation.md.

    Example: `tastemaker categorise prompts.jsonl categories.yaml`
    """
    from tastemaker.commands.categorise import categorise as start

    start(prompts, rules, out=out)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="The folder of a run of train.")],
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
        Path | None, typer.Option(show_default=False, help="A summary.json for the card; the run's own if not given.")
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

    A model is a pipeline's folder, a run of `train`, a LoRA or a transformer on its base, or the word miniature. Pictures are
    read by the miniature's oracle, judged by rewards as in a training's config, or both. A model with guidance inside is
    sampled without, and a line warns where more is asked for.

    Writes `report.html`, `summary.json` (accuracy and scores by category with n, forwards an image, Elo against the first
    model) and picture walls. Every mistake is listed before a model is opened. Ctrl-C stops it, with a report of what was
    judged by then, and the same command goes on: pictures and scores that are there are kept, also when a model is added.
    docs/evaluate.md has an example.

    Example: `tastemaker evaluate compare.yaml -o guidance=[3,1]`
    """
    from tastemaker.commands.evaluate import evaluate as start

    start(config, overrides=override or [], folder=folder)


@app.command()
def calibrate(
    votes: Annotated[
        Path, typer.Argument(metavar="VOTES.jsonl", show_default=False, help="Pair votes, on pictures or with their scores.")
    ],
    config: Annotated[
        Path | None, typer.Option(show_default=False, help="A config with rewards: the judges, and the ranges of their scores.")
    ] = None,
    strength: Annotated[
        float, typer.Option(min=0, help="Votes of the pooled fit that are added to each category's own.")
    ] = 20.0,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap that gives the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(show_default=False, help="The YAML; VOTES.weights.yaml if not given.")] = None,
) -> None:
    """Fit how much each reward has to count, from people's votes between two pictures.

    A line of the file is a vote, as `train-reward` takes it: `{"id": "v1", "prompt": "a cat", "rater": "ann", "choice": "left",
    "left": {"picture": "1.png"}, "right": {"picture": "2.png"}}`. The judges of the config score both pictures; their scores
    are kept beside the votes. Or it holds scores, and needs no judge: `{"prompt": "a cat", "category": "portrait", "choice":
    "left", "left": {"alignment": 4.1}, "right": {"alignment": 3.0}}`, by reward, null where one is missing. The choice is left,
    right or tie. All mistakes of the file are listed at once.

    Prints the weights of all votes and of each category with 95% intervals, says which categories have too few votes to be told
    from the rest, and writes YAML to paste into a config. The fit takes seconds, for tens of thousands of votes minutes.

    Example: `tastemaker calibrate votes.jsonl --config run.yaml`
    """
    from tastemaker.commands.calibrate import calibrate as start

    start(votes, config=config, strength=strength, resamples=resamples, seed=seed, out=out)


@app.command("train-reward")
def train_reward(
    config: ConfigFile,
    override: Overrides = None,
    folder: RunFolder = None,
    allow: Allowed = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read everything, tell every mistake and the parts, and stop before the model.")
    ] = False,
) -> None:
    """Train a vision-language model to score pictures as people do, and measure how far it agrees with them.

    Takes ratings (every rater's own score, 1 to 5) or pair votes as JSONL with their pictures, a rubric, and any local
    image-text-to-text model of transformers. Rows are dealt into training, calibration and test parts that share no prompt,
    source picture or generator. `objective.kind` says what is learnt: `pointwise` (the raters' mean), `soft_label` (their
    distribution), `pairwise` (Bradley-Terry) or `chain_of_thought` (a rationale, then the score).

    Writes into the run's folder what `train` writes, and `judge/`: a folder that `tastemaker serve-reward` and transformers
    open, with its judge card, `README.md` and `card.json`: rank correlation within and across prompts, pair accuracy in both
    orders, calibration, and how far the raters agree with each other, on the test part, with n and 95% intervals.

    Ctrl-C or SIGTERM saves and leaves with exit code 75; the same command resumes, also after a crash, and ends at the same
    weights. No picture of the measurement is judged twice either. docs/reward-models.md goes through an example.

    Example: `tastemaker train-reward taste.yaml -o budget.epochs=3`
    """
    from tastemaker.commands.train_reward import train_reward as start

    start(config, overrides=override or [], folder=folder, allow=allow or [], check=check)


@app.command("serve-reward")
def serve_reward(
    model: Annotated[Path, typer.Argument(metavar="MODEL", show_default=False, help="A transformers folder, or a LoRA's.")],
    rubric: Annotated[
        str | None, typer.Option(show_default=False, help="Such as alignment.v1; a judge that was trained here knows its own.")
    ] = None,
    base: Annotated[Path | None, typer.Option(show_default=False, help="The base of a LoRA, if not where it says.")] = None,
    name: Annotated[str | None, typer.Option(show_default=False, help="Of the reward; the rubric's if not given.")] = None,
    host: Annotated[str, typer.Option(help="What it listens on; anything but this machine needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="And the port.")] = 8100,
    device: Annotated[str | None, typer.Option(show_default=False, help="Such as cpu or cuda; the best if not given.")] = None,
    precision: Annotated[str, typer.Option(metavar="auto|fp32|bf16", help="Auto is bf16 where the device has it.")] = "auto",
    no_cot: Annotated[bool, typer.Option("--no-cot", help="Score without a rationale.")] = False,
    rationales: Annotated[
        int | None, typer.Option(show_default=False, help="Rationales a score is averaged over; above 1 with a temperature.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(show_default=False, help="Of the rationales; at 0 a rationale is the most likely one.")
    ] = None,
    max_rationale_tokens: Annotated[
        int | None, typer.Option(show_default=False, help="A rationale that has not ended by then has no score.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most questions, and pictures, that are judged at once.")] = 16,
    deadline: Annotated[float, typer.Option(help="Seconds for a batch; below deadlines.item of those who ask.")] = 45.0,
    queue: Annotated[int, typer.Option(min=1, help="Questions that may wait; more come again later.")] = 512,
) -> None:
    """Serve a vision-language model as a judge, for training runs on this or other machines.

    Any image-text-to-text model of transformers, from a local folder: nothing is downloaded, no code or pickle of the folder is
    run. Speaks a batch protocol of its own (`/v1/score`) and the shape of OpenAI's chat; `/health` and `/metrics` for whatever
    watches. Requests carry pictures as base64 PNG; no path or URL in them is opened.

    A judge that was trained here is read as it was trained, others by a greedy rationale, unless an option says otherwise.

    A token in the environment variable `TASTEMAKER_JUDGE_TOKEN` is asked of every client; without one it listens on this
    machine alone. SIGTERM and Ctrl-C finish what is being judged. Needs `pip install 'tastemaker[serve]'`.

    Example: `tastemaker serve-reward judges/alignment --port 8101`
    """
    from tastemaker.commands.serve_reward import serve_reward as start

    start(
        model,
        rubric=rubric,
        base=base,
        name=name,
        host=host,
        port=port,
        device=device,
        precision=precision,
        chain_of_thought=False if no_cot else None,
        num_rationales=rationales,
        temperature=temperature,
        max_rationale_tokens=max_rationale_tokens,
        batch=batch,
        deadline=deadline,
        queue=queue,
    )


@miniature.command()
def build(
    folder: Annotated[Path, typer.Option(help="Where the model and its training state are written.")] = Path("build/miniature"),
    device: Annotated[
        str | None, typer.Option(show_default=False, help="Such as cpu or cuda; the best there is if not given.")
    ] = None,
) -> None:
    """Rebuild the miniature from nothing: its world, tokenizer, VAE, text encoder, transformer and judges.

    You do not need this to use tastemaker: the built model is part of the package. It takes some hours on two CPU cores.
    Ctrl-C stops it, and the same command makes what is still missing, from the last saved step on.

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


def main() -> None:
    """The `tastemaker` command. Outside the training loop, which stops at safe points, SIGTERM acts as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()
