"""Reads settings and reports every mistake of a file at once, each with its line, its value, the rule and the remedy.

A field that is wrong would hide what comes after it (pydantic skips the rules of a group whose fields failed). So the wrong
keys are put aside, stand-ins take their place, and the rest is checked again until nothing new is found.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Generic, NamedTuple, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tastemaker.config.base import WITHOUT_RULES, Broken, Key, nearest
from tastemaker.config.strict_yaml import Document, Path, read, write
from tastemaker.errors import UserMistake

Model = TypeVar("Model", bound=BaseModel)


class Mistake(NamedTuple):
    """One line of the report."""

    path: Path
    text: str
    others: tuple[Path, ...] = ()
    """Further keys that a broken rule reads."""
    is_unknown: bool = False
    """Whether it is a key that nothing reads."""


@dataclass(frozen=True)
class Looked(Generic[Model]):
    """A file of settings as it is, mistakes and all."""

    mistakes: tuple[str, ...]
    """A line each, with file and line."""
    settings: Model | None
    """With defaults or examples in place of what is wrong; None where these cannot be."""
    _document: Document
    _overridden: dict[Path, str]
    _source: str
    _stood_in: frozenset[Path]

    def told(self, lines: Iterable[str]) -> list[str]:
        """Lines `KEY: mistake` on what `settings` name, in the order of the file, each with its line; others after them.

        None of what only stands in for something: such a key, a reward whose judge is wrong, the rows of a list whose name is.
        """
        keyed: list[tuple[int, str]] = []
        others: list[str] = []
        for line in lines:
            key = line.partition(": ")[0]
            path = _dotted(key)
            if ":" in key or path[0] not in self._document.data:  # the name of a file and its line
                others += [line] if not self._stood_in & _LISTS else []
            elif not any(_touches(one, {path, (*path[:-1], "judge")}) for one in self._stood_in):
                where = _where(self._document, self._overridden, self._source, path)
                keyed.append((self._document.line(path), f"{where} {line}"))
        return [line for _, line in sorted(keyed, key=lambda one: one[0])] + others


_LISTS = frozenset({("data",), ("data", "prompts"), ("data", "ratings"), ("data", "votes"), ("prompts",)})
"""Where settings name a list, of whose rows mistakes are told."""


def look(path: str | FilePath, model_class: type[Model], overrides: Iterable[str] = ()) -> Looked[Model]:
    """As `load`, of a file that may hold mistakes. Raises UserMistake for one that cannot be read."""
    return _look(text_of(path), model_class, overrides, str(path))


def load(path: str | FilePath, model_class: type[Model], overrides: Iterable[str] = ()) -> Model:
    """Settings from a YAML file; `overrides` such as "rollout.steps=20" win over it.

    Raises UserMistake with one line for each mistake: `file:line key: value, rule, remedy`.
    """
    return parse(text_of(path), model_class, overrides, source=str(path))


def text_of(path: str | FilePath) -> str:
    """Raises UserMistake for a file that cannot be read."""
    try:
        return FilePath(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserMistake(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}), save the file as UTF-8") from error
    except OSError as error:
        raise UserMistake(f"{path}: cannot be read ({error.strerror}), give the path of a YAML file") from error


def parse(text: str, model_class: type[Model], overrides: Iterable[str] = (), source: str = "<text>") -> Model:
    """As `load`, from text."""
    looked = _look(text, model_class, overrides, source)
    if looked.mistakes or looked.settings is None:
        raise UserMistake("\n".join(looked.mistakes))
    return looked.settings


def _look(text: str, model_class: type[Model], overrides: Iterable[str], source: str) -> Looked[Model]:
    document = read(text)
    reports = [f"{source}:{fault.line} {fault.text}" for fault in document.faults]
    if not isinstance(document.data, dict):
        if not reports:
            reports = [f"{source}:1 the file must hold keys and values, such as `seed: 0`"]
        return Looked(tuple(reports), None, document, {}, source, frozenset())
    overridden: dict[Path, str] = {}
    for override in overrides:
        reports += apply_override(document.data, override, overridden)
    mistakes, model = _check(document.data, model_class)
    places = sorted(mistakes, key=lambda mistake: document.line(mistake.path))
    reports += [_report(document, overridden, source, mistake) for mistake in places]
    stood_in = frozenset(path for one in mistakes if not one.is_unknown for path in (one.path, *one.others))
    return Looked(tuple(dict.fromkeys(reports)), model, document, overridden, source, stood_in)


def check_part(
    document: Document, at: Path, data: dict[str, Any], model_class: type[Model], source: str
) -> tuple[list[str], Model | None]:
    """Settings that stand at `at` of a larger file, as they are after `data` was put together from several places of it.

    Returns what is wrong, each with the file's line where it has one, and the settings if nothing is.
    """
    mistakes, model = _check(data, model_class)
    lines = {path[len(at) :]: line for path, line in document.lines.items() if path[: len(at)] == at}
    place = ".".join(map(str, at))
    part = Document(data, lines)
    reports = [_report(part, {}, source, mistake, place) for mistake in mistakes]
    return list(dict.fromkeys(reports)), None if reports else model


def dump(model: BaseModel) -> str:
    """YAML that `parse` reads back to an equal model, with every default written out."""
    return write(model.model_dump(mode="json"))


# ---- overrides -----------------------------------------------------------------------------------


def apply_override(data: dict[str, Any], override: str, overridden: dict[Path, str]) -> list[str]:
    """Sets one "dotted.key=value" in `data`, and notes it in `overridden`; returns what is wrong with it."""
    name, equals, text = override.partition("=")
    path = tuple(int(part) if part.isdigit() else part for part in name.strip().split("."))
    if not equals or "" in path:
        return [f"override {override!r}: not of the form key=value, write for example rollout.steps=20"]
    document = read(text)
    if document.faults:
        return [f"override {override!r}: {document.faults[0].text}"]
    place: Any = data
    for part, following in zip(path, (*path[1:], None), strict=True):
        is_row = isinstance(place, list) and isinstance(part, int) and part < len(place)
        if not is_row and not (isinstance(place, dict) and isinstance(part, str)):
            return [f"override {override!r}: there is no {part} to set here, set the whole value instead"]
        if following is None:
            place[part] = None if text.strip() == "" else document.data
        else:
            if isinstance(place, dict) and place.get(part) is None:
                place[part] = {}
            place = place[part]
    overridden[path] = override
    return []


# ---- checking ------------------------------------------------------------------------------------


def _check(data: dict[str, Any], model_class: type[Model]) -> tuple[list[Mistake], Model | None]:
    """The mistakes, and the settings with stand-ins for what is wrong; None where these have no valid form.

    A rule that no default fulfils either, such as that weights add up to 1, is not asked of these.
    """
    data = copy.deepcopy(data)
    mistakes: list[Mistake] = []
    found: list[Mistake] = []
    put_aside: set[Path] = set()
    for _ in range(8):
        try:
            return mistakes, model_class.model_validate_json(_as_json(data))
        except ValidationError as error:
            found = [m for e in error.errors(include_url=False) for m in _mistakes(e, data, model_class)]
        fresh = [m for m in found if not any(_touches(p, put_aside) for p in (m.path, *m.others))]
        mistakes += fresh
        if not found:
            return mistakes, None
        for mistake in found:
            for path in (mistake.path, *mistake.others):
                put_aside.add(path)
                _put_aside(data, path, model_class)
    for _ in range(2):
        with suppress(ValidationError):
            return mistakes, model_class.model_validate_json(_as_json(data), context=WITHOUT_RULES)
        for mistake in found:  # what nothing can stand in for, such as the kind of a judge, takes its group with it
            _put_aside(data, mistake.path[:-1], model_class)
    return mistakes, None


def _as_json(data: Any) -> str:
    """JSON mode lets strict validation take a list for a tuple and a text for a path, and still no text for a number."""
    return json.dumps(data)


def _touches(path: Path, others: set[Path]) -> bool:
    return any(path[: len(other)] == other or other[: len(path)] == path for other in others)


def _put_aside(data: Any, path: Path, model_class: type[BaseModel]) -> None:
    """Removes what is wrong, or fills in the example of a required setting, so that the rest can be checked."""
    if path == ():
        return
    parent, last = _walk(data, path[:-1]), path[-1]
    if isinstance(parent, list) and isinstance(last, int) and last < len(parent):
        _put_aside(data, path[:-1], model_class)
    if not isinstance(parent, dict):
        return
    parent.pop(str(last), None)
    field = _fields(data, path[:-1], model_class).get(str(last))
    if field is not None and field.is_required() and field.examples:
        parent[str(last)] = copy.deepcopy(field.examples[0])


def _walk(data: Any, path: Path) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _mistakes(error: Any, data: Any, model_class: type[BaseModel]) -> Iterator[Mistake]:
    """What one pydantic error says, in our words."""
    path = _path(error["loc"], data)
    kind = error["type"]
    context = error.get("ctx") or {}
    if kind in ("broken_rules", "union_tag_invalid", "union_tag_not_found") and _walk(data, path) is None:
        path = path[:-1]  # the name of a union's variant
    if kind == "broken_rules":
        for broken in map(Broken._make, context["broken"]):
            keys = tuple((*path, *_dotted(key)) for key in broken.keys)
            yield Mistake(keys[0], f"{broken.rule}, {broken.remedy}", keys[1:])
        return
    if kind == "too_short" and len(_walk(data, path) or ()) >= context["min_length"]:
        return  # pydantic counts the valid entries; what is wrong with the others is said there
    fields = _fields(data, path[:-1], model_class)
    if kind == "extra_forbidden":
        yield Mistake(path, f"unknown key, {nearest(str(path[-1]), fields)}", is_unknown=True)
    elif kind == "missing" and path and _walk(data, path) is not None:
        yield Mistake(path, "has too few entries, add one")
    elif kind == "missing":
        example = fields[str(path[-1])].examples if str(path[-1]) in fields else None
        hint = f" for example `{path[-1]}: {_short(example[0])}`" if example else ""
        yield Mistake(path, f"missing, add it{',' + hint if hint else ''}")
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        key = str(context["discriminator"]).strip("'")
        tags = context.get("expected_tags") or ", ".join(repr(tag) for tag in _tags(fields.get(str(path[-1])), key))
        given = context.get("tag")
        text = f"must be one of {tags}{_did_you_mean(given, tags)}" if given else f"missing, choose one of {tags}"
        yield Mistake((*path, key), text)
    elif kind == "literal_error":
        yield Mistake(path, f"must be {context['expected']}{_did_you_mean(error['input'], context['expected'])}")
    else:
        rule = _RULES[kind].format(**context) if kind in _RULES else error["msg"][0].lower() + error["msg"][1:]
        yield Mistake(path, rule)


_RULES = {
    "greater_than": "must be greater than {gt:g}, choose a larger value",
    "greater_than_equal": "must be at least {ge:g}, choose a larger value",
    "less_than": "must be less than {lt:g}, choose a smaller value",
    "less_than_equal": "must be at most {le:g}, choose a smaller value",
    "int_type": "must be a whole number, write for example 8",
    "int_from_float": "must be a whole number, write for example 8",
    "float_type": "must be a number, write for example 0.5 without quotes",
    "finite_number": "must be a finite number, not inf or nan",
    "bool_type": "must be true or false",
    "string_type": "must be text, put it in quotes",
    "tuple_type": "must be a list, write for example [a, b]",
    "dict_type": "must be a group of settings, write its keys indented below it",
    "model_type": "must be a group of settings, write its keys indented below it",
    "model_attributes_type": "must be a group of settings, write its keys indented below it",
    "string_pattern_mismatch": "must match {pattern}, use letters, digits, dots, dashes and underscores",
    "string_too_short": "must not be empty, write something",
    "too_short": "must have at least {min_length} entries, add one",
}


def _path(loc: tuple[Any, ...], data: Any) -> Path:
    """pydantic's place without the names of union variants, which are not in the file."""
    path: list[str | int] = []
    for position, part in enumerate(loc):
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            path.append(part)
            data = data[part]
        elif position == len(loc) - 1 and isinstance(data, dict):
            path.append(part)
    return tuple(path)


def _dotted(key: Key) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in key.split(".")) if isinstance(key, str) else key


def _fields(data: Any, path: Path, model_class: type[BaseModel]) -> dict[str, Any]:
    """The settings that may stand at `path`; where variants are possible, those of the variant that `data` chose."""
    models: list[type[BaseModel]] = [model_class]
    for position, part in enumerate(path):
        if not isinstance(part, int):
            models = [inner for m in models if part in m.model_fields for inner in _models(m.model_fields[part].annotation)]
        chosen = _walk(data, path[: position + 1])
        if len(models) > 1 and isinstance(chosen, dict):
            models = [m for m in models if _chosen(m, chosen)] or models
    return {name: field for m in models for name, field in m.model_fields.items()}


def _chosen(model_class: type[BaseModel], data: dict[str, Any]) -> bool:
    """Whether each one-word setting (the name of a variant) says what `data` says."""
    words = {name: get_args(f.annotation) for name, f in model_class.model_fields.items() if len(get_args(f.annotation)) == 1}
    return all(data.get(name) in words[name] for name in words if isinstance(words[name][0], str))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _tags(field: Any, key: str) -> list[str]:
    if field is None:
        return []
    tags = (get_args(m.model_fields[key].annotation)[0] for m in _models(field.annotation) if key in m.model_fields)
    return list(dict.fromkeys(tags))


# ---- wording -------------------------------------------------------------------------------------


def _report(document: Document, overridden: dict[Path, str], source: str, mistake: Mistake, below: str = "") -> str:
    key = ".".join(filter(None, (below, *map(str, mistake.path)))) or "the file"
    value = _walk(document.data, mistake.path)
    shown = f"{_short(value)}, " if value is not None and not isinstance(value, dict) and mistake.path else ""
    return f"{_where(document, overridden, source, mistake.path)} {key}: {shown}{mistake.text}"


def _where(document: Document, overridden: dict[Path, str], source: str, at: Path) -> str:
    for path, override in overridden.items():
        if _touches(at, {path}) and len(path) <= len(at):
            return f"override {override!r}"
    return f"{source}:{document.line(at)}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    return text if len(text) <= 60 else text[:57] + "..."


def _did_you_mean(given: Any, expected: str) -> str:
    words = [word.strip(" '") for part in expected.split(" or ") for word in part.split(",")]
    near = difflib.get_close_matches(str(given), words, n=1, cutoff=0.5)
    return f", did you mean {near[0]}?" if near else ", choose one"
