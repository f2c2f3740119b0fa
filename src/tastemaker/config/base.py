"""What all groups of settings share: unknown keys refused, nothing changes after reading, rules name the keys they read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class Broken(NamedTuple):
    """A rule between settings that does not hold: the dotted keys it reads (the first one is blamed), the rule, the remedy."""

    keys: tuple[str, ...]
    rule: str
    remedy: str


class Settings(BaseModel):
    """A group of settings. Override `broken_rules` for rules that read more than one key."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    def broken_rules(self) -> Iterator[Broken]:
        """Every rule that does not hold, not only the first."""
        yield from ()

    @model_validator(mode="after")
    def _check_rules(self) -> Settings:
        if broken := list(self.broken_rules()):
            text = "; ".join(f"{b.keys[0]}: {b.rule}, {b.remedy}" for b in broken)
            raise PydanticCustomError("broken_rules", "{text}", {"text": text, "broken": broken})
        return self
