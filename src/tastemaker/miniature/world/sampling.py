"""Random descriptions, with the frequencies the training prompts are meant to have."""

from collections.abc import Sequence

import numpy as np

from tastemaker.miniature.world.description import (
    CATEGORIES,
    COLOURS,
    GROUNDS,
    HAIR_COLOURS,
    HAIR_STYLES,
    LETTERS,
    MAX_COUNT,
    MAX_LETTERS,
    MAX_TREES,
    RELATIONS,
    SHAPES,
    SIZES,
    SKINS,
    SKY_BODIES,
    STYLES,
    TIMES,
    WEATHERS,
    Description,
    General,
    Landscape,
    Portrait,
    Thing,
    Typography,
    is_valid,
)

CATEGORY_WEIGHTS = (0.4, 0.2, 0.2, 0.2)
STYLE_WEIGHTS = (0.7, 0.1, 0.1, 0.1)
KIND_WEIGHTS = {"single": 0.2, "count": 0.2, "pair": 0.2, "relation": 0.25, "three": 0.15}
SIZE_WEIGHTS = (0.25, 0.5, 0.25)


def _pick(rng: np.random.Generator, options: Sequence, weights: Sequence[float] | None = None):
    return options[int(rng.choice(len(options), p=weights))]


def sample_description(rng: np.random.Generator, category: str | None = None) -> Description:
    """A random description, of a random category unless one is given."""
    category = _pick(rng, CATEGORIES, CATEGORY_WEIGHTS) if category is None else category
    if category not in CATEGORIES:
        raise ValueError(f"category is {category!r}; allowed: {', '.join(CATEGORIES)}")
    style = _pick(rng, STYLES, STYLE_WEIGHTS)
    draw = {"general": _general, "portrait": _portrait, "landscape": _landscape, "typography": _typography}
    return draw[category](rng, style)


def _general(rng: np.random.Generator, style: str) -> General:
    kind = _pick(rng, tuple(KIND_WEIGHTS), tuple(KIND_WEIGHTS.values()))
    if kind == "count":
        size = _pick(rng, ("small", "medium"), (0.25, 0.75))
        count = int(rng.integers(2, MAX_COUNT + 1))
        return General((Thing(_pick(rng, SHAPES), _pick(rng, COLOURS), size, count),), None, style)
    number = {"single": 1, "pair": 2, "relation": 2, "three": 3}[kind]
    relation = _pick(rng, RELATIONS) if kind == "relation" else None
    return General(_different_things(rng, number), relation, style)


def _different_things(rng: np.random.Generator, number: int) -> tuple[Thing, ...]:
    """Things of pairwise different (shape, colour); at most one is large, because two hardly fit."""
    looks = rng.choice(len(SHAPES) * len(COLOURS), size=number, replace=False)
    things: list[Thing] = []
    for look in looks:
        size = _pick(rng, SIZES, SIZE_WEIGHTS)
        if size == "large" and any(thing.size == "large" for thing in things):
            size = "medium"
        things.append(Thing(SHAPES[look // len(COLOURS)], COLOURS[look % len(COLOURS)], size))
    return tuple(things)


def _portrait(rng: np.random.Generator, style: str) -> Portrait:
    hair_style = _pick(rng, HAIR_STYLES)
    hair_colour = None if hair_style == "bald" else _pick(rng, HAIR_COLOURS)
    glasses, smile = bool(rng.random() < 0.4), bool(rng.random() < 0.5)
    return Portrait(_pick(rng, SKINS), hair_style, hair_colour, _pick(rng, COLOURS), glasses, smile, style)


def _landscape(rng: np.random.Generator, style: str) -> Landscape:
    """Draws again until valid, so that no fact is favoured beyond what validity forces."""
    while True:
        time, ground, body = _pick(rng, TIMES), _pick(rng, GROUNDS), _pick(rng, SKY_BODIES, (0.3, 0.35, 0.35))
        trees = int(rng.choice(MAX_TREES + 1, p=(0.4, 0.2, 0.2, 0.2)))
        if is_valid(time, ground, body, trees):
            weather = _pick(rng, WEATHERS)
            return Landscape(time, ground, weather, body, trees, bool(rng.random() < 0.4), style)


def _typography(rng: np.random.Generator, style: str) -> Typography:
    length = int(rng.integers(1, MAX_LETTERS + 1))
    text = "".join(_pick(rng, LETTERS) for _ in range(length))
    return Typography(text, _pick(rng, COLOURS), style)
