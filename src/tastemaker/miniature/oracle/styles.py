"""Which of the four styles a picture is in; `hollow` is what the category's reader found about outlines."""

import numpy as np

from tastemaker.miniature.oracle.pixels import dither_amplitude, off_sepia
from tastemaker.miniature.oracle.reading import graded

_NO_CHROMA = 24.0  # RGB distance from the sepia line that noise may cause


def style_score(pixels: np.ndarray, style: str, hollow: float) -> float:
    """Score of the style fact; `hollow` runs from 0 (areas filled) to 1 (paper white with outlines only)."""
    sepia, dithered = sepia_score(pixels), pixel_art_score(pixels)
    if style == "sepia":
        return sepia
    if style == "pixel art":
        return min(1 - sepia, dithered)
    return min(1 - sepia, 1 - dithered, hollow if style == "line drawing" else 1 - hollow)


def sepia_score(pixels: np.ndarray) -> float:
    """Whether practically no pixel has a colour off the brown scale; a small coloured object covers 2%."""
    coloured = np.clip((off_sepia(pixels[::2, ::2]) - _NO_CHROMA) / 20, 0, 1).mean()  # a quarter of the pixels will do
    return graded(float(coloured), 0.016, 0.008, 0.003)


def pixel_art_score(pixels: np.ndarray) -> float:
    """Whether the picture carries the checkerboard dither."""
    return graded(dither_amplitude(pixels), 0.4, 1.4, 2.4)
