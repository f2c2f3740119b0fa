"""The category of a prompt by rules on its words: the first that matches decides, and what none matches has none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tastemaker.types import Prompt


@dataclass(frozen=True)
class Rule:
    """Prompts in whose text one of the `patterns` is found are of `category`."""

    category: str
    patterns: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, category: str, words: Sequence[str] = (), pattern: str | None = None) -> Rule:
        """Whole words or phrases, or a regular expression, in any letter case.

        >>> Rule.of("portrait", ["face"]).matches(Prompt("1", "A FACE with glasses")), Rule.of("portrait", ["face"]).matches(
        ...     Prompt("2", "a typeface")
        ... )
        (True, False)
        """
        ways = [r"(?<!\w)" + r"\s+".join(map(re.escape, word.split())) + r"(?!\w)" for word in words]
        ways += [pattern] if pattern is not None else []
        return cls(category, tuple(re.compile(way, re.IGNORECASE) for way in ways))

    def matches(self, prompt: Prompt) -> bool:
        return any(pattern.search(prompt.text) for pattern in self.patterns)


def category_by_rules(prompt: Prompt, rules: Sequence[Rule]) -> tuple[str, int] | None:
    """The category of the first rule that matches and its place, from 1; None where none does."""
    for place, rule in enumerate(rules, start=1):
        if rule.matches(prompt):
            return rule.category, place
    return None
