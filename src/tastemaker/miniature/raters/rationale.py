"""The reasons a simulated rater writes beside a score: short, in a closed vocabulary, so that a small judge can learn them.

alignment     "wrong second colour and relation , two of four facts hold"
aesthetic     "quality three , fidelity four"
portrait      "eyes good , mouth poor , hair good , balance fair"
instruction   "one of two changes made , the rest is kept"
"""

from __future__ import annotations

from tastemaker.miniature.raters.truth import Truth

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
GRADES = ("missing", "poor", "fair", "good")
_ORDINALS = {"1": "first", "2": "second", "3": "third"}
_MAX_NAMED = 3

_TOLD = """
wrong facts hold of and quality fidelity eyes mouth hair balance changes made the rest is kept not partly
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
    wrong = [_spoken(fact.name) for fact in truth.facts if not fact.verdict]
    held = f"{NUMBERS[len(truth.facts) - len(wrong)]} of {NUMBERS[len(truth.facts)]} facts hold"
    return f"wrong {' and '.join(wrong[:_MAX_NAMED])} , {held}" if wrong else held


def _changes(truth: Truth) -> str:
    made = sum(fact.verdict for fact in truth.facts)
    kept = truth.kept if truth.kept is not None else 0.0
    rest = "kept" if kept >= 0.5 else "partly kept" if kept >= 0.2 else "not kept"
    return f"{NUMBERS[made]} of {NUMBERS[len(truth.facts)]} changes made , the rest is {rest}"


def _spoken(fact: str) -> str:
    """'object 2 colour' -> 'second colour'."""
    words = fact.removeprefix("object ").removeprefix("no ").split()
    return " ".join(_ORDINALS.get(word, word) for word in words)
