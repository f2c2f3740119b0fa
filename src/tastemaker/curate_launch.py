"""Prompts before training: `tastemaker curate` keeps those that can teach, `tastemaker categorise` gives each a category."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tastemaker import config as settings
from tastemaker.config import CategoriesConfig, ChatClassifierConfig, TrainConfig
from tastemaker.data.categories import Rule, category_by_rules
from tastemaker.data.curation import Samples, composite_range, select, threshold_of
from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.data.jsonl import inside
from tastemaker.data.prompts import read_prompts, write_prompts
from tastemaker.errors import UserMistake
from tastemaker.evaluation.curation import half_agreement, print_shares, write_findings, write_walls
from tastemaker.launch import MINIATURE_PROMPTS, check_categories, check_rewards, model_folder, opened_rewards, prompts_of
from tastemaker.models.adapter import load
from tastemaker.rewards.classifier import ChatClassifier, Classifier, VLMClassifier
from tastemaker.rewards.reward import Missing, fingerprints
from tastemaker.rewards.service import Address, Limits
from tastemaker.rewards.vlm_folder import load_vlm
from tastemaker.runtime.device import pick_device, pick_precision
from tastemaker.runtime.folder import write_text_atomic
from tastemaker.runtime.progress import Progress
from tastemaker.runtime.run import Run
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.curate import blocks_of, judge_prompts, judged_blocks, kept_pictures
from tastemaker.training.policy import Setup
from tastemaker.training.start import make_setup, prepare_hardware
from tastemaker.types import Prompt

KEEP = 0.5
"""The share of prompts that is kept when nothing is said."""
ASKED_AT_ONCE = 256
"""Prompts whose categories are asked of a server within one deadline."""


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
) -> Path:
    """As `curate`, of settings whose relative paths start at `beside`."""
    prompts = prompts_of(config, beside, folder)
    out = _list_path(config, beside, folder, out, prompts)
    check_categories(config, prompts)
    check_rewards(config, beside)
    samples = _judged(config, beside, prompts, folder, embeddings or folder / "embeddings", tuple(allow), console)
    threshold = above if above is not None else threshold_of([composite_range(s.composite_G) for s in samples], keep or KEEP)
    rule = f"range above {threshold:.4g}" + ("" if above is not None else f", which keeps the upper {keep or KEEP:.0%}")
    _write(samples, threshold, rule, folder, out, console)
    return out


def _list_path(config: TrainConfig, beside: Path, folder: Path, out: Path | None, prompts: Iterable[Prompt]) -> Path:
    """Beside the prompts, because their source pictures are named from there; of the miniature, in `folder`."""
    if out is None and config.data.prompts in MINIATURE_PROMPTS:
        return folder / "curated.jsonl"
    given = beside / config.data.prompts
    return _checked(out or given.with_name(f"{given.stem}.curated.jsonl"), prompts)


def _checked(out: Path, prompts: Iterable[Prompt]) -> Path:
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
    files = {} if config.data.prompts in MINIATURE_PROMPTS else {"prompts": beside / config.data.prompts}
    with opened_rewards(config, beside, device) as rewards:
        judges = fingerprints([rewards[reward.name] for reward in config.rewards])
        with Run.open(folder, config, allow_changes=allow, data_files=files, judges=judges), StopRequest() as stop:
            adapter = load(model, device=device, dtype=dtype)
            cache = EmbeddingCache(adapter, height=side, width=side, folder=embeddings, encoder_key=encoder_key(model))
            setup = make_setup(_without_reference(config), adapter, prompts, rewards, cache, height=side, width=side)
            console.print(_plan(setup, folder), soft_wrap=True)
            with closing(Progress(len(blocks_of(setup)), start=judged_blocks(folder), console=console)) as progress:
                return judge_prompts(setup, folder, trackers=[progress], stop=stop)


def _without_reference(config: TrainConfig) -> TrainConfig:
    """Nothing is trained, so the copy of the model that the velocity KL compares with would only take memory."""
    return config.model_copy(update={"algorithm": config.algorithm.model_copy(update={"velocity_kl": 0.0})})


def _plan(setup: Setup, folder: Path) -> str:
    pictures = len(setup.prompts) * setup.group_size
    return (
        f"{len(setup.prompts)} prompts x {setup.group_size} samples = {pictures} pictures, in steps of "
        f"{setup.prompts_per_step} prompts; judged so far: {judged_blocks(folder)} of {len(blocks_of(setup))} steps"
    )


def _write(samples: list[Samples], threshold: float, rule: str, folder: Path, out: Path, console: Console) -> None:
    """The list last: where it is, all the rest is too. Raises UserMistake when no prompt is kept."""
    outcomes = select(samples, threshold)
    shares = write_findings(folder, samples, outcomes, threshold, rule)
    walls = write_walls(folder, samples, outcomes, kept_pictures(folder), threshold)
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
    write_prompts(out, kept)
    hint = f"train on them with -o data.prompts={out.absolute()}"
    console.print(f"{len(kept)} of {len(samples)} prompts: {out}; {hint}", soft_wrap=True)


@dataclass(frozen=True)
class Categorised:
    """A prompt with its category, and where that comes from; or, with an empty category, why there is none."""

    prompt: Prompt
    how: str
    missing: str = ""


def categorise(path: Path, rules: Path, *, out: Path | None = None) -> Path:
    """Gives every prompt of the file that states no category one, and returns the new list; a table lies beside it.

    Prompts that get none are left out of the list, for without the key they would count as `general`; the table names them.
    """
    config = settings.load(rules, CategoriesConfig)
    prompts = read_prompts(path, category="")
    out = _checked(out or path.with_name(f"{path.stem}.categorised.jsonl"), prompts)
    console = Console()
    found = _asked(_by_rules(prompts, config), config, rules.parent, console)
    table = out.with_name(f"{out.stem}.csv")
    write_text_atomic(table, _as_csv(found))
    _show(found, config, console)
    kept = [one.prompt for one in found if one.prompt.category]
    if not kept:
        raise UserMistake(f"{path}: no prompt got a category, see {table}; add rules, or ask a model")
    write_prompts(out, kept)
    console.print(f"{len(kept)} of {len(found)} prompts: {out}; how each got its category: {table}", soft_wrap=True)
    return out


def _by_rules(prompts: Sequence[Prompt], config: CategoriesConfig) -> list[Categorised]:
    rules = [Rule.of(rule.category, rule.words, rule.pattern) for rule in config.rules]

    def one(prompt: Prompt) -> Categorised:
        if prompt.category:
            return Categorised(prompt, "given")
        if matched := category_by_rules(prompt, rules):
            return Categorised(replace(prompt, category=matched[0]), f"rule {matched[1]}")
        if config.otherwise:
            return Categorised(replace(prompt, category=config.otherwise), "otherwise")
        return Categorised(prompt, "", "no rule matches")

    return [one(prompt) for prompt in prompts]


def _asked(found: list[Categorised], config: CategoriesConfig, beside: Path, console: Console) -> list[Categorised]:
    """Those without a category are asked about, where there is a model."""
    left = [row for row, one in enumerate(found) if one.missing]
    if config.judge is None or not left:
        return found
    classifier = _classifier(config, beside)
    for start in range(0, len(left), ASKED_AT_ONCE):
        rows = left[start : start + ASKED_AT_ONCE]
        for row, answer in zip(rows, classifier.classify([found[row].prompt for row in rows]), strict=True):
            prompt = found[row].prompt
            if isinstance(answer, Missing):
                found[row] = Categorised(prompt, "", answer.reason)
            else:
                found[row] = Categorised(replace(prompt, category=answer), "judge")
        console.print(f"asked about {start + len(rows)} of {len(left)} prompts")
    return found


def _classifier(config: CategoriesConfig, beside: Path) -> Classifier:
    judge = config.judge
    if isinstance(judge, ChatClassifierConfig):
        address = Address(url=judge.url, token_variable=judge.token_variable)
        return ChatClassifier(
            address=address, model=judge.model, names=config.names, limits=Limits(concurrency=judge.concurrency)
        )
    assert judge is not None
    device = pick_device()
    vlm = load_vlm(beside / judge.path, device=device, dtype=pick_precision(judge.precision, device))
    return VLMClassifier(vlm, config.names)


def _as_csv(found: Sequence[Categorised]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "category", "how", "why missing", "text"])
    writer.writerows([one.prompt.id, one.prompt.category, one.how, one.missing, one.prompt.text] for one in found)
    return buffer.getvalue()


def _show(found: Sequence[Categorised], config: CategoriesConfig, console: Console) -> None:
    """Counts by category and origin, reasons, and rules that no prompt met."""
    counts = Counter((one.prompt.category, one.how.partition(" ")[0]) for one in found if one.prompt.category)
    origins = [origin for origin in ("given", "rule", "otherwise", "judge") if any(origin == how for _, how in counts)]
    table = Table()
    for heading in ("category", "n", *origins):
        table.add_column(heading, justify="left" if heading == "category" else "right")
    for name in sorted({category for category, _ in counts}):
        numbers = [counts[name, origin] for origin in origins]
        table.add_row(Text(name), str(sum(numbers)), *map(str, numbers))
    console.print(table)
    for reason, count in Counter(one.missing for one in found if one.missing).most_common(5):
        console.print(Text(f"{count} without a category, left out of the list: {reason}", style="yellow"))
    met = {one.how for one in found}
    for number, rule in enumerate(config.rules, start=1):
        if f"rule {number}" not in met:
            console.print(Text(f"rule {number} ({rule.category}) decides on no prompt"))
