"""What all groups of settings share: unknown keys refused, nothing changes after reading, rules name the keys they read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

Key = str | tuple[str | int, ...]
"""Where a setting stands: `rollout.steps`, or ("categories", "v1.5", "alignment") where a name may hold dots."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Guidance = Annotated[float, Field(ge=1, le=50)]
Weight = Annotated[float, Field(ge=0, le=1)]


WITHOUT_RULES = {"rules": False}
"""The context of a validation that looks at each setting alone."""


class Broken(NamedTuple):
    """A rule between settings that does not hold: the keys it reads (the first one is blamed), the rule, the remedy."""

    keys: tuple[Key, ...]
    rule: str
    remedy: str


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is not known: the one that looks most like it, or all there are."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known) or 'nothing'}"


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
    def _check_rules(self, info: ValidationInfo) -> Settings:
        if info.context != WITHOUT_RULES and (broken := list(self.broken_rules())):
            names = [key if isinstance(key, str) else ".".join(map(str, key)) for key in (b.keys[0] for b in broken)]
            text = "; ".join(f"{name}: {b.rule}, {b.remedy}" for name, b in zip(names, broken, strict=True))
            raise PydanticCustomError("broken_rules", "{text}", {"text": text, "broken": broken})
        return self
