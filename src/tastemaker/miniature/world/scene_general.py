"""Draws shapes on a backdrop."""

from tastemaker.miniature.world.canvas import Canvas
from tastemaker.miniature.world.description import General
from tastemaker.miniature.world.layout import GeneralLayout, boxes
from tastemaker.miniature.world.palette import COLOUR_RGB
from tastemaker.miniature.world.placement import SIZE_PX
from tastemaker.miniature.world.shapes import OUTLINES


def draw_general(canvas: Canvas, description: General, layout: GeneralLayout) -> None:
    """Objects never overlap, so their order does not matter."""
    for thing, (x0, y0, x1, y1) in zip(description.objects, boxes(description, layout), strict=True):
        centre = ((x0 + x1) / 2, (y0 + y1) / 2)
        if canvas.style == "pixel art":  # whole blocks, so that shapes come out symmetric
            half_x, half_y = (x1 - x0) / 2, (y1 - y0) / 2
            centre = (canvas.on_grid(x0) + half_x, canvas.on_grid(y0 + 2 * half_y) - half_y)
        outline = OUTLINES[thing.shape] * SIZE_PX[thing.size] + centre
        canvas.polygon(outline, COLOUR_RGB[thing.colour])
