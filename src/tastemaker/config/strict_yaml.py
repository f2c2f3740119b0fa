"""YAML in which nothing is guessed: a key occurs once, `1e-5` is a number, `no` is a word, and every value knows its line.

Left out on purpose: anchors and aliases (a few lines of them can unfold to gigabytes), tags, dates, octal and
sexagesimal numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
"""Where a value stands: ("rewards", 0, "weight")."""

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 32

_INTEGER = re.compile(r"[-+]?[0-9](_?[0-9])*")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9](_?[0-9])*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_INFINITE = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


@dataclass(frozen=True)
class Fault:
    """Something wrong with the text itself, before any setting is looked at. `line` counts from 1."""

    line: int
    text: str


@dataclass
class Document:
    """Plain data, the line of every key, and the faults of the text."""

    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """Where a key stands, or the nearest group around it that the text has."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Refused(yaml.MarkedYAMLError):
    """A construct that valid YAML has and we do not."""


class _Loader(yaml.SafeLoader):
    """Composes nodes only; refuses aliases and bottomless nesting before they cost anything."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = "anchors and aliases (& and *) are not read, write the value out"
            raise _Refused(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read(text: str) -> Document:
    """Parses `text`; never raises for bad text, the faults say what is wrong with it."""
    document = Document()
    if len(text) > MAX_CHARACTERS:
        document.faults.append(Fault(1, f"longer than {MAX_CHARACTERS} characters, this is not a settings file"))
        return document
    try:
        loader = _Loader(text.removeprefix("\ufeff"))
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.faults.append(Fault(mark.line + 1 if mark else 1, _explain(error)))
        return document
    except yaml.YAMLError as error:
        document.faults.append(Fault(1, f"not YAML: {str(error).splitlines()[0]}"))
        return document
    document.data = {} if node is None else _build(node, (), document)
    return document


def scalar(text: str) -> Any:
    """What an unquoted word means: 1e-5 -> 0.00001, true -> True, no -> "no"."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", "")) if len(text) < 40 else text
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    if text.lower() in _INFINITE:
        return float(_INFINITE[text.lower()])
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `read` would take for something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if not text.isprintable() else None if scalar(text) == text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def write(data: Any) -> str:
    """YAML that `read` gives back as the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _build(node: yaml.Node, path: Path, document: Document) -> Any:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        document.faults.append(Fault(node.start_mark.line + 1, f"the tag {node.tag} is not read, write a plain value"))
        return None
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*path, index), document) for index, child in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return scalar(node.value) if node.style is None else node.value


def _build_mapping(node: yaml.MappingNode, path: Path, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.faults.append(Fault(line, "a key must be a single word"))
            continue
        key = key_node.value
        if key in result:
            first = document.lines[(*path, key)]
            name = ".".join(map(str, (*path, key)))
            document.faults.append(Fault(line, f"{name} is set twice (first on line {first}), keep one"))
            continue
        document.lines[(*path, key)] = line
        result[key] = _build(value_node, (*path, key), document)
    return result


def _explain(error: yaml.MarkedYAMLError) -> str:
    if isinstance(error, _Refused):
        return str(error.problem)
    hint = ""
    if error.problem and "\\t" in error.problem:
        hint = ", indent with spaces instead of tabs"
    context = f"{error.context}: " if error.context else ""
    return f"not YAML: {context}{error.problem}{hint}"
