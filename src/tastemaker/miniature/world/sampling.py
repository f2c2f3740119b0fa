"""Random descriptions, with the frequencies the training prompts are meant to have."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

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

CATEGORY_WEIGHTS = (0.45, 0.15, 0.15, 0.25)
STYLE_WEIGHTS = (0.7, 0.1, 0.1, 0.1)
KIND_WEIGHTS = {"single": 0.2, "count": 0.2, "pair": 0.2, "relation": 0.25, "three": 0.15}
SIZE_WEIGHTS = (0.25, 0.5, 0.25)


def pick(rng: np.random.Generator, options: Sequence, weights: Sequence[float] | None = None):
    """One of `options`, uniformly unless `weights` (which sum to 1) say otherwise."""
    if weights is None:
        return options[int(rng.integers(len(options)))]
    return options[min(bisect_right(list(accumulate(weights)), rng.random()), len(options) - 1)]  # rng.choice is slow


def sample_description(rng: np.random.Generator, category: str | None = None, kind: str | None = None) -> Description:
    """A random description, of a random category and (for a general scene) a random kind unless given."""
    category = pick(rng, CATEGORIES, CATEGORY_WEIGHTS) if category is None else category
    if category not in CATEGORIES:
        raise ValueError(f"category is {category!r}; allowed: {', '.join(CATEGORIES)}")
    if kind is not None and (category != "general" or kind not in KIND_WEIGHTS):
        raise ValueError(f"kind is {kind!r} of {category!r}; allowed: {', '.join(KIND_WEIGHTS)} of 'general'")
    style = pick(rng, STYLES, STYLE_WEIGHTS)
    if category == "general":
        return _general(rng, style, kind)
    if category == "portrait":
        return _portrait(rng, style)
    return _landscape(rng, style) if category == "landscape" else _typography(rng, style)


def _general(rng: np.random.Generator, style: str, kind: str | None) -> General:
    kind = pick(rng, tuple(KIND_WEIGHTS), tuple(KIND_WEIGHTS.values())) if kind is None else kind
    if kind == "count":
        size = pick(rng, ("small", "medium"), (0.25, 0.75))
        count = int(rng.integers(2, MAX_COUNT + 1))
        return General((Thing(pick(rng, SHAPES), pick(rng, COLOURS), size, count),), None, style)
    number = {"single": 1, "pair": 2, "relation": 2, "three": 3}[kind]
    relation = pick(rng, RELATIONS) if kind == "relation" else None
    return General(_different_things(rng, number), relation, style)


def _different_things(rng: np.random.Generator, number: int) -> tuple[Thing, ...]:
    """Things of pairwise different (shape, colour); at most one is large, because two hardly fit."""
    looks = rng.choice(len(SHAPES) * len(COLOURS), size=number, replace=False)
    things: list[Thing] = []
    for look in looks:
        size = pick(rng, SIZES, SIZE_WEIGHTS)
        if size == "large" and any(thing.size == "large" for thing in things):
            size = "medium"
        things.append(Thing(SHAPES[look // len(COLOURS)], COLOURS[look % len(COLOURS)], size))
    return tuple(things)


def _portrait(rng: np.random.Generator, style: str) -> Portrait:
    hair_style = pick(rng, HAIR_STYLES)
    hair_colour = None if hair_style == "bald" else pick(rng, HAIR_COLOURS)
    glasses, smile = bool(rng.random() < 0.4), bool(rng.random() < 0.5)
    return Portrait(pick(rng, SKINS), hair_style, hair_colour, pick(rng, COLOURS), glasses, smile, style)


def _landscape(rng: np.random.Generator, style: str) -> Landscape:
    """Draws again until valid, so that no fact is favoured beyond what validity forces."""
    while True:
        time, ground, body = pick(rng, TIMES), pick(rng, GROUNDS), pick(rng, SKY_BODIES, (0.3, 0.35, 0.35))
        trees = int(rng.choice(MAX_TREES + 1, p=(0.4, 0.2, 0.2, 0.2)))
        if is_valid(time, ground, body, trees):
            weather = pick(rng, WEATHERS)
            return Landscape(time, ground, weather, body, trees, bool(rng.random() < 0.4), style)


def _typography(rng: np.random.Generator, style: str) -> Typography:
    length = int(rng.integers(1, MAX_LETTERS + 1))
    text = "".join(pick(rng, LETTERS) for _ in range(length))
    return Typography(text, pick(rng, COLOURS), style)
