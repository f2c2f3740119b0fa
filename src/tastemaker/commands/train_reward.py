"""`tastemaker train-reward`: from rated pictures to a judge that can be served, with a card that says how good it is.

settings -> what people said, in three parts -> training -> RUN/judge -> opened again, measured -> card.json, README.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from tastemaker import config as settings
from tastemaker.config.reward_training import JudgeLora, RewardTrainConfig
from tastemaker.errors import UserMistake
from tastemaker.evaluation import judge_card, judge_measures
from tastemaker.named.files import Files, said_files
from tastemaker.rewards.cache import CachedJudge
from tastemaker.rewards.readout import QuestionEncoder
from tastemaker.rewards.rubrics import Rubric, load_rubric, shipped
from tastemaker.rewards.vlm import VLMJudge
from tastemaker.rewards.vlm_folder import load_processor, load_vlm
from tastemaker.runtime import changes
from tastemaker.runtime import device as hardware
from tastemaker.runtime import folder as disk
from tastemaker.runtime.progress import Progress
from tastemaker.runtime.run import Run
from tastemaker.training.reward_data import (
    PARTS,
    Part,
    Said,
    deal,
    examples_of,
    lacks_sources,
    leaks,
    listed,
    overlong,
    read_said,
    remember,
    unreadable,
)
from tastemaker.training.reward_model import Example, RewardSetup
from tastemaker.training.reward_start import (
    make_read_out,
    make_reward_setup,
    num_steps,
    run_reward_training,
    write_judge,
)

JUDGE = "judge"
"""Of the run's folder: what `VLMJudge.load` and `tastemaker serve-reward` open."""
TRAINED_ON = "trained_on.txt"
"""Of the run's folder: digests of all that measurements must not share with what was trained on."""
TRAINING = ("seed", "objective", "policy", "optimiser", "splits")
"""Settings in a card that say how its judge came about."""
MOST_LEAKS = 3
"""Rows that are named when a change of the data would measure on what was trained on."""
BASE = "base:"
"""Before the names of the base's files among the digests of a run."""
SHOWN = ("loss", "abs_error", "pairs_right", "rationale_loss", "digit_mass")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Material:
    """All that a training needs but the model."""

    base: Path
    rubric: Rubric
    said: Said
    parts: tuple[Part, Part, Part]
    """Train, calibration, test."""
    num_groups: tuple[int, int, int]
    examples: list[Example]
    files: Files
    """Of people's judgements and of the base, by the names under which their digests are kept."""


class Watched:
    """The progress of a training, with those metrics that a person looks at."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        shown = {f"reward/{name}": metrics[name] for name in SHOWN if name in metrics}
        self._progress.log(step, {**shown, "images": metrics["images"]})

    def close(self) -> None:
        self._progress.close()


def train_reward(
    path: Path,
    *,
    overrides: Iterable[str] = (),
    folder: Path | None = None,
    allow: Iterable[str] = (),
    check: bool = False,
) -> Path | None:
    """Trains what the file says in `folder` (runs/NAME by default), or goes on where it stopped; returns the judge's folder.

    With `check` it stops, and returns None, before the model is loaded: all mistakes in settings and data are told by then.
    """
    config = settings.load(path, RewardTrainConfig, tuple(overrides))
    return run_train_reward(config, path.parent, folder or Path("runs") / config.name, Console(), allow, check=check)


def run_train_reward(
    config: RewardTrainConfig,
    beside: Path,
    folder: Path,
    console: Console,
    allow: Iterable[str] = (),
    *,
    check: bool = False,
) -> Path | None:
    """As `train_reward`, of settings whose relative paths start at `beside`."""
    hardware.set_threads(config.threads)
    material = collect(config, beside, console)
    total = num_steps(config, len(material.examples))
    for line in plan(material, total):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if check:
        return None
    place = hardware.pick_device()
    precision = hardware.pick_precision(config.precision, place)
    judge = folder / JUDGE
    _keep_apart(config, material, folder)
    setup = None
    if (trained := _trained_card(judge, total)) is not None:
        _same_training(config, material, trained, judge)
    else:
        setup = _load(config, material, place, precision, console)
    resolved = hardware.resolved(place, precision)
    keep = config.checkpoint.keep
    with Run.open(folder, config, allow_changes=allow, data_files=material.files, hardware=resolved, keep=keep) as run:
        if setup is not None:
            remember(run.folder / TRAINED_ON, material.parts[0])
            _train(config, setup, run, console)
            setup = None  # what was written is opened for the measurement, and two models may not fit
        card = judge_card.read_card(judge)
        if card is None or card["evaluation"] != config.evaluation.model_dump(mode="json"):
            card = _measure(config, material, run, total, place, precision, console)
    console.print(judge_card.as_table(card))
    console.print(f"the judge and its card are in {judge}; serve it with: tastemaker serve-reward {judge}", soft_wrap=True)
    return judge


# ---- before the model is loaded ------------------------------------------------------------------


def collect(
    config: RewardTrainConfig,
    beside: Path,
    console: Console | None = None,
    *,
    decode: bool = True,
    awaits: Callable[[Path], bool] = lambda path: False,
) -> Material:
    """Reads everything that the settings name; relative paths start at `beside`. Raises UserMistake with all mistakes.

    With `decode` every picture is opened, to find broken ones. A base that is still to come is not looked at.
    """
    console = console or Console(quiet=True)
    data, mistakes = config.data, []

    def told(name: str) -> None:
        console.print(f"reading {name}" + " and opening its pictures" * decode, markup=False, highlight=False)

    def tried(read: Callable[[], Value]) -> Value | None:
        try:
            return read()
        except UserMistake as error:
            mistakes.append(str(error))
            return None

    base = beside / config.base if awaits(beside / config.base) else tried(lambda: _base(beside / config.base))
    rubric = tried(lambda: _rubric(config.rubric, beside))
    make = tried(lambda: make_read_out(config))
    said = tried(
        lambda: read_said(
            {name: beside / name for name in data.ratings},
            {name: beside / name for name in data.votes},
            pictures=beside / data.pictures if data.pictures else None,
            dimension=data.dimension,
            task=data.task,
            skip_bad=data.skip_bad,
            decode=decode,
            told=told,
        )
    )
    processor = tried(lambda: load_processor(base)) if base else None
    if base is None or rubric is None or said is None or make is None or processor is None:
        raise UserMistake("\n".join(mistakes))
    # The encoder is made here too, so that a tokenizer without a token for each score is told before there is a run.
    encoder = QuestionEncoder(processor, rubric, make)
    if wrong := lacks_sources(said.rows, rubric) or unreadable(said.rows, encoder):
        raise UserMistake(listed(wrong))
    splits = config.splits
    shares = (splits.train, splits.calibration, splits.test)
    parts, num_groups = deal(said, shares, splits.apart, seed=splits.seed)
    examples = examples_of(parts[0], config.objective.kind, rubric, stop=make.stop)
    if make.chain_of_thought and (wrong := overlong(parts[0].ratings, encoder)):
        raise UserMistake(listed(wrong))
    files = said_files(config, beside)
    weights = sorted(file for file in base.glob("*") if file.suffix in {".safetensors", ".json", ".jinja"})
    files |= {f"{BASE}{file.name}": file for file in weights}
    return Material(base, rubric, said, parts, num_groups, examples, files)


def plan(material: Material, total: int) -> list[str]:
    """What is about to happen, and what the card will not be able to say."""
    told = [
        f"{name}: {len(part.ratings):,} ratings, {len(part.votes):,} votes in {groups:,} separate groups"
        for name, part, groups in zip(PARTS, material.parts, material.num_groups, strict=True)
    ]
    told += [f"left out: {count:,} rows, {why}" for why, count in material.said.left_out.items()]
    test = material.parts[2]
    for kind in ("ratings", "votes"):
        if getattr(material.said, kind) and not getattr(test, kind):
            told.append(f"the test part has no {kind}: the card will say nothing of them; another splits.seed may help")
    return [*told, f"{len(material.examples):,} examples to train on, {total:,} steps"]


def _base(folder: Path) -> Path:
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise UserMistake(f"base: {folder} is no model's folder, it has no config.json; name one that transformers opens")
    return folder


def _rubric(name: str, beside: Path) -> Rubric:
    return load_rubric(name if name in shipped() else beside / name)


# ---- training ------------------------------------------------------------------------------------


def _trained_card(judge: Path, total: int) -> dict[str, Any] | None:
    """The card of the judge of the last step, if that is written."""
    card = judge_card.read_card(judge)
    return card if card is not None and card.get("steps") == total else None


def _same_training(config: RewardTrainConfig, material: Material, card: Mapping[str, Any], judge: Path) -> None:
    """Raises UserMistake where a judge that is trained would get a card that tells of another training."""
    plain, free = config.model_dump(mode="json"), changes.free_settings(config)
    data = {name: changes.fingerprint(place) for name, place in material.files.items() if not name.startswith(BASE)}
    before = {**{name: card[name] for name in TRAINING}, "data_files": card["data"]["files"]}
    after = {**{name: plain[name] for name in TRAINING}, "data_files": data}
    found = [str(change) for change in changes.differences(before, after) if not changes.allowed(change.key, free)]
    if found:
        raise UserMistake(
            f"{judge}: is trained, and was not trained with what has changed since ({'; '.join(found)}); put that back, raise "
            "budget.epochs to train on, or train another judge in another folder"
        )


def _keep_apart(config: RewardTrainConfig, material: Material, folder: Path) -> None:
    """Raises UserMistake where a judge would be measured on what it was trained on before its data or splits changed."""
    if wrong := leaks(folder / TRAINED_ON, material.parts[1:], config.splits.apart):
        raise UserMistake(
            listed(
                [
                    *(f"{folder}: {line}" for line in wrong[:MOST_LEAKS]),
                    f"{folder}: {len(wrong):,} rows of calibration and test are not apart from what this run was trained on "
                    "before its data or splits changed; put those back, or train another judge in another folder",
                ]
            )
        )


def _load(
    config: RewardTrainConfig, material: Material, place: torch.device, precision: torch.dtype, console: Console
) -> RewardSetup:
    console.print(f"loading {material.base}", markup=False, highlight=False, soft_wrap=True)
    vlm = load_vlm(material.base, device=place, dtype=torch.float32 if config.policy.kind == "full" else precision)
    return make_reward_setup(config, vlm, material.rubric, material.examples, precision)


def _train(config: RewardTrainConfig, setup: RewardSetup, run: Run, console: Console) -> None:
    """Trains, or goes on training, and writes the judge."""
    watched: list[Watched] = []

    def trackers(start: int, total: int) -> list[Watched]:
        watched.append(Watched(Progress(total, start=start, console=console)))
        return watched

    state = run_reward_training(config, setup, run, trackers=trackers)
    for tracker in watched:
        tracker.close()  # a terminal shows one live panel at a time, and the measurement has its own
    judge = run.folder / JUDGE
    _make_way(judge)
    write_judge(config, setup, state, judge)


def _make_way(judge: Path) -> None:
    """A judge that has its card moves aside, under the number of its step; one without was not finished, and is made again."""
    card = judge_card.read_card(judge)
    if card is not None:
        disk.rename_folder(judge, judge.with_name(f"{JUDGE}-step-{card['steps']:08d}"))
    else:
        disk.remove(judge)


# ---- measuring -----------------------------------------------------------------------------------


def _measure(
    config: RewardTrainConfig,
    material: Material,
    run: Run,
    total: int,
    place: torch.device,
    precision: torch.dtype,
    console: Console,
) -> dict[str, Any]:
    """Opens the written judge as its users will, and writes its card. Answers are kept: after a stop none is asked again."""
    chosen, (_, calibration, test) = config.evaluation, material.parts
    judge = VLMJudge.load(run.folder / JUDGE, device=place, dtype=precision, label=config.name, max_pictures=chosen.batch_size)
    console.print("measuring the judge on the pictures it was not trained on", highlight=False)
    answers = run.folder / "answers"
    done = 0
    with closing(
        Progress(judge_measures.num_questions(test, calibration, chosen.lettered_pictures), console=console)
    ) as progress:

        def told(count: int) -> None:
            nonlocal done
            done += count
            progress.log(done, {"images": count})

        measured = judge_measures.measure(
            CachedJudge(judge, answers / "as_shown"),
            test,
            calibration,
            again=CachedJudge(judge, answers / "exchanged"),
            num_lettered=chosen.lettered_pictures,
            batch=chosen.batch_size,
            bins=chosen.bins,
            resamples=chosen.bootstrap_samples,
            told=told,
        )
    card = judge_card.make_card(measured, _about(config, material, run, total, judge))
    judge_card.write_card(run.folder / JUDGE, card)
    return card


def _about(config: RewardTrainConfig, material: Material, run: Run, total: int, judge: VLMJudge) -> dict[str, Any]:
    """Of the card: everything but the numbers. It names no rater and no folder of this machine."""
    environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    digests: dict[str, str] = environment["data_files"]
    plain = config.model_dump(mode="json")
    policy, rubric = config.policy, material.rubric
    return {
        "name": config.name,
        "base": {
            "name": material.base.resolve().name,
            "files": {name.removeprefix(BASE): digest for name, digest in digests.items() if name.startswith(BASE)},
        },
        "rubric": {"label": rubric.label, "name": rubric.name, "version": rubric.version, "sha256": rubric.sha256},
        "read_out": asdict(judge.read_out),
        "model": {
            "sha256": judge.vlm.sha256,
            "fingerprint": judge.fingerprint,
            "precision": str(judge.vlm.dtype).removeprefix("torch."),
            "whole": not isinstance(policy, JudgeLora) or policy.merge,
        },
        "steps": total,
        "examples": len(material.examples),
        **{name: plain[name] for name in ("seed", "objective", "policy", "optimiser", "splits", "evaluation")},
        "data": {
            "files": {name: digest for name, digest in digests.items() if not name.startswith(BASE)},
            "dimension": _dimension(material.said),
            "task": config.data.task,
            "apart": list(config.splits.apart),
            "left_out": dict(material.said.left_out),
            "parts": {
                name: _counts(part, groups)
                for name, part, groups in zip(PARTS, material.parts, material.num_groups, strict=True)
            },
        },
        "versions": environment["packages"],
    }


def _dimension(said: Said) -> str | None:
    return said.ratings[0].dimension if said.ratings else None


def _counts(part: Part, groups: int) -> dict[str, int]:
    return {
        "ratings": len(part.ratings),
        "scores": sum(len(rating.scores) for rating in part.ratings),
        "votes": len(part.votes),
        "raters": len(part.raters),
        "prompts": len({row.prompt for row in part.rows}),
        "generators": len([name for name in part.generators if name]),
        "groups": groups,
    }
