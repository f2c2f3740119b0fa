"""The maps in which a face is searched: silhouette, skin, dark features and mouth. Pictures and templates share them."""

import numpy as np
from scipy import ndimage

from tastemaker.miniature.oracle.pixels import distance, in_style, median, mix, mix_only
from tastemaker.miniature.world.palette import DARK, MOUTH, PAPER
from tastemaker.miniature.world.scene_portrait import FACE_CENTRE

_OUTSIDE = 22.0  # RGB distance from the backdrop, smoothed, below which a pixel is outside of the head
HEAD_ROWS = 58  # rows that hold head and hair
CHIN = (slice(40, 54), slice(12, 52))  # where the lower half of the face ends, sideways and below
EYES = (slice(26, 37), slice(20, 44))
MOUTHS = (slice(36, 49), slice(20, 44))
NOSES = (slice(33, 40), slice(29, 35))
NOSE_SHADE = 0.78  # of the skin, as scene_portrait draws it


def backdrop_of(pixels: np.ndarray) -> np.ndarray:
    """Median colour of both upper corners, where no hair reaches."""
    corners = np.concatenate([pixels[:9, :10].reshape(-1, 3), pixels[:9, -10:].reshape(-1, 3)])
    return median(corners)


def silhouette(pixels: np.ndarray) -> np.ndarray:
    """1 inside head, hair and body, 0 outside, at half resolution: (HEAD_ROWS / 2, 32)."""
    away = distance(ndimage.uniform_filter(pixels, (3, 3, 0)), backdrop_of(pixels))
    labels, _ = ndimage.label(away < _OUTSIDE)
    inside = (labels != labels[0, 0]) & (labels != labels[0, -1])
    return inside[:HEAD_ROWS].reshape(HEAD_ROWS // 2, 2, 32, 2).mean(axis=(1, 3), dtype=np.float32)


def skin_map(pixels: np.ndarray, skin: np.ndarray, width: float) -> np.ndarray:
    """Closeness to the face's colour around the chin, without the mouth; `width` is the RGB distance that counts little."""
    area = ndimage.uniform_filter(pixels[CHIN], (3, 3, 0))
    near = np.exp(-((distance(area, skin) / width) ** 2)).astype(np.float32)
    near[: 48 - CHIN[0].start, 22 - CHIN[1].start : 42 - CHIN[1].start] = 0
    return near


def ink_map(pixels: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """How far pixels around the chin are on the way from paper to a line of colour `ink`, and on no other way."""
    return mix_only(pixels[CHIN], np.array(PAPER, np.float32), ink, 40.0)


def dark_map(pixels: np.ndarray, skin: np.ndarray, style: str) -> np.ndarray:
    """Where pixels around the eyes are on the way from skin (or paper) to eyes and frames; below 0 in bright lenses."""
    way = in_style(DARK, style) - skin
    return np.clip((pixels[EYES] - skin) @ way / max(float(way @ way), 1.0), -1, 1)


def mouth_map(pixels: np.ndarray, skin: np.ndarray, style: str) -> np.ndarray:
    """How far pixels are on the way from skin to the mouth's colour, and on no other way."""
    return mix_only(pixels[MOUTHS], skin, in_style(DARK if style == "sepia" else MOUTH, style), 50.0)


def nose_map(pixels: np.ndarray, ground: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """How far pixels between eyes and mouth are on the way from `ground` (skin, or paper) to a shade of the skin."""
    return mix(pixels[NOSES], ground, NOSE_SHADE * skin)


def face_region() -> np.ndarray:
    """An ellipse that lies inside every face below the eyes; bool of shape (64, 64)."""
    rows, columns = np.mgrid[:64, :64] + 0.5
    inside = ((columns - FACE_CENTRE[0]) / 12.5) ** 2 + ((rows - FACE_CENTRE[1]) / 14.5) ** 2 < 1
    return inside & (rows > FACE_CENTRE[1])
