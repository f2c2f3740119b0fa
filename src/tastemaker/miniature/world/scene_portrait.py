"""Draws a cartoon head and shoulders, its face centred at FACE_CENTRE.

Hair is drawn as a silhouette behind the head plus a fringe that covers the top FRINGE of the face height, so that
hair and glasses never hide the width of the face, the chin, the eyes or the mouth.
"""

import math

import numpy as np

from tastemaker.miniature.world.canvas import Canvas
from tastemaker.miniature.world.description import Portrait
from tastemaker.miniature.world.layout import PortraitLayout
from tastemaker.miniature.world.palette import (
    COLOUR_RGB,
    DARK,
    HAIR_RGB,
    LENS,
    MOUTH,
    NECK_SHADE,
    RGB,
    SKIN_INK,
    SKIN_RGB,
)

FACE_CENTRE = (32.0, 33.0)
EYE_LIFT = 1.5  # eye line above the face centre
FRINGE = 0.24
HAIR_MARGIN = 4.0
STROKE = 3.0
NOSE_WIDTH = 2.4
SMILE_DEPTH = 4.0
FRAME_WIDTH = 2.0


def draw_portrait(canvas: Canvas, description: Portrait, layout: PortraitLayout) -> None:
    """Back to front: hair behind, body, face, fringe, features."""
    skin = SKIN_RGB[description.skin]
    hair = HAIR_RGB[description.hair_colour] if description.hair_colour else None
    if hair:
        _hair_behind(canvas, description.hair_style, layout, hair)
    _body(canvas, description, layout)
    half = (layout.face_width / 2, layout.face_height / 2)
    canvas.ellipse(FACE_CENTRE, half, skin, SKIN_INK[description.skin])
    if hair:
        canvas.polygon(_fringe(*half), hair)
    _features(canvas, description, layout, skin)


def _body(canvas: Canvas, description: Portrait, layout: PortraitLayout) -> None:
    shadow = _shade(SKIN_RGB[description.skin], NECK_SHADE)
    canvas.rectangle((26.5, 44, 37.5, 60), shadow, SKIN_INK[description.skin])
    shoulders = [(32 + 27 * math.cos(a), 69 + 14 * math.sin(a)) for a in np.linspace(math.pi, 2 * math.pi, 24)]
    canvas.polygon([(5, 66), *shoulders, (59, 66)], COLOUR_RGB[description.clothing])


def _hair_behind(canvas: Canvas, hair_style: str, layout: PortraitLayout, hair: RGB) -> None:
    x, y = FACE_CENTRE
    a, b = layout.face_width / 2 + HAIR_MARGIN, layout.face_height / 2 + HAIR_MARGIN
    if hair_style == "bun":
        canvas.ellipse((x, y - b - 2.5), (7, 7), hair)
    if hair_style in ("short", "bun"):
        cap = [(x + a * math.cos(t), y + b * math.sin(t)) for t in np.linspace(math.pi, 2 * math.pi, 24)]
        canvas.polygon(cap, hair)
    elif hair_style == "long":
        top = [(x + (a + 1) * math.cos(t), y + b * math.sin(t)) for t in np.linspace(math.pi, 2 * math.pi, 24)]
        canvas.polygon([(x - a - 3, 57), *top, (x + a + 3, 57)], hair)
    elif hair_style == "curly":
        canvas.polygon(_cloud_outline(a + 1.5, b), hair)


def _cloud_outline(a: float, b: float) -> np.ndarray:
    """A closed bumpy curve around the upper three quarters of the head."""
    t = np.radians(np.linspace(150, 390, 80))
    bump = 1.0 + 0.14 * np.sin((t - t[0]) * 7.5 * math.pi / (t[-1] - t[0])) ** 2
    return np.stack([FACE_CENTRE[0] + a * bump * np.cos(t), FACE_CENTRE[1] + b * bump * np.sin(t)], axis=1)


def _fringe(a: float, b: float) -> list[tuple[float, float]]:
    """The part of the face above the straight hairline."""
    x, y = FACE_CENTRE
    start = math.asin(1 - 2 * FRINGE)
    return [
        (x + (a + 0.6) * math.cos(t), y + (b + 0.6) * math.sin(t))
        for t in np.linspace(math.pi + start, 2 * math.pi - start, 20)
    ]


def _features(canvas: Canvas, description: Portrait, layout: PortraitLayout, skin: RGB) -> None:
    x, y = FACE_CENTRE
    reach, eye_y, mouth_y = layout.eye_distance / 2, y - EYE_LIFT, y + layout.mouth_drop
    if canvas.style == "pixel art":  # on block edges, so that both halves of the face come out alike
        reach, eye_y, mouth_y = canvas.on_grid(reach), canvas.on_grid(eye_y), canvas.on_grid(mouth_y)
    eyes = [(x - reach, eye_y), (x + reach, eye_y)]
    if description.glasses:
        _glasses(canvas, eyes)
    for eye in eyes:
        canvas.ellipse(eye, (layout.eye_radius, layout.eye_radius * 1.15), DARK, solid=True)
    canvas.stroke([(x, y), (x, y + layout.nose_length - NOSE_WIDTH)], NOSE_WIDTH, _shade(skin, 0.78))
    _mouth(canvas, (x, mouth_y), layout.mouth_width, description.smile)


def _glasses(canvas: Canvas, eyes: list[tuple[float, float]]) -> None:
    """Pale lenses in dark frames; the radius follows the eye distance, so that the frames never overlap."""
    (left, y), (right, _) = eyes
    radius = (right - left) / 2 - 0.5
    canvas.stroke([(left, y), (right, y)], FRAME_WIDTH, DARK, round_ends=False)
    for eye in eyes:
        canvas.ellipse(eye, (radius, radius), DARK, solid=True)
        canvas.ellipse(eye, (radius - FRAME_WIDTH, radius - FRAME_WIDTH), LENS, solid=True)


def _mouth(canvas: Canvas, centre: tuple[float, float], width: float, smile: bool) -> None:
    """`width` counts the stroke's round ends. A smile hangs SMILE_DEPTH below its corners."""
    x, y = centre
    reach = (width - STROKE) / 2
    depth = SMILE_DEPTH if smile else 0.0
    angles = np.linspace(math.pi, 0, 17 if smile else 2)
    points = [(x + reach * math.cos(t), y + depth * (math.sin(t) - 0.5)) for t in angles]
    canvas.stroke(points, STROKE, DARK if canvas.style == "sepia" else MOUTH)  # red is as dark as dark skin


def _shade(colour: RGB, factor: float) -> RGB:
    red, green, blue = (round(channel * factor) for channel in colour)
    return (red, green, blue)
