"""Rules that give prompts a category: words, patterns, and their order."""

from __future__ import annotations

import pytest

from tastemaker.data.categories import Rule, category_by_rules
from tastemaker.types import Prompt


def matches(text, *words, pattern=None):
    return Rule.of("c", words, pattern).matches(Prompt("1", text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a face", True),
        ("FACE.", True),
        ("a typeface", False),
        ("faces", False),
        ("a full   moon", True),
        ("a full\nmoon", True),
        ("full house, moon", False),
        ("c++ on a sign", True),
        ("c+++", True),
    ],
)
def test_words_are_whole_words_and_phrases(text, found):
    assert matches(text, "face", "full moon", "c++") == found


def test_words_are_no_patterns_and_patterns_are():
    assert not matches("abc", "a.c") and matches("a.c", "a.c")
    assert matches('a sign that says "Hello"', pattern='"[^"]+"') and matches("ABC", pattern="(?s)b.")


def test_words_of_other_scripts_and_accents():
    assert matches("ein Gesicht über Wasser", "über") and not matches("überall", "über") and matches("画 a face", "画")


def test_the_first_rule_that_matches_decides():
    rules = [Rule.of("typography", pattern='"'), Rule.of("portrait", ["person"]), Rule.of("all people", ["person"])]
    assert category_by_rules(Prompt("1", 'a person with a sign "A"'), rules) == ("typography", 1)
    assert category_by_rules(Prompt("2", "a person"), rules) == ("portrait", 2)
    assert category_by_rules(Prompt("3", "a dog"), rules) is None
