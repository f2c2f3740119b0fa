"""Description + layout -> picture. No randomness: the same pair always gives the same bytes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tastemaker.miniature.world.canvas import Canvas
from tastemaker.miniature.world.description import Description
from tastemaker.miniature.world.layout import Layout
from tastemaker.miniature.world.palette import BACKDROPS
from tastemaker.miniature.world.scene_general import draw_general
from tastemaker.miniature.world.scene_landscape import draw_landscape
from tastemaker.miniature.world.scene_portrait import draw_portrait
from tastemaker.miniature.world.scene_typography import draw_typography

_DRAW: dict[str, Callable[[Canvas, Any, Any], None]] = {
    "general": draw_general,
    "portrait": draw_portrait,
    "landscape": draw_landscape,
    "typography": draw_typography,
}
# Pixel-art block in px: the coarsest at which every fact stays readable.
BLOCK_PX = {"general": 2, "portrait": 2, "landscape": 4, "typography": 2}


def render(description: Description, layout: Layout) -> np.ndarray:
    """The picture, RGB uint8 of shape (64, 64, 3); ValueError where the layout is of another category."""
    category = description.category
    if layout.category != category:
        raise ValueError(f"layout is for {layout.category!r}; allowed: {category!r}, the description's category")
    shade = 0 if description.style == "sepia" else getattr(layout, "backdrop", 0)  # sepia needs the palest
    canvas = Canvas(description.style, BACKDROPS[shade], BLOCK_PX[category])
    _DRAW[category](canvas, description, layout)
    return canvas.finish()
