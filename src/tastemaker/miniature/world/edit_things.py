"""The changes to scenes of shapes: recolour, resize, replace, add, remove, move."""

from dataclasses import replace

import numpy as np

from tastemaker.miniature.world.description import COLOURS, MAX_COUNT, MAX_GROUPS, RELATIONS, SHAPES, General, Thing
from tastemaker.miniature.world.edit_steps import Moved, Scene, Step, another
from tastemaker.miniature.world.instructions import clause, reference, relation_phrase
from tastemaker.miniature.world.layout import GeneralLayout, fits, place
from tastemaker.miniature.world.placement import CANVAS, GRID, MARGIN, related, thing_extent
from tastemaker.miniature.world.prompts import thing_phrase
from tastemaker.miniature.world.sampling import pick
from tastemaker.miniature.world.wording import plural, with_article

SIDE_LIMIT = 21.0  # "on the left" is a centre at most this far from the left edge
MIN_MOVE = 12.0
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
Shapes = Scene[General, GeneralLayout]


def look(thing: Thing) -> str:
    """What tells one thing of a scene from another."""
    return f"{thing.colour} {thing.shape}"


def _exchange(scene: Shapes, index: int, new: Thing) -> General | None:
    """The scene with one thing exchanged in place; None where it clashes with another thing or does not fit."""
    things = list(scene.description.things)
    if any(look(thing) == look(new) for i, thing in enumerate(things) if i != index):
        return None
    things[index] = new
    if len(things) == MAX_GROUPS and sum(thing.size == "large" for thing in things) > 1:
        return None
    target = replace(scene.description, things=tuple(things))
    return target if fits(target, scene.layout) else None


def _any_thing(scene: Shapes, rng: np.random.Generator) -> tuple[int, Thing, str] | None:
    """A random thing of the scene with a name for it."""
    index = int(rng.integers(len(scene.description.things)))
    thing = scene.description.things[index]
    name = reference(thing, scene.seen, scene.coloured, rng)
    return (index, thing, name) if name else None


def recolour_thing(scene: Shapes, rng: np.random.Generator) -> Step | None:
    """All things of a counted group change together."""
    if not scene.coloured or (chosen := _any_thing(scene, rng)) is None:
        return None
    index, thing, name = chosen
    new = replace(thing, colour=another(rng, COLOURS, thing.colour))
    if (target := _exchange(scene, index, new)) is None:
        return None
    words = clause("recolour", rng, name=name, colour=new.colour)
    return Step(target, scene.layout, words, frozenset({look(thing), look(new)}))


def resize(scene: Shapes, rng: np.random.Generator) -> Step | None:
    """To small or large: 'medium' is a word no prompt uses."""
    if (chosen := _any_thing(scene, rng)) is None:
        return None
    index, thing, name = chosen
    size = another(rng, ("small", "large"), thing.size)
    if size == "large" and thing.count > 1:
        return None
    if (target := _exchange(scene, index, replace(thing, size=size))) is None:
        return None
    word = pick(rng, ("large", "big")) if size == "large" else size
    return Step(target, scene.layout, clause("resize", rng, name=name, size=word), frozenset({look(thing)}))


def replace_thing(scene: Shapes, rng: np.random.Generator) -> Step | None:
    """Another shape, with a named colour or with the colour it had."""
    if (chosen := _any_thing(scene, rng)) is None:
        return None
    index, thing, name = chosen
    keep_colour = not scene.coloured or rng.random() < 0.4
    colour = thing.colour if keep_colour else another(rng, COLOURS, thing.colour)
    new = replace(thing, shape=another(rng, SHAPES, thing.shape), colour=colour)
    if (target := _exchange(scene, index, new)) is None:
        return None
    phrase = ("" if keep_colour else f"{new.colour} ") + (new.shape if new.count == 1 else plural(new.shape))
    phrase = with_article(phrase) if new.count == 1 else phrase
    words = clause("reshape" if keep_colour else "replace", rng, name=name, new=phrase)
    return Step(target, scene.layout, words, frozenset({look(thing), look(new)}))


def add_thing(scene: Shapes, rng: np.random.Generator) -> Step | None:
    """One more thing in free space: of a new look, beside another by name, or one more of the same."""
    old = scene.description.things
    large = sum(thing.size == "large" for thing in old)
    if not scene.coloured or len(old) == MAX_GROUPS or large > 1:
        return None
    first = old[0]
    if len(old) == 1 and first.size != "large" and first.count < MAX_COUNT and (first.count > 1 or rng.random() < 0.15):
        return _add_another(scene, rng)
    if first.count > 1:
        return None
    new = Thing(pick(rng, SHAPES), pick(rng, COLOURS), pick(rng, ("medium", "medium", "small", "large")))
    if look(new) in map(look, old) or (new.size == "large" and large):
        return None
    relation = pick(rng, RELATIONS) if len(old) == 1 and rng.random() < 0.4 else None
    target = replace(scene.description, things=(*old, new), relation=relation)
    layout = place(target, scene.layout, rng)
    name = reference(first, (*scene.seen, new), True, rng)
    if layout is None or name is None:
        return None
    phrase, mentioned = thing_phrase(new, True, rng), frozenset({look(new)})
    if relation is None:
        return Step(target, layout, clause("add", rng, new=phrase), mentioned)
    beside = relation_phrase(CONVERSE[relation], rng)  # the description relates the old thing to the new one
    words = clause("add beside", rng, new=phrase, relation=beside, name=name)
    return Step(target, layout, words, mentioned | {look(first)})


def _add_another(scene: Shapes, rng: np.random.Generator) -> Step | None:
    (thing,) = scene.description.things
    target = replace(scene.description, things=(replace(thing, count=thing.count + 1),))
    layout = place(target, scene.layout, rng)
    new = f"another {thing.shape}" if rng.random() < 0.5 else f"another {thing.colour} {thing.shape}"
    return Step(target, layout, clause("add", rng, new=new), frozenset({look(thing)})) if layout else None


def remove_thing(scene: Shapes, rng: np.random.Generator) -> Step | None:
    """Drops one thing of two or three, and with it their relation."""
    if len(scene.description.things) == 1 or (chosen := _any_thing(scene, rng)) is None:
        return None
    index, thing, name = chosen
    things = tuple(other for i, other in enumerate(scene.description.things) if i != index)
    centres = tuple(centre for i, centre in enumerate(scene.layout.centres) if i != index)
    target = replace(scene.description, things=things, relation=None)
    layout = replace(scene.layout, centres=centres)
    return Step(target, layout, clause("remove", rng, name=name), frozenset({look(thing)}))


def move(scene: Shapes, rng: np.random.Generator) -> Step | None:
    """To a side of the picture, or in a pair also to a side of the other thing."""
    if (chosen := _any_thing(scene, rng)) is None or chosen[1].count > 1:
        return None
    if len(scene.description.things) == 2 and rng.random() < 0.5:
        return _move_beside(scene, rng, *chosen)
    return _move_to_side(scene, rng, *chosen)


def _with_centre(layout: GeneralLayout, index: int, centre: tuple[float, float]) -> GeneralLayout:
    centres = list(layout.centres)
    centres[index] = centre
    return replace(layout, centres=tuple(centres))


def _move_to_side(scene: Shapes, rng: np.random.Generator, index: int, thing: Thing, name: str) -> Step | None:
    """Along one axis only; the relation stays in the description where it still holds."""
    side = pick(rng, ("left", "right", "top", "bottom"))
    axis = 0 if side in ("left", "right") else 1
    nearest = MARGIN + thing_extent(thing)[axis] / 2
    first, last = np.ceil(nearest / GRID), np.floor(SIDE_LIMIT / GRID)
    depth = GRID * rng.integers(first, max(first, last) + 1)
    centre = list(scene.layout.centres[index])
    goal = float(depth if side in ("left", "top") else CANVAS - depth)
    if abs(goal - centre[axis]) < MIN_MOVE:
        return None
    centre[axis] = goal
    layout = _with_centre(scene.layout, index, (centre[0], centre[1]))
    relation = scene.description.relation
    keeps = relation and bool(related(relation, np.array([layout.centres]))[0])
    target = replace(scene.description, relation=relation if keeps else None)
    if not fits(target, layout):
        return None
    words = clause("move", rng, name=name, side=side)
    return Step(target, layout, words, frozenset({look(thing)}), Moved(thing.shape, thing.colour, side))


def _move_beside(scene: Shapes, rng: np.random.Generator, index: int, thing: Thing, name: str) -> Step | None:
    """To the nearest place, among random ones, where the new relation holds."""
    wanted = pick(rng, RELATIONS)
    relation = wanted if index == 0 else CONVERSE[wanted]
    if related(relation, np.array([scene.layout.centres]))[0]:
        return None
    other = scene.description.things[1 - index]
    other_name = reference(other, scene.seen, scene.coloured, rng)
    target = replace(scene.description, relation=relation)
    goals = [
        layout
        for centre in rng.integers(1, int(CANVAS / GRID), (100, 2)) * GRID
        if fits(target, layout := _with_centre(scene.layout, index, (float(centre[0]), float(centre[1]))))
    ]
    if other_name is None or not goals:
        return None
    start = np.array(scene.layout.centres[index])
    layout = min(goals, key=lambda goal: float(np.linalg.norm(np.array(goal.centres[index]) - start)))
    words = clause("move beside", rng, name=name, relation=relation_phrase(wanted, rng), other=other_name)
    return Step(target, layout, words, frozenset({look(thing), look(other)}))
