"""Templates of the six shapes, drawn by the renderer's own outlines, and the comparison of a mask with them."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from tastemaker.miniature.world.canvas import Canvas
from tastemaker.miniature.world.description import SHAPES
from tastemaker.miniature.world.placement import SIZE_PX
from tastemaker.miniature.world.renderer import BLOCK_PX
from tastemaker.miniature.world.shapes import EXTENTS, OUTLINES

FRAME = 48  # side of a template; its centroid is in the middle
_SUPER = 4
_STEP = 0.5
_SCALES = np.arange(8.0, 44.0, _STEP)


@dataclass(frozen=True)
class Library:
    """Masks in [0, 1] of every shape (rows) at every size (columns): shape (6, sizes, FRAME, FRAME)."""

    sizes: np.ndarray
    masks: np.ndarray
    areas: np.ndarray
    energies: np.ndarray

    def match(self, mask: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
        """For each shape the sizes whose area is nearest to the mask's, and 1 - |m - t|^2 / (|m|^2 + |t|^2): both (6, n)."""
        best = np.abs(self.areas - mask.sum()).argmin(axis=1)
        picks = np.clip(best[:, None] + np.arange(-reach, reach + 1), 0, len(self.sizes) - 1)
        flat, shapes = mask.ravel(), np.arange(len(picks))[:, None]
        inner = self.masks.reshape(*self.areas.shape, -1)[shapes, picks] @ flat
        return picks, 2 * inner / np.maximum(self.energies[shapes, picks] + flat @ flat, 1e-6)


def _library(sizes: np.ndarray, masks: np.ndarray) -> Library:
    return Library(sizes, masks, masks.sum(axis=(2, 3)), np.square(masks).sum(axis=(2, 3)))


@cache
def filled_library() -> Library:
    """Filled shapes at every half pixel of size."""
    masks = np.stack([[_centred(_filled(shape, size)) for size in _SCALES] for shape in SHAPES])
    return _library(_SCALES, masks)


@cache
def blocky_library() -> Library:
    """Shapes as pixel art samples them, for the three sizes of the world and sizes next to them."""
    sizes = np.unique(np.concatenate([np.array(list(SIZE_PX.values())) + shift for shift in (-2, 0, 2)]))
    masks = np.stack([[_centred(_blocky(shape, size)) for size in sizes] for shape in SHAPES])
    return _library(sizes, masks)


@cache
def hole_mask(shape: str, size: float) -> np.ndarray:
    """What a line drawing leaves white inside a shape, without soft edges; centred by the filled shape's centroid."""
    filled = _filled(shape, size)
    hole = np.clip(filled - _drawn(shape, size, "line drawing"), 0, 1)
    return np.where(centred(hole, *centroid(filled)) > 0.9, 1.0, 0.0).astype(np.float32)


def _filled(shape: str, size: float) -> np.ndarray:
    image = Image.new("L", (FRAME * _SUPER, FRAME * _SUPER))
    points = (OUTLINES[shape] * size + FRAME / 2) * _SUPER
    ImageDraw.Draw(image).polygon(points.ravel().tolist(), fill=255)
    return np.asarray(image.reduce(_SUPER), np.float32) / 255


def _drawn(shape: str, size: float, style: str) -> np.ndarray:
    """Black on white by the renderer's canvas, cut to FRAME around the canvas centre."""
    canvas = Canvas(style, (255, 255, 255), BLOCK_PX["general"])
    canvas.polygon(OUTLINES[shape] * size + 32.0, (0, 0, 0))
    low = 32 - FRAME // 2
    return 1 - canvas.finish()[low : low + FRAME, low : low + FRAME, 0].astype(np.float32) / 255


def _blocky(shape: str, size: float) -> np.ndarray:
    """As the general scene places it: left edge and lower edge on the block grid."""
    block = BLOCK_PX["general"]
    half_x, half_y = EXTENTS[shape][0] * size / 2, EXTENTS[shape][1] * size / 2
    low = block * round((FRAME / 2 - half_x) / block)
    bottom = block * round((FRAME / 2 + half_y) / block)
    image = Image.new("L", (FRAME * _SUPER, FRAME * _SUPER))
    points = (OUTLINES[shape] * size + (low + half_x, bottom - half_y)) * _SUPER
    ImageDraw.Draw(image).polygon(points.ravel().tolist(), fill=1)
    step = block * _SUPER
    samples = np.asarray(image)[step // 2 :: step, step // 2 :: step]
    return samples.repeat(block, 0).repeat(block, 1).astype(np.float32)


def centroid(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) in px, where pixel i covers i to i + 1."""
    total = max(float(mask.sum()), 1e-6)
    x = float(mask.sum(axis=0) @ np.arange(mask.shape[1])) / total
    y = float(mask.sum(axis=1) @ np.arange(mask.shape[0])) / total
    return x + 0.5, y + 0.5


def _centred(mask: np.ndarray) -> np.ndarray:
    return centred(mask, *centroid(mask))


def centred(mask: np.ndarray, x: float, y: float) -> np.ndarray:
    """`mask` in a FRAME x FRAME field with the point (x, y) of the mask in the middle (bilinear)."""
    left, top = x - FRAME / 2, y - FRAME / 2
    x0, y0 = int(np.floor(left)), int(np.floor(top))
    u, v = left - x0, top - y0
    field = np.zeros((FRAME + 1, FRAME + 1), np.float32)
    rows = slice(max(y0, 0), min(y0 + FRAME + 1, mask.shape[0]))
    columns = slice(max(x0, 0), min(x0 + FRAME + 1, mask.shape[1]))
    field[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = mask[rows, columns]
    field = (1 - v) * field[:-1] + v * field[1:]
    return (1 - u) * field[:, :-1] + u * field[:, 1:]
