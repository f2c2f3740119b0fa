"""Finds a small template anywhere in a picture-sized map, with parts of the map allowed to be hidden (FFT correlation)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft

SIDE = 64
_LEAST_SEEN = 0.5  # share of a template that must not be hidden


@dataclass(frozen=True, eq=False)
class Template:
    """A mask in [0, 1] of odd height and width; around it, within `margin` px, the map should be empty."""

    mask: np.ndarray
    margin: int

    @cached_property
    def spectra(self) -> np.ndarray:
        """Conjugate spectra (3, SIDE, SIDE / 2 + 1) of the mask, of the window it claims and of its square."""
        reach = 2 * self.margin + 1
        padded = np.pad(self.mask, self.margin)
        widened = np.lib.stride_tricks.sliding_window_view(np.pad(padded, self.margin), (reach, reach)).max(axis=(2, 3))
        return np.stack([_spectrum(mask) for mask in (self.mask, (widened > 0.1).astype(np.float32), self.mask**2)])

    @cached_property
    def energy(self) -> float:
        return float((self.mask**2).sum())


def _spectrum(mask: np.ndarray) -> np.ndarray:
    field = np.zeros((SIDE, SIDE), np.float32)
    height, width = mask.shape
    field[:height, :width] = mask
    return np.conj(fft.rfft2(np.roll(field, (-(height // 2), -(width // 2)), axis=(0, 1))))


class Map:
    """A picture-sized map in [0, 1], of which only the pixels `seen` count."""

    def __init__(self, found: np.ndarray, seen: np.ndarray | None = None) -> None:
        shown = found if seen is None else found * seen
        layers = [shown, shown * shown] if seen is None else [shown, shown * shown, seen]
        self._spectra = fft.rfft2(np.stack(layers).astype(np.float32))

    def match(self, template: Template) -> np.ndarray:
        """1 - |m - t|^2 / (|m|^2 + |t|^2) with the template centred on each pixel."""
        number = len(self._spectra)
        inner, local, *cover = fft.irfft2(self._spectra * template.spectra[:number], (SIDE, SIDE))
        if not cover:
            return 2 * inner / np.maximum(local + template.energy, 1e-3)
        match = 2 * inner / np.maximum(local + cover[0], 1e-3)
        return np.where(cover[0] >= _LEAST_SEEN * template.energy, match, 0.0)


def peaks(match: np.ndarray, window: tuple[slice, slice], number: int, apart: float) -> list[tuple[float, float, float]]:
    """The `number` highest places inside `window`, at least `apart` px from each other: (match, x, y), best first."""
    top, left = window[0].start, window[1].start
    field = match[window].copy()
    rows, columns = np.ogrid[: field.shape[0], : field.shape[1]]
    found = []
    for _ in range(number):
        y, x = divmod(int(field.argmax()), field.shape[1])
        found.append((float(field[y, x]), left + x + 0.5, top + y + 0.5))
        if number > 1:
            field[(rows - y) ** 2 + (columns - x) ** 2 < apart**2] = -1.0
    return found
