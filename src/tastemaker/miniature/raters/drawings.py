"""Cheap pictures of varying quality for one prompt: true ones, true ones spoilt, and clean ones of something else.

    world           what was asked for               world-other     one or two facts changed
    spoilt-WAY      the former two, spoilt           world-random    another description of the category
    edits also:     world-untouched (the source), world-elsewhere (the target in another layout), world-core (the core alone)

Of those that nothing has spoilt, all but the first of a prompt are worn in half of the cases (WHAT-worn): flawless pictures
differ in taste alone, and too little for a rater to tell. Pictures for training show nothing that another split reserves.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from tastemaker.miniature.raters.corruptions import spoil, worn
from tastemaker.miniature.world.description import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    Description,
    General,
    Thing,
    Typography,
)
from tastemaker.miniature.world.layout import Layout, fits, sample_layout
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.sampling import pick, sample_description
from tastemaker.miniature.world.splits import Item, sample, split_of

Drawn = tuple[str, np.ndarray]
"""The generator's name, and uint8 (64, 64, 3)."""

_T2I_KINDS = {"world": 0.1, "world-other": 0.45, "world-random": 0.05, "spoilt": 0.4}
_EDIT_KINDS = {
    "world": 0.1,
    "world-other": 0.35,
    "world-untouched": 0.1,
    "world-elsewhere": 0.1,
    "world-core": 0.05,
    "spoilt": 0.3,
}
_SPOILT_TRUE = 0.65  # share of spoilt pictures that show what was asked for
_RESTYLED = 0.1
_MAX_TRIES = 60


def drawn(item: Item, count: int, split: str, rng: np.random.Generator) -> list[Drawn]:
    """`count` pictures for a prompt, the first of them a true one."""
    kinds = _T2I_KINDS if item.pair is None else _EDIT_KINDS
    chosen = [pick(rng, tuple(kinds), tuple(kinds.values())) for _ in range(count - 1)]
    return [draw(item, "world", split, rng), *(_varied(*draw(item, kind, split, rng), rng) for kind in chosen)]


def _varied(name: str, picture: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Worn in half of the cases, unless it is spoilt already."""
    after = picture if name.startswith("spoilt") else worn(picture, rng)
    return (name, picture) if after is picture else (f"{name}-worn", after)


def draw(item: Item, kind: str, split: str, rng: np.random.Generator) -> Drawn:
    """One picture of a kind, 'spoilt' or as named above."""
    if kind == "spoilt":
        under = "world" if rng.random() < _SPOILT_TRUE else "world-other"
        picture, way = spoil(draw(item, under, split, rng)[1], item.category, rng)
        return f"spoilt-{way.replace(' ', '-')}", picture
    description, layout = _asked(item, rng)
    if kind == "world-other":
        description, layout = _placed(changed(description, split, rng), layout, rng)
    elif kind == "world-random":
        description, layout = _placed(sample(split if split != "eval" else "train", rng, item.category), None, rng)
    elif kind == "world-untouched" and item.pair:
        description, layout = item.pair.edit.source, item.pair.source_layout
    elif kind == "world-elsewhere":
        layout = sample_layout(description, rng)
    elif kind == "world-core" and item.pair and item.pair.edit.middle:
        description, layout = _placed(item.pair.edit.middle, item.pair.source_layout, rng)
    return kind, render(description, layout)


def changed(description: Description, split: str, rng: np.random.Generator) -> Description:
    """The description with one or two facts changed, of the train split unless `split` is eval; itself where none is found."""
    result = description
    for wanted in range(1 + int(rng.random() < 0.35)):
        for _ in range(_MAX_TRIES):
            other = _with_another_fact(result, rng)
            if other is not None and other not in (result, description) and (split == "eval" or split_of(other) == "train"):
                result = other
                break
        if wanted == 0 and result == description:
            break
    return result


def _asked(item: Item, rng: np.random.Generator) -> tuple[Description, Layout]:
    if item.pair is not None:
        return item.pair.edit.target, item.pair.target_layout
    return item.description, sample_layout(item.description, rng)


def _placed(description: Description, layout: Layout | None, rng: np.random.Generator) -> tuple[Description, Layout]:
    """In the layout at hand where it is readable there, else in a new one."""
    if layout is not None and layout.category == description.category and fits(description, layout):
        return description, layout
    return description, sample_layout(description, rng)


def _with_another_fact(description: Description, rng: np.random.Generator) -> Description | None:
    """None where the change drawn makes no valid description."""
    try:
        if rng.random() < _RESTYLED:
            return replace(description, style=pick(rng, STYLES))
        if isinstance(description, General):
            return _another_scene(description, rng)
        other = sample_description(rng, description.category)
        name = pick(rng, [field.name for field in fields(description) if field.name != "style"])
        if name in ("hair_style", "hair_colour"):  # a bald head has no colour of hair
            names = ("hair_style", "hair_colour")
            return replace(description, **{one: getattr(other, one) for one in names})
        if isinstance(description, Typography) and isinstance(other, Typography) and name == "text":
            return replace(description, text=_misspelt(description.text, other.text, rng))
        return replace(description, **{name: getattr(other, name)})
    except ValueError:
        return None


def _another_scene(scene: General, rng: np.random.Generator) -> General:
    """A thing changed, added, dropped or counted wrongly, or another relation."""
    things, index = list(scene.things), int(rng.integers(len(scene.things)))
    thing = things[index]
    kinds = ["shape", "colour", "size", "number"] + (["relation"] * 2 if scene.relation else [])
    kind = pick(rng, kinds)
    if kind == "relation":
        return replace(scene, relation=pick(rng, RELATIONS))
    if kind == "number":
        if len(things) == 1 and rng.random() < 0.7:
            return replace(scene, things=(replace(thing, count=int(rng.integers(1, 5))),))
        if len(things) > 1 and rng.random() < 0.6:
            return replace(scene, things=tuple(things[:index] + things[index + 1 :]), relation=None)
        return replace(scene, things=(*things, Thing(pick(rng, SHAPES), pick(rng, COLOURS))), relation=None)
    options = {"shape": SHAPES, "colour": COLOURS, "size": SIZES}[kind]
    things[index] = replace(thing, **{kind: pick(rng, options)})
    return replace(scene, things=tuple(things))


def _misspelt(text: str, letters: str, rng: np.random.Generator) -> str:
    """A letter exchanged, dropped or added, or another word."""
    at, way = int(rng.integers(len(text))), int(rng.integers(4))
    if way == 0:
        return letters
    if way == 1 and len(text) > 1:
        return text[:at] + text[at + 1 :]
    return text[:at] + letters[0] + text[at + (way != 2) :]
