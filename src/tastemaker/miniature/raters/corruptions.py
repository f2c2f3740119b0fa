"""Ways in which a picture is spoilt: what a model does wrong, in cheap imitation.

Every way takes uint8 (64, 64, 3), a strength in (0, 1] and a generator, and gives a new picture of the same shape.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

Way = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def blur(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.5 + 2.5 * strength)))


def noise(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _uint8(picture + rng.normal(0, 6 + 44 * strength, picture.shape))


def jpeg(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=round(40 - 36 * strength))
    return np.asarray(Image.open(buffer).convert("RGB"))


def missing(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A patch in the colour of the border."""
    rows, columns = _patch(strength, rng)
    spoilt = picture.copy()
    spoilt[rows, columns] = np.median(np.concatenate([picture[0], picture[-1]]), axis=0)
    return spoilt


def moved(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A patch drawn a second time, elsewhere."""
    rows, columns = _patch(strength, rng)
    spoilt = picture.copy()
    down, right = (int(rng.integers(0, 64 - (part.stop - part.start) + 1)) for part in (rows, columns))
    spoilt[down : down + rows.stop - rows.start, right : right + columns.stop - columns.start] = picture[rows, columns]
    return spoilt


def waves(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Straight lines bent."""
    y, x = np.mgrid[:64, :64].astype(float)
    reach, turn = 0.8 + 3.2 * strength, 2 * np.pi / rng.uniform(14, 30)
    at = [y + reach * np.sin(turn * x + rng.uniform(0, 6)), x + reach * np.sin(turn * y + rng.uniform(0, 6))]
    bent = [ndimage.map_coordinates(picture[..., c].astype(float), at, order=1, mode="nearest") for c in range(3)]
    return _uint8(np.stack(bent, axis=-1))


def tint(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A cast of colour, or colours washed out."""
    if rng.random() < 0.5:
        return _uint8(picture + rng.normal(0, 12 + 40 * strength, 3))
    grey = picture.mean(axis=2, keepdims=True)
    return _uint8(grey + (picture - grey) * (1 - 0.9 * strength))


def broken_face(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Half of the face, an eye or the mouth slips or is lost; where there is no face, something in the middle does."""
    spoilt, shift = picture.copy(), max(1, round(6 * strength))
    part = int(rng.integers(4))
    if part == 0:  # one half hangs
        half = slice(0, 32) if rng.random() < 0.5 else slice(32, 64)
        spoilt[18:52, half] = np.roll(picture[18:52, half], shift, axis=0)
        return spoilt
    rows, columns = {1: (slice(26, 37), slice(19, 31)), 2: (slice(26, 37), slice(33, 45)), 3: (slice(38, 48), slice(22, 42))}[
        part
    ]
    if rng.random() < 0.5:
        spoilt[rows, columns] = np.roll(picture[rows, columns], shift, axis=int(rng.integers(2)))
    else:
        spoilt[rows, columns] = np.median(picture[rows, columns].reshape(-1, 3), axis=0)
    return spoilt


WAYS: dict[str, Way] = {
    "blur": blur,
    "noise": noise,
    "jpeg": jpeg,
    "missing": missing,
    "moved": moved,
    "waves": waves,
    "tint": tint,
    "broken face": broken_face,
}


HARMLESS = ("blur", "noise", "jpeg", "waves")
"""Those after which a picture still shows what it showed."""


def spoil(picture: np.ndarray, category: str, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The picture spoilt in a random way, and the way's name; a portrait's face is broken in half of the cases."""
    names = [name for name in WAYS if name != "broken face"]
    name = "broken face" if category == "portrait" and rng.random() < 0.5 else names[int(rng.integers(len(names)))]
    return WAYS[name](picture, float(rng.uniform(0.1, 1)), rng), name


def worn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture, half of the time in a worse state that shows the same things."""
    if rng.random() < 0.5:
        return picture
    return WAYS[HARMLESS[int(rng.integers(len(HARMLESS)))]](picture, float(rng.uniform(0.05, 0.7)), rng)


def _patch(strength: float, rng: np.random.Generator) -> tuple[slice, slice]:
    height, width = (round(8 + 20 * strength * rng.uniform(0.5, 1)) for _ in range(2))
    top, left = int(rng.integers(4, 60 - height)), int(rng.integers(4, 60 - width))
    return slice(top, top + height), slice(left, left + width)


def _uint8(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
