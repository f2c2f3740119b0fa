"""One change to one picture: each step turns a scene into a new description, its layout and the words that ask for it.

A step gives None where the scene does not allow it (nothing to remove, no room, no colours to name in sepia); the caller
then draws another scene. What an instruction does not name stays: a replaced thing keeps its size and place, a moved
thing its height or its column, a face its identity. Here: faces, landscapes, signs and styles; `edit_things` has the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from tastemaker.miniature.world.description import (
    COLOURS,
    GROUNDS,
    HAIR_COLOURS,
    HAIR_STYLES,
    LETTERS,
    MAX_LETTERS,
    MAX_TREES,
    STYLES,
    TIMES,
    WEATHERS,
    Description,
    Landscape,
    Portrait,
    Thing,
    Typography,
    is_valid,
)
from tastemaker.miniature.world.instructions import clause
from tastemaker.miniature.world.layout import LandscapeLayout, Layout, PortraitLayout, TypographyLayout, fits
from tastemaker.miniature.world.prompts import hair_phrase
from tastemaker.miniature.world.sampling import pick
from tastemaker.miniature.world.wording import COUNT_WORDS

D = TypeVar("D", bound=Description)
L = TypeVar("L", bound=Layout)


@dataclass(frozen=True)
class Scene(Generic[D, L]):
    """A picture about to be changed; `seen` are the things an instruction may be taken to mean."""

    description: D
    layout: L
    seen: tuple[Thing, ...] = ()

    @property
    def coloured(self) -> bool:
        return self.description.style != "sepia"


@dataclass(frozen=True)
class Moved:
    """Where one thing ends up: in the outer third of the picture at `side` (left, right, top or bottom)."""

    shape: str
    colour: str
    side: str


@dataclass(frozen=True)
class Step:
    """`mentioned` are the facts and things the clause speaks of, so that two steps can be kept apart."""

    target: Description
    layout: Layout
    clause: str
    mentioned: frozenset[str]
    moved: Moved | None = None


Face = Scene[Portrait, PortraitLayout]
View = Scene[Landscape, LandscapeLayout]
Sign = Scene[Typography, TypographyLayout]
StepFunction = Callable[[Scene[Any, Any], np.random.Generator], Step | None]


def another(rng: np.random.Generator, options: tuple, *taken: object):
    """A random option that is not taken."""
    return pick(rng, [option for option in options if option not in taken])


def recolour_shirt(scene: Face, rng: np.random.Generator) -> Step | None:
    if not scene.coloured:
        return None
    target = replace(scene.description, clothing=another(rng, COLOURS, scene.description.clothing))
    words = clause("recolour", rng, name="the shirt", colour=target.clothing)
    return Step(target, scene.layout, words, frozenset({"shirt"}))


def hair(scene: Face, rng: np.random.Generator) -> Step | None:
    """Another colour, another style, or no hair; new hair on a bald head gets both."""
    old = scene.description
    if old.hair_style == "bald":
        if not scene.coloured:
            return None
        style = another(rng, HAIR_STYLES, "bald")
        target = replace(old, hair_style=style, hair_colour=pick(rng, HAIR_COLOURS))
        words = clause("hair new", rng, hair=hair_phrase(target))
    elif scene.coloured and rng.random() < 0.5:
        colour = another(rng, HAIR_COLOURS, old.hair_colour)
        target = replace(old, hair_colour=colour)
        words = clause("hair colour", rng, colour=colour)
    else:
        style = another(rng, HAIR_STYLES, old.hair_style)
        target = replace(old, hair_style=style, hair_colour=None if style == "bald" else old.hair_colour)
        words = clause(f"hair {style}" if style in ("bun", "bald") else "hair style", rng, style=style)
    return Step(target, scene.layout, words, frozenset({"hair"}))


def glasses(scene: Face, rng: np.random.Generator) -> Step | None:
    target = replace(scene.description, glasses=not scene.description.glasses)
    words = clause("glasses on" if target.glasses else "glasses off", rng)
    return Step(target, scene.layout, words, frozenset({"glasses"}))


def smile(scene: Face, rng: np.random.Generator) -> Step | None:
    target = replace(scene.description, smile=not scene.description.smile)
    words = clause("smile on" if target.smile else "smile off", rng)
    return Step(target, scene.layout, words, frozenset({"smile"}))


def time(scene: View, rng: np.random.Generator) -> Step | None:
    """A sun that cannot stay becomes a moon, and the other way round; then the words say so."""
    old = scene.description
    new, body = another(rng, TIMES, old.time), old.sky_body
    words = clause("time", rng, old=old.time, time=new)
    if not is_valid(new, old.ground, body, old.trees):
        body = "moon" if body == "sun" else "sun"
        words += f" with a {body}"
    return Step(replace(old, time=new, sky_body=body), scene.layout, words, frozenset({"time", "body"}))


def season(scene: View, rng: np.random.Generator) -> Step | None:
    """Another weather or, where colours show it, another ground."""
    old = scene.description
    if not scene.coloured or rng.random() < 0.5:
        new = another(rng, WEATHERS, old.weather)
        words = clause("weather", rng, weather=new)
        return Step(replace(old, weather=new), scene.layout, words, frozenset({"weather"}))
    new = another(rng, GROUNDS, old.ground)
    if not is_valid(old.time, new, old.sky_body, old.trees):
        return None
    words = clause("ground", rng, old=old.ground, new=new)
    return Step(replace(old, ground=new), scene.layout, words, frozenset({"ground"}))


def add_to_landscape(scene: View, rng: np.random.Generator) -> Step | None:
    """A sun or moon, mountains, or trees."""
    old = scene.description
    match pick(rng, ("body", "trees", "mountains")):
        case "body":
            body = {"day": "sun", "night": "moon"}.get(old.time) or pick(rng, ("sun", "moon"))
            target, new, fact = replace(old, sky_body=body), f"a {body}", "body"
            taken = old.sky_body != "none"
        case "trees":
            number = int(rng.integers(1, MAX_TREES + 1))
            taken = old.trees > 0 or old.ground == "water"
            target = old if taken else replace(old, trees=number)
            new, fact = "a tree" if number == 1 else f"{COUNT_WORDS[number]} trees", "trees"
        case _:
            target, new, fact = replace(old, mountains=True), "mountains", "mountains"
            taken = old.mountains
    return None if taken else Step(target, scene.layout, clause("add", rng, new=new), frozenset({fact}))


def remove_from_landscape(scene: View, rng: np.random.Generator) -> Step | None:
    """The sun or moon, the mountains, or all trees."""
    old = scene.description
    present = {"body": old.sky_body != "none", "trees": old.trees > 0, "mountains": old.mountains}
    if not any(present.values()):
        return None
    fact = pick(rng, [name for name, there in present.items() if there])
    name = {"body": old.sky_body, "trees": "tree" if old.trees == 1 else "trees", "mountains": "mountains"}[fact]
    targets = {
        "body": replace(old, sky_body="none"),
        "trees": replace(old, trees=0),
        "mountains": replace(old, mountains=False),
    }
    words = clause("remove", rng, name=f"the {name}")
    return Step(targets[fact], scene.layout, words, frozenset({fact}))


def text(scene: Sign, rng: np.random.Generator) -> Step | None:
    """Other letters in the same colour; the number of letters may change."""
    new = "".join(pick(rng, LETTERS) for _ in range(int(rng.integers(1, MAX_LETTERS + 1))))
    if new == scene.description.text:
        return None
    return Step(replace(scene.description, text=new), scene.layout, clause("text", rng, text=new), frozenset({"text"}))


def recolour_letters(scene: Sign, rng: np.random.Generator) -> Step | None:
    if not scene.coloured:
        return None
    target = replace(scene.description, colour=another(rng, COLOURS, scene.description.colour))
    words = clause("recolour", rng, name=pick(rng, ("the letters", "the text")), colour=target.colour)
    return Step(target, scene.layout, words, frozenset({"letters"}))


def restyle(scene: Scene[Any, Any], rng: np.random.Generator) -> Step | None:
    """From plain to a style, or back to plain; what sepia has lost cannot come back."""
    old = scene.description.style
    if old == "sepia":
        return None
    style = another(rng, STYLES, "plain") if old == "plain" else "plain"
    target = replace(scene.description, style=style)
    if not fits(target, scene.layout):
        return None
    return Step(target, scene.layout, clause(style, rng), frozenset({"style"}))
