"""Where the objects of a general scene may be: apart from each other, inside the canvas, in their relation."""

import numpy as np

from tastemaker.miniature.world.description import General, Thing
from tastemaker.miniature.world.shapes import EXTENTS

Box = tuple[float, float, float, float]

CANVAS = 64
MARGIN = 2.0
GRID = 8.0
"""Centres are whole multiples of it, in px, so that a small model meets each shape in few positions within its 16 px tokens."""
GAP = 3.0
RELATION_DISTANCE = 16.0
RELATION_LEAD = 4.0  # the related axis' centre difference exceeds the other's by at least this
SIZE_PX = {"small": 14.0, "medium": 20.0, "large": 28.0}

_BATCH = 256
_MAX_BATCHES = 400


def thing_extent(thing: Thing) -> tuple[float, float]:
    """Width and height in px of one object of the group."""
    width, height = EXTENTS[thing.shape]
    return width * SIZE_PX[thing.size], height * SIZE_PX[thing.size]


def thing_box(thing: Thing, centre: tuple[float, float]) -> Box:
    """(x0, y0, x1, y1) in px."""
    width, height = thing_extent(thing)
    x, y = centre
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def well_placed(description: General, centres_BNC: np.ndarray) -> np.ndarray:
    """Which of B candidate arrangements (N objects, C = x, y) obey margin, gap and relation; bool of shape (B,)."""
    extents_NC = np.array([thing_extent(thing) for thing in description.objects])
    low_BNC, high_BNC = centres_BNC - extents_NC / 2, centres_BNC + extents_NC / 2
    inside = (low_BNC >= MARGIN - 1e-6) & (high_BNC <= CANVAS - MARGIN + 1e-6)
    good_B = inside.all(axis=(1, 2))
    for i in range(len(extents_NC)):
        for j in range(i):
            between = np.abs(centres_BNC[:, i] - centres_BNC[:, j]) - (extents_NC[i] + extents_NC[j]) / 2
            good_B &= between.max(axis=1) >= GAP
    return good_B & related(description.relation, centres_BNC)


def related(relation: str | None, centres_BNC: np.ndarray) -> np.ndarray:
    """Which arrangements put object 0 in `relation` to object 1 clearly; bool of shape (B,)."""
    if relation is None:
        return np.ones(len(centres_BNC), dtype=bool)
    axis = 0 if relation in ("left of", "right of") else 1
    sign = 1.0 if relation in ("left of", "above") else -1.0
    ahead_BC = sign * (centres_BNC[:, 1] - centres_BNC[:, 0])
    return (ahead_BC[:, axis] >= RELATION_DISTANCE) & (ahead_BC[:, axis] >= np.abs(ahead_BC[:, 1 - axis]) + RELATION_LEAD)


def _candidates(objects: tuple[Thing, ...], rng: np.random.Generator) -> np.ndarray:
    """Centres (B, N, 2), uniform over the places of the grid where each object alone is inside."""
    half_NC = np.array([thing_extent(thing) for thing in objects]) / 2
    low_NC, high_NC = MARGIN + half_NC, CANVAS - MARGIN - half_NC
    first_NC, last_NC = np.ceil(low_NC / GRID), np.floor(high_NC / GRID)
    return rng.integers(first_NC, last_NC + 1, (_BATCH, len(objects), 2)) * GRID


def sample_centres(description: General, rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    """Uniform over good arrangements, by rejection; ValueError where the objects find no room."""
    for _ in range(_MAX_BATCHES):
        centres_BNC = _candidates(description.objects, rng)
        hits = np.flatnonzero(well_placed(description, centres_BNC))
        if len(hits):
            return tuple((float(x), float(y)) for x, y in centres_BNC[hits[0]])
    raise ValueError(f"no room for {description}; use fewer or smaller things")


def add_centre(
    description: General, centres: tuple[tuple[float, float], ...], rng: np.random.Generator
) -> tuple[float, float] | None:
    """A place for the last object beside the given ones; None after about a thousand failed tries."""
    for _ in range(4):
        last_B1C = _candidates(description.objects[-1:], rng)
        fixed_BMC = np.broadcast_to(np.array(centres).reshape(1, -1, 2), (_BATCH, len(centres), 2))
        centres_BNC = np.concatenate([fixed_BMC, last_B1C], axis=1)
        hits = np.flatnonzero(well_placed(description, centres_BNC))
        if len(hits):
            x, y = last_B1C[hits[0], 0]
            return float(x), float(y)
    return None
