"""Which prompts a step trains on: a function of seed and step alone, so a resumed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tastemaker.types import Prompt

Shuffle = Callable[[int], np.random.Generator]
"""Generator for an epoch, keyed by the run's seed."""


def prompts_of_step(prompts: Sequence[Prompt], step: int, size: int, shuffle: Shuffle) -> list[Prompt]:
    """The `size` prompts of `step` (from 1). Every prompt is used once before any is used again, in a new order each epoch.

    A step may span two epochs; a prompt then stands twice in it only if the data set is smaller than `size`.
    """
    if not prompts:
        raise ValueError("there are no prompts to train on")
    positions = range((step - 1) * size, step * size)
    orders = {epoch: shuffle(epoch).permutation(len(prompts)) for epoch in {position // len(prompts) for position in positions}}
    return [prompts[orders[position // len(prompts)][position % len(prompts)]] for position in positions]
