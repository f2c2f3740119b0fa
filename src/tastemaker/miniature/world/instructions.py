"""The wording of edit instructions: one table of templates, and how things are referred to."""

from collections.abc import Sequence

import numpy as np

from tastemaker.miniature.world.description import Thing
from tastemaker.miniature.world.sampling import pick
from tastemaker.miniature.world.wording import plural

TEMPLATES: dict[str, tuple[str, ...]] = {
    "recolour": ("make {name} {colour}", "change {name} to {colour}", "turn {name} {colour}", "paint {name} {colour}"),
    "resize": ("make {name} {size}", "turn {name} {size}", "change {name} to {size}"),
    "replace": ("replace {name} with {new}", "swap {name} for {new}"),
    "reshape": ("turn {name} into {new}", "change {name} into {new}"),
    "add": ("add {new}", "put in {new}", "add {new} to the picture"),
    "add beside": ("add {new} {relation} {name}", "put {new} {relation} {name}"),
    "remove": ("remove {name}", "take away {name}", "take {name} away"),
    "move": ("move {name} to the {side}", "put {name} at the {side}", "move {name} to the {side} side"),
    "move beside": ("move {name} {relation} {other}", "put {name} {relation} {other}"),
    "hair colour": ("make the hair {colour}", "change the hair to {colour}", "paint the hair {colour}"),
    "hair style": ("make the hair {style}", "give the person {style} hair", "change the hair to {style}"),
    "hair bun": ("put the hair in a bun", "change the hair to a bun", "make the hair a bun"),
    "hair bald": ("make the person bald", "remove the hair", "take away the hair"),
    "hair new": ("give the person {hair}", "add {hair}"),
    "glasses on": ("add glasses", "give the person glasses", "put on glasses"),
    "glasses off": ("remove the glasses", "take off the glasses", "take the glasses away"),
    "smile on": ("add a smile", "make the person smile", "make the face smiling"),
    "smile off": ("remove the smile", "make the person serious", "make the face serious"),
    "time": ("make it {time}", "change it to {time}", "turn {old} into {time}"),
    "weather": ("make it {weather}", "change the weather to {weather}", "make the weather {weather}"),
    "ground": ("change the {old} to {new}", "turn the ground into {new}", "replace the {old} with {new}"),
    "text": ('change the text to "{text}"', 'make it say "{text}"', 'make the sign say "{text}"'),
    "line drawing": ("make it a line drawing", "turn it into a line drawing", "redraw it as a line drawing"),
    "pixel art": ("make it pixel art", "turn it into pixel art", "redraw it as pixel art"),
    "sepia": ("make it sepia", "turn it sepia", "change it to sepia"),
    "plain": ("make it a plain picture", "turn it into a plain picture", "redraw it as a plain picture"),
    "compound": ("{core} and {secondary}", "{core}, also {secondary}"),
}
_RELATIONS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}


def clause(template: str, rng: np.random.Generator, **slots: str) -> str:
    """A random wording of one change."""
    return pick(rng, TEMPLATES[template]).format(**slots)


def relation_phrase(relation: str, rng: np.random.Generator) -> str:
    """'to the left of'."""
    return pick(rng, _RELATIONS[relation])


def reference(thing: Thing, seen: Sequence[Thing], coloured: bool, rng: np.random.Generator) -> str | None:
    """'the star' or 'the red star', unambiguous among the things `seen`; None where no such name exists.

    Colour is no help in a picture without colours (`coloured` False).
    """
    shape = thing.shape if thing.count == 1 else plural(thing.shape)
    looks = {(other.shape, other.colour) for other in seen if other.shape == thing.shape}
    unique = len(looks | {(thing.shape, thing.colour)}) == 1
    if not coloured:
        return f"the {shape}" if unique else None
    return f"the {shape}" if unique and rng.random() < 0.6 else f"the {thing.colour} {shape}"
