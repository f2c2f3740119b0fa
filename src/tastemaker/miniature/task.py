"""The miniature world as a training task: its prompts, its held-out set, and two verifiable rewards from the oracle.

`facts` is half the exact verdict, half the share of facts that hold; `quality` is how clean the drawing is. Only these two and
the evaluation read a prompt's `truth`; the model sees its text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.miniature.oracle import quality, read
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


def rewards() -> dict[str, Reward]:
    return {
        "facts": FunctionReward("facts", _facts, floor=0.05),
        "quality": FunctionReward("quality", _quality, floor=0.02),
    }


def verdicts(pictures: np.ndarray, prompts: Sequence[Prompt]) -> np.ndarray:
    """bool (n,): whether every fact of prompt i holds in picture i."""
    return np.array([read(picture, _described(prompt.truth)).exact for picture, prompt in zip(pictures, prompts, strict=True)])


def qualities(pictures: np.ndarray, prompts: Sequence[Prompt]) -> np.ndarray:
    return np.array([_quality(picture, prompt.truth or {}) for picture, prompt in zip(pictures, prompts, strict=True)])


def _facts(picture: Any, truth: Mapping[str, Any]) -> float:
    reading = read(picture, _described(truth))
    return 0.5 * reading.exact + 0.5 * reading.partial


def _quality(picture: Any, truth: Mapping[str, Any]) -> float:
    return quality(picture, _described(truth).style)


def _described(truth: Mapping[str, Any] | None) -> Description:
    if truth is None:
        raise ValueError("this prompt states no truth")
    return from_dict(truth["description"])
