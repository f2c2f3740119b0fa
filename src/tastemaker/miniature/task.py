"""The miniature world as a training task: its prompts, its held-out set, and two verifiable rewards from the oracle.

`facts` is half the exact verdict, half the share of facts that hold; `quality` is how clean the drawing is. Only these two and
the evaluation read a prompt's `truth`; the model sees its text.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.miniature.oracle import EditReading, Reading, quality, read, read_edit
from tastemaker.miniature.world import corpus, splits
from tastemaker.miniature.world.description import Description, from_dict
from tastemaker.rewards.reward import FunctionReward, Reward
from tastemaker.types import Prompt

WEIGHTS = Path(__file__).parent / "weights"
"""The pipeline folder that ships with the package."""


def training_prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Text-to-image prompts of the RL split."""
    return [as_prompt(item) for item in splits.rl_prompts(count, seed)]


def held_out_prompts(count: int | None = None) -> list[Prompt]:
    """The fixed evaluation set, or a part of it that is balanced over categories."""
    return [as_prompt(item) for item in splits.held_out("t2i", count)]


def as_prompt(item: splits.Item) -> Prompt:
    row = corpus.to_row(item)
    return Prompt(**{**row, "sources": tuple(row["sources"])})


@contextmanager
def reading_processes(count: int) -> Iterator[Executor | None]:
    """A pool in which pictures are read, or None for one. Spawned, because torch's threads do not survive a fork."""
    if count < 2:
        yield None
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_follow_the_parent) as pool:
        yield pool


def rewards(pool: Executor | None = None) -> dict[str, Reward]:
    return {
        "facts": FunctionReward("facts", _facts, floor=0.05, pool=pool),
        "quality": FunctionReward("quality", _quality, floor=0.02, pool=pool),
    }


def truths() -> list[Reward]:
    """What a monitor may look at beside the rewards: whether every fact of a prompt holds in its picture."""
    return [FunctionReward("exact", _exact)]


def verdicts(pictures: np.ndarray, prompts: Sequence[Prompt], pool: Executor | None = None) -> np.ndarray:
    """bool (n,): whether every fact of prompt i holds in picture i."""
    return np.array(_over(_exact, pictures, prompts, pool))


def readings(pictures: np.ndarray, prompts: Sequence[Prompt], pool: Executor | None = None) -> list[Reading]:
    """The oracle's whole readings."""
    return _over(_read, pictures, prompts, pool)


def edit_readings(
    sources: np.ndarray, outputs: np.ndarray, edits: Sequence[Prompt], pool: Executor | None = None
) -> list[EditReading]:
    """The oracle's readings of edits of `sources` (n, 64, 64, 3)."""
    truths = [edit.truth for edit in edits]
    spread = map if pool is None else pool.map
    return list(spread(_read_edit, sources, outputs, truths))


def qualities(pictures: np.ndarray, prompts: Sequence[Prompt], pool: Executor | None = None) -> np.ndarray:
    return np.array(_over(_quality, pictures, prompts, pool))


def _over(function: Callable, pictures: np.ndarray, prompts: Sequence[Prompt], pool: Executor | None) -> list:
    truths = [prompt.truth for prompt in prompts]
    return list(map(function, pictures, truths) if pool is None else pool.map(function, pictures, truths, chunksize=16))


def _follow_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal, but the parent decides when to stop. One that was killed cannot say so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read(picture: Any, truth: Mapping[str, Any]) -> Reading:
    return read(picture, described(truth))


def _read_edit(source: Any, output: Any, truth: Mapping[str, Any] | None) -> EditReading:
    if truth is None:
        raise ValueError("this edit states no truth")
    edit = corpus.edit_from_dict(truth)
    return read_edit(source, output, edit.source, edit.target, edit.moved)


def _exact(picture: Any, truth: Mapping[str, Any]) -> bool:
    return read(picture, described(truth)).exact


def _facts(picture: Any, truth: Mapping[str, Any]) -> float:
    reading = read(picture, described(truth))
    return 0.5 * reading.exact + 0.5 * reading.partial


def _quality(picture: Any, truth: Mapping[str, Any]) -> float:
    return quality(picture, described(truth).style)


def described(truth: Mapping[str, Any] | None) -> Description:
    """The description that a text-to-image prompt's truth holds."""
    if truth is None:
        raise ValueError("this prompt states no truth")
    return from_dict(truth["description"])
