"""How cleanly a picture is drawn, whatever it shows: flat areas in the world's colours and sharp edges between them.

Each pixel earns up to 1: for lying in a flat patch of a legal colour, or on the way between two such patches close by on
opposite sides. Smears, noise, ghosts and bands earn less. Pixels that are neither flat nor legal weigh most, so that a
large empty backdrop cannot hide a blurred object. Sepia has nearly every tone of its scale, so there flatness and
sharpness decide.
"""

from functools import cache

import numpy as np

from tastemaker.miniature.oracle.face_maps import NOSE_SHADE
from tastemaker.miniature.oracle.pixels import as_floats, distance, off_sepia, without_dither
from tastemaker.miniature.world import palette

_BITS = 6  # per channel, of the table of distances to legal colours
_LEGAL_WIDTH = 36.0  # RGB distance from a legal colour at which a pixel has lost most of its worth
_FLAT_WIDTH = 80.0  # the same for the range of a channel inside a patch of 2 x 2 pixels
_SEPIA_FLAT_WIDTH = 80.0  # thin lines are no flaw; noise shows off the scale, blur in the sharpness
_EXACT_WIDTH = 28.0  # the same for a pixel that no flat patch holds
_SHARP, _SEPIA_SHARP = 0.09, 0.125  # change within a pixel below which a picture is blurred
_EDGE_WIDTH = 80.0  # the same for the distance of an edge pixel from the way between the patches
_CALM_WEIGHT = 0.12
_TYPICAL = 0.95  # what real renders reach
_THIRDS = np.full(3, 1 / 3, np.float32)
_CALM_ENOUGH = 0.95
_PAIRS = ((0, 2), (2, 0), (1, 1), (1, -1))  # (dy, dx) of one patch seen from an edge pixel; the other is opposite


def quality(picture: np.ndarray, style: str) -> float:
    """In [0, 1]: about 1 for a real render, falling with blur, noise and anything half drawn."""
    pixels = as_floats(picture)
    pixels = without_dither(pixels) if style == "pixel art" else pixels
    illegal = off_sepia(pixels) if style == "sepia" else _off_palette(pixels)
    flat_width = _SEPIA_FLAT_WIDTH if style == "sepia" else _FLAT_WIDTH
    calm = np.exp(-((illegal / _LEGAL_WIDTH) ** 2) - (_roughness(pixels) / flat_width) ** 2)
    if style != "sepia":
        calm = np.maximum(calm, np.exp(-((illegal / _EXACT_WIDTH) ** 2)))  # the middle of a thin line
    worth = np.maximum(calm, _edges(pixels, calm, np.inf if style == "sepia" else _EDGE_WIDTH))
    weight = _CALM_WEIGHT + 1 - calm
    clean = float((weight * worth).sum() / weight.sum())
    sharp = min(1.0, _change_within_a_pixel(pixels @ _THIRDS) / (_SEPIA_SHARP if style == "sepia" else _SHARP))
    return min(1.0, clean * sharp / _TYPICAL)


def _change_within_a_pixel(grey: np.ndarray) -> float:
    """Squared change over one pixel as a share of that over four: about 0.2 for sharp edges, whatever their contrast."""

    def change(step: int) -> float:
        down, across = grey[step:] - grey[:-step], grey[:, step:] - grey[:, :-step]
        return float(np.vdot(down, down) + np.vdot(across, across))

    return change(1) / max(change(4), 1.0)


def _legal_colours() -> np.ndarray:
    single = ("PAPER", "DARK", "MOUTH", "LENS", "WAVE", "SUN", "MOON", "MOON_INK", "CLOUD", "CLOUD_INK", "SNOWFLAKE_INK")
    groups = ("COLOUR_RGB", "SKIN_RGB", "SKIN_INK", "HAIR_RGB", "SKY_RGB", "GROUND_RGB", "GROUND_INK", "RAIN_RGB", "BOARD_RGB")
    colours = [getattr(palette, name) for name in (*single, "TRUNK", "CROWN", "MOUNTAIN", "BOARD_RIM")]
    colours += [rgb for name in groups for rgb in getattr(palette, name).values()] + list(palette.BACKDROPS)
    shades = [np.array(rgb) * factor for rgb in palette.SKIN_RGB.values() for factor in (palette.NECK_SHADE, NOSE_SHADE)]
    return np.array([*colours, *shades], np.float32)


@cache
def _table() -> np.ndarray:
    """RGB distance to the nearest legal colour for every colour of _BITS bits a channel."""
    levels = (np.arange(1 << _BITS, dtype=np.float32) + 0.5) * 2 ** (8 - _BITS)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    nearest = np.full(grid.shape[:3], np.inf, np.float32)
    for colour in _legal_colours():
        nearest = np.minimum(nearest, distance(grid, colour))
    return nearest.ravel()


def _off_palette(pixels: np.ndarray) -> np.ndarray:
    codes = (np.clip(pixels, 0, 255).astype(np.int32)) >> (8 - _BITS)
    return _table()[(codes[..., 0] << 2 * _BITS) | (codes[..., 1] << _BITS) | codes[..., 2]]


def _roughness(pixels: np.ndarray) -> np.ndarray:
    """The smallest range, over the patches of 2 x 2 pixels that hold a pixel, of its most varying channel."""
    high = np.maximum(pixels[:, :-1], pixels[:, 1:])
    low = np.minimum(pixels[:, :-1], pixels[:, 1:])
    spans = np.maximum(high[:-1], high[1:]) - np.minimum(low[:-1], low[1:])
    span = np.maximum(np.maximum(spans[..., 0], spans[..., 1]), spans[..., 2])
    field = np.pad(span, 1, constant_values=np.inf)
    rows = np.minimum(field[:-1], field[1:])
    return np.minimum(rows[:, :-1], rows[:, 1:])


def _edges(pixels: np.ndarray, calm: np.ndarray, width: float) -> np.ndarray:
    """For each pixel that is not calm itself, how well it lies between two calm ones on opposite sides; 0 along the border.

    With an infinite `width` any colour may lie there: a thin line in a tone of its own.
    """
    side = calm.shape[1]
    rows, columns = np.nonzero(calm[2:-2, 2:-2] < _CALM_ENOUGH)
    at = (rows + 2) * side + columns + 2
    flat, worth = pixels.reshape(-1, 3), calm.ravel()
    middle, best = flat[at], np.zeros(len(at), calm.dtype)
    for dy, dx in _PAIRS:
        step = dy * side + dx
        one, two = flat[at + step], flat[at - step]
        way, along = two - one, middle - one
        share = np.einsum("nc,nc->n", along, way) / np.maximum(np.einsum("nc,nc->n", way, way), 1.0)
        aside = along - np.clip(share, 0, 1)[:, None] * way
        squared = np.einsum("nc,nc->n", aside, aside)
        best = np.maximum(best, worth[at + step] * worth[at - step] * np.exp(-squared / width**2))
    found = np.zeros_like(worth)
    found[at] = best
    return found.reshape(calm.shape)
