"""Reads prompts from JSONL: one object a line with `id` and `text`, and optionally `category`, `task`, `sources`, `truth`."""

from __future__ import annotations

from pathlib import Path

from tastemaker.data.jsonl import Fields, read_rows, shorten
from tastemaker.types import Prompt


def read_prompts(path: Path | str, *, skip_bad: int = 0, decode: bool = False) -> list[Prompt]:
    """Every prompt of the file, in order. Up to `skip_bad` bad rows are left out; with more, UserMistake lists them.

    Source pictures lie inside the file's folder; with `decode` each is also opened, which finds the broken ones.
    """
    example = '{"id": "1", "text": "a red circle"}'
    return read_rows(path, _prompt, kind="prompts", example=example, unique=_unique, skip_bad=skip_bad, decode=decode)


def _prompt(row: Fields) -> Prompt:
    truth = row.get("truth")
    if truth is not None and not isinstance(truth, dict):
        row.wrong("truth", f"{shorten(truth)} is not an object")
    task, sources = row.task()
    if task == "t2i" and sources:
        row.wrong("sources", "text to image starts from no picture; write 'task': 'edit', or remove them")
    return Prompt(row.text("id"), row.text("text"), row.text("category", "general"), task, sources, truth)


def _unique(prompt: Prompt) -> list[tuple[str, str]]:
    return [("id", prompt.id)]
