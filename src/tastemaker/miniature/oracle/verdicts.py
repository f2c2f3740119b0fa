"""The oracle's front door for single pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tastemaker.miniature.oracle.general import general_fact_names, general_scores
from tastemaker.miniature.oracle.landscape import landscape_fact_names, landscape_scores
from tastemaker.miniature.oracle.pixels import as_floats
from tastemaker.miniature.oracle.portrait import portrait_fact_names, portrait_scores
from tastemaker.miniature.oracle.reading import Reading, reading
from tastemaker.miniature.oracle.typography import typography_fact_names, typography_scores
from tastemaker.miniature.world.description import Description

_SCORES: dict[str, Callable[[np.ndarray, Any], dict[str, float]]] = {
    "general": general_scores,
    "portrait": portrait_scores,
    "landscape": landscape_scores,
    "typography": typography_scores,
}
_NAMES: dict[str, Callable[[Any], tuple[str, ...]]] = {
    "general": general_fact_names,
    "portrait": portrait_fact_names,
    "landscape": landscape_fact_names,
    "typography": typography_fact_names,
}


def facts_of(description: Description) -> tuple[str, ...]:
    """The names of the facts that a prompt of this description states."""
    return _NAMES[description.category](description)


def read(picture: np.ndarray, description: Description) -> Reading:
    """What `picture` (uint8, or floats in [0, 1], of shape (64, 64, 3)) shows of `description`."""
    return reading(_SCORES[description.category](as_floats(picture), description))


def read_batch(pictures: Sequence[np.ndarray], descriptions: Sequence[Description]) -> list[Reading]:
    """`read` of each pair."""
    return [read(picture, description) for picture, description in zip(pictures, descriptions, strict=True)]
