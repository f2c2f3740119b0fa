"""What is told of a training once it has ended: gradients that came in bursts which no limit held, and a loss that rose."""

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


LEAST_PARTS = 40
"""Steps below which the fifths of a training are too short to compare."""
RISEN = 1.5
"""Of the miniature: two runs without a velocity KL came to 2 and 2.7 times and fell back, four with one stayed below 1.2."""


def risen_loss(lines: Sequence[Mapping[str, Any]], velocity_kl: float) -> str | None:
    """One line about the lines of metrics.jsonl of a DiffusionNFT training, with what to do; None where its loss stayed.

    Its loss at the rollout's weights is how far their velocity is from the noise less the picture they drew. It says nothing of
    learning, but where it grows the pictures have left what the velocities fit, and rewards fall sooner or later.
    """
    losses = [float(line["loss"]) for line in lines if line.get("loss") is not None]
    if len(losses) < LEAST_PARTS:
        return None
    part = len(losses) // 5
    first, last = statistics.fmean(losses[:part]), statistics.fmean(losses[-part:])
    if not 0 < RISEN * first <= last:
        return None
    remedy = "raise it, or lower" if velocity_kl else "set it, to 0.01 say, or lower"
    return (
        f"the loss rose from {first:.2g} in the first fifth of the steps to {last:.2g} in the last, as where a policy drifts "
        "away from what it can draw; see whether rewards fell meanwhile. "
        f"algorithm.velocity_kl {velocity_kl:g} did not hold it: {remedy} optimiser.learning_rate"
    )


def _rounded(value: float) -> float:
    """To one digit: a limit is no measurement."""
    return round(value, -math.floor(math.log10(value)))
