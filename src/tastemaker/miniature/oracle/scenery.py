"""Templates of what a landscape may hold: the difference that it makes to a rendered picture."""

from dataclasses import replace
from functools import cache

import numpy as np

from tastemaker.miniature.oracle.search import Template
from tastemaker.miniature.world.description import Landscape
from tastemaker.miniature.world.layout import LandscapeLayout
from tastemaker.miniature.world.renderer import BLOCK_PX, render
from tastemaker.miniature.world.scene_landscape import CROWN_RADIUS, TREE_HEIGHT

_AT = 32.5  # the middle of pixel 32, so that templates are symmetric
_AWAY = (-100.0, -100.0)
_EMPTY = LandscapeLayout(60.0, _AWAY, (_AWAY, _AWAY), (_AWAY,) * 3, ((-100.0, 15.0),) * 2, (_AWAY,) * 12)
_BARE = Landscape("sunset", "grass")  # allows both sun and moon
PEAK_ROWS = 11  # px of a mountain below its tip that its template shows
CROWN_LIFT = TREE_HEIGHT - CROWN_RADIUS - 0.8  # from a tree's base to the middle of its crown


def _difference(changes: dict, places: dict, lined: bool) -> np.ndarray:
    """How much each pixel changes, 1 for the greatest change."""
    bare = replace(_BARE, style="line drawing" if lined else "plain")
    layout, shown = replace(_EMPTY, **places), replace(bare, **changes)
    bare = replace(bare, style=shown.style)
    before, after = (render(scene, layout).astype(np.float32) for scene in (bare, shown))
    change = np.sqrt(np.square(after - before).sum(axis=2))
    return change / change.max()


def _cut(ink: np.ndarray, margin: int) -> Template:
    """The inked part around the middle pixel."""
    ink = ink.astype(np.float32)
    middle = int(_AT)
    rows, columns = np.nonzero(ink > 0.02)
    half_y, half_x = int(np.abs(rows - middle).max()), int(np.abs(columns - middle).max())
    return Template(ink[middle - half_y : middle + half_y + 1, middle - half_x : middle + half_x + 1], margin)


@cache
def bodies(body: str, style: str) -> tuple[Template, ...]:
    """Sun or moon; in pixel art at every other phase of the block grid."""
    if style != "pixel art":
        return (_cut(_difference({"sky_body": body}, {"body": (_AT, _AT)}, style == "line drawing"), 2),)
    block = BLOCK_PX["landscape"]
    shifts = np.arange(0.5, block, 1.0) - block / 2
    changes = {"sky_body": body, "style": style}
    places = [{"body": (_AT + x, _AT + y)} for x in shifts for y in shifts]
    return tuple(_cut(_difference(changes, place, False) > 0.5, 2) for place in places)


@cache
def cloud(lined: bool) -> Template:
    return _cut(_difference({"weather": "cloudy"}, {"clouds": ((_AT, _AT), _AWAY)}, lined), 1)


@cache
def crown(lined: bool) -> Template:
    """A tree without its trunk, around the middle of the crown."""
    ink = _difference({"trees": 1}, {"trees": ((_AT, _AT + CROWN_LIFT), _AWAY, _AWAY)}, lined)
    ink[int(_AT + CROWN_RADIUS + 1.8) :] = 0
    return _cut(ink, 2)


@cache
def peak(lined: bool) -> Template:
    """The upper part of a mountain, its tip in the middle."""
    ink = _difference({"mountains": True}, {"horizon": 56.0, "peaks": ((_AT, 56 - _AT), (-100.0, 15.0))}, lined)
    ink[int(_AT) + PEAK_ROWS :] = 0
    return _cut(ink, 1)
