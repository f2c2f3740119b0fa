"""Draws letters on a sign board."""

import numpy as np

from tastemaker.miniature.world.canvas import LINE_WIDTH, Canvas
from tastemaker.miniature.world.description import Typography
from tastemaker.miniature.world.layout import TypographyLayout
from tastemaker.miniature.world.letters import LETTER_STROKES
from tastemaker.miniature.world.palette import BOARD_RGB, BOARD_RIM, COLOUR_RGB

BOARD_HALF = (30.5, 18.0)
BOARD_CENTRE = (32.0, 29.0)
RIM = 2.0
# letters on the board: outer width, outer height, pen width, all in px
LETTER_PX = {1: (20.0, 27.0, 5.5), 2: (18.0, 25.0, 4.8), 3: (14.0, 22.0, 4.0), 4: (11.0, 19.0, 3.2)}
LETTER_GAP = {1: 0.0, 2: 5.0, 3: 3.5, 4: 2.6}
# the same on the 2 px grid of pixel art, where every stem is a whole number of blocks
PIXEL_LETTER_PX = {1: (20.0, 28.0, 6.0), 2: (18.0, 26.0, 4.0), 3: (14.0, 22.0, 4.0), 4: (12.0, 20.0, 4.0)}
PIXEL_LETTER_GAP = {1: 0.0, 2: 6.0, 3: 4.0, 4: 2.0}


def draw_typography(canvas: Canvas, description: Typography, layout: TypographyLayout) -> None:
    """A post, a rimmed board and the text in its middle."""
    x, y = BOARD_CENTRE[0] + layout.shift[0], BOARD_CENTRE[1] + layout.shift[1]
    half_x, half_y = BOARD_HALF
    canvas.rectangle((x - 3, y + half_y - 2, x + 3, 66), BOARD_RIM)
    canvas.rectangle((x - half_x, y - half_y, x + half_x, y + half_y), BOARD_RIM)
    if not canvas.lined:
        inner = (x - half_x + RIM, y - half_y + RIM, x + half_x - RIM, y + half_y - RIM)
        canvas.rectangle(inner, BOARD_RGB[layout.board])
    for letter, (x0, y0, x1, y1) in zip(description.text, letter_boxes(description, layout), strict=True):
        _letter(canvas, letter, (x0, y0, x1, y1), _metrics(description)[2], description.colour)


def letter_boxes(description: Typography, layout: TypographyLayout) -> list[tuple[float, float, float, float]]:
    """(x0, y0, x1, y1) in px of each letter's cell, left to right."""
    number = len(description.text)
    width, height, _, gap = _metrics(description)
    step = width + gap
    left = BOARD_CENTRE[0] + layout.shift[0] - (number * step - gap) / 2
    top = BOARD_CENTRE[1] + layout.shift[1] - height / 2
    if description.style == "pixel art":
        left, top = 2.0 * round(left / 2), 2.0 * round(top / 2)
    return [(left + i * step, top, left + i * step + width, top + height) for i in range(number)]


def _metrics(description: Typography) -> tuple[float, float, float, float]:
    """Letter width, height, pen and gap in px."""
    number = len(description.text)
    if description.style == "pixel art":
        return (*PIXEL_LETTER_PX[number], PIXEL_LETTER_GAP[number])
    return (*LETTER_PX[number], LETTER_GAP[number])


def _letter(canvas: Canvas, letter: str, box: tuple[float, float, float, float], pen: float, colour: str) -> None:
    """Strokes run inside the box by half a pen, so that the ink fills it exactly."""
    x0, y0, x1, y1 = box
    scale = np.array([x1 - x0 - pen, y1 - y0 - pen])
    width = LINE_WIDTH if canvas.lined else pen
    for stroke in LETTER_STROKES[letter]:
        canvas.stroke(np.array(stroke) * scale + (x0 + pen / 2, y0 + pen / 2), width, COLOUR_RGB[colour])
