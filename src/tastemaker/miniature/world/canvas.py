"""A supersampled canvas that knows the four styles, so that scenes are drawn once for all of them.

`plain` fills areas, averages SUPER x SUPER samples per pixel and softens the result a little, as a camera's lens does
(SOFT). `line drawing` replaces every filled area by white paper with an inner outline of LINE_WIDTH px. `pixel art` takes
one sample per block, without averaging, and adds a faint 4 px checkerboard dither. `sepia` maps the plain picture's
luminance (ITU-R 601, to the power SEPIA_GAMMA) onto one brown scale.
"""

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tastemaker.miniature.world.palette import PAPER, RGB, SEPIA_DARK, SEPIA_PALE

SIZE = 64
SUPER = 4
LINE_WIDTH = 3.0
DITHER = 8  # tile brightness is +-DITHER
DITHER_TILE = 4
SOFT = ImageFilter.Kernel((3, 3), [1, 8, 1, 8, 64, 8, 1, 8, 1])  # edges over two pixels: a VAE keeps them 2 dB better
SEPIA_GAMMA = 1.6  # spreads the pale end, where yellow would fade into the backdrop

_TILES = np.arange(SIZE) // DITHER_TILE % 2
_DITHER_HW1 = (np.where(_TILES[:, None] == _TILES[None, :], DITHER, -DITHER)).astype(np.int16)[..., None]
_RAMP = np.linspace(0, 1, 256)[:, None] ** SEPIA_GAMMA
_SEPIA_RAMP = np.round((1 - _RAMP) * np.array(SEPIA_DARK) + _RAMP * np.array(SEPIA_PALE)).astype(np.uint8)


def sepia_brightness(colour: RGB) -> float:
    """Where a colour lies on the brown scale, from 0 (dark) to 1 (pale)."""
    red, green, blue = colour
    return ((0.299 * red + 0.587 * green + 0.114 * blue) / 255) ** SEPIA_GAMMA


class Canvas:
    """Coordinates and widths are px of the final 64x64 picture."""

    def __init__(self, style: str, backdrop: RGB, block: int) -> None:
        self.style = style
        self.block = block
        self.lined = style == "line drawing"
        self._image = Image.new("RGB", (SIZE * SUPER, SIZE * SUPER), PAPER if self.lined else backdrop)
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: np.ndarray | Iterable, colour: RGB, ink: RGB | None = None, solid: bool = False) -> None:
        """A filled area; in a line drawing its outline in `ink` (else `colour`), unless it is `solid`."""
        corners = (np.asarray(points, dtype=float) * SUPER).ravel().tolist()
        if self.lined and not solid:
            self._outline(corners, ink or colour)
        else:
            self._draw.polygon(corners, fill=(ink or colour) if self.lined else colour)

    def _outline(self, corners: list[float], colour: RGB) -> None:
        """White inside, and a line along the inner side of the edge: a line twice as wide, cut by the area.

        Pillow's own wide polygon outline leaves holes where a curve bends inwards.
        """
        area, edge = Image.new("1", self._image.size), Image.new("1", self._image.size)
        ImageDraw.Draw(area).polygon(corners, fill=1)
        closed = corners + corners[:4]
        ImageDraw.Draw(edge).line(closed, fill=1, width=round(2 * LINE_WIDTH * SUPER), joint="curve")
        self._draw.polygon(corners, fill=PAPER)
        self._image.paste(colour, mask=ImageChops.logical_and(area, edge))

    def ellipse(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        colour: RGB,
        ink: RGB | None = None,
        solid: bool = False,
    ) -> None:
        """A filled ellipse with half axes `radii`; in a line drawing as `polygon`."""
        (x, y), (a, b) = centre, radii
        box = [(x - a) * SUPER, (y - b) * SUPER, (x + a) * SUPER - 1, (y + b) * SUPER - 1]
        if self.lined and not solid:
            self._draw.ellipse(box, fill=PAPER, outline=ink or colour, width=round(LINE_WIDTH * SUPER))
        else:
            self._draw.ellipse(box, fill=(ink or colour) if self.lined else colour)

    def rectangle(
        self, box: tuple[float, float, float, float], colour: RGB, ink: RGB | None = None, solid: bool = False
    ) -> None:
        """A filled (x0, y0, x1, y1); in a line drawing as `polygon`."""
        corners = [box[0] * SUPER, box[1] * SUPER, box[2] * SUPER - 1, box[3] * SUPER - 1]
        if self.lined and not solid:
            self._draw.rectangle(corners, fill=PAPER, outline=ink or colour, width=round(LINE_WIDTH * SUPER))
        else:
            self._draw.rectangle(corners, fill=(ink or colour) if self.lined else colour)

    def stroke(self, points: np.ndarray | Iterable, width: float, colour: RGB, round_ends: bool = True) -> None:
        """A polyline with round joints, the same in every style but never thinner than a pixel-art block."""
        width = max(width, self.block) if self.style == "pixel art" else width
        corners = np.asarray(points, dtype=float) * SUPER
        self._draw.line(corners.ravel().tolist(), fill=colour, width=round(width * SUPER), joint="curve")
        if round_ends:
            radius = width * SUPER / 2
            for x, y in (corners[0], corners[-1]):
                self._draw.ellipse([x - radius, y - radius, x + radius - 1, y + radius - 1], fill=colour)

    def on_grid(self, length: float) -> float:
        """The nearest multiple of a pixel-art block."""
        return float(self.block * round(length / self.block))

    def finish(self) -> np.ndarray:
        """The picture, uint8 of shape (64, 64, 3)."""
        if self.style == "pixel art":
            return self._blocks()
        picture = self._image.reduce(SUPER)
        if self.style == "sepia":
            picture = Image.fromarray(_SEPIA_RAMP[np.asarray(picture.convert("L"))])
        return np.array(picture.filter(SOFT))

    def _blocks(self) -> np.ndarray:
        step = self.block * SUPER
        samples = np.asarray(self._image)[step // 2 :: step, step // 2 :: step]
        picture = samples.repeat(self.block, axis=0).repeat(self.block, axis=1).astype(np.int16)
        return np.clip(picture + _DITHER_HW1, 0, 255).astype(np.uint8)
