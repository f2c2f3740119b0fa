"""docs/data.md: its rows are read, its tables have the keys that the readers know, its messages are what is told."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tastemaker.data.prompts import read_prompts
from tastemaker.data.ratings import read_ratings
from tastemaker.data.votes import read_votes
from tastemaker.errors import UserMistake
from tastemaker.evaluation.calibrate_votes import read_scored_votes

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
READERS = {
    "Prompts": read_prompts,
    "Ratings": read_ratings,
    "Votes": read_votes,
    "Votes with scores": lambda path: read_scored_votes(path, None),
}


@pytest.fixture
def folder(tmp_path):
    names = ("p7-a.png", "p7-b.png", "e1-a.png", "e1-b.png", "faces/12.png", "hats/3.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    return tmp_path


def told(read, path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserMistake) as caught:
        read(path)
    return str(caught.value)


def keys(table):
    """Of each of a section's tables; one cell may name several."""
    cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"\w+", cell)}


@pytest.mark.parametrize("name", READERS)
def test_rows_are_read(folder, name):
    path = folder / "file.jsonl"
    (rows,) = re.findall(r"```jsonl\n(.*?)```", SECTIONS[name], re.DOTALL)
    path.write_text(rows)
    assert len(READERS[name](path)) == rows.count("\n")


@pytest.mark.parametrize("name", READERS)
def test_tables_have_every_key(folder, name):
    row, side = SECTIONS[name].split("Of a side:") if name == "Votes" else (SECTIONS[name], "")
    example = json.loads(re.findall(r"```jsonl\n(.*?)\n", row)[0])
    known = told(READERS[name], folder / "file.jsonl", {**example, "zzzzzz": 1})
    assert set(known.partition("known are ")[2].split(", ")) == keys(row)
    if side:
        known = told(READERS[name], folder / "file.jsonl", {**example, "left": {"picture": "p7-a.png", "zzzzzz": 1}})
        assert set(known.partition("known are ")[2].split(", ")) == keys(side)


def test_messages_are_what_is_told(folder):
    good = {"picture": "p7-a.png", "prompt": "a cat", "dimension": "aesthetic"}
    rows = [{"id": str(row), **good, "scores": {f"rater {row}": 4}} for row in range(7)]
    rows[2]["scores"] = {"ann": 4.5}
    rows[6]["pictur"] = rows[6].pop("picture")
    (block,) = re.findall(r"```\n(ratings.*?)\n```", SECTIONS["Bad rows"], re.DOTALL)
    assert told(read_ratings, folder / "ratings.jsonl", *rows).replace(f"{folder}/", "") == block
