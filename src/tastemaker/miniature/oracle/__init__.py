"""Reads pictures back: which facts of a description a picture shows, from its pixels alone."""

from tastemaker.miniature.oracle.crispness import quality
from tastemaker.miniature.oracle.edits import read_edit, read_target
from tastemaker.miniature.oracle.likeness import identity
from tastemaker.miniature.oracle.reading import EditReading, Fact, Reading
from tastemaker.miniature.oracle.verdicts import facts_of, read, read_batch

__all__ = [
    "EditReading",
    "Fact",
    "Reading",
    "facts_of",
    "identity",
    "quality",
    "read",
    "read_batch",
    "read_edit",
    "read_target",
]
