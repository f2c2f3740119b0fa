"""The closed vocabulary of prompts and instructions, and how a text falls into pieces.

The word list is written out rather than collected, because its order is a tokenizer's numbering: append, never sort.
Capital letters stand only inside a sign's text; each is a piece of its own.
"""

import re
from collections.abc import Sequence

import numpy as np

from tastemaker.miniature.world.description import LETTERS

COUNT_WORDS = {1: "a", 2: "two", 3: "three", 4: "four"}
_PIECE = re.compile(r"[a-z]+|[A-Z]|[^\sA-Za-z]")

_WORDS = """
" , a an and the of with in on its it to at by as over also not
circle square triangle star heart cross circles squares triangles stars hearts crosses
red orange yellow green cyan blue purple pink
small large big two three four
left right above below under
picture line drawing pixel art sepia plain landscape
person face smiling serious smile skin hair glasses shirt
light tan dark black brown blonde grey short long curly bun bald head
day sunset night grass sand snow water cloudy rainy snowy clear weather ground falling rain clouds
sun moon tree trees mountains
sign that says say word letter letters text
make change turn paint replace swap add put remove move give redraw take off away for into
top bottom side another
"""
_VOCABULARY = tuple(_WORDS.split())


def vocabulary() -> tuple[str, ...]:
    """Every lower-case word and punctuation piece of any prompt or instruction; LETTERS come on top."""
    return _VOCABULARY


def pieces(text: str) -> list[str]:
    """Words, punctuation marks and single capital letters, in order.

    >>> pieces('a sign that says "HI" in red')
    ['a', 'sign', 'that', 'says', '"', 'H', 'I', '"', 'in', 'red']
    """
    return _PIECE.findall(text)


def unknown_pieces(text: str) -> list[str]:
    """The pieces of `text` outside the closed vocabulary."""
    known = {*_VOCABULARY, *LETTERS}
    return [piece for piece in pieces(text) if piece not in known]


def with_article(phrase: str) -> str:
    """'a red circle', 'an orange circle'."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def joined(parts: Sequence[str]) -> str:
    """'x', 'x and y', 'x, y and z'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def shuffled(parts: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The parts in random order."""
    return [parts[i] for i in rng.permutation(len(parts))]


def plural(shape: str) -> str:
    """'circles', 'crosses'."""
    return shape + ("es" if shape.endswith("s") else "s")
