"""How prompts that state no category get one: by rules, the first that matches, and else by a model that is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from tastemaker.config.base import Broken, Settings, nearest
from tastemaker.config.judges import token_rules, url_rules

Category = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^\S(.*\S)?$")]
Many = Annotated[int, Field(ge=1, le=10_000)]
EVERYTHING = "all"
"""No category: reports call all prompts so."""


class CategoryRule(Settings):
    """Prompts that hold one of the words, or match the pattern, are of this category."""

    category: Category = Field(examples=["portrait"])
    """What they are."""
    words: tuple[str, ...] = ()
    """Whole words or phrases, in any letter case."""
    pattern: str | None = None
    """A regular expression of Python that is looked for anywhere, in any letter case."""

    def broken_rules(self) -> Iterator[Broken]:
        """There are words or a pattern. No word is empty; a pattern is a regular expression that does not match everything."""
        if not self.words and self.pattern is None:
            yield Broken(("words", "pattern"), "matches nothing", "give words or a pattern")
        if any(not word.strip() for word in self.words):
            yield Broken(("words",), "holds an empty word, which is in every prompt", "remove it")
        try:
            matches_all = self.pattern is not None and re.search(self.pattern, "") is not None
        except re.error as error:
            yield Broken(("pattern",), f"is no regular expression ({error})", "correct it")
        else:
            if matches_all:
                yield Broken(("pattern",), "matches every prompt", "correct it, or say `otherwise`")


class ChatClassifierConfig(Settings):
    """A model behind any OpenAI-compatible server; log-probabilities are not needed."""

    kind: Literal["chat"] = "chat"
    """Chooses this way of asking."""
    url: str = Field(examples=["http://127.0.0.1:8000/v1"])
    """Up to /v1, which is followed by /chat/completions."""
    model: Annotated[str, Field(min_length=1)] = Field(examples=["Qwen/Qwen3-VL-8B-Instruct"])
    """As the server calls it."""
    token_variable: str | None = None
    """The environment variable that holds the server's token; null sends none."""
    concurrency: Many = 32
    """Most prompts that are asked about at a time."""

    def broken_rules(self) -> Iterator[Broken]:
        """`url` is http or https and holds no password; `token_variable` is a name in capitals, never the token."""
        yield from url_rules(self.url)
        yield from token_rules(self.token_variable)


class FolderClassifierConfig(Settings):
    """An image-text-to-text model of transformers from a local folder. One prompt at a time."""

    kind: Literal["folder"] = "folder"
    """Chooses this way of asking."""
    path: Annotated[str, Field(min_length=1)] = Field(examples=["models/Qwen3-VL-8B-Instruct"])
    """The folder; a relative one starts at that of this file."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of its forward passes; auto takes bf16 where the device has arithmetic for it."""


ClassifierConfig = Annotated[ChatClassifierConfig | FolderClassifierConfig, Field(discriminator="kind")]


class CategoriesConfig(Settings):
    """The file of `tastemaker categorise`. A category that a prompt states itself is never changed."""

    rules: tuple[CategoryRule, ...] = ()
    """The first that matches decides."""
    otherwise: Category | None = None
    """The category of prompts that no rule matches; null leaves them to the model, or without a category."""
    names: dict[Category, str] = Field(default={})
    """The categories there are, each with what belongs to it in a few words: a model is told these and may answer one."""
    judge: ClassifierConfig | None = None
    """The model that is asked about prompts which no rule matches."""

    def broken_rules(self) -> Iterator[Broken]:
        """There are `rules`, a `judge`, or both. A judge needs two `names` or more, and no `otherwise`. Where there are names,
        every category is one of them. No category is called all.
        """
        if not self.rules and self.judge is None:
            yield Broken(("rules", "judge"), "nothing decides on a category", "give rules, a judge or both")
        if self.judge is not None and len(self.names) < 2:
            rule = "a model has to choose between at least two"
            yield Broken(("names", "judge"), rule, "name the categories and what belongs to them")
        if self.judge is not None and self.otherwise is not None:
            rule = "is never used with a judge, whose missing answers are not guessed"
            yield Broken(("otherwise", "judge"), rule, "remove one of them")
        used = {f"rules.{row}.category": rule.category for row, rule in enumerate(self.rules)}
        used |= {"otherwise": self.otherwise} if self.otherwise else {}
        for key, category in used.items():
            if self.names and category not in self.names:
                yield Broken((key, "names"), "is not among the names", nearest(category, self.names))
        for key, category in {**used, **{f"names.{name}": name for name in self.names}}.items():
            if category == EVERYTHING:
                yield Broken((key,), "is what reports call all prompts", "choose another name")
