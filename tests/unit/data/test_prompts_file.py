import json

import pytest

from tastemaker.data.prompts import read_prompts, write_prompts
from tastemaker.errors import UserMistake
from tastemaker.miniature.task import described, training_prompts
from tastemaker.types import Prompt


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


def test_what_is_written_is_read_back_as_equal(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    source = str(tmp_path / "a.png")
    prompts = [
        Prompt("1", "three \u2028 circles"),
        Prompt("2", "make it blue", "portrait", "edit", (source,), {"k": [1, {"z": None}]}),
    ]
    write_prompts(tmp_path / "p.jsonl", prompts)
    assert read_prompts(tmp_path / "p.jsonl") == prompts
    assert '"a.png"' in (tmp_path / "p.jsonl").read_text()


def test_a_source_outside_the_folder_is_not_written(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "below").mkdir()
    with pytest.raises(UserMistake, match="lies outside"):
        write_prompts(tmp_path / "below" / "p.jsonl", [Prompt("2", "x", task="edit", sources=(str(tmp_path / "a.png"),))])
    assert not (tmp_path / "below" / "p.jsonl").exists()


def test_prompts_of_the_miniature_keep_their_truth(tmp_path):
    prompts = training_prompts(40)
    write_prompts(tmp_path / "p.jsonl", prompts)
    found = read_prompts(tmp_path / "p.jsonl")
    assert [(p.id, p.text, p.category) for p in found] == [(p.id, p.text, p.category) for p in prompts]
    assert [described(p.truth) for p in found] == [described(p.truth) for p in prompts]


def test_a_category_for_prompts_that_state_none(tmp_path):
    path = write(tmp_path, {"id": "1", "text": "a"}, {"id": "2", "text": "b", "category": "portrait"})
    assert [prompt.category for prompt in read_prompts(path, category="")] == ["", "portrait"]
