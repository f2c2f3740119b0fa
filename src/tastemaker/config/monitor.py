"""What can be set for the monitor, which watches a training for signs that its reward is being bought."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tastemaker.config.base import Settings


class MonitorConfig(Settings):
    """Pictures of fixed prompts and noise are held against the base's every so many steps; see docs/monitors.md."""

    every: Annotated[int, Field(ge=0)] = 0
    """Steps between two checks; 0 is never, and nothing is drawn. A check costs `prompts` x `samples` pictures, each judged for
    its own prompt and for another; with the defaults, every 10 steps, 2.5% of the pictures of a run of the default size."""
    prompts: Annotated[int, Field(ge=4)] = 24
    """Fixed prompts, from data.held_out where there is one, else from those trained on; as many of each task, spread over its
    categories."""
    samples: Annotated[int, Field(ge=2)] = 2
    """Pictures of each prompt, at least two, because diversity is measured within a prompt."""
    seeds: Annotated[int, Field(ge=2)] = 4
    """Sets of noise that the base draws before the first step, to see how much every statistic moves by itself."""
    threshold: Annotated[float, Field(gt=0, le=8)] = 3.0
    """Standard deviations of the base's seed-to-seed spread, as a single statistic of known spread would need. Each statistic's
    own limit is wider, for their number and because the spread is estimated."""
    stop: bool = False
    """End the run at the first alarm, saved, with exit code 4. The last checkpoint that a check has found good is kept in any
    case."""
