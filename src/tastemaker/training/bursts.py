"""Whether gradients came in bursts that no limit held: what is told once a training has ended."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LEAST_STEPS = 20
"""Fewer say nothing about what is usual."""
BURST = 5.0
"""So many medians are a burst. Of five trainings of the miniature without a limit two stayed under 4, three had 5.5 to 9."""
ADVISED = 1.5
"""Medians at which a limit holds bursts and lets most updates through."""


def unheld_bursts(lines: Sequence[Mapping[str, Any]], limit: float) -> str | None:
    """One line about the lines of metrics.jsonl, with what to do; None where gradients were steady or `limit` held them.

    A burst moves all weights by a multiple of a usual update, for the length of a few steps: what is left of it when the
    training ends is noise.
    """
    norms = {line["step"]: float(line["grad_norm"]) for line in lines if line.get("grad_norm") is not None}
    if len(norms) < LEAST_STEPS:
        return None
    median, step = statistics.median(norms.values()), max(norms, key=lambda step: norms[step])
    if not median > 0 or norms[step] < BURST * median or any(line.get("grad_clipped") for line in lines):
        return None
    return (
        f"gradients came in bursts: their norm was {median:.2g} in the median step and {norms[step]:.2g} in step {step}; "
        f"optimiser.max_grad_norm {limit:g} held none of it, {_rounded(ADVISED * median):g} would"
    )


def _rounded(value: float) -> float:
    """To one digit: a limit is no measurement."""
    return round(value, -math.floor(math.log10(value)))
