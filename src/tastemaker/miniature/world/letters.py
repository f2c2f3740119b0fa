"""Twelve capital letters as polylines in the unit square (x right, y down), drawn with one pen width."""

import math

import numpy as np

Stroke = list[tuple[float, float]]


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float) -> Stroke:
    """Ellipse arc from `start` to `stop` degrees, clockwise on screen from 3 o'clock."""
    angles = np.radians(np.linspace(start, stop, max(3, round(abs(stop - start) / 20))))
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


LETTER_STROKES: dict[str, list[Stroke]] = {
    "A": [[(0, 1), (0.5, 0), (1, 1)], [(0.2, 0.66), (0.8, 0.66)]],
    "C": [_arc(0.54, 0.5, 0.54, 0.5, -42, -318)],
    "E": [[(1, 0), (0.06, 0), (0.06, 1), (1, 1)], [(0.06, 0.5), (0.85, 0.5)]],
    "H": [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(0, 0.5), (1, 0.5)]],
    "I": [[(0.5, 0), (0.5, 1)], [(0.12, 0), (0.88, 0)], [(0.12, 1), (0.88, 1)]],
    "L": [[(0.06, 0), (0.06, 1), (1, 1)]],
    "N": [[(0, 1), (0, 0), (1, 1), (1, 0)]],
    "O": [_arc(0.5, 0.5, 0.5, 0.5, 0, 360)],
    "P": [[(0.04, 1), (0.04, 0), (0.6, 0), *_arc(0.62, 0.28, 0.38, 0.28, -90, 90), (0.04, 0.56)]],
    "S": [[*_arc(0.5, 0.25, 0.46, 0.25, -20, -270), *_arc(0.5, 0.75, 0.46, 0.25, -90, 160)]],
    "T": [[(0, 0), (1, 0)], [(0.5, 0), (0.5, 1)]],
    "U": [[(0, 0), (0, 0.6), *_arc(0.5, 0.6, 0.5, 0.4, 180, 0), (1, 0)]],
}
