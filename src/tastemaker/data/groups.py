"""Which prompts a step trains on: a function of seed and step alone, so a resumed run goes on where it stopped.

By default as many of each task as the data set has; with a stated share of edits, text to image and edits are two data sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tastemaker.types import Prompt

Shuffle = Callable[..., np.random.Generator]
"""Generator for an epoch (of a task), keyed by the run's seed."""


def prompts_of_step(
    prompts: Sequence[Prompt], step: int, size: int, shuffle: Shuffle, edit_share: float | None = None
) -> list[Prompt]:
    """The `size` prompts of `step` (from 1). Every prompt is used once before any is used again, in a new order each epoch.

    A step may span two epochs; a prompt then stands twice in it only if the data set is smaller than `size`. With `edit_share`
    this holds for each task alone, and of the first n steps' prompts n * size * edit_share are edits, up to one half.
    """
    if edit_share is None:
        return _at(prompts, (step - 1) * size, step * size, shuffle)
    edits = [prompt for prompt in prompts if prompt.task == "edit"]
    others = [prompt for prompt in prompts if prompt.task != "edit"]
    before, after = (math.floor(steps * size * edit_share + 0.5) for steps in (step - 1, step))
    return [
        *_at(others, (step - 1) * size - before, step * size - after, lambda epoch: shuffle("t2i", epoch)),
        *_at(edits, before, after, lambda epoch: shuffle("edit", epoch)),
    ]


def _at(prompts: Sequence[Prompt], start: int, end: int, shuffle: Shuffle) -> list[Prompt]:
    """Those at some positions of the endless sequence of epochs."""
    if not prompts:
        raise ValueError("there are no prompts to train on")
    count = len(prompts)
    orders = {epoch: shuffle(epoch).permutation(count) for epoch in {position // count for position in range(start, end)}}
    return [prompts[orders[position // count][position % count]] for position in range(start, end)]
