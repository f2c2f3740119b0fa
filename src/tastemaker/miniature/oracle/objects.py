"""Finds the objects of a general scene: what differs from the backdrop, in connected pieces, each with shape and colour."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tastemaker.miniature.oracle import outlines
from tastemaker.miniature.oracle.pixels import (
    by_name,
    colour_distances,
    colour_names,
    distance,
    grown,
    median,
    mix,
    without_dither,
)
from tastemaker.miniature.world.description import SHAPES
from tastemaker.miniature.world.palette import PAPER

_VISIBLE = 40.0  # RGB distance from the backdrop at which a pixel belongs to something
_GHOST = 28.0  # the same for a smoothed picture, where faint stains show
_SPECK_PX = 12.0  # smaller pieces are specks, not objects
_GHOST_PX = 30
_PART_PX = 50  # area of the smallest object that may hide in a merged piece
_CLEAR = 0.86  # match from which a shape is beyond doubt
_REACH = 2  # px around a piece where its soft edge may lie
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Seen:
    """One object; `size` is the longer side in px, `shapes` the match in [0, 1] and `colours` the distance by name.

    `purity` is the share of its body in one colour. `hole_area` px are white in a line drawing of this shape; `hollow` is
    the share of them that is white here.
    """

    size: float
    centre: tuple[float, float]
    box: tuple[float, float, float, float]
    area: float
    shapes: dict[str, float]
    colours: dict[str, float]
    purity: float
    hole_area: float
    hollow: float

    @property
    def shape(self) -> str:
        return max(self.shapes, key=self.shapes.__getitem__)

    @property
    def colour(self) -> str:
        return min(self.colours, key=self.colours.__getitem__)

    @property
    def middle(self) -> tuple[float, float]:
        """The centre of the box, which is what the world places; a heart's or triangle's centroid lies off it."""
        x0, y0, x1, y1 = self.box
        return ((x0 + x1) / 2, (y0 + y1) / 2)

    @property
    def confidence(self) -> float:
        return self.shapes[self.shape]


@dataclass(frozen=True)
class Scene:
    """Everything on the backdrop; `stains` counts pieces that are no object: faint ghosts and specks."""

    objects: tuple[Seen, ...]
    stains: int
    backdrop: np.ndarray


def see_objects(pixels: np.ndarray, style: str) -> Scene:
    """`pixels` are floats in 0..255; `style` only tells how a shape would be drawn."""
    pixels = without_dither(pixels) if style == "pixel art" else pixels
    backdrop = _backdrop(pixels)
    away = distance(pixels, backdrop)
    labels, _ = ndimage.label(away > _VISIBLE, _EIGHT)
    objects, covered, specks = [], np.zeros(labels.shape, bool), 0
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        window = _widened(place)
        mine = labels[window] == label
        count = int(mine.sum())
        if count < 4:
            continue
        covered[window] |= mine
        if count < _SPECK_PX:
            specks += int(away[window][mine].max() > 80 and count >= 8)
            continue
        others = (labels[window] > 0) & ~mine
        objects += _see_piece(pixels[window], away[window], mine, others, backdrop, window, style)
    ghosts = _ghosts(pixels, away, backdrop, covered)
    return Scene(tuple(objects), specks + ghosts, backdrop)


def _backdrop(pixels: np.ndarray) -> np.ndarray:
    """The median colour of the outermost two pixels, where no object may be."""
    rim = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[2:-2, [0, 1, -2, -1]].reshape(-1, 3)])
    return median(rim)


def _widened(place: tuple[slice, slice]) -> tuple[slice, slice]:
    rows, columns = place
    return (
        slice(max(rows.start - _REACH, 0), rows.stop + _REACH),
        slice(max(columns.start - _REACH, 0), columns.stop + _REACH),
    )


def _ghosts(pixels: np.ndarray, away: np.ndarray, backdrop: np.ndarray, covered: np.ndarray) -> int:
    """Faint stains away from every object."""
    free = ~grown(covered, 3)
    if np.count_nonzero(free & (away > _GHOST / 2)) < _GHOST_PX:
        return 0
    smooth = ndimage.uniform_filter(pixels, (3, 3, 0))
    faint = (distance(smooth, backdrop) > _GHOST) & free
    if faint.sum() < _GHOST_PX:
        return 0
    labels, _ = ndimage.label(faint, _EIGHT)
    return int((np.bincount(labels.ravel())[1:] >= _GHOST_PX).sum())


def _see_piece(
    pixels: np.ndarray,
    away: np.ndarray,
    mine: np.ndarray,
    others: np.ndarray,
    backdrop: np.ndarray,
    window: tuple[slice, slice],
    style: str,
) -> list[Seen]:
    """One object, or several where differently coloured objects touch."""
    core = _core(away, mine)
    body = pixels[core]
    if style == "sepia":
        return _see_all(pixels, mine, others, backdrop, median(body), 1.0, window, style)
    named = colour_distances(body, backdrop, colour_names(style)).argmin(axis=1)
    shares = np.bincount(named) / len(named)
    main = int(shares.argmax())
    several = np.flatnonzero(shares >= 0.2)
    parts = _split(pixels, mine, backdrop, several, style) if shares[main] < 0.8 and len(several) > 1 else []
    if len(parts) > 1:
        return [
            _see_one(pixels, part, others | (mine & ~part), backdrop, median(pixels[part]), purity, window, style)
            for part, purity in parts
        ]
    colour, purity = median(body[named == main]), float(shares[main])
    return _see_all(pixels, mine, others, backdrop, colour, purity, window, style)


def _see_all(
    pixels: np.ndarray,
    mine: np.ndarray,
    others: np.ndarray,
    backdrop: np.ndarray,
    colour: np.ndarray,
    purity: float,
    window: tuple[slice, slice],
    style: str,
) -> list[Seen]:
    """One object; or several of one colour whose soft edges touch, if each alone has a clear shape."""
    whole = _see_one(pixels, mine, others, backdrop, colour, purity, window, style)
    if whole.confidence > _CLEAR or whole.area < 2 * _PART_PX:
        return [whole]
    strong = mine & (mix(pixels, backdrop, colour) > 0.6)
    labels, number = ndimage.label(strong)
    large = [label for label in range(1, number + 1) if (labels == label).sum() >= _PART_PX]
    if len(large) < 2:
        return [whole]
    nearest = ndimage.distance_transform_edt(~np.isin(labels, large), return_distances=False, return_indices=True)
    owner = labels[tuple(nearest)]
    parts = [mine & (owner == label) for label in large]
    seen = [_see_one(pixels, part, others | (mine & ~part), backdrop, colour, purity, window, style) for part in parts]
    return seen if all(part.confidence > _CLEAR for part in seen) else [whole]


def _core(away: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """The pixels of a piece that its edges do not touch, or its strongest where it is thin."""
    inner = ndimage.binary_erosion(mine, _EIGHT)
    if inner.sum() >= 0.25 * mine.sum():
        return inner
    return mine & (away >= np.percentile(away[mine], 55))


def _split(
    pixels: np.ndarray, mine: np.ndarray, backdrop: np.ndarray, wanted: np.ndarray, style: str
) -> list[tuple[np.ndarray, float]]:
    """Parts of a piece by colour: (mask, purity); only parts as large as an object count."""
    nearest = colour_distances(pixels, backdrop, colour_names(style))[..., wanted].argmin(axis=2)
    parts = []
    for index in range(len(wanted)):
        labels, _ = ndimage.label(mine & (nearest == index), _EIGHT)
        sizes = np.bincount(labels.ravel())[1:]
        if len(sizes) and sizes.max() >= 40:
            parts.append((labels == 1 + int(sizes.argmax()), float(sizes.max() / sizes.sum())))
    return parts


def _see_one(
    pixels: np.ndarray,
    mine: np.ndarray,
    others: np.ndarray,
    backdrop: np.ndarray,
    colour: np.ndarray,
    purity: float,
    window: tuple[slice, slice],
    style: str,
) -> Seen:
    """`mine` are its pixels in the crop at `window`, `others` those of other pieces there."""
    edge = grown(mine, _REACH)
    ink = mix(pixels, backdrop, colour) * (edge & ~others)
    ink = np.where(ink < 0.12, 0, ink)  # noise of the backdrop
    solid = _without_holes(ink) if style == "line drawing" else ink
    x, y = outlines.centroid(solid)
    mask = outlines.centred(solid, x, y)
    library = outlines.blocky_library() if style == "pixel art" else outlines.filled_library()
    picks, match = library.match(mask, 1 if style == "pixel art" else 2)
    best = match.argmax(axis=1)
    shapes = {shape: float(match[i, best[i]]) for i, shape in enumerate(SHAPES)}
    winner = int(match.max(axis=1).argmax())
    size = float(library.sizes[picks[winner, best[winner]]])
    left, top = window[1].start, window[0].start
    columns, rows = np.flatnonzero((solid > 0.5).any(axis=0)), np.flatnonzero((solid > 0.5).any(axis=1))
    box = (left + x, top + y, left + x, top + y)
    if len(columns) and len(rows):
        box = (float(left + columns[0]), float(top + rows[0]), float(left + columns[-1] + 1), float(top + rows[-1] + 1))
    hole = _hole(ink, x, y, SHAPES[winner], size)
    names = colour_names(style)
    colours = by_name(colour_distances(colour, backdrop, names), names)
    return Seen(size, (left + x, top + y), box, float(solid.sum()), shapes, colours, purity, *hole)


def _without_holes(ink: np.ndarray) -> np.ndarray:
    """The silhouette: whatever the outline keeps apart from the border is solid."""
    field = np.pad(ink, 1)
    labels, _ = ndimage.label(field < 0.45)
    inside = (labels != labels[0, 0])[1:-1, 1:-1]
    return np.where(inside & (ink < 0.45), 1.0, np.where(_beside(inside & (ink < 0.45)), 1.0, ink))


def _beside(inside: np.ndarray) -> np.ndarray:
    """Inner edges of the outline are soft too, and belong to the silhouette."""
    return grown(inside)


def _hole(ink: np.ndarray, x: float, y: float, shape: str, size: float) -> tuple[float, float]:
    """The area in px that a line drawing of the shape leaves white, and how much of it is white."""
    hole = outlines.hole_mask(shape, size)
    total = float(hole.sum())
    inked = float((outlines.centred(ink, x, y) * hole).sum())
    return total, 1 - inked / total if total else 0.5


def whiteness(backdrop: np.ndarray) -> float:
    """1 for the paper of a line drawing, 0 for the painted backdrops; the nearest of them is 7 grey levels darker."""
    return float(np.clip((backdrop.min() - 248) / (min(PAPER) - 248), 0, 1))
