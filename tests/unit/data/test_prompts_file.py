import json

import pytest

from tastemaker.data.prompts import read_prompts
from tastemaker.errors import UserMistake


def write(folder, *lines):
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_reads_all_keys_and_defaults(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    path = write(
        tmp_path,
        {"id": "1", "text": "a red circle"},
        "",
        {"id": "2", "text": "make it blue", "task": "edit", "sources": ["a.png"], "category": "general", "truth": {"k": 1}},
    )
    first, second = read_prompts(path)
    assert (first.category, first.task, first.sources, first.truth) == ("general", "t2i", (), None)
    assert second.task == "edit" and second.sources == (str(tmp_path / "a.png"),) and second.truth == {"k": 1}


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "1", "text": "a"}\r\n{"id": "2", "text": "b"}\r\n')
    assert [prompt.id for prompt in read_prompts(path)] == ["1", "2"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{not json", "not JSON"),
        ("[1]", "not an object"),
        ({"text": "x"}, "id: missing"),
        ({"id": "1"}, "text: missing"),
        ({"id": "1", "text": "  "}, "text: missing"),
        ({"id": "1", "text": "x" * 5000}, "characters"),
        ({"id": 1, "text": "x"}, "id: missing, empty or not text"),
        ({"id": "1", "text": "x", "txet": "y"}, "txet: unknown key"),
        ({"id": "1", "text": "x", "task": "video"}, "task"),
        ({"id": "1", "text": "x", "truth": "yes"}, "truth"),
        ({"id": "1", "text": "x", "sources": "a.png"}, "sources: must be a list"),
        ({"id": "1", "text": "x", "task": "edit"}, "needs at least one source"),
        ({"id": "1", "text": "x", "sources": ["a.png"]}, "write 'task': 'edit'"),
        ({"id": "1", "text": "x", "sources": ["missing.png"]}, "not a file"),
        ({"id": "1", "text": "x", "sources": ["../secret"]}, "plain path inside"),
        ({"id": "1", "text": "x", "sources": ["/etc/passwd"]}, "plain path inside"),
        ({"id": "1", "text": "x", "sources": ["https://example.org/a.png"]}, "plain path inside"),
        ({"id": "1", "text": "x", "sources": ["a\0b"]}, "plain path inside"),
        ({"id": "1", "text": "x", "sources": ["a" * 300]}, "plain path inside"),
    ],
)
def test_bad_rows_name_file_line_and_field(tmp_path, row, says):
    path = write(tmp_path, {"id": "0", "text": "fine"}, row)
    with pytest.raises(UserMistake) as caught:
        read_prompts(path)
    assert f"{path}:2: " in str(caught.value) and says in str(caught.value)
    assert [prompt.id for prompt in read_prompts(path, skip_bad=1)] == ["0"]


def test_all_mistakes_are_listed_and_duplicates_name_both_lines(tmp_path):
    path = write(tmp_path, {"id": "1", "text": "a"}, "{", {"id": "1", "text": "b"}, {"id": "3"})
    with pytest.raises(UserMistake) as caught:
        read_prompts(path, skip_bad=2)
    message = str(caught.value)
    assert ":2: not JSON" in message and "line 1 already" in message and ":4: text" in message


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data" / "a.png").symlink_to(tmp_path / "secret.png")
    path = write(tmp_path / "data", {"id": "1", "text": "x", "sources": ["a.png"]})
    with pytest.raises(UserMistake, match="leads out"):
        read_prompts(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe"])
def test_no_rows_or_no_text(tmp_path, content):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserMistake):
        read_prompts(path)
    with pytest.raises(UserMistake, match="no such file"):
        read_prompts(tmp_path / "absent.jsonl")
