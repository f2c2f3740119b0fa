"""What an edit is about: for each category, the pixels that it may change, and whether all else stayed in its place."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tastemaker.miniature.oracle.face_maps import backdrop_of
from tastemaker.miniature.oracle.faces import Face, see_face
from tastemaker.miniature.oracle.general import assign
from tastemaker.miniature.oracle.landscapes import Place, View
from tastemaker.miniature.oracle.likeness import PROPORTIONS
from tastemaker.miniature.oracle.objects import Seen, see_objects
from tastemaker.miniature.oracle.pixels import distance, grown, in_style
from tastemaker.miniature.oracle.reading import graded
from tastemaker.miniature.oracle.signs import see_sign, writing
from tastemaker.miniature.world.description import Description, General, Landscape, Portrait, Thing, Typography
from tastemaker.miniature.world.edit_steps import Moved
from tastemaker.miniature.world.layout import FACE_RANGES, PortraitLayout
from tastemaker.miniature.world.palette import BACKDROPS, GROUND_INK, GROUND_RGB, MOUNTAIN, SKY_RGB, TRUNK, WAVE
from tastemaker.miniature.world.renderer import render

_MARGIN = 4  # px around what is touched, for soft edges
_CLEAR = 0.5  # match of a part of a landscape whose place counts


@dataclass(frozen=True)
class Touched:
    """`mask` may change; `steady` in [0, 1] says whether what should not move has not moved."""

    mask: np.ndarray
    steady: float


def _boxed(boxes: list[tuple[float, float, float, float]]) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    for x0, y0, x1, y1 in boxes:
        mask[max(int(y0), 0) : int(np.ceil(y1)), max(int(x0), 0) : int(np.ceil(x1))] = True
    return mask


def touched(source: np.ndarray, output: np.ndarray, old: Description, new: Description, moved: Moved | None) -> Touched:
    """`source` and `output` are float pixels; `old` and `new` their descriptions, of one category."""
    match old, new:
        case General(), General():
            return _objects(source, output, old, new, moved)
        case Portrait(), Portrait():
            return _face(source, old, new)
        case Landscape(), Landscape():
            return _landscape(source, output, old, new)
        case Typography(), Typography():
            return _sign(source, output, old, new)
    raise ValueError(f"source is {old.category!r} and target {new.category!r}; allowed: both of one category")


def _objects(source: np.ndarray, output: np.ndarray, old: General, new: General, moved: Moved | None) -> Touched:
    seen = [
        assign(see_objects(pixels, scene.style).objects, scene.objects, "sepia" not in (old.style, new.style))
        for pixels, scene in ((source, old), (output, new))
    ]
    pairs, rest = _pairs(list(zip(old.objects, seen[0], strict=True)), list(zip(new.objects, seen[1], strict=True)))
    free = _free(pairs, old, new, moved)
    still = [pair for i, pair in enumerate(pairs) if i != free]
    boxes = [one.box for one in rest if one] + [one.box for i, pair in enumerate(pairs) if i == free for one in pair[1:] if one]
    steady = min((_stays(before, after) for _, before, after in still), default=1.0)
    in_place = min((_stays(*two, slack=2.0) for two in _exchanged(old, new, *seen)), default=1.0)
    return Touched(grown(_boxed(boxes), _MARGIN), min(steady, in_place))


_Named = tuple[Thing, Seen | None]


def _pairs(before: list[_Named], after: list[_Named]) -> tuple[list[tuple[Thing, Seen | None, Seen | None]], list[Seen | None]]:
    """Objects of equal look in both pictures, the nearest with each other; and those without a partner."""
    pairs, rest = [], []
    left = list(after)
    for thing, seen in before:
        alike = [i for i, (other, _) in enumerate(left) if replace(other, count=1) == replace(thing, count=1)]
        if not alike:
            rest.append(seen)
            continue
        partner = left.pop(min(alike, key=lambda i: _way(seen, left[i][1])))
        pairs.append((thing, seen, partner[1]))
    return pairs, rest + [seen for _, seen in left]


def _way(one: Seen | None, two: Seen | None) -> float:
    return 99.0 if one is None or two is None else float(np.hypot(one.middle[0] - two.middle[0], one.middle[1] - two.middle[1]))


def _free(pairs: list, old: General, new: General, moved: Moved | None) -> int | None:
    """The pair that may move: the one named, or in a scene of the same things the one that moved furthest."""
    if moved is not None:
        named = [i for i, (thing, _, _) in enumerate(pairs) if (thing.shape, thing.colour) == (moved.shape, moved.colour)]
        return named[0] if named else None
    if old.things == new.things and (old.relation != new.relation or old == new) and pairs:
        return max(range(len(pairs)), key=lambda i: _way(*pairs[i][1:]))
    return None


def _exchanged(old: General, new: General, before: list[Seen | None], after: list[Seen | None]) -> list[tuple[Seen, Seen]]:
    """Objects that changed their look; they keep their place. In a counted group the nearest belong together."""
    if len(before) != len(after) or len(old.things) != len(new.things):
        return []
    if old.kind == "count" and old.things != new.things:
        left = [seen for seen in after if seen]
        return [(one, left.pop(min(range(len(left)), key=lambda i: _way(one, left[i])))) for one in before if one and left]
    looks = zip(old.objects, new.objects, before, after, strict=True)
    changed = [(thing, other, one, two) for thing, other, one, two in looks if thing != other and one and two]
    # another shape in another colour may as well be one thing taken away and one put elsewhere
    return [(one, two) for thing, other, one, two in changed if thing.shape == other.shape or thing.colour == other.colour]


def _stays(before: Seen | None, after: Seen | None, slack: float = 1.0) -> float:
    """In place and, without `slack`, of the same size."""
    if before is None or after is None:
        return 0.0
    place = graded(_way(before, after) / slack, 6, 2.5, 1.2)
    return place if slack > 1 else min(place, graded(abs(before.size - after.size), 8, 3.5, 1.5))


def _face(source: np.ndarray, old: Portrait, new: Portrait) -> Touched:
    """The face that was seen, drawn as both descriptions say, shows which pixels the edit is about."""
    layout = _portrait_layout(see_face(source, old.style, measured=True), source)
    before, after = (render(scene, layout).astype(np.float32) for scene in (old, new))
    return Touched(grown(np.abs(before - after).max(axis=2) > 10, _MARGIN), 1.0)


def _portrait_layout(face: Face, pixels: np.ndarray) -> PortraitLayout:
    sizes = {name: float(np.clip(face.proportions[name], *FACE_RANGES[name])) for name in PROPORTIONS}
    backdrop = int(distance(np.array(BACKDROPS, np.float32), backdrop_of(pixels)).argmin())
    return PortraitLayout(backdrop, **sizes)


def _sign(source: np.ndarray, output: np.ndarray, old: Typography, new: Typography) -> Touched:
    shifts = [see_sign(pixels, sign.style, len(sign.text)).shift for pixels, sign in ((source, old), (output, new))]
    steady = graded(float(np.hypot(shifts[0][0] - shifts[1][0], shifts[0][1] - shifts[1][1])), 5, 2.0, 0.8)
    return Touched(grown(writing(source, old.style) | writing(output, new.style), 2), steady)


def _landscape(source: np.ndarray, output: np.ndarray, old: Landscape, new: Landscape) -> Touched:
    views = (View(source, old.style), View(output, new.style))
    parts = [np.zeros((64, 64), bool)]
    for view, scene in zip(views, (old, new), strict=True):
        if old.time != new.time:
            parts += [_coloured(view, [SKY_RGB[scene.time]], 60), view.strokes[1]]
        if old.ground != new.ground:
            table = GROUND_INK if view.lined else GROUND_RGB
            parts.append(_coloured(view, [table[scene.ground], WAVE], 60) & (np.arange(64) > 36)[:, None])
        if old.weather != new.weather:
            parts += [view.strokes[1], view.flakes[1]]
            parts += [_around(view.clouds, 14, 12)] if scene.weather == "cloudy" else []
        if old.sky_body != new.sky_body and scene.sky_body != "none":
            parts.append(_around([view.sun if scene.sky_body == "sun" else view.moon], 10, 10))
        if old.trees != new.trees:
            crowns = view.trees[: scene.trees]
            parts += [_around(crowns, 9, 10), _around(crowns, 4, 16), _coloured(view, [TRUNK], 40)]
        if old.mountains != new.mountains:
            parts.append(_coloured(view, [MOUNTAIN], 60) & (np.arange(64) < 50)[:, None])
    return Touched(grown(np.any(parts, axis=0), 3), _stays_there(*views, old, new))


def _coloured(view: View, colours: list, reach: float) -> np.ndarray:
    reach = reach if view.style != "sepia" else reach / 2
    return np.any([distance(view.pixels, in_style(colour, view.style)) < reach for colour in colours], axis=0)


def _around(places: list[Place], half_width: float, half_height: float) -> np.ndarray:
    return _boxed([(x - half_width, y - half_height, x + half_width, y + half_height) for _, x, y in places])


def _stays_there(before: View, after: View, old: Landscape, new: Landscape) -> float:
    """The horizon and, where the edit is not about them, sun or moon, mountains and trees have kept their places."""
    slack = 2.0 if "pixel art" in (old.style, new.style) else 1.0
    lines = before.horizon, after.horizon
    scores = [1.0]
    if lines[0] is not None and lines[1] is not None:
        scores.append(graded(abs(lines[0] - lines[1]) / slack, 6, 3, 1.2))
    if old.sky_body == new.sky_body != "none":
        bodies = [[view.sun if old.sky_body == "sun" else view.moon] for view in (before, after)]
        scores.append(_stay(bodies[0], bodies[1], slack))
    if old.mountains and new.mountains and old.trees == new.trees:
        scores.append(_stay(before.mountains, after.mountains, slack, min))  # a cloud may hide the other tip
    if old.trees == new.trees > 0:
        scores.append(_stay(before.trees[: old.trees], after.trees[: new.trees], slack))
    return min(scores)


def _stay(before: list[Place], after: list[Place], slack: float, worst: Callable = max) -> float:
    """Every clear place of the source is found again; with `min` as `worst`, at least one."""
    clear, others = ([(x, y) for match, x, y in places if match >= _CLEAR] for places in (before, after))
    if not clear or not others:
        return 0.0 if clear else 1.0
    return graded(worst(min(float(np.hypot(x - u, y - v)) for u, v in others) for x, y in clear) / slack, 10, 5, 2)
