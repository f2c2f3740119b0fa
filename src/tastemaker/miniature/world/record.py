"""Frozen dataclasses to and from JSON-able dicts, refusing unknown and missing keys."""

from dataclasses import MISSING, asdict, fields
from typing import Any


def as_plain(value: Any) -> Any:
    """Tuples become lists, so that the result equals its own JSON round trip."""
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return value


def as_frozen(value: Any) -> Any:
    """Lists become tuples, the only sequence a frozen record holds."""
    return tuple(as_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def record_to_dict(record: Any) -> dict[str, Any]:
    """The record's fields, with its `category` first."""
    return {"category": record.category, **as_plain(asdict(record))}


def record_from_dict(kind: type, values: dict[str, Any]) -> Any:
    """A `kind` built from exactly its own fields; ValueError on unknown or missing keys."""
    names = [field.name for field in fields(kind)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"{kind.__name__} has unknown keys {unknown}; allowed: {', '.join(names)}")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"{kind.__name__} lacks keys {missing}; needed: {', '.join(needed)}")
    return kind(**{name: as_frozen(value) for name, value in values.items()})


def pick_kind(kinds: dict[str, type], values: dict[str, Any]) -> tuple[type, dict[str, Any]]:
    """Splits `category` off a dict and finds its record type."""
    rest = dict(values)
    category = rest.pop("category", None)
    if category not in kinds:
        raise ValueError(f"category is {category!r}; allowed: {', '.join(kinds)}")
    return kinds[category], rest
