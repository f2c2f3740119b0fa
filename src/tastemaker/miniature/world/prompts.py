"""Descriptions in English: every fact is said, nothing else is, and the wording varies.

Left out on purpose: what is the default (medium size, clear weather, an empty sky, no trees, mountains or glasses) and,
in sepia, whatever only colour could tell.
"""

import numpy as np

from tastemaker.miniature.world.description import Description, General, Landscape, Portrait, Thing, Typography
from tastemaker.miniature.world.sampling import pick
from tastemaker.miniature.world.wording import COUNT_WORDS, joined, plural, shuffled, vocabulary, with_article

__all__ = ["NEGATIVE", "vocabulary", "write_prompt"]

NEGATIVE = ""

_FRAMES = {
    "plain": ("{}", "{}", "a picture of {}"),
    "line drawing": ("a line drawing of {}", "{}, line drawing", "{} as a line drawing"),
    "pixel art": ("pixel art of {}", "{}, pixel art", "{} as pixel art"),
    "sepia": ("a sepia picture of {}", "{}, sepia", "{} in sepia"),
}
_RELATED = {  # {0} is in the relation to {1}
    "left of": ("{0} left of {1}", "{0} to the left of {1}", "{1} with {0} on its left"),
    "right of": ("{0} right of {1}", "{0} to the right of {1}", "{1} with {0} on its right"),
    "above": ("{0} above {1}", "{0} above {1}", "{1} with {0} above it"),
    "below": ("{0} below {1}", "{0} under {1}", "{1} with {0} below it"),
}
_FACES = ("a {mood} person with {looks}", "a {mood} face with {looks}", "a person with {looks}, {late_mood}")
_TIMES = {"day": "by day", "sunset": "at sunset", "night": "at night"}
_FALLING = {"cloudy": "clouds", "rainy": "rain", "snowy": "falling snow"}
_SIGNS = (
    'a sign that says "{text}" in {colour}',
    'a sign with the text "{text}" in {colour}',
    'the {word} "{text}" in {colour}',
    '{colour} letters "{text}" on a sign',
)
_SEPIA_SIGNS = ('a sign that says "{text}"', 'a sign with the text "{text}"', 'the {word} "{text}" on a sign')


def write_prompt(description: Description, rng: np.random.Generator) -> str:
    """A random wording of exactly the facts of `description`."""
    match description:
        case General():
            scene = _general(description, rng)
        case Portrait():
            scene = _portrait(description, rng)
        case Landscape():
            scene = _landscape(description, rng)
        case Typography():
            scene = _typography(description, rng)
    return pick(rng, _FRAMES[description.style]).format(scene)


def thing_phrase(thing: Thing, coloured: bool, rng: np.random.Generator) -> str:
    """'a large red circle', 'three stars'."""
    size = pick(rng, ("large", "big")) if thing.size == "large" else thing.size
    words = [] if thing.size == "medium" else [size]
    words += [thing.colour] if coloured else []
    words += [thing.shape if thing.count == 1 else plural(thing.shape)]
    phrase = " ".join(words)
    return with_article(phrase) if thing.count == 1 else f"{COUNT_WORDS[thing.count]} {phrase}"


def hair_phrase(portrait: Portrait) -> str:
    """'short red hair', 'red hair in a bun', 'a bald head'; without colour in sepia."""
    colour = "" if portrait.style == "sepia" else f"{portrait.hair_colour} "
    if portrait.hair_style == "bald":
        return "a bald head"
    if portrait.hair_style == "bun":
        return f"{colour}hair in a bun"
    return f"{portrait.hair_style} {colour}hair"


def _general(description: General, rng: np.random.Generator) -> str:
    phrases = [thing_phrase(thing, description.style != "sepia", rng) for thing in description.things]
    if description.relation:
        return pick(rng, _RELATED[description.relation]).format(*phrases)
    return joined(shuffled(phrases, rng))


def _portrait(description: Portrait, rng: np.random.Generator) -> str:
    sepia = description.style == "sepia"
    looks = [] if sepia else [f"{description.skin} skin"]
    looks.append(hair_phrase(description))
    if description.glasses:
        looks.append("glasses")
    if not sepia:
        looks.append(with_article(f"{description.clothing} shirt"))
    if rng.random() < 0.3:
        looks = shuffled(looks, rng)
    mood = "smiling" if description.smile else "serious"
    late_mood = "smiling" if description.smile else pick(rng, ("serious", "not smiling"))
    return pick(rng, _FACES).format(mood=mood, late_mood=late_mood, looks=joined(looks))


def _landscape(description: Landscape, rng: np.random.Generator) -> str:
    ground = description.ground if says_ground(description) else None
    weather = None if description.weather == "clear" else description.weather
    features = _features(description)
    form = int(rng.integers(3))
    if form == 0:
        scene = with_article(f"{weather} {description.time}" if weather else description.time)
        scene += f" over {ground}" if ground else ""
    elif form == 1 and ground:
        scene = f"{ground} {_TIMES[description.time]}" + (f", {weather}" if weather else "")
    else:
        scene = f"a landscape {_TIMES[description.time]}"
        features = ([ground] if ground else []) + ([_FALLING[weather]] if weather else []) + features
    return f"{scene} with {joined(shuffled(features, rng))}" if features else scene


def says_ground(description: Landscape) -> bool:
    """In sepia only water, which has waves, can be told from the other grounds."""
    return description.style != "sepia" or description.ground == "water"


def _features(description: Landscape) -> list[str]:
    features = [] if description.sky_body == "none" else [f"a {description.sky_body}"]
    if description.trees:
        features.append("a tree" if description.trees == 1 else f"{COUNT_WORDS[description.trees]} trees")
    return features + (["mountains"] if description.mountains else [])


def _typography(description: Typography, rng: np.random.Generator) -> str:
    word = "letter" if len(description.text) == 1 else "word"
    signs = _SEPIA_SIGNS if description.style == "sepia" else _SIGNS
    return pick(rng, signs).format(text=description.text, colour=description.colour, word=word)
