import json
from datetime import UTC, datetime

import pytest

from tastemaker.data.votes import Side, Vote, read_votes, write_votes
from tastemaker.errors import UserMistake

ROW = {
    **{"id": "1", "prompt": "a cat", "rater": "ann", "choice": "left"},
    **{"left": {"picture": "a.png"}, "right": {"picture": "b.png", "generator": "base", "valid": False}},
}


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write(folder, *rows):
    path = folder / "votes.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_reads_all_keys_and_writes_them_back(folder):
    full = {
        **{**ROW, "id": "2", "choice": "tie", "task": "edit", "sources": ["a.png"], "category": "typography"},
        **{"time": "2026-05-01T12:30:00+02:00"},
        **{"left": {"picture": "a.png", "generator": "x", "valid": True, "text_distorted": True, "figure_distorted": False}},
    }
    votes = read_votes(write(folder, ROW, full))
    left, right = Side(str(folder / "a.png")), Side(str(folder / "b.png"), "base", valid=False)
    assert votes[0] == Vote("1", "a cat", "ann", "left", left, right)
    assert votes[1].left == Side(str(folder / "a.png"), "x", True, True, False)
    assert votes[1].time == datetime(2026, 5, 1, 10, 30, tzinfo=UTC) and votes[1].sources == (left.picture,)
    write_votes(folder / "out.jsonl", votes)
    assert read_votes(folder / "out.jsonl") == votes
    assert "valid" not in json.loads((folder / "out.jsonl").read_text().splitlines()[0])["left"]  # not asked is not false


def test_the_choice_is_a_side_of_the_screen(folder):
    votes = read_votes(write(folder, *[{**ROW, "id": choice, "choice": choice} for choice in ("left", "right", "tie")]))
    assert [vote.preference for vote in votes] == [1, -1, 0]
    assert [vote.winner for vote in votes] == [votes[0].left, votes[0].right, None]


BAD = {
    "choice": ({"choice": "a"}, "choice: 'a' is not known; write 'left' or 'right' or 'tie'"),
    "no choice": ({"choice": None}, "choice: missing"),
    "list": ({"choice": ["left"]}, "choice: ['left'] is not known"),
    "no side": ({"left": None}, "left: missing, or not an object"),
    "text": ({"right": "b.png"}, "right: missing, or not an object"),
    "empty side": ({"left": {}}, "left.picture: missing"),
    "side out": ({"left": {"picture": "../a.png"}}, "left.picture: '../a.png' must be a plain path"),
    "same": ({"right": {"picture": "a.png"}}, "right.picture: the same as left.picture"),
    "same otherwise spelt": ({"right": {"picture": "./a.png"}}, "right.picture: the same as left.picture"),
    "label": ({"left": {"picture": "a.png", "valid": "yes"}}, "left.valid: 'yes' is neither true nor false"),
    "label number": ({"left": {"picture": "a.png", "valid": 1}}, "left.valid: 1 is neither true nor false"),
    "misspelt": ({"left": {"picture": "a.png", "text_distort": True}}, "left.text_distort: unknown key; did you mean"),
    "rater": ({"rater": ""}, "rater: missing"),
    "edit": ({"task": "edit", "sources": []}, "sources: an edit needs"),
}


@pytest.mark.parametrize(("change", "says"), BAD.values(), ids=BAD.keys())
def test_bad_rows_name_file_line_and_field(folder, change, says):
    path = write(folder, ROW, {**ROW, "id": "2", **change})
    with pytest.raises(UserMistake) as caught:
        read_votes(path)
    assert str(caught.value).startswith(f"{path}:2: {says}")
    assert len(str(caught.value).splitlines()) == 1


def test_every_mistake_of_a_row_is_listed(folder):
    with pytest.raises(UserMistake) as caught:
        read_votes(write(folder, {"id": 1, "left": {"valid": 0, "x": 1}, "right": 5}))
    fields = {line.split(": ")[1] for line in str(caught.value).splitlines()}
    assert fields == {"id", "prompt", "rater", "choice", "left.valid", "left.picture", "left.x", "right"}


def test_ids_are_unique(folder):
    with pytest.raises(UserMistake, match="id: '1' is on line 1 already"):
        read_votes(write(folder, ROW, ROW))
