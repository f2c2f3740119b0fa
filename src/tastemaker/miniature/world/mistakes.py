"""Texts as collections of pictures from the web have them: some say what the picture does not show.

A model trained on such captions and instructions draws well and trusts its prompt only so far, which is what the second phase
of training is for. Only the pictures that a base is trained on have such texts; prompts and instructions for reinforcement
learning and evaluation are right.
"""

from dataclasses import fields, replace

import numpy as np

from tastemaker.miniature.world.description import (
    COLOURS,
    HAIR_STYLES,
    LETTERS,
    RELATIONS,
    SHAPES,
    SKINS,
    STYLES,
    WEATHERS,
    Description,
    General,
    Landscape,
    Portrait,
    Thing,
    Typography,
)
from tastemaker.miniature.world.edits import EditPair, sample_edit
from tastemaker.miniature.world.sampling import pick, sample_description
from tastemaker.miniature.world.splits import split_of, split_of_edit

MISTAKEN = 0.25
"""Share of training captions that name something else."""
MISTAKEN_EDITS = 0.20
"""Share of training edits whose instruction asks for another one than was made."""
_MAX_TRIES = 200


def caption_of(description: Description, rng: np.random.Generator) -> Description:
    """What the caption of a picture of `description` says: the same, or (a share MISTAKEN) the same but for one fact.

    Nothing that the other splits reserve is ever said.
    """
    if rng.random() >= MISTAKEN:
        return description
    for _ in range(_MAX_TRIES):
        said = _with_another_fact(description, rng)
        if said not in (None, description) and split_of(said) == "train":
            return said
    return description


def edit_asked_for(pair: EditPair, rng: np.random.Generator) -> EditPair:
    """The edit whose instruction is given with the pictures of `pair`: its own, or (a share MISTAKEN_EDITS) another one.

    The other is of the same kind and asked of the same source. Glasses and smiles have no other, and keep their own.
    """
    if rng.random() >= MISTAKEN_EDITS:
        return pair
    for _ in range(_MAX_TRIES):
        other = sample_edit(rng, pair.edit.kind, pair.category, lambda rng, category: pair.edit.source)
        alike = other.edit.source == pair.edit.source and split_of_edit(other.edit) == "train"
        if alike and other.edit.target != pair.edit.target:
            return other
    return pair


def _with_another_fact(description: Description, rng: np.random.Generator) -> Description | None:
    """One fact taken from a random other description of the same category; None where that makes no valid description."""
    other = sample_description(rng, description.category)
    try:
        if isinstance(description, General) and isinstance(other, General):
            return _with_another_thing(description, other, rng)
        name = pick(rng, [field.name for field in fields(description) if field.name != "style"])
        changed = {name: getattr(other, name)}
        if isinstance(other, Portrait) and name in ("hair_style", "hair_colour"):  # a bald head has no colour of hair
            changed = {"hair_style": other.hair_style, "hair_colour": other.hair_colour}
        return replace(description, **changed)
    except ValueError:
        return None


def _with_another_thing(description: General, other: General, rng: np.random.Generator) -> General:
    """Another relation, or a thing of another shape, colour, size or number."""
    if description.relation and other.relation and rng.random() < 0.3:
        return replace(description, relation=other.relation)
    index, found = int(rng.integers(len(description.things))), pick(rng, other.things)
    name = pick(rng, [field.name for field in fields(Thing)])
    things = list(description.things)
    things[index] = replace(things[index], **{name: getattr(found, name)})
    return replace(description, things=tuple(things))


def one_fact_off(description: Description, rng: np.random.Generator) -> list[Description]:
    """Descriptions that differ from this one in a single said fact: its style, and some of what its category has."""

    def other(options: tuple, *taken: object):
        return rng.choice([option for option in options if option not in taken])

    wrong: list[Description] = [replace(description, style=str(other(STYLES, description.style)))]
    coloured = description.style != "sepia"
    match description:
        case General():
            first, *rest = description.things
            things = [replace(first, shape=str(other(SHAPES, first.shape)))]
            things += [replace(first, size="small")] if first.size != "small" else []
            things += [replace(first, colour=str(other(COLOURS, first.colour)))] if coloured else []
            things += [replace(first, count=first.count - 1)] if first.count > 1 else []
            taken = {(one.shape, one.colour) for one in rest}
            wrong += [replace(description, things=(one, *rest)) for one in things if (one.shape, one.colour) not in taken]
            if description.relation and len({(t.shape, t.size) for t in description.things}) == 2:
                wrong += [replace(description, relation=relation) for relation in RELATIONS if relation != description.relation]
        case Portrait():
            wrong += [replace(description, glasses=not description.glasses), replace(description, smile=not description.smile)]
            if coloured:
                wrong.append(replace(description, skin=str(other(SKINS, description.skin))))
                wrong.append(replace(description, clothing=str(other(COLOURS, description.clothing))))
            if description.hair_colour:
                style = str(other(HAIR_STYLES, description.hair_style, "bald"))
                wrong.append(replace(description, hair_style=style))
        case Landscape():
            wrong.append(replace(description, weather=str(other(WEATHERS[1:], description.weather))))
            if description.ground != "water":
                wrong.append(replace(description, trees=int(other((1, 2, 3), description.trees))))
            if not description.mountains:
                wrong.append(replace(description, mountains=True))
        case Typography():
            at = int(rng.integers(len(description.text)))
            letter = str(other(tuple(LETTERS), description.text[at]))
            wrong.append(replace(description, text=description.text[:at] + letter + description.text[at + 1 :]))
            wrong += [replace(description, text=description.text[:-1])] if len(description.text) > 1 else []
            wrong += [replace(description, colour=str(other(COLOURS, description.colour)))] if coloured else []
    return wrong
