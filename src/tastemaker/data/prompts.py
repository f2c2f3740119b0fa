"""Reads prompts from JSONL: one object a line with `id` and `text`, and optionally `category`, `task`, `sources`, `truth`.

All bad rows are listed at once, each with file, line, field and remedy. Source pictures are paths inside the file's folder:
absolute paths, URLs and paths that lead out of it are refused before anything is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tastemaker.errors import UserMistake
from tastemaker.types import Prompt

KEYS = ("id", "text", "category", "task", "sources", "truth")
MAX_TEXT = 4096
MAX_MISTAKES = 20


def read_prompts(path: Path | str, *, skip_bad: int = 0) -> list[Prompt]:
    """Every prompt of the file, in order. Up to `skip_bad` bad rows are left out; with more, UserMistake lists them."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserMistake(f"{path}: there is no such file of prompts") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserMistake(f"{path}: cannot be read as UTF-8 text ({error})") from None
    prompts: list[Prompt] = []
    mistakes: list[str] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row, found = _parse(line, path.parent)
        if row is not None and row["id"] in lines_of:
            found.append(f"id: {row['id']!r} was used on line {lines_of[row['id']]} already; ids must differ")
        if found or row is None:
            mistakes += [f"{path}:{number}: {mistake}" for mistake in found]
            skip_bad -= 1
        else:
            lines_of[row["id"]] = number
            prompts.append(Prompt(**row))
    if mistakes and skip_bad < 0:
        more = [f"... and {len(mistakes) - MAX_MISTAKES} more"] if len(mistakes) > MAX_MISTAKES else []
        raise UserMistake("\n".join(mistakes[:MAX_MISTAKES] + more))
    if not prompts:
        raise UserMistake(
            f"{path}: holds no prompts; write one JSON object a line, such as " + '{"id": "1", "text": "a red circle"}'
        )
    return prompts


def _parse(line: str, root: Path) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        row = json.loads(line)
    except ValueError as error:
        return None, [f"not JSON ({error}); write one object a line"]
    if not isinstance(row, dict):
        return None, [f"a {type(row).__name__}, not an object; write " + '{"id": ..., "text": ...}']
    found = [f"{key}: unknown key; known are {', '.join(KEYS)}" for key in row if key not in KEYS]
    found += _text_mistakes(row)
    if row.get("task", "t2i") not in ("t2i", "edit"):
        found.append(f"task: {row['task']!r} is neither 't2i' nor 'edit'")
    truth = row.get("truth")
    if truth is not None and not isinstance(truth, dict):
        found.append(f"truth: a {type(truth).__name__}, not an object")
    sources = row.get("sources", [])
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        found.append("sources: must be a list of file names")
    else:
        found += [mistake for source in sources for mistake in _source_mistakes(source, root)]
        if row.get("task") == "edit" and not sources:
            found.append("sources: an edit needs at least one source picture")
    if found or not isinstance(row.get("id"), str):
        return None, found
    return {**row, "sources": tuple(str(root / source) for source in sources)}, found


def _text_mistakes(row: dict[str, Any]) -> Iterator[str] | list[str]:
    found = []
    for key in ("id", "text"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            found.append(f"{key}: missing, empty or not text")
    if isinstance(row.get("text"), str) and len(row["text"]) > MAX_TEXT:
        found.append(f"text: {len(row['text'])} characters, at most {MAX_TEXT}")
    if not isinstance(row.get("category", ""), str):
        found.append(f"category: {row['category']!r} is not text")
    return found


def _source_mistakes(source: str, root: Path) -> list[str]:
    pure = PurePosixPath(source)
    if "://" in source or "\0" in source or pure.is_absolute() or ".." in pure.parts or len(source) > 255:
        return [f"sources: {source[:80]!r} must be a plain path inside {root}"]
    place = root / source
    if not place.resolve().is_relative_to(root.resolve()):
        return [f"sources: {source!r} leads out of {root} through a link"]
    return [] if place.is_file() else [f"sources: {source!r} is not a file in {root}"]
