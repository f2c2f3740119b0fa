"""Draws a sky over a ground, back to front."""

import math

import numpy as np

from tastemaker.miniature.world.canvas import SIZE, Canvas
from tastemaker.miniature.world.description import Landscape
from tastemaker.miniature.world.layout import LandscapeLayout
from tastemaker.miniature.world.palette import (
    CLOUD,
    CLOUD_INK,
    CROWN,
    GROUND_INK,
    GROUND_RGB,
    MOON,
    MOON_INK,
    MOUNTAIN,
    RAIN_RGB,
    SKY_RGB,
    SNOWFLAKE,
    SNOWFLAKE_INK,
    SUN,
    TRUNK,
    WAVE,
)

BODY_RADIUS = 7.5
CROWN_RADIUS = 7.0
TREE_HEIGHT = 20.0
RAIN_STROKE = ((1.5, -4.0), (-1.5, 4.0))
RAIN_WIDTH = 2.6
FLAKE_RADIUS = 2.3
PEAK_SLOPE = 0.95  # half width of a mountain per px of height


def draw_landscape(canvas: Canvas, description: Landscape, layout: LandscapeLayout) -> None:
    """In a line drawing the sky and the ground are frames in their colours."""
    canvas.rectangle((0, 0, SIZE, SIZE), SKY_RGB[description.time])
    _sky_body(canvas, description.sky_body, layout.body)
    if description.mountains:
        for x, height in layout.peaks:
            reach, base = height * PEAK_SLOPE, layout.horizon + 4
            peak = [(x - reach, base), (x, layout.horizon - height), (x + reach, base)]
            canvas.polygon(peak, MOUNTAIN)
    if description.weather == "cloudy":
        for x, y in layout.clouds:
            _cloud(canvas, x, y)
    _ground(canvas, description.ground, layout.horizon)
    for x, y in sorted(layout.trees[: description.trees], key=lambda tree: tree[1]):
        _tree(canvas, x, y)
    _falling(canvas, description, layout)


def _sky_body(canvas: Canvas, body: str, centre: tuple[float, float]) -> None:
    if body == "sun":
        canvas.ellipse(centre, (BODY_RADIUS, BODY_RADIUS), SUN)
    elif body == "moon":
        canvas.polygon(_crescent(*centre), MOON, MOON_INK)


def _crescent(x: float, y: float) -> list[tuple[float, float]]:
    """Outer arc of radius BODY_RADIUS, inner arc cut by an ellipse half as wide."""
    outer = [(x + BODY_RADIUS * math.cos(t) + 2, y + BODY_RADIUS * math.sin(t)) for t in np.radians(np.linspace(60, 300, 24))]
    (x0, y0), (_, y1) = outer[-1], outer[0]
    inner = [(x0 - 5.5 * math.sin(u), y0 + (y1 - y0) * u / math.pi) for u in np.linspace(0, math.pi, 14)]
    return outer + inner


def _cloud(canvas: Canvas, x: float, y: float) -> None:
    """One closed outline, so that a line drawing shows a single blob."""
    t = np.radians(np.linspace(180, 360, 40))
    bump = 1 + 0.16 * np.sin(1.5 * t) ** 2
    top = np.stack([x + 10.5 * bump * np.cos(t), y + 3 + 7.5 * bump * np.sin(t)], axis=1)
    t = np.radians(np.linspace(0, 180, 16))
    base = np.stack([x + 12 * np.cos(t), y + 3 + 2.5 * np.sin(t)], axis=1)
    canvas.polygon(np.concatenate([top, base]), CLOUD, CLOUD_INK)


def _ground(canvas: Canvas, ground: str, horizon: float) -> None:
    canvas.rectangle((0, horizon, SIZE, SIZE), GROUND_RGB[ground], GROUND_INK[ground])
    if ground == "water":
        for x, y in ((15, 6), (46, 9), (27, 14)):
            wave = [(x + u, horizon + y + 1.3 * math.sin(u * math.pi / 4)) for u in range(-8, 9, 2)]
            canvas.stroke(wave, 2.4, WAVE)


def _tree(canvas: Canvas, x: float, base: float) -> None:
    """Base at `base`; the crown is slightly taller than wide."""
    canvas.rectangle((x - 2, base - 9, x + 2, base), TRUNK, solid=True)
    crown = CROWN_RADIUS + 0.8
    canvas.ellipse((x, base - TREE_HEIGHT + crown), (CROWN_RADIUS, crown), CROWN)


def _falling(canvas: Canvas, description: Landscape, layout: LandscapeLayout) -> None:
    if description.weather == "rainy":
        for x, y in layout.drops:
            stroke = [(x + dx, y + dy) for dx, dy in RAIN_STROKE]
            canvas.stroke(stroke, RAIN_WIDTH, RAIN_RGB["day" if canvas.lined else description.time])
    elif description.weather == "snowy":
        for drop in layout.drops:
            canvas.ellipse(drop, (FLAKE_RADIUS, FLAKE_RADIUS), SNOWFLAKE, SNOWFLAKE_INK, solid=True)
