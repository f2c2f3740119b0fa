"""Training runs of the miniature that differ in one thing, measured on the same held-out prompts along the way.

    FOLDER/design.json           what was asked for; another design needs another folder
    FOLDER/embeddings            encoded prompts, of all runs
    FOLDER/base.json             what the base draws of the held-out prompts
    FOLDER/seed-0/ARM            a run folder, with point-00030.json for what it drew after 30 steps

Killed anywhere, the same command goes on: a point that is there is not drawn again, and a run goes on from its last
checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tastemaker import config as settings
from tastemaker.commands.run import shipped
from tastemaker.config import Settings, TrainConfig
from tastemaker.config.recipe import load_recipe
from tastemaker.config.strict_yaml import write
from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.errors import TastemakerError, UserMistake
from tastemaker.evaluation.benchmark import Drawing, draw
from tastemaker.miniature import task
from tastemaker.miniature.builder.parts import SIDE
from tastemaker.miniature.oracle import Reading
from tastemaker.models.adapter import Adapter, load
from tastemaker.rewards.reward import Reward
from tastemaker.runtime import folder as disk
from tastemaker.runtime.device import set_threads
from tastemaker.runtime.metrics import read_lines
from tastemaker.training.policy import Batch
from tastemaker.training.start import Task, prepare_hardware, run_training
from tastemaker.types import Prompt

Say = Callable[[str], None]
Draw = Callable[[Sequence[Prompt], float], np.ndarray]
"""Pictures of prompts at a guidance scale, from the noise that is the same for all arms."""
Also = Callable[[Draw, np.ndarray, Sequence[Reading]], dict[str, list[float]]]
"""What one experiment reads beside the rest, from the held-out pictures and their readings, or from more that it draws."""
DRAWING_SEED = 0
"""Of the held-out pictures' noise: the same for all arms and seeds, so that everything is paired."""


@dataclass(frozen=True)
class Point:
    """What a model drew of the held-out prompts after `step` steps and `seconds` of training."""

    step: int
    seconds: float
    exact: list[bool]
    """Whether every fact of prompt i holds."""
    quality: list[float]
    also: dict[str, list[float]] = field(default_factory=dict)
    """What the experiment reads beside, by name: a value for each of its prompts."""
    images_per_second: float = math.nan
    """Pictures trained on in a second of processor time, which other work on the machine hardly changes."""

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.exact))


class Measuring(Settings):
    """How held-out prompts are drawn."""

    steps: int = 20
    guidance: float = 1.5


class ArmConfig(TrainConfig):
    """A training, and how what it has learnt is measured."""

    evaluation: Measuring = Measuring()


@dataclass(frozen=True)
class Bench:
    """What all arms share."""

    folder: Path
    held_out: Sequence[Prompt]
    pool: Executor | None
    say: Say
    also: Also = lambda draw, pictures, readings: {}
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    """What runs may be judged by beside the miniature's own rewards."""

    def open(self, config: ArmConfig) -> tuple[Adapter, EmbeddingCache]:
        """A fresh base and the encodings of its prompts."""
        device, dtype = prepare_hardware(config)
        adapter = load(task.WEIGHTS, device=device, dtype=dtype)
        key = encoder_key(task.WEIGHTS)
        return adapter, EmbeddingCache(adapter, height=SIDE, width=SIDE, folder=self.folder / "embeddings", encoder_key=key)

    def measure(self, config: ArmConfig, adapter: Adapter, cache: EmbeddingCache, step: int, seconds: float) -> Point:
        def drawn(prompts: Sequence[Prompt], guidance: float) -> np.ndarray:
            return draw(adapter, cache, prompts, Drawing(config.evaluation.steps, guidance, DRAWING_SEED, SIDE, SIDE))

        pictures = drawn(self.held_out, config.evaluation.guidance)
        readings = task.readings(pictures, self.held_out, self.pool)
        quality = task.qualities(pictures, self.held_out, self.pool).tolist()
        also = self.also(drawn, pictures, readings)
        return Point(step, seconds, [reading.exact for reading in readings], quality, also)


def claim(folder: Path, design: Any) -> None:
    """Arms of two designs would be compared as one. More seeds may be asked for later: what is there stays valid."""
    disk.make_folder(folder)
    path, wanted = folder / "design.json", json.loads(json.dumps(asdict(design)))
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        differing = [f"{key} {held.get(key)!r}" for key in wanted if key != "seeds" and held.get(key) != wanted[key]]
        if differing:
            raise UserMistake(
                f"{folder} holds another design ({', '.join(differing)}): give the same settings, or a new folder"
            )
    disk.write_bytes_atomic(path, (json.dumps(wanted, indent=1) + "\n").encode())


def t2i_config(*overrides: str) -> ArmConfig:
    """The settings of the shipped recipe `miniature-t2i`, changed."""
    text = load_recipe(shipped()["miniature-t2i"])
    stage = next(stage for stage in text.stages if stage.name == "t2i")
    return settings.parse(write({"name": "t2i", **stage.settings}), ArmConfig, overrides, source=text.source)


def base_point(bench: Bench, config: ArmConfig) -> Point:
    """The base, before any training."""
    return _stored(bench.folder / "base.json", lambda: bench.measure(config, *bench.open(config), 0, 0.0))


def run_arm(folder: Path, config: ArmConfig, prompts: Sequence[Prompt], bench: Bench, every: int) -> list[Point]:
    """Trains to `config.budget.max_steps` and measures every so many steps, on the averaged weights where there are some."""
    points = []
    for step in range(every, config.budget.max_steps + 1, every):
        bench.say(f"{folder.relative_to(bench.folder)}: to step {step} of {config.budget.max_steps}")
        path = folder / f"point-{step:05d}.json"
        points.append(_stored(path, partial(_trained, folder, config, prompts, bench, step)))
    return points


def _trained(folder: Path, config: ArmConfig, prompts: Sequence[Prompt], bench: Bench, step: int) -> Point:
    until = config.model_copy(update={"budget": config.budget.model_copy(update={"max_steps": step})})
    adapter, cache = bench.open(config)
    rewards = {**task.rewards(bench.pool), **bench.rewards}
    trained: list[int] = []

    def count(step: int, images: Tensor, batch: Batch) -> None:
        trained.append(len(images))

    began = time.process_time()
    state = run_training(until, adapter, Task(prompts, rewards, SIDE, SIDE), folder, embeddings=cache, after_step=count)
    if state.step > step:  # a point that was lost after the training had gone on
        raise UserMistake(
            f"{folder}: point {step} is missing, and the weights are those of step {state.step}; remove the folder"
        )
    speed = sum(trained) / (time.process_time() - began) if trained else math.nan
    seconds = sum(line["seconds"] for line in read_lines(folder / "metrics.jsonl") if line["step"] <= step)
    with state.averaged():
        return replace(bench.measure(config, adapter, cache, step, seconds), images_per_second=speed)


def _stored(path: Path, make: Callable[[], Point]) -> Point:
    if not path.exists():
        point = make()
        disk.make_folder(path.parent)
        disk.write_text_atomic(path, json.dumps(asdict(point)) + "\n")
    return Point(**json.loads(path.read_text(encoding="utf-8")))


def finite(value: Any) -> Any:
    """NaN becomes null, which is all that JSON has."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def command(
    arguments: list[str] | None, *, name: str, about: str | None, full: Any, quick: Any, run: Callable[..., None]
) -> int:
    """`python -m experiments.NAME FOLDER`: an option for each field of the design but its last, which is `overrides`."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=about)
    parser.add_argument("folder", type=Path)
    for option in fields(full)[:-1]:
        value = getattr(full, option.name)
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=type(value), help=f"default {value}")
    parser.add_argument("--quick", action="store_true", help="minutes at most: shows that it runs; its numbers mean nothing")
    parser.add_argument("--threads", type=int, help="CPU threads (default: physical cores)")
    given = {key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None}
    folder, brief, threads = given.pop("folder"), given.pop("quick"), given.pop("threads", None)
    try:
        run(folder, replace(quick if brief else full, **given), set_threads(threads), print)
    except TastemakerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
