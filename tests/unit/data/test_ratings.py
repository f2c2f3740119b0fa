import json
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tastemaker.data.ratings import Rating, read_ratings, write_ratings
from tastemaker.errors import UserMistake

ROW = {"id": "1", "picture": "a.png", "prompt": "a cat", "dimension": "aesthetic", "scores": {"ann": 4}}


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    return tmp_path


def write(folder, *rows):
    path = folder / "ratings.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    return path


def mistake(path, **options):
    with pytest.raises(UserMistake) as caught:
        read_ratings(path, **options)
    return str(caught.value)


def test_reads_all_keys_and_defaults(folder):
    full = {
        **{
            "id": "2",
            "picture": "b.png",
            "prompt": "make it blue",
            "dimension": "instruction",
            "scores": {"ann": 1, "bo": 5.0},
        },
        **{"task": "edit", "sources": ["a.png"], "generator": "base", "category": "portrait", "rationale": "too dark"},
        **{"time": "2026-05-01T12:30:00Z"},
    }
    first, second = read_ratings(write(folder, ROW, full))
    assert first == Rating("1", str(folder / "a.png"), "a cat", "aesthetic", {"ann": 4})
    assert (second.scores, second.mean, second.task) == ({"ann": 1, "bo": 5}, 3.0, "edit")
    assert second.sources == (str(folder / "a.png"),) and second.pictures == (str(folder / "b.png"),)
    assert (second.generator, second.category, second.rationale) == ("base", "portrait", "too dark")
    assert second.time == datetime(2026, 5, 1, 12, 30, tzinfo=UTC)


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rows=st.lists(
        st.builds(
            Rating,
            id=TEXT,
            picture=st.sampled_from(["a.png", "b.png"]),
            prompt=TEXT,
            dimension=TEXT,
            scores=st.dictionaries(TEXT, st.integers(1, 5), min_size=1, max_size=3),
            task=st.just("edit"),
            sources=st.lists(st.sampled_from(["a.png", "b.png"]), min_size=1).map(tuple),
            generator=TEXT | st.just(""),
            rationale=TEXT | st.just(""),
            time=st.none() | st.datetimes(timezones=st.just(UTC)),
        ),
        min_size=1,
        max_size=4,
        unique_by=(lambda row: row.id, lambda row: row.prompt),
    )
)
def test_what_is_written_is_read_back(folder, rows):
    """Also texts that hold line separators, which JSON allows inside a line."""
    rows = [
        Rating(**{**vars(row), "picture": str(folder / row.picture), "sources": tuple(str(folder / s) for s in row.sources)})
        for row in rows
    ]
    write_ratings(folder / "out.jsonl", rows)
    assert read_ratings(folder / "out.jsonl") == rows


def test_a_failed_write_leaves_the_file_as_it_was(folder, monkeypatch):
    rows = read_ratings(write(folder, ROW))
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        write_ratings(folder / "ratings.jsonl", rows * 2)
    assert read_ratings(folder / "ratings.jsonl") == rows
    assert {path.name for path in folder.iterdir()} == {"a.png", "b.png", "ratings.jsonl"}


def test_pictures_of_another_folder_are_not_written(folder, tmp_path_factory):
    rows = read_ratings(write(folder, ROW))
    with pytest.raises(UserMistake, match="outside"):
        write_ratings(tmp_path_factory.mktemp("other") / "r.jsonl", rows)


BAD = {
    "no scores": ({"scores": {}}, "scores: missing"),
    "a list": ({"scores": [4, 5]}, "scores: missing, empty or not an object"),
    "a mean": ({"scores": {"ann": 3.5}}, "'ann' gave 3.5"),
    "zero": ({"scores": {"ann": 0}}, "'ann' gave 0"),
    "six": ({"scores": {"ann": 6}}, "'ann' gave 6"),
    "text": ({"scores": {"ann": "4"}}, "'ann' gave '4'"),
    "true": ({"scores": {"ann": True}}, "'ann' gave True"),
    "null": ({"scores": {"ann": None}}, "'ann' gave None"),
    "nested": ({"scores": {"ann": [4]}}, "'ann' gave [4]"),
    "nobody": ({"scores": {" ": 4}}, "without a name"),
    "no picture": ({"picture": None}, "picture: missing"),
    "number": ({"picture": 7}, "picture: missing"),
    "absent": ({"picture": "c.png"}, "picture: 'c.png' is not a file"),
    "folder": ({"picture": "."}, "picture: '.' is not a file"),
    "up": ({"picture": "../a.png"}, "picture: '../a.png' must be a plain path"),
    "inner up": ({"picture": "x/../a.png"}, "must be a plain path"),
    "absolute": ({"picture": "/etc/passwd"}, "picture: '/etc/passwd' must be a plain path"),
    "url": ({"picture": "http://x.org/a.png"}, "must be a plain path"),
    "nul": ({"picture": "a.png\0"}, "must be a plain path"),
    "long": ({"picture": "a" * 256}, "must be a plain path"),
    "long in bytes": ({"picture": "ü" * 200}, "must be a plain path"),
    "half a pair": ({"picture": "\ud800.png"}, "must be a plain path"),
    "no dimension": ({"dimension": " "}, "dimension: missing"),
    "task": ({"task": "video"}, "task: 'video' is not known"),
    "edit": ({"task": "edit"}, "sources: an edit needs at least one"),
    "no task": ({"sources": ["a.png"]}, "sources: text to image starts from no picture; write 'task': 'edit'"),
    "prompt": ({"prompt": "\udc00"}, "prompt: '\\udc00' holds half a surrogate"),
    "long prompt": ({"prompt": "x" * 4097}, "prompt: 4097 characters"),
    "rationale": ({"rationale": 5}, "rationale: 5 is not text"),
    "no zone": ({"time": "2026-05-01T12:30:00"}, "time: '2026-05-01T12:30:00' is not a time with its zone"),
    "not a time": ({"time": 5}, "time: 5 is not a time"),
    "misspelt": ({"dimention": "x"}, "dimention: unknown key; did you mean 'dimension'?"),
    "unknown": ({"qqq": 1}, "qqq: unknown key; known are category, dimension"),
}


@pytest.mark.parametrize(("change", "says"), BAD.values(), ids=BAD.keys())
def test_bad_rows_name_file_line_and_field(folder, change, says):
    path = write(folder, {**ROW, "id": "0", "picture": "b.png"}, {**ROW, **change})
    message = mistake(path)
    assert message.startswith(f"{path}:2: ") and says in message
    with pytest.warns(UserWarning, match="left out 1 of 2 rows"):
        assert [rating.id for rating in read_ratings(path, skip_bad=1)] == ["0"]


def test_bad_json(folder):
    lines = {
        '{"id": "1"': "not JSON",
        "[1]": "a list, not an object",
        "7": "a int, not an object",
        '{"id": "1", "scores": {"ann": 4, "ann": 1}}': "key 'ann' is written twice",
        '{"id": "1", "scores": {"ann": NaN}}': "NaN is not a number of JSON",
        "[" * 100_000: "not JSON",
        '{"id": ' + "[" * 500 + "]" * 500 + "}": "id: missing",
    }
    message = mistake(write(folder, *lines))
    for number, (line, says) in enumerate(lines.items(), start=1):
        assert any(f":{number}: " in one and says in one for one in message.splitlines()), line[:60]


def test_ids_and_raters_are_unique(folder):
    rows = [ROW, {**ROW, "picture": "b.png"}, {**ROW, "id": "3"}, {**ROW, "id": "4", "scores": {"bo": 2}}]
    message = mistake(write(folder, *rows))
    assert ":2: id: '1' is on line 1 already" in message and ":3: scores: ('ann', 'aesthetic'" in message
    assert len(message.splitlines()) == 2  # another rater of the same picture may have a row of their own


def test_a_link_out_of_the_folder_or_to_itself_is_refused(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    secret.write_bytes(b"x")
    (folder / "out.png").symlink_to(secret)
    (folder / "up").symlink_to(secret.parent)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "fine.png").symlink_to("a.png")
    names = ["out.png", "up/secret.png", "loop.png", "fine.png"]
    message = mistake(write(folder, *[{**ROW, "id": name, "picture": name} for name in names]))
    lines = message.splitlines()
    assert len(lines) == 3 and "leads out" in lines[0] and "leads out" in lines[1] and ":3: picture" in lines[2]
    assert all(str(folder) in line for line in lines)


def test_refused_paths_are_never_opened(folder, monkeypatch):
    path = write(folder, *[{**ROW, **change} for change, says in BAD.values() if "must be a plain path" in says])
    monkeypatch.setattr("tastemaker.data.jsonl.open_picture", lambda name: pytest.fail(f"{name} was opened"))
    assert "plain path" in mistake(path, decode=True)


def test_broken_pictures_are_named_with_their_rows(folder):
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:40])
    (folder / "fake.png").write_text("<svg/>")
    path = write(folder, ROW, {**ROW, "id": "2", "picture": "broken.png"}, {**ROW, "id": "3", "picture": "fake.png"})
    assert len(read_ratings(path)) == 3
    broken, fake = mistake(path, decode=True).splitlines()
    assert f"{path}:2: picture: {folder / 'broken.png'}" in broken and ":3: picture" in fake and "not a picture" in fake


def test_the_budget_for_bad_rows(folder):
    path = write(folder, ROW, "{", "{", "")
    assert len(mistake(path, skip_bad=1).splitlines()) == 2
    with pytest.warns(UserWarning, match="left out 2 of 3 rows") as caught:
        assert len(read_ratings(path, skip_bad=2)) == 1
    assert f"{path}:3: not JSON" in str(caught[0].message)
    assert ":1: not JSON" in mistake(write(folder, "{"), skip_bad=5)  # a file without a good row is no data set


def test_many_mistakes_are_counted(folder):
    assert mistake(write(folder, *["{"] * 50)).splitlines()[-1] == "... and 30 more"


def test_byte_order_mark_windows_line_ends_and_other_files(folder):
    path = folder / "r.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n")
    assert len(read_ratings(path)) == 1
    path.write_bytes(json.dumps(ROW).encode() + b"\n\xff\xfe\n")
    assert f"{path}:2: not UTF-8" in mistake(path)
    path.write_bytes(b"\n")
    assert "holds no ratings" in mistake(path)
    assert "no such file" in mistake(folder / "absent.jsonl")
    assert "cannot be read" in mistake(folder)
