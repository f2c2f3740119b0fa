"""The reasons a simulated rater writes beside a score: short, in a closed vocabulary, so that a small judge can learn them.

alignment     "first shape right colour wrong relation right , two of three facts hold"
aesthetic     "quality three , fidelity four"
portrait      "eyes good , mouth poor , hair good , balance fair"
instruction   "first colour right , one of one changes made , the rest is kept"

Of alignment and instruction each fact is named with its verdict. A judge that learns from such reasons looks at one fact at a
time; from reasons that named the failures alone it learnt to repeat the commonest one.
"""

from __future__ import annotations

from collections.abc import Sequence

from tastemaker.miniature.oracle import Fact
from tastemaker.miniature.raters.truth import Truth

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
GRADES = ("missing", "poor", "fair", "good")
_ORDINALS = {"1": "first", "2": "second", "3": "third"}

_TOLD = """
wrong right facts hold of and quality fidelity eyes mouth hair balance changes made the rest is kept not partly
shape colour size count relation extra objects style skin glasses smile clothing time ground weather sky body
trees mountains letters letter moved
"""
WORDS = (*NUMBERS, *GRADES, *_ORDINALS.values(), *_TOLD.split())
"""Every word of a reason."""


def reason(truth: Truth, dimension: str) -> str:
    """Why a picture gets its score in `dimension`, in the words of WORDS, commas and spaces."""
    match dimension:
        case "alignment":
            return _facts(truth)
        case "instruction":
            return _changes(truth)
        case "portrait":
            return " , ".join(f"{name} {GRADES[min(3, int(4 * value))]}" for name, value in truth.parts.items())
    return " , ".join(f"{name} {NUMBERS[round(truth.scores[name])]}" for name in ("quality", "fidelity"))


def _facts(truth: Truth) -> str:
    return f"{_verdicts(truth.facts)} , {_count(truth.facts)} facts hold"


def _changes(truth: Truth) -> str:
    kept = truth.kept if truth.kept is not None else 0.0
    rest = "kept" if kept >= 0.5 else "partly kept" if kept >= 0.2 else "not kept"
    return f"{_verdicts(truth.facts)} , {_count(truth.facts)} changes made , the rest is {rest}"


def _verdicts(facts: Sequence[Fact]) -> str:
    """Of every fact, thing by thing; the thing is named once."""
    told, thing = [], ""
    for fact in sorted(facts, key=lambda fact: fact.name if fact.name.startswith("object ") else "z"):
        first, *rest = _spoken(fact.name).split()
        told.append(" ".join(rest if rest and first == thing else (first, *rest)) + (" right" if fact.verdict else " wrong"))
        thing = first
    return " ".join(told)


def _count(facts: Sequence[Fact]) -> str:
    return f"{NUMBERS[sum(fact.verdict for fact in facts)]} of {NUMBERS[len(facts)]}"


def _spoken(fact: str) -> str:
    """'object 2 colour' -> 'second colour'."""
    words = fact.removeprefix("object ").removeprefix("no ").split()
    return " ".join(_ORDINALS.get(word, word) for word in words)
