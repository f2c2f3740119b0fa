"""Colours of pixels: floats, the sepia scale, the dither of pixel art, and colour names behind a blurred edge."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from tastemaker.miniature.oracle.reading import graded
from tastemaker.miniature.world.canvas import DITHER_TILE, SEPIA_GAMMA, SIZE
from tastemaker.miniature.world.palette import (
    COLOUR_RGB,
    GROUND_INK,
    GROUND_RGB,
    HAIR_RGB,
    RGB,
    SEPIA_DARK,
    SEPIA_PALE,
    SKIN_INK,
    SKIN_RGB,
    SKY_RGB,
)

_GROUPS: dict[str, dict[str, RGB]] = {
    "colour": COLOUR_RGB,
    "skin": SKIN_RGB,
    "skin ink": SKIN_INK,
    "hair": HAIR_RGB,
    "sky": SKY_RGB,
    "ground": GROUND_RGB,
    "ground ink": GROUND_INK,
}
_DARK = np.array(SEPIA_DARK, np.float32)
_PALE = np.array(SEPIA_PALE, np.float32)
_TILE_SIGN = np.where(np.add.outer(np.arange(SIZE // DITHER_TILE), np.arange(SIZE // DITHER_TILE)) % 2 == 0, 1.0, -1.0)
_SIGN_HW1 = _TILE_SIGN.repeat(DITHER_TILE, 0).repeat(DITHER_TILE, 1)[..., None].astype(np.float32)

_MEAN = np.full(3, 1 / 3, np.float32)
_CALM = 26.0  # grey levels between neighbouring tiles that dither and noise can explain
_CALM_SPREAD = 90.0  # variance inside a tile that blur and noise can explain


def as_floats(picture: np.ndarray) -> np.ndarray:
    """float32 RGB in 0..255 of shape (64, 64, 3), from uint8 or from floats in [0, 1]."""
    picture = np.asarray(picture)
    if picture.shape != (SIZE, SIZE, 3):
        raise ValueError(f"picture has shape {picture.shape}; allowed: ({SIZE}, {SIZE}, 3)")
    if picture.dtype == np.uint8:
        return picture.astype(np.float32)
    if not np.issubdtype(picture.dtype, np.floating):
        raise ValueError(f"picture has dtype {picture.dtype}; allowed: uint8, or floats in [0, 1]")
    if not np.isfinite(picture).all():
        raise ValueError("picture holds NaN or infinity; allowed: floats in [0, 1]")
    return np.clip(picture.astype(np.float32), 0, 1) * 255


@cache
def in_style(colour: RGB, style: str) -> np.ndarray:
    """How a style shows a filled area of `colour`."""
    if style != "sepia":
        return np.array(colour, np.float32)
    luminance = (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255
    return _DARK + luminance**SEPIA_GAMMA * (_PALE - _DARK)


def distance(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Euclidean RGB distance, over the last axis."""
    difference = pixels - np.asarray(colour, np.float32)
    return np.sqrt(np.einsum("...c,...c->...", difference, difference))


def grown(mask: np.ndarray, by: int = 1) -> np.ndarray:
    """A mask widened by `by` px on all sides, diagonals too."""
    return ndimage.maximum_filter(mask.view(np.uint8), 2 * by + 1).view(bool)


def median(values: np.ndarray) -> np.ndarray:
    """The upper median over the first axis; several times faster than numpy's on small arrays."""
    half = len(values) // 2
    return np.partition(values, half, axis=0)[half]


def mix(pixels: np.ndarray, background: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """How far each pixel is on the way from `background` to `colour`, in [0, 1]."""
    way = np.asarray(colour, np.float32) - background
    return np.clip((pixels - background) @ way / max(float(way @ way), 1.0), 0, 1)


def mix_only(pixels: np.ndarray, background: np.ndarray, colour: np.ndarray, width: float) -> np.ndarray:
    """`mix`, falling to 0 for pixels that are `width` (RGB distance) or more off the way."""
    share = mix(pixels, background, colour)
    aside = distance(pixels, background + share[..., None] * (np.asarray(colour, np.float32) - background))
    return share * np.exp(-((aside / width) ** 2))


_CODE_BITS = 5  # per channel
_LEVELS = (np.arange(1 << _CODE_BITS, dtype=np.float32) + 0.5) * 2 ** (8 - _CODE_BITS)


def all_colours() -> np.ndarray:
    """The colour of every code, float32 of shape (number of codes, 3)."""
    return np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(-1, 3)


def codes_of(pixels: np.ndarray) -> np.ndarray:
    """The coarse colour code of every pixel, to look a colour's property up in a table over `all_colours`."""
    levels = np.clip(pixels, 0, 255).astype(np.int32) >> (8 - _CODE_BITS)
    return (levels[..., 0] << 2 * _CODE_BITS) | (levels[..., 1] << _CODE_BITS) | levels[..., 2]


def off_sepia(pixels: np.ndarray) -> np.ndarray:
    """RGB distance of each pixel from the line of sepia tones."""
    way = (_PALE - _DARK) / np.linalg.norm(_PALE - _DARK)
    away = pixels - _DARK
    return distance(away, (away @ way)[..., None] * way)


def dither_amplitude(pixels: np.ndarray) -> float:
    """The strength of pixel art's checkerboard in grey levels, on calm tiles: 4 to 8 in real pixel art, 0 elsewhere."""
    blocks = (pixels @ _MEAN).reshape(SIZE // DITHER_TILE, DITHER_TILE, SIZE // DITHER_TILE, DITHER_TILE)
    tiles = blocks.mean(axis=(1, 3))
    spread = np.square(blocks).mean(axis=(1, 3)) - np.square(tiles)
    even = spread < _CALM_SPREAD
    across, down = tiles[:, 1:] - tiles[:, :-1], tiles[1:] - tiles[:-1]
    steps = np.concatenate([(-_TILE_SIGN[:, :-1] * across).ravel(), (-_TILE_SIGN[:-1] * down).ravel()])
    calm = np.concatenate([(even[:, 1:] & even[:, :-1]).ravel(), (even[1:] & even[:-1]).ravel()]) & (np.abs(steps) < _CALM)
    return float(np.median(steps[calm])) / 2 if calm.sum() >= 20 else 0.0


def without_dither(pixels: np.ndarray) -> np.ndarray:
    """The picture with as much checkerboard taken away as it holds."""
    return pixels - np.clip(dither_amplitude(pixels), 0, 8) * _SIGN_HW1


@dataclass(frozen=True)
class Names:
    """Colour names and how a style shows them: rgb of shape (number, 3)."""

    names: tuple[str, ...]
    rgb: np.ndarray


@cache
def colour_names(style: str, group: str = "colour") -> Names:
    """The named colours of a group of the palette, as a style fills areas with them."""
    table = _GROUPS[group]
    return Names(tuple(table), np.stack([in_style(rgb, style) for rgb in table.values()]))


def colour_distances(colours: np.ndarray, background: np.ndarray, names: Names) -> np.ndarray:
    """RGB distances (..., number) of colours (..., 3) to the names, after undoing a blend with the background of up to 40%."""
    ways = names.rgb - background
    seen = np.asarray(colours, np.float32) - background
    lengths = np.maximum(np.einsum("nc,nc->n", ways, ways), 1.0)
    share = np.clip((seen @ ways.T) / lengths, 0.6, 1.0)
    away = seen[..., None, :] - share[..., None] * ways
    return np.sqrt(np.einsum("...c,...c->...", away, away)) / share + 30 * (1 - share)


def by_name(distances: np.ndarray, names: Names) -> dict[str, float]:
    return dict(zip(names.names, distances.tolist(), strict=True))


def colour_score(distances: Mapping[str, float], name: str) -> float:
    """Whether a colour is the named one: close to it, and closer than to any other."""
    rival = min(value for other, value in distances.items() if other != name)
    closeness = graded(distances[name], 70, 42, 20)
    return min(closeness, graded(rival - distances[name], -30, 3, 20))
