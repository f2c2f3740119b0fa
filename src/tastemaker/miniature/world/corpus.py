"""Items as JSON Lines: prompt rows that any reader of the project understands, with the world's truth beside them.

A row's keys are the fields of `tastemaker.types.Prompt`. `truth` is {"description"} for a text-to-image prompt, and for an
edit {"kind", "source", "target", "core", "source_layout", "target_layout"} with "secondary", "middle" and "moved" where
they apply.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from tastemaker.miniature.world import description as descriptions
from tastemaker.miniature.world import layout as layouts
from tastemaker.miniature.world.edit_steps import Moved
from tastemaker.miniature.world.edits import Edit, EditPair
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import Item

PROMPTS_FILE = "prompts.jsonl"
SOURCES_FOLDER = "sources"


def truth_to_dict(item: Item) -> dict[str, Any]:
    """The facts behind a prompt, JSON-able."""
    if item.pair is None:
        return {"description": descriptions.to_dict(item.description)}
    edit = item.pair.edit
    truth: dict[str, Any] = {
        "kind": edit.kind,
        "source": descriptions.to_dict(edit.source),
        "target": descriptions.to_dict(edit.target),
        "core": edit.core,
        "source_layout": layouts.to_dict(item.pair.source_layout),
        "target_layout": layouts.to_dict(item.pair.target_layout),
    }
    if edit.secondary is not None and edit.middle is not None:
        truth |= {"secondary": edit.secondary, "middle": descriptions.to_dict(edit.middle)}
    return truth | ({"moved": asdict(edit.moved)} if edit.moved else {})


def edit_from_dict(truth: Mapping[str, Any]) -> Edit:
    """The edit of an edit row's truth."""
    middle, moved = truth.get("middle"), truth.get("moved")
    return Edit(
        truth["kind"],
        descriptions.from_dict(truth["source"]),
        descriptions.from_dict(truth["target"]),
        truth["core"],
        truth.get("secondary"),
        descriptions.from_dict(middle) if middle else None,
        Moved(**moved) if moved else None,
    )


def to_row(item: Item, sources: Iterable[str] = ()) -> dict[str, Any]:
    """One prompt row; `sources` are the paths of an edit's source pictures."""
    row = {"id": item.id, "text": item.text, "category": item.category, "task": item.task, "sources": list(sources)}
    return {**row, "truth": truth_to_dict(item)}


def from_row(row: Mapping[str, Any]) -> Item:
    """Inverse of `to_row`, without the source paths; KeyError where the row has no truth of this world."""
    truth = row["truth"]
    if "description" in truth:
        return Item(row["id"], row["text"], descriptions.from_dict(truth["description"]))
    source_layout, target_layout = (layouts.from_dict(truth[key]) for key in ("source_layout", "target_layout"))
    pair = EditPair(edit_from_dict(truth), source_layout, target_layout, row["text"])
    return Item(row["id"], row["text"], pair.edit.target, pair)


def write_corpus(items: Iterable[Item], folder: Path) -> Path:
    """Writes `prompts.jsonl` and, for edits, the source pictures it names relative to itself; gives the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PROMPTS_FILE
    with path.open("w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(to_row(item, _write_source(item, folder))) + "\n")
    return path


def read_corpus(path: Path) -> list[Item]:
    """The items of a file written by `write_corpus`."""
    with path.open(encoding="utf-8") as file:
        return [from_row(json.loads(line)) for line in file]


def _write_source(item: Item, folder: Path) -> list[str]:
    if item.pair is None:
        return []
    name = f"{SOURCES_FOLDER}/{item.id}.png"
    (folder / SOURCES_FOLDER).mkdir(exist_ok=True)
    Image.fromarray(render(item.pair.edit.source, item.pair.source_layout)).save(folder / name)
    return [name]
