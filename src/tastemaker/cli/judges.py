"""Commands that make judges, serve them and weigh them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.app import Allowed, ConfigFile, Overrides, RunFolder, app


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
