"""Reads a scene of shapes against its description."""

from itertools import permutations

import numpy as np

from tastemaker.miniature.oracle.objects import Scene, Seen, see_objects, whiteness
from tastemaker.miniature.oracle.pixels import colour_score
from tastemaker.miniature.oracle.reading import graded
from tastemaker.miniature.oracle.styles import style_score
from tastemaker.miniature.world.description import General, Thing
from tastemaker.miniature.world.placement import SIZE_PX

_SMALL_TO_MEDIUM = float(np.sqrt(SIZE_PX["small"] * SIZE_PX["medium"]))
_MEDIUM_TO_LARGE = float(np.sqrt(SIZE_PX["medium"] * SIZE_PX["large"]))
_PAPER_WEIGHT = 12.0  # px of hole that the colour of the paper is worth
_MANY = 8  # more objects than this are never assigned one by one


def general_fact_names(description: General) -> tuple[str, ...]:
    """Stable names of the facts, in the order of `general_scores`."""
    names = []
    for number, thing in enumerate(description.things, start=1):
        names.append(f"object {number} shape")
        if description.style != "sepia":
            names.append(f"object {number} colour")
        if thing.size != "medium":
            names.append(f"object {number} size")
    if description.kind == "count":
        names.append("count")
    if description.relation:
        names.append("relation")
    return (*names, "no extra objects", "style")


def general_scores(pixels: np.ndarray, description: General) -> dict[str, float]:
    """Scores by fact name, for float pixels in 0..255."""
    scene = see_objects(pixels, description.style)
    scores = _counted(scene, description) if description.kind == "count" else _named(scene, description)
    hollow = _hollow(scene)
    scores["style"] = style_score(pixels, description.style, hollow) if scene.objects else 0.0
    return {name: scores[name] for name in general_fact_names(description)}


def shape_score(seen: Seen, shape: str) -> float:
    """Whether an object is clearly of this shape: a good match, and a better one than any other shape's."""
    rival = max(match for name, match in seen.shapes.items() if name != shape)
    own = seen.shapes[shape]
    return min(graded(own, 0.6, 0.8, 0.92), graded(own - rival, -0.25, 0.008, 0.04))


def object_colour_score(seen: Seen, colour: str) -> float:
    return min(colour_score(seen.colours, colour), graded(seen.purity, 0.4, 0.75, 0.9))


def size_score(seen: Seen, size: str) -> float:
    """Size classes meet half way (geometrically) between the sizes of the world."""
    if size == "small":
        return graded(seen.size, 20, _SMALL_TO_MEDIUM, 15)
    if size == "large":
        return graded(seen.size, 20, _MEDIUM_TO_LARGE, 26)
    return min(graded(seen.size, 14, _SMALL_TO_MEDIUM, 18.5), graded(seen.size, 28, _MEDIUM_TO_LARGE, 22))


def _likeness(seen: Seen, thing: Thing, coloured: bool) -> float:
    """How well an object fits a thing, for pairing them up."""
    scores = [shape_score(seen, thing.shape), size_score(seen, thing.size)]
    if coloured:
        scores.append(object_colour_score(seen, thing.colour))
    return float(np.dot(scores, (1.0, 0.4, 1.0)[: len(scores)]))


def assign(objects: tuple[Seen, ...], things: tuple[Thing, ...], coloured: bool) -> list[Seen | None]:
    """For each thing the object that stands for it, by the best total likeness."""
    candidates = sorted(objects, key=lambda seen: -seen.area)[:_MANY]
    slots: list[Seen | None] = [*candidates, *([None] * max(0, len(things) - len(candidates)))]
    table = [[_likeness(seen, thing, coloured) if seen else -0.1 for thing in things] for seen in slots]
    best = max(
        permutations(range(len(slots)), len(things)),
        key=lambda order: sum(table[slot][i] for i, slot in enumerate(order)),
    )
    return [slots[slot] for slot in best]


def _crowding(seen: int, wanted: int) -> float:
    """1 up to one object too many, then falling: who paints everything has painted nothing."""
    return wanted / max(wanted, seen - 1)


def _named(scene: Scene, description: General) -> dict[str, float]:
    coloured = description.style != "sepia"
    chosen = assign(scene.objects, description.things, coloured)
    crowding = _crowding(len(scene.objects), len(description.things))
    scores: dict[str, float] = {}
    for number, (seen, thing) in enumerate(zip(chosen, description.things, strict=True), start=1):
        scores[f"object {number} shape"] = crowding * shape_score(seen, thing.shape) if seen else 0.0
        scores[f"object {number} colour"] = crowding * object_colour_score(seen, thing.colour) if seen else 0.0
        scores[f"object {number} size"] = crowding * size_score(seen, thing.size) if seen else 0.0
    found = sum(seen is not None for seen in chosen)
    extra = len(scene.objects) - found + scene.stains
    scores["no extra objects"] = (0.45**extra if extra else 1.0) * found / len(chosen) if found else 0.0
    if description.relation:
        first, second = chosen[:2]
        scores["relation"] = _relation(first, second, description, crowding) if first and second else 0.0
        one, two = description.things
        if first and second and not coloured and (one.shape, one.size) == (two.shape, two.size):  # either may be meant
            scores["relation"] = max(scores["relation"], _relation(second, first, description, crowding))
    return scores


def _relation(first: Seen, second: Seen, description: General, crowding: float) -> float:
    """Centre differences as the world places them, with room for a few pixels of error; 0 for unidentified objects."""
    horizontal = description.relation in ("left of", "right of")
    sign = 1 if description.relation in ("left of", "above") else -1
    axis = 0 if horizontal else 1
    ahead = sign * (second.middle[axis] - first.middle[axis])
    aside = abs(second.middle[1 - axis] - first.middle[1 - axis])
    identified = crowding
    for seen, thing in zip((first, second), description.things, strict=True):
        looks = [shape_score(seen, thing.shape)]
        if description.style != "sepia":
            looks.append(object_colour_score(seen, thing.colour))
        identified = min(identified, 2 * max(looks))
    return min(graded(ahead, -16, 8, 14), graded(ahead - aside, -16, -1, 2), identified)


def _counted(scene: Scene, description: General) -> dict[str, float]:
    """Every object that has the thing's shape or colour counts; anything else is extra."""
    (thing,) = description.things
    coloured = description.style != "sepia"
    shape = [shape_score(seen, thing.shape) for seen in scene.objects]
    colour = [object_colour_score(seen, thing.colour) for seen in scene.objects]
    meant = [i for i in range(len(shape)) if shape[i] >= 0.5 or (coloured and colour[i] >= 0.5)]
    crowding = _crowding(len(scene.objects), thing.count)
    number = len(meant)

    def all_of(values: list[float]) -> float:
        if not number:
            return 0.0
        picked = [values[i] for i in meant]
        return crowding * (min(picked) if min(picked) >= 0.5 else min(0.49, float(np.mean(picked))))

    extra = len(scene.objects) - number + scene.stains
    return {
        "object 1 shape": all_of(shape),
        "object 1 colour": all_of(colour),
        "object 1 size": all_of([size_score(seen, thing.size) for seen in scene.objects]),
        "count": 1.0 if number == thing.count else max(0.0, 0.45 * (1 - abs(number - thing.count) / thing.count)),
        "no extra objects": (0.45**extra if extra else 1.0) * min(1.0, number / thing.count) if number else 0.0,
    }


def _hollow(scene: Scene) -> float:
    """Whether holes are white; the paper decides for shapes too small to have one."""
    holes = sum(seen.hole_area for seen in scene.objects)
    white = sum(seen.hole_area * seen.hollow for seen in scene.objects)
    paper = _PAPER_WEIGHT * whiteness(scene.backdrop)
    return graded((white + paper) / (holes + _PAPER_WEIGHT), 0.2, 0.5, 0.8)
