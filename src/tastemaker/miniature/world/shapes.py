"""The six shapes as unit polygons: bounding box centred on the origin, its longer side 1, y downwards."""

import math

import numpy as np


def _fit(points: np.ndarray) -> np.ndarray:
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) / (high - low).max()


def _circle() -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> np.ndarray:
    """Five points; the inner radius is fatter than a true pentagram's, so that small stars keep their arms."""
    angles = -math.pi / 2 + np.arange(10) * math.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.46)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], axis=1)


def _cross() -> np.ndarray:
    a, b = 0.18, 0.5
    return np.array(
        [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    )


OUTLINES: dict[str, np.ndarray] = {
    "circle": _fit(_circle()),
    "square": _fit(np.array([(-1.0, -1), (1, -1), (1, 1), (-1, 1)])),
    "triangle": _fit(np.array([(0, -1.8), (1, 0), (-1, 0)])),
    "star": _fit(_star()),
    "heart": _fit(_heart()),
    "cross": _fit(_cross()),
}
EXTENTS: dict[str, tuple[float, float]] = {
    name: (float(np.ptp(points[:, 0])), float(np.ptp(points[:, 1]))) for name, points in OUTLINES.items()
}
