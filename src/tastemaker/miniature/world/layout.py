"""Everything about a picture that its prompt does not say: positions, shades and the identity of a face.

A layout holds enough for *any* description of its category (clouds are placed even in a clear sky), so that an
edit can change the description and keep the layout. Lengths are pixels of the 64x64 picture, y downwards.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tastemaker.miniature.world.canvas import sepia_brightness
from tastemaker.miniature.world.description import MAX_TREES, Description, General, Typography
from tastemaker.miniature.world.palette import BACKDROPS, BOARD_RGB, COLOUR_RGB
from tastemaker.miniature.world.placement import Box, add_centre, sample_centres, thing_box, well_placed
from tastemaker.miniature.world.record import pick_kind, record_from_dict, record_to_dict

Point = tuple[float, float]

# Ranges of the identity of a face, in px. All can be measured in a picture whatever the hair, glasses and smile.
FACE_RANGES: dict[str, Point] = {
    "face_width": (27.0, 37.0),
    "face_height": (31.0, 38.0),
    "eye_distance": (13.0, 18.0),  # between eye centres
    "eye_radius": (1.7, 3.0),
    "mouth_width": (9.0, 17.0),
    "mouth_drop": (8.0, 10.5),  # mouth line below the face centre
    "nose_length": (3.0, 6.0),
}
NUM_DROPS = 12
MIN_SEPIA_CONTRAST = 0.18
SIGN_HEIGHTS = (-2.0, 2.0)
"""Px off the middle. Two, because each puts the letters elsewhere within the tokens of a small model."""


@dataclass(frozen=True)
class GeneralLayout:
    """`centres[i]` belongs to `description.objects[i]`."""

    backdrop: int
    centres: tuple[Point, ...]

    @property
    def category(self) -> str:
        return "general"


@dataclass(frozen=True)
class PortraitLayout:
    """The identity of a face; ranges are in FACE_RANGES."""

    backdrop: int
    face_width: float
    face_height: float
    eye_distance: float
    eye_radius: float
    mouth_width: float
    mouth_drop: float
    nose_length: float

    @property
    def category(self) -> str:
        return "portrait"


@dataclass(frozen=True)
class LandscapeLayout:
    """`trees`: (x, base y) in order of appearance; `peaks`: (x, height); `drops`: rain strokes or snow flakes."""

    horizon: float
    body: Point
    clouds: tuple[Point, ...]
    trees: tuple[Point, ...]
    peaks: tuple[Point, ...]
    drops: tuple[Point, ...]

    @property
    def category(self) -> str:
        return "landscape"


@dataclass(frozen=True)
class TypographyLayout:
    """`shift` moves the board off the middle."""

    backdrop: int
    board: str
    shift: Point

    @property
    def category(self) -> str:
        return "typography"


Layout = GeneralLayout | PortraitLayout | LandscapeLayout | TypographyLayout
_KINDS: dict[str, type] = {
    "general": GeneralLayout,
    "portrait": PortraitLayout,
    "landscape": LandscapeLayout,
    "typography": TypographyLayout,
}


def to_dict(layout: Layout) -> dict[str, Any]:
    """JSON-able; `from_dict` gives an equal layout back."""
    return record_to_dict(layout)


def from_dict(values: dict[str, Any]) -> Layout:
    """Inverse of `to_dict`; ValueError on unknown keys."""
    kind, rest = pick_kind(_KINDS, values)
    return record_from_dict(kind, rest)


def sample_layout(description: Description, rng: np.random.Generator) -> Layout:
    """A random layout in which every fact of `description` is readable."""
    if isinstance(description, General):
        return GeneralLayout(_backdrop(rng), sample_centres(description, rng))
    if description.category == "portrait":
        return PortraitLayout(_backdrop(rng), **{key: _between(rng, *ends) for key, ends in FACE_RANGES.items()})
    if description.category == "landscape":
        return _landscape(rng)
    board = tuple(BOARD_RGB)[int(rng.integers(len(BOARD_RGB)))]
    board = board if _is_legible(description, board) else "pale"
    return TypographyLayout(_backdrop(rng), board, (0.0, SIGN_HEIGHTS[int(rng.integers(len(SIGN_HEIGHTS)))]))


def boxes(description: Description, layout: Layout) -> list[Box]:
    """(x0, y0, x1, y1) in px of each drawn object, in `description.objects` order; empty outside 'general'."""
    if not isinstance(description, General) or not isinstance(layout, GeneralLayout):
        return []
    objects = description.objects
    if len(objects) != len(layout.centres):
        raise ValueError(f"layout has {len(layout.centres)} centres; allowed: {len(objects)}, one per object")
    return [thing_box(thing, centre) for thing, centre in zip(objects, layout.centres, strict=True)]


def fits(description: Description, layout: Layout) -> bool:
    """Whether `layout` shows `description` readably; an edit of size, count or relation may make it False."""
    if not isinstance(description, General) or not isinstance(layout, GeneralLayout):
        if isinstance(description, Typography) and isinstance(layout, TypographyLayout):
            return _is_legible(description, layout.board)
        return description.category == layout.category
    centres = np.array([layout.centres])
    return len(layout.centres) == len(description.objects) and bool(well_placed(description, centres)[0])


def place(description: General, layout: GeneralLayout, rng: np.random.Generator) -> GeneralLayout | None:
    """`layout` extended by a centre for the last object of `description`; None where no free space is left.

    `description` already holds the added object; the other objects stay where they are.
    """
    if len(layout.centres) != len(description.objects) - 1:
        raise ValueError(f"layout has {len(layout.centres)} centres; allowed: {len(description.objects) - 1}")
    centre = add_centre(description, layout.centres, rng)
    return None if centre is None else GeneralLayout(layout.backdrop, (*layout.centres, centre))


def _is_legible(description: Description, board: str) -> bool:
    """Sepia turns the darkest letters nearly as dark as the dark board."""
    if not isinstance(description, Typography) or description.style != "sepia":
        return True
    letters, wood = (sepia_brightness(rgb) for rgb in (COLOUR_RGB[description.colour], BOARD_RGB[board]))
    return abs(letters - wood) >= MIN_SEPIA_CONTRAST


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Two decimals, so that layouts stay short in JSON."""
    return round(float(rng.uniform(low, high)), 2)


def _backdrop(rng: np.random.Generator) -> int:
    return int(rng.integers(len(BACKDROPS)))


def _landscape(rng: np.random.Generator) -> LandscapeLayout:
    horizon = _between(rng, 40, 45)
    mirror = bool(rng.integers(2))  # the sky body is on one side, the first cloud on the other: neither hides

    def at(x: float) -> float:
        return round(64 - x if mirror else x, 2)

    body = (at(_between(rng, 11, 17)), _between(rng, 10, 14))
    clouds = ((at(_between(rng, 45, 51)), _between(rng, 10, 14)), (at(_between(rng, 30, 35)), _between(rng, 23, 25)))
    slots = rng.permutation(MAX_TREES)
    trees = tuple((_between(rng, -1.5, 1.5) + 12 + 20 * int(slot), horizon + _between(rng, 8, 13)) for slot in slots)
    peaks = tuple((x + _between(rng, -4, 4), _between(rng, 15, 21)) for x in (18, 46))
    grid = [(6 + 17.5 * column + 8 * (row % 2), 7 + 11 * row) for row in range(4) for column in range(3)]
    drops = tuple((x + _between(rng, -1, 1), y + _between(rng, -1, 1)) for x, y in grid)
    return LandscapeLayout(horizon, body, clouds, trees, peaks, drops)
