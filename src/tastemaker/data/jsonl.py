"""JSON Lines written by people: one object a line, every mistake listed at once with file, line, field, rule and remedy.

A reader of some kind of row is a function from `Fields` to a record. `Fields` hands out checked values and collects what is
wrong, so that a row is complained about once and whole. Files named in a row lie inside the folder of the JSONL file: absolute
paths, URLs, `..` and links that lead out are refused before anything is opened.
"""

from __future__ import annotations

import json
import os
import reprlib
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar, cast

from tastemaker.data.pictures import open_picture
from tastemaker.data.whole_file import whole_file
from tastemaker.errors import UserMistake
from tastemaker.types import Task

MAX_TEXT = 4096
"""Characters of a text."""
MAX_PATH = 255
"""Bytes of a path."""
MAX_MISTAKES = 20
"""Mistakes that are listed; the rest is counted."""
TASKS: tuple[Task, ...] = ("t2i", "edit")

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80

Record = TypeVar("Record")
_REQUIRED: Final = object()


class Fields:
    """The fields of one object. A bad or absent value is noted in `mistakes`, and a harmless one is given in its place.

    With `decode`, pictures are opened and decoded too, so that a broken one is named with its row.
    """

    def __init__(self, values: Mapping[str, Any], root: Path, *, decode: bool = False, prefix: str = ""):
        self._values, self._root, self._decode, self._prefix = values, root, decode, prefix
        self._asked: set[str] = set()
        self.mistakes: list[str] = []

    def get(self, key: str) -> Any:
        """The value as JSON has it, None where there is none. Asking for a key makes it a known one."""
        self._asked.add(key)
        return self._values.get(key)

    def wrong(self, key: str, rule: str) -> None:
        """Notes that the value of `key` breaks `rule`."""
        self.mistakes.append(f"{self._prefix}{key}: {rule}")

    def text(self, key: str, default: Any = _REQUIRED, *, limit: int = MAX_TEXT) -> str:
        """At most `limit` characters that can be written as UTF-8; not blank unless there is a default."""
        value = self.get(key)
        if value is None and default is not _REQUIRED:
            return cast(str, default)
        if not isinstance(value, str) or (default is _REQUIRED and not value.strip()):
            self.wrong(key, "missing, empty or not text" if default is _REQUIRED else f"{shorten(value)} is not text")
        elif len(value) > limit:
            self.wrong(key, f"{len(value)} characters, at most {limit}; shorten it")
        elif not _is_unicode(value):
            self.wrong(key, f"{shorten(value)} holds half a surrogate pair; write the character itself")
        else:
            return value
        return ""

    def choice(self, key: str, options: Collection[str], default: Any = _REQUIRED) -> Any:
        """One of `options`."""
        value = self.get(key)
        if value is None and default is not _REQUIRED:
            return default
        if not isinstance(value, str) or value not in options:
            told = "missing" if value is None else f"{shorten(value)} is not known"
            self.wrong(key, f"{told}; write {' or '.join(map(repr, options))}")
        return value

    def flag(self, key: str) -> bool | None:
        """True, False, or None where nobody said."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            self.wrong(key, f"{shorten(value)} is neither true nor false")
        return value

    def time(self, key: str) -> datetime | None:
        """A moment with its time zone (ISO 8601), or None where nobody said."""
        value = self.get(key)
        if value is None:
            return None
        with suppress(ValueError, TypeError):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return moment
        self.wrong(key, f"{shorten(value)} is not a time with its zone; write such as '2026-05-01T12:30:00+00:00'")
        return None

    def task(self) -> tuple[Task, tuple[str, ...]]:
        """The task and the source pictures; an edit has at least one, text to image none."""
        task, sources = self.choice("task", TASKS, "t2i"), self.pictures("sources")
        if task == "edit" and self._values.get("sources") in (None, []):
            self.wrong("sources", "an edit needs at least one source picture")
        elif task == "t2i" and sources:
            self.wrong("sources", "text to image starts from no picture; write 'task': 'edit', or remove them")
        return task, sources

    def picture(self, key: str) -> str:
        """A file of the folder, as a path that can be opened."""
        value = self.get(key)
        if not isinstance(value, str) or not value:
            self.wrong(key, "missing, empty or not text; write the file's name")
            return ""
        return self._file(key, value)

    def pictures(self, key: str) -> tuple[str, ...]:
        """A list of files, each as `picture`; none where the key is absent."""
        value = self.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self.wrong(key, "must be a list of file names")
            return ()
        return tuple(self._file(key, name) for name in value)

    def inner(self, key: str) -> Fields:
        """The fields of an object inside this one; they share `mistakes`."""
        value = self.get(key)
        values, prefix = value if isinstance(value, dict) else {}, f"{self._prefix}{key}."
        inner = Fields(values, self._root, decode=self._decode, prefix=prefix)
        if isinstance(value, dict):
            inner.mistakes = self.mistakes
        else:
            self.wrong(key, "missing, or not an object")
        return inner

    def finish(self) -> None:
        """Notes the keys that nobody asked for."""
        for key in self._values.keys() - self._asked:
            near = get_close_matches(key, self._asked, 1)
            known = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(self._asked))}"
            self.wrong(key, f"unknown key; {known}")

    def _file(self, key: str, name: str) -> str:
        path = self._root / name
        mistake = path_mistake(name, self._root)
        if mistake is None and self._decode:
            try:
                open_picture(path)
            except UserMistake as error:
                mistake = str(error)
        if mistake is not None:
            self.wrong(key, mistake)
        return str(path)


def path_mistake(name: str, root: Path) -> str | None:
    """Why `name` is no regular file inside the folder `root`; None where it is one. Nothing is opened to find out."""
    pure = PurePosixPath(name)
    plain = _is_unicode(name) and len(name.encode()) <= MAX_PATH and "\0" not in name and "://" not in name
    if not plain or pure.is_absolute() or ".." in pure.parts:
        return f"{shorten(name)} must be a plain path inside {root}, of at most {MAX_PATH} bytes"
    try:
        inside = (root / name).resolve().is_relative_to(root.resolve())
        is_file = inside and (root / name).is_file()
    except (OSError, RuntimeError) as error:  # a link to itself; the latter on Python 3.11 and 3.12
        return f"{shorten(name)} cannot be looked up in {root} ({type(error).__name__}); give the file itself"
    if not inside:
        return f"{shorten(name)} leads out of {root} through a link; copy the file into the folder"
    return None if is_file else f"{shorten(name)} is not a file in {root}"


def read_rows(
    path: Path | str,
    parse: Callable[[Fields], Record],
    *,
    kind: str,
    example: str,
    unique: Callable[[Record], Iterable[tuple[str, Hashable]]],
    skip_bad: int = 0,
    decode: bool = False,
    root: Path | str | None = None,
) -> list[Record]:
    """Every row of the file, in order. `unique` gives (field, value) pairs that no two rows may share.

    The files that rows name lie inside `root`, by default the file's own folder.

    Up to `skip_bad` bad rows are left out, and a warning counts and lists them. With more, or without a good row, raises
    UserMistake with the mistakes of all rows, one a line. Empty lines are passed over; a byte order mark and CRLF are fine.
    """
    path = Path(path)
    folder = path.parent if root is None else Path(root)
    records: list[Record] = []
    bad: list[list[str]] = []
    lines_of: dict[tuple[str, Hashable], int] = {}
    for number, line in enumerate(_lines(path, kind), start=1):
        if not line.strip():
            continue
        record, mistakes = _row(line, folder, parse, decode, example)
        keys = [] if record is None else list(unique(record))
        taken = [key for key in keys if key in lines_of]
        mistakes += [f"{key[0]}: {shorten(key[1])} is on line {lines_of[key]} already; keep one" for key in taken]
        if record is None or mistakes:
            bad.append([f"{path}:{number}: {mistake}" for mistake in mistakes])
        else:
            lines_of.update(dict.fromkeys(keys, number))
            records.append(record)
    if len(bad) > max(skip_bad, 0) or (bad and not records):
        raise UserMistake(_listed(bad))
    if not records:
        raise UserMistake(f"{path}: holds no {kind}; write one JSON object a line, such as {example}")
    if bad:
        total = len(bad) + len(records)
        warnings.warn(f"{path}: left out {len(bad)} of {total} rows, which are bad:\n{_listed(bad)}", stacklevel=3)
    return records


def named_files(path: Path, root: Path | None = None) -> list[Path]:
    """The pictures that the rows of prompts, ratings or votes name, each once, in order; `root` as for `read_rows`.

    For telling whether one has changed: rows and names that reading would refuse are passed over.
    """
    folder, names = path.parent if root is None else root, dict[str, None]()
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            sides = [row, row.get("left"), row.get("right")] if isinstance(row, dict) else []
            found = [side.get("picture") for side in sides if isinstance(side, dict)]
            found += row["sources"] if sides and isinstance(row.get("sources"), list) else []
            names |= dict.fromkeys(name for name in found if isinstance(name, str) and name)
    return [folder / name for name in names if path_mistake(name, folder) is None]


def write_rows(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """One object a line, UTF-8, keys whose value is None left out. The file is replaced whole or not at all."""
    path = Path(path)
    present = [{key: value for key, value in row.items() if value is not None} for row in rows]
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in present]
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def inside(picture: str, file: Path | str) -> str:
    """The name by which a row of `file` refers to a picture of its folder. Raises UserMistake for one that lies elsewhere."""
    root = os.path.abspath(Path(file).parent)
    name = os.path.relpath(os.path.abspath(picture), root)
    if Path(name).parts[:1] == ("..",):
        raise UserMistake(f"{file}: {picture!r} lies outside {root}; move the file, or the picture, so that it is below it")
    return name


def shorten(value: object) -> str:
    """The value as it is shown in a message."""
    return _BRIEF.repr(value)


def _lines(path: Path, kind: str) -> list[str]:
    """Split at line feeds alone: a text may hold U+2028 and other ends of lines, which JSON allows."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserMistake(f"{path}: there is no such file of {kind}") from None
    except OSError as error:
        raise UserMistake(f"{path}: cannot be read ({error})") from None
    try:
        return content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserMistake(f"{path}:{line}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None


def _row(
    line: str, root: Path, parse: Callable[[Fields], Record], decode: bool, example: str
) -> tuple[Record | None, list[str]]:
    try:
        values = json.loads(line, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return None, [f"not JSON ({error}); write one object a line"]
    if not isinstance(values, dict):
        return None, [f"a {type(values).__name__}, not an object; write such as {example}"]
    fields = Fields(values, root, decode=decode)
    record = parse(fields)
    fields.finish()
    return (None if fields.mistakes else record), fields.mistakes


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets the last of two equal keys win, in silence: a rater's second score would hide the first."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is written twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON; leave out what is missing")


def _listed(bad: list[list[str]]) -> str:
    mistakes = [mistake for row in bad for mistake in row]
    more = [f"... and {len(mistakes) - MAX_MISTAKES} more"] if len(mistakes) > MAX_MISTAKES else []
    return "\n".join(mistakes[:MAX_MISTAKES] + more)


def _is_unicode(text: str) -> bool:
    """JSON can spell half a surrogate pair, which no file name and no UTF-8 file can hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
