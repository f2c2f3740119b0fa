"""Pictures in any of the forms they come in, as one: float32 (3, H, W) in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def as_pixels(picture: Any) -> np.ndarray:
    """(3, H, W) float32 in [0, 1] of a PIL image, an uint8 array in [0, 255] or a float array or tensor in [0, 1].

    Arrays are (3, H, W), (H, W, 3) or grey (H, W); values outside the range are clipped. Raises ValueError for another
    shape and for NaN or inf: a broken picture has no pixels.
    """
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    if hasattr(picture, "detach"):  # a tensor, named without importing torch; numpy has no bfloat16
        picture = picture.detach().float().cpu() if picture.dtype.is_floating_point else picture.detach().cpu()
    array = np.asarray(picture)
    if array.ndim == 2:
        array = np.broadcast_to(array, (3, *array.shape))
    elif array.ndim == 3 and array.shape[0] != 3 and array.shape[2] == 3:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] != 3 or 0 in array.shape:
        raise ValueError(f"a picture has shape (3, H, W) or (H, W, 3), got {array.shape}")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError("the picture holds NaN or inf")
    return array.clip(0, 1)


def as_image(picture: Any) -> Image.Image | None:
    """The picture as a PIL image; None where there is none, or a broken one, so that a wall shows a gap and goes on."""
    if picture is None:
        return None
    try:
        pixels = as_pixels(picture)
    except ValueError:
        return None
    return Image.fromarray((pixels.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8))
