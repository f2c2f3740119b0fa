"""Prompts as JSONL: one object a line with `id` and `text`, and optionally `category`, `task`, `sources`, `truth`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tastemaker.data.jsonl import Fields, inside, read_rows, shorten, write_rows
from tastemaker.types import Prompt


def read_prompts(path: Path | str, *, skip_bad: int = 0, decode: bool = False, category: str = "general") -> list[Prompt]:
    """Every prompt of the file, in order. Up to `skip_bad` bad rows are left out; with more, UserMistake lists them.

    Source pictures lie inside the file's folder; with `decode` each is also opened, which finds the broken ones. `category` is
    that of prompts which state none.
    """
    example = '{"id": "1", "text": "a red circle"}'
    parse = partial(_prompt, category=category)
    return read_rows(path, parse, kind="prompts", example=example, unique=_unique, skip_bad=skip_bad, decode=decode)


def write_prompts(path: Path | str, prompts: Iterable[Prompt]) -> None:
    """Writes what `read_prompts` reads back as equal. Raises UserMistake for a source picture outside the file's folder."""
    write_rows(path, [_as_row(prompt, path) for prompt in prompts])


def _as_row(prompt: Prompt, file: Path | str) -> dict[str, Any]:
    sources = [inside(source, file) for source in prompt.sources] or None
    return {**vars(prompt), "task": prompt.task if prompt.task != "t2i" else None, "sources": sources}


def _prompt(row: Fields, category: str) -> Prompt:
    truth = row.get("truth")
    if truth is not None and not isinstance(truth, dict):
        row.wrong("truth", f"{shorten(truth)} is not an object")
    task, sources = row.task()
    return Prompt(row.text("id"), row.text("text"), row.text("category", category), task, sources, truth)


def _unique(prompt: Prompt) -> list[tuple[str, str]]:
    return [("id", prompt.id)]
