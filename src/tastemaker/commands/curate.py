"""`tastemaker curate`: draws and judges samples of every prompt, and keeps the prompts that can teach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tastemaker import config as settings
from tastemaker.commands.checks import check_training
from tastemaker.commands.train import encoding, warn, warnings_of
from tastemaker.config import TrainConfig
from tastemaker.data.curation import Samples, select, thresholds_of
from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.data.jsonl import inside
from tastemaker.data.prompts import write_prompts
from tastemaker.errors import UserMistake
from tastemaker.evaluation.curation import half_agreement, print_shares, told, write_findings, write_walls
from tastemaker.models.adapter import load
from tastemaker.named.files import data_files
from tastemaker.named.inputs import model_folder
from tastemaker.named.judges import opened_rewards
from tastemaker.named.prompts import prompt_files
from tastemaker.rewards.reward import fingerprints
from tastemaker.runtime import folder as disk
from tastemaker.runtime.changes import fingerprint
from tastemaker.runtime.device import resolved
from tastemaker.runtime.progress import Progress
from tastemaker.runtime.run import Run
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.curate import blocks_of, judge_prompts, judged_blocks, kept_pictures, unread_settings
from tastemaker.training.policy import Setup
from tastemaker.training.start import make_setup, prepare_hardware
from tastemaker.types import Prompt, Task

SOURCES = "sources"
"""The folder beside a list for pictures from elsewhere."""
KEEP = 0.5
"""The share of prompts that is kept when nothing is said."""


def curate(
    path: Path,
    *,
    above: float | None = None,
    keep: float | None = None,
    overrides: Iterable[str] = (),
    folder: Path | None = None,
    allow: Iterable[str] = (),
    out: Path | None = None,
) -> Path:
    """Draws and judges what `folder` (runs/NAME/curation by default) lacks, selects, and returns the curated list.

    A threshold on the composite's range, either given (`above`) or by the share of prompts that it keeps (`keep`). With other
    ones nothing is drawn again. All mistakes are reported before the model is loaded.
    """
    if above is not None and keep is not None:
        raise UserMistake("--above and --keep: both are given; a list has one threshold, choose one of them")
    config = settings.load(path, TrainConfig, tuple(overrides))
    home = folder or Path("runs") / config.name
    return run_curate(
        config,
        path.parent,
        folder or home / "curation",
        Console(),
        above=above,
        keep=keep,
        allow=allow,
        out=out,
        embeddings=home / "embeddings",
    )


def run_curate(
    config: TrainConfig,
    beside: Path,
    folder: Path,
    console: Console,
    *,
    above: float | None = None,
    keep: float | None = None,
    allow: Iterable[str] = (),
    out: Path | None = None,
    embeddings: Path | None = None,
    bring: bool = False,
) -> Path:
    """As `curate`, of settings whose relative paths start at `beside`.

    With `bring` the list may be anywhere: the source pictures of what is kept are copied beside it where they lie elsewhere.
    """
    prompts = check_training(config, beside, folder)
    out = _list_path(config, beside, folder, out, () if bring else prompts)
    for line in warnings_of(config, model_folder(config, beside)):
        warn(line, console)
    samples = _judged(config, beside, prompts, folder, embeddings or folder / "embeddings", tuple(allow), console)
    given = None if above is None else {one.prompt.task: above for one in samples}
    thresholds = given or thresholds_of(samples, keep or KEEP)
    each = " of each task" if len(thresholds) > 1 else ""
    rule = f"range above {told(thresholds)}" + ("" if given else f", which keeps the upper {keep or KEEP:.0%}{each}")
    _write(samples, thresholds, rule, folder, out, console)
    return out


def _list_path(config: TrainConfig, beside: Path, folder: Path, out: Path | None, prompts: Iterable[Prompt]) -> Path:
    """Beside the prompts, because their source pictures are named from there; of the miniature, in `folder`."""
    if out is not None:
        return checked_list(out, prompts)
    given = prompt_files(config, beside)
    if not given:
        return folder / "curated.jsonl"
    if len(config.data.lists) > 1:
        raise UserMistake("--out: the prompts are of several lists, so the one to be written needs a name; give it with --out")
    return checked_list(given[0].with_name(f"{given[0].stem}.curated.jsonl"), prompts)


def checked_list(out: Path, prompts: Iterable[Prompt]) -> Path:
    """Raises UserMistake where a list of the prompts cannot be written, before anything is paid for."""
    if not out.parent.is_dir():
        raise UserMistake(f"--out: {out.parent} is not a folder; make it, or choose another one")
    for source in (source for prompt in prompts for source in prompt.sources):
        inside(source, out)
    return out


def _judged(
    config: TrainConfig,
    beside: Path,
    prompts: list[Prompt],
    folder: Path,
    embeddings: Path,
    allow: tuple[str, ...],
    console: Console,
) -> list[Samples]:
    """The samples of every prompt, drawn by the base with the sampler of training, or read where they are there already."""
    model, side = model_folder(config, beside), config.rollout.picture_side
    device, dtype = prepare_hardware(config)
    files = data_files(config, beside)
    with opened_rewards(config, beside, device) as rewards:
        judges = fingerprints([rewards[reward.name] for reward in config.rewards])
        allow = (*allow, *unread_settings(config))
        opened = Run.open(
            folder, config, allow_changes=allow, data_files=files, judges=judges, hardware=resolved(device, dtype)
        )
        with opened, StopRequest() as stop:
            adapter = load(model, device=device, dtype=dtype)
            cache = EmbeddingCache(adapter, height=side, width=side, folder=embeddings, encoder_key=encoder_key(model))
            setup = make_setup(_without_reference(config), adapter, prompts, rewards, cache, height=side, width=side)
            console.print(_plan(setup, folder), soft_wrap=True)
            blocks, hear = blocks_of(setup), encoding(console)

            def encoded(done: int, total: int) -> None:
                hear(done, total)
                stop.leave(f"{done} of {total} prompts are encoded and kept")

            ahead = [prompt for block in blocks[judged_blocks(folder) :] for prompt in block]
            cache.encode_ahead(ahead, [setup.negative_prompt] if setup.sampler.guided else [], encoded)
            with closing(Progress(len(blocks), start=judged_blocks(folder), console=console)) as progress:
                return judge_prompts(setup, folder, trackers=[progress], stop=stop)


def _brought(prompt: Prompt, out: Path) -> Prompt:
    """With a copy of each source picture that is not below the list's folder, named by its bytes, which no two share."""
    return replace(prompt, sources=tuple(_copy(source, out.parent / SOURCES) for source in prompt.sources))


def _copy(source: str, folder: Path) -> str:
    if Path(source).absolute().is_relative_to(folder.parent.absolute()):
        return source
    path = folder / f"{fingerprint(source)}{Path(source).suffix}"
    if not path.exists():
        disk.make_folder(folder)
        disk.write_bytes_atomic(path, Path(source).read_bytes())
    return str(path)


def _without_reference(config: TrainConfig) -> TrainConfig:
    """Nothing is trained, so the copy of the model that the velocity KL compares with would only take memory."""
    return config.model_copy(update={"algorithm": config.algorithm.model_copy(update={"velocity_kl": 0.0})})


def _plan(setup: Setup, folder: Path) -> str:
    pictures = len(setup.prompts) * setup.group_size
    return (
        f"{len(setup.prompts)} prompts x {setup.group_size} samples = {pictures} pictures, in steps of "
        f"{setup.prompts_per_step} prompts; judged so far: {judged_blocks(folder)} of {len(blocks_of(setup))} steps"
    )


def _write(
    samples: list[Samples], thresholds: Mapping[Task, float], rule: str, folder: Path, out: Path, console: Console
) -> None:
    """The list last: where it is, all the rest is too. Raises UserMistake when no prompt is kept."""
    outcomes = select(samples, thresholds)
    shares = write_findings(folder, samples, outcomes, thresholds, rule)
    walls = write_walls(folder, samples, outcomes, kept_pictures(folder), thresholds)
    print_shares(shares, console)
    halves = half_agreement(samples)
    console.print(
        f"{rule}. Ranges are noisy: those of the two halves of a prompt's samples correlate by {halves.value:.2f} "
        f"({halves.low:.2f} to {halves.high:.2f}, Spearman, n = {halves.n} prompts)",
        soft_wrap=True,
    )
    console.print(f"table, summary, chart of ranges and {len(walls)} walls: {folder}", soft_wrap=True)
    kept = [one.prompt for one, outcome in zip(samples, outcomes, strict=True) if outcome.kept]
    if not kept:
        raise UserMistake(f"no prompt has a {rule}; lower the threshold, see {folder / 'table.csv'}")
    write_prompts(out, [_brought(prompt, out) for prompt in kept])
    hint = f"train on them with -o data.prompts={out.absolute()}"
    console.print(f"{len(kept)} of {len(samples)} prompts: {out}; {hint}", soft_wrap=True)
