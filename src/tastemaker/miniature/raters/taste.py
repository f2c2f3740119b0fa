"""What the simulated raters like, beyond what a prompt says: the hidden part of their scores, written down here.

Everything is a function of pixels, so that a judge can learn it from their scores. No judge imports this file.
"""

import numpy as np

from tastemaker.miniature.oracle.faces import Face

_FAR_PX = 14.0  # distance of the picture's weight from the middle at which its balance has fallen to 1/e
_LIVELY, _GAUDY = 0.25, 0.2  # chroma that pleases most, and how far from it pleasure has fallen to 1/e
_EYES_APART, _APART_WIDTH = 0.47, 0.08  # distance of the eyes as a share of the face's width
_SMALL_EYE_PX, _LARGE_EYE_PX = 1.7, 3.0


def pleasing(pixels: np.ndarray) -> float:
    """In [0, 1], for float pixels (64, 64, 3) in 0..255: half balance about the middle, half colours neither dull nor gaudy."""
    return 0.5 * _balance(pixels) + 0.5 * _liveliness(pixels)


def charming(face: Face) -> float:
    """In [0, 1]: half eyes at a pleasing distance, half large eyes."""
    width = max(face.proportions.get("face_width", 32.0), 1.0)
    apart = (face.proportions["eye_distance"] / width - _EYES_APART) / _APART_WIDTH
    large = (face.proportions["eye_radius"] - _SMALL_EYE_PX) / (_LARGE_EYE_PX - _SMALL_EYE_PX)
    return float(0.5 * np.exp(-(apart**2)) + 0.5 * np.clip(large, 0, 1))


def _balance(pixels: np.ndarray) -> float:
    weight = np.abs(pixels - np.median(pixels, axis=(0, 1))).sum(axis=2)
    total = weight.sum()
    if total < 1:
        return 0.0
    middle = (np.arange(64) + 0.5 - 32) / total
    return float(np.exp(-((weight.sum(0) @ middle) ** 2 + (weight.sum(1) @ middle) ** 2) / _FAR_PX**2))


def _liveliness(pixels: np.ndarray) -> float:
    chroma = float((pixels.max(axis=2) - pixels.min(axis=2)).mean()) / 255
    return float(np.exp(-(((chroma - _LIVELY) / _GAUDY) ** 2)))
