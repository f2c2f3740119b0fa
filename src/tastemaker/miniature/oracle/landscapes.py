"""Finds the parts of a landscape: sky, ground, sun or moon, clouds, rain, snow, trees and mountains."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from scipy import ndimage

from tastemaker.miniature.oracle import scenery
from tastemaker.miniature.oracle.pixels import (
    all_colours,
    by_name,
    codes_of,
    colour_distances,
    colour_names,
    distance,
    grown,
    in_style,
    median,
    mix_only,
    without_dither,
)
from tastemaker.miniature.oracle.search import Map, Template, peaks
from tastemaker.miniature.world.palette import (
    CLOUD,
    CLOUD_INK,
    CROWN,
    GROUND_INK,
    GROUND_RGB,
    MOON,
    MOON_INK,
    MOUNTAIN,
    PAPER,
    RAIN_RGB,
    RGB,
    SKY_RGB,
    SNOWFLAKE,
    SNOWFLAKE_INK,
    SUN,
)

_SKY = (slice(0, 26), slice(0, 64))
_GROUND = (slice(50, 64), slice(0, 64))
_FRAME_ROW = 1  # a line drawing shows sky and ground in the frame
_BODY_PLACES = (slice(7, 19), slice(7, 57))
_CLOUD_PLACES = (slice(7, 32), slice(9, 56))
_CROWN_PLACES = (slice(28, 52), slice(7, 58))
_PEAK_PLACES = (slice(16, 34), slice(9, 56))
_FALLING_ROWS = 50  # rain and snow end above this row
_BETWEEN_TREES = np.r_[0:3, 21:23, 41:43, 61:64]  # columns that no crown covers
_EIGHT = np.ones((3, 3), bool)
_STROKE_PX = (9, 64)  # area of a rain stroke; two may touch
_FLAKE_PX = (7, 40)
_LEAST_CLOUD_PX = 50
Place = tuple[float, float, float]  # match, x, y


@dataclass(frozen=True)
class Layer:
    """Sky or ground: distances of its colour to the names, and the share of its area that has the nearest of them."""

    distances: dict[str, float]
    share: float

    @property
    def name(self) -> str:
        return min(self.distances, key=self.distances.__getitem__)


class View:
    """A landscape being looked at; every part is searched when first asked for."""

    def __init__(self, pixels: np.ndarray, style: str) -> None:
        self.style = style
        self.lined = style == "line drawing"
        self.pixels = without_dither(pixels) if style == "pixel art" else pixels

    @cached_property
    def sky(self) -> Layer:
        return self._layer(_SKY, "sky", _FRAME_ROW)

    @cached_property
    def ground(self) -> Layer:
        return self._layer(_GROUND, "ground", 63 - _FRAME_ROW)

    def _layer(self, area: tuple[slice, slice], group: str, row: int) -> Layer:
        if self.lined:
            names, body = colour_names(self.style, f"{group} ink" if group == "ground" else group), self.pixels[row]
            away = colour_distances(body, np.array(PAPER, np.float32), names)
        else:
            names, body = colour_names(self.style, group), self.pixels[area][::2, ::2].reshape(-1, 3)
            away = distance(body[:, None], names.rgb[None])
        nearest, close = away.argmin(axis=1), away.min(axis=1) < 45
        counts = np.bincount(nearest[close], minlength=len(names.names))
        main = int(counts.argmax())
        if not counts[main]:
            return Layer(dict.fromkeys(names.names, 200.0), 0.0)
        found = median(away[close & (nearest == main)])
        return Layer(by_name(found, names), float(counts[main] / len(body)))

    def _toward(self, fill: RGB, ink: RGB, thin: bool = False, sepia_width: float = 26.0) -> np.ndarray:
        """How much of each pixel is of a colour of the palette, on the sky, on paper or on anything else.

        In sepia, where one tone lies on the way to another, blends with the sky count for `thin` things only.
        """
        return _table(self.style, self.sky.name, fill, ink, thin, sepia_width)[self._codes]

    @cached_property
    def _codes(self) -> np.ndarray:
        return codes_of(self.pixels)

    @cached_property
    def _sky_colour(self) -> np.ndarray:
        return in_style(SKY_RGB[self.sky.name], self.style)

    @cached_property
    def strokes(self) -> tuple[int, np.ndarray]:
        """Number and place of what looks like rain."""
        colour = RAIN_RGB["day" if self.lined else self.sky.name]
        rise = 0 if self.style == "pixel art" else 1  # blocks make strokes as wide as high
        return _pieces(self._toward(colour, colour, thin=True) > 0.45, _STROKE_PX, rise)

    @cached_property
    def flakes(self) -> tuple[int, np.ndarray]:
        """Number and place of what looks like snow."""
        beside_rain = grown(self.strokes[1], 2)  # whose soft edges may be as pale
        return _pieces((self._toward(SNOWFLAKE, SNOWFLAKE_INK, thin=True) > 0.45) & ~beside_rain, _FLAKE_PX, None)

    @cached_property
    def _unhidden(self) -> np.ndarray | None:
        """What neither rain nor snow covers; None where none falls."""
        number, place = max(self.strokes, self.flakes, key=lambda pieces: pieces[0])
        return ~grown(place) if number >= 4 else None

    def _find(
        self, found: np.ndarray, template: Template, window: tuple[slice, slice], number: int, apart: float
    ) -> list[Place]:
        return peaks(Map(found, self._unhidden).match(template), window, number, apart)

    def _body(self, found: np.ndarray, body: str) -> Place:
        """In pixel art a disc or crescent looks different at every phase of the block grid."""
        searched = Map(found, self._unhidden)
        places = [peaks(searched.match(template), _BODY_PLACES, 1, 1)[0] for template in scenery.bodies(body, self.style)]
        return max(places, key=lambda place: place[0])

    @cached_property
    def sun(self) -> Place:
        return self._body(self._toward(SUN, SUN), "sun")

    @cached_property
    def moon(self) -> Place:
        thin = self.sky.name != "sunset"  # where a sepia sun lies on the way from sky to moon
        return self._body(self._toward(MOON, MOON_INK, thin, sepia_width=36.0), "moon")

    @cached_property
    def clouds(self) -> list[Place]:
        found = self._toward(CLOUD, CLOUD_INK)
        if found[:40].sum() < _LEAST_CLOUD_PX:
            return [(0.0, 32.0, 16.0)] * 2
        return self._find(found, scenery.cloud(self.lined), _CLOUD_PLACES, 2, 12)

    @cached_property
    def trees(self) -> list[Place]:
        """The four best places for a crown."""
        return self._find(self._toward(CROWN, CROWN), scenery.crown(self.lined), _CROWN_PLACES, 4, 11)

    @cached_property
    def mountains(self) -> list[Place]:
        """The two best places for a tip."""
        return self._find(self._toward(MOUNTAIN, MOUNTAIN), scenery.peak(self.lined), _PEAK_PLACES, 2, 14)

    @cached_property
    def horizon(self) -> float | None:
        """The first row of the ground, to a fraction of a pixel; None where the ground cannot be told from the sky."""
        table = GROUND_INK if self.lined else GROUND_RGB
        ground = in_style(table[self.ground.name], self.style)
        if float(np.linalg.norm(ground - self._sky_colour)) < 30:
            return None
        above_it = np.array(PAPER, np.float32) if self.lined else self._sky_colour
        columns = _BETWEEN_TREES[3:-3] if self.lined else _BETWEEN_TREES  # without a line drawing's frame
        rows = np.median(mix_only(self.pixels[34:52, columns], above_it, ground, 60.0), axis=1)
        first = np.flatnonzero((rows[:-1] > 0.5) & (rows[1:] > 0.5))
        return 35.0 + float(first[0]) - float(rows[first[0]]) if len(first) else None

    @cached_property
    def hollow(self) -> float:
        """Share of sky and ground that is paper white."""
        paper = np.array(PAPER, np.float32)
        white = [(distance(area, paper) < 30).mean() for area in (self.pixels[6:38, 5:59], self.pixels[49:60, 5:59])]
        return float(min(1.0, white[0] / 0.5, white[1] / 0.5))


@cache
def _table(style: str, sky: str, fill: RGB, ink: RGB, thin: bool, sepia_width: float) -> np.ndarray:
    """`View._toward` for every colour code."""
    colours = all_colours()
    if style == "line drawing":
        return mix_only(colours, np.array(PAPER, np.float32), in_style(ink, style), 42.0)
    colour = in_style(fill, style)
    width = sepia_width if style == "sepia" else 42.0
    near = np.exp(-((distance(colours, colour) / width) ** 2))
    if style == "sepia" and not thin:
        return near
    return np.maximum(near, mix_only(colours, in_style(SKY_RGB[sky], style), colour, width))


def _pieces(found: np.ndarray, areas: tuple[int, int], rise: int | None) -> tuple[int, np.ndarray]:
    """Pieces of the wanted area above the ground's lower part, and where they are.

    Strokes are higher than wide by at least `rise` px; flakes, with `rise` None, are small both ways.
    """
    found = found.copy()
    found[_FALLING_ROWS:] = False
    if np.count_nonzero(found) < 3 * areas[0]:
        return 0, np.zeros_like(found)
    labels, number = ndimage.label(found, _EIGHT)
    sizes = np.bincount(labels.ravel())
    good = np.zeros(number + 1, bool)
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        height, width = place[0].stop - place[0].start, place[1].stop - place[1].start
        shaped = max(height, width) <= 9 if rise is None else 4 <= height <= 22 and width + rise <= height
        good[label] = shaped and areas[0] <= sizes[label] <= areas[1]
    return int(good.sum()), good[labels]
