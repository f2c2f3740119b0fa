"""The miniature world as a training task: its prompts and edits, its held-out sets, and verifiable rewards from the oracle.

`facts` is for text to image: half the exact verdict, half the share of facts that hold. `edit_facts` is the same for the target
of an edit; what the edit was to leave alone is measured (`edit_verdicts`) and not rewarded. `quality` is how clean the drawing
is, for both. Only these and the evaluation read a prompt's `truth`; the model sees its text and its source picture, a file in
a folder that the caller names.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tastemaker.miniature.oracle import EditReading, Reading, quality, read, read_edit, read_target
from tastemaker.miniature.world import corpus, layout, splits
from tastemaker.miniature.world.description import Description, from_dict
from tastemaker.miniature.world.edits import EditPair
from tastemaker.miniature.world.renderer import render
from tastemaker.rewards.reward import FunctionReward, Missing, Reward
from tastemaker.runtime import folder as disk
from tastemaker.runtime.together import follow_the_parent
from tastemaker.types import Prompt

WEIGHTS = Path(__file__).parent / "weights"
"""The pipeline folder that ships with the package."""


def training_prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Text-to-image prompts of the RL split."""
    return [as_prompt(item) for item in splits.rl_prompts(count, seed)]


def held_out_prompts(count: int | None = None) -> list[Prompt]:
    """The fixed evaluation set, or a part of it that is balanced over categories."""
    return [as_prompt(item) for item in splits.held_out("t2i", count)]


def training_edits(count: int, folder: Path | None, seed: int = 0) -> list[Prompt]:
    """Edits of the RL split, of all kinds in turn, with their source pictures in `folder`; without one they have none."""
    return [as_prompt(item, folder) for item in splits.rl_prompts(count, seed, "edit")]


def held_out_edits(folder: Path | None, count: int | None = None) -> list[Prompt]:
    """The fixed evaluation set of edits, or a part of it that is balanced over kinds; sources as in `training_edits`."""
    return [as_prompt(item, folder) for item in splits.held_out("edit", count)]


def as_prompt(item: splits.Item, folder: Path | None = None) -> Prompt:
    """An edit's source picture is put into `folder`; without one the prompt has none."""
    sources = [] if item.pair is None or folder is None else [str(_source_file(item.pair, folder))]
    row = corpus.to_row(item, sources)
    return Prompt(**{**row, "sources": tuple(row["sources"])})


def _source_file(pair: EditPair, folder: Path) -> Path:
    """Named by its pixels, so that equal pictures share a file; one that is there but broken is written again."""
    pixels = render(pair.edit.source, pair.source_layout)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    path = folder / f"{hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()}.png"
    if not path.exists() or path.read_bytes() != buffer.getvalue():
        disk.make_folder(folder)
        disk.write_bytes_atomic(path, buffer.getvalue())
    return path


@contextmanager
def reading_processes(count: int) -> Iterator[Executor | None]:
    """A pool in which pictures are read, or None for one. Spawned, because torch's threads do not survive a fork."""
    if count < 2:
        yield None
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=follow_the_parent) as pool:
        yield pool


def rewards(pool: Executor | None = None) -> dict[str, Reward]:
    return {
        "facts": FunctionReward("facts", _facts, floor=0.05, pool=pool),
        "edit_facts": FunctionReward("edit_facts", _edit_facts, floor=0.05, pool=pool),
        "quality": FunctionReward("quality", _quality, floor=0.02, pool=pool),
    }


def truths(prompts: Sequence[Prompt]) -> list[Reward]:
    """What a monitor may look at beside the rewards: whether prompts are met, edits with the rest of their source preserved.

    Nothing where a prompt states no truth of this world.
    """
    known = all({"description", "target"} & {*(prompt.truth or {})} for prompt in prompts)
    return [FunctionReward("exact", _met)] if known else []


def verdicts(pictures: np.ndarray, prompts: Sequence[Prompt], pool: Executor | None = None) -> np.ndarray:
    """bool (n,): whether every fact of prompt i holds in picture i."""
    return np.array(_over(_exact, pictures, prompts, pool))


def readings(pictures: np.ndarray, prompts: Sequence[Prompt], pool: Executor | None = None) -> list[Reading]:
    """The oracle's whole readings."""
    return _over(_read, pictures, prompts, pool)


@dataclass(frozen=True)
class EditVerdicts:
    """What became of n edits, (n,) each. An edit succeeds when its facts hold and the rest of its source is preserved."""

    success: np.ndarray
    facts: np.ndarray
    preserved: np.ndarray
    identity: np.ndarray
    """1 where the person of the source is still the same, 0 where not, NaN where the source shows none."""


def edit_verdicts(outputs: np.ndarray, edits: Sequence[Prompt], pool: Executor | None = None) -> EditVerdicts:
    """Of outputs (n, 64, 64, 3)."""
    readings = edit_readings(outputs, edits, pool)
    return EditVerdicts(
        success=np.array([one.success for one in readings], dtype=bool),
        facts=np.array([one.exact for one in readings], dtype=bool),
        preserved=np.array([one.preserved_verdict for one in readings], dtype=bool),
        identity=np.array([np.nan if one.identity_kept is None else one.identity_kept for one in readings], dtype=float),
    )


def edit_readings(outputs: np.ndarray, edits: Sequence[Prompt], pool: Executor | None = None) -> list[EditReading]:
    """The oracle's whole readings of edits; their sources are drawn again from the truth."""
    return _over(_read_edit, outputs, edits, pool)


def qualities(pictures: np.ndarray, prompts: Sequence[Prompt], pool: Executor | None = None) -> np.ndarray:
    return np.array(_over(_quality, pictures, prompts, pool))


def _over(function: Callable, pictures: np.ndarray, prompts: Sequence[Prompt], pool: Executor | None) -> list:
    truths = [prompt.truth for prompt in prompts]
    return list(map(function, pictures, truths) if pool is None else pool.map(function, pictures, truths, chunksize=16))


def _read(picture: Any, truth: Mapping[str, Any]) -> Reading:
    return read(picture, described(truth))


def _read_edit(output: Any, truth: Mapping[str, Any] | None) -> EditReading:
    if truth is None:
        raise ValueError("this edit states no truth")
    edit = corpus.edit_from_dict(truth)
    source = render(edit.source, layout.from_dict(truth["source_layout"]))
    return read_edit(source, output, edit.source, edit.target, edit.moved)


def _exact(picture: Any, truth: Mapping[str, Any]) -> bool:
    return read(picture, described(truth)).exact


def _met(picture: Any, truth: Mapping[str, Any]) -> bool:
    return _read_edit(picture, truth).success if "target" in truth else _exact(picture, truth)


def _facts(picture: Any, truth: Mapping[str, Any]) -> float | Missing:
    if "target" in truth:
        return Missing("the prompt is an edit, ask edit_facts about it")
    return _worth(read(picture, described(truth)))


def _edit_facts(output: Any, truth: Mapping[str, Any]) -> float | Missing:
    if "target" not in truth:
        return Missing("the prompt is no edit, ask facts about it")
    edit = corpus.edit_from_dict(truth)
    return _worth(read_target(output, edit.source, edit.target, edit.moved))


def _worth(reading: Reading) -> float:
    return 0.5 * reading.exact + 0.5 * reading.partial


def _quality(picture: Any, truth: Mapping[str, Any]) -> float:
    return quality(picture, from_dict(truth.get("target") or truth["description"]).style)


def described(truth: Mapping[str, Any] | None) -> Description:
    """The description that a text-to-image prompt's truth holds."""
    if truth is None:
        raise ValueError("this prompt states no truth")
    return from_dict(truth["description"])
