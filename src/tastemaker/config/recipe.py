"""The file of a recipe: named stages, each with a kind and that kind's own settings.

    name: miniature
    seed: 1
    stages:
      curated: {kind: curate, ...}
      t2i:     {kind: train, data: {prompts: "stage:curated/curated.jsonl"}, ...}
      edit:    {kind: train, like: t2i, data: {...}, ...}

`like: t2i` starts from the settings of a stage above and changes what is written, `like: curated/training` from a group of
them; `rewards: {like: t2i}` takes that one setting from it, whatever kind the two are of. A text that begins with `stage:`
names what a stage above leaves in its folder; that is how stages depend on each other. `seed`, `threads` and `processes` are
those of every stage that has such a setting and does not state it. What the settings of a kind are is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from tastemaker.config.base import nearest
from tastemaker.config.load import apply_override
from tastemaker.config.strict_yaml import Document, Path, read
from tastemaker.errors import UserMistake

REFERENCE = "stage:"
TAKEN = ("embeddings", "lock")
"""What a recipe's own folder has beside its stages."""
SHARED = ("seed", "threads", "processes")
"""Settings that a recipe may state for all of its stages."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # no dot: what it made before is kept as STAGE.1


@dataclass(frozen=True)
class StageText:
    """A stage as it stands in the file: `settings` are those of its kind, after `like`, not checked yet."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    like: str | None = None


@dataclass(frozen=True)
class RecipeText:
    """A recipe whose names, kinds and references hold; `source` and `document` are for telling where a mistake is."""

    name: str
    stages: tuple[StageText, ...]
    document: Document
    source: str
    shared: Mapping[str, Any] = field(default_factory=dict)


def load_recipe(path: str | FilePath, kinds: Mapping[str, Any] | None = None, overrides: Iterable[str] = ()) -> RecipeText:
    """Raises UserMistake with a line for each mistake. `kinds` are the names that `kind` may have.

    `overrides` such as "stages.t2i.budget.max_steps=20" win over the file, also for stages that are `like` that one.
    """
    try:
        text = FilePath(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserMistake(f"{path}: cannot be read as UTF-8 text ({error}), give the path of a recipe") from error
    return parse_recipe(text, kinds, source=str(path), overrides=overrides)


def parse_recipe(
    text: str, kinds: Mapping[str, Any] | None = None, source: str = "<text>", overrides: Iterable[str] = ()
) -> RecipeText:
    """As `load_recipe`, from text."""
    document = read(text)
    reports = [(fault.line, fault.text) for fault in document.faults]
    data = document.data if isinstance(document.data, dict) else {}
    reports += [(0, told) for override in overrides for told in apply_override(data, override, {})]
    known = ("name", *SHARED, "stages")
    name, stages = data.get("name"), data.get("stages")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        reports.append((document.line(("name",)), "name: missing or not one word, write for example `name: first-recipe`"))
    reports += [(document.line((key,)), f"{key}: unknown key, {nearest(key, known)}") for key in data if key not in known]
    if not isinstance(stages, dict) or not stages:
        reports.append((document.line(("stages",)), "stages: missing, write at least one: `stages: {t2i: {kind: train}}`"))
        stages = {}
    found: dict[str, StageText] = {}
    for stage_name, stage in stages.items():
        place = ("stages", stage_name)
        wrong = list(_mistakes(stage_name, stage, found, kinds))
        reports += [(document.line((*place, *at)), ".".join((*place, *at)) + f": {rule}") for at, rule in wrong]
        if isinstance(stage, dict):
            found[stage_name] = _stage(stage_name, stage, found)
    if reports:
        raise UserMistake("\n".join(f"{source}:{line} {told}" for line, told in dict.fromkeys(sorted(reports))))
    shared = {key: data[key] for key in SHARED if data.get(key) is not None}
    return RecipeText(str(name), tuple(found.values()), document, source, shared)


def references(settings: Any, at: Path = ()) -> Iterator[tuple[Path, str]]:
    """Where a text that begins with `stage:` stands, and the text."""
    if isinstance(settings, str) and settings.startswith(REFERENCE):
        yield at, settings
    elif isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from references(value, (*at, key))
    elif isinstance(settings, list):
        for row, value in enumerate(settings):
            yield from references(value, (*at, row))


def filled(settings: Any, folder: FilePath) -> Any:
    """The settings with every reference as a path below the recipe's `folder`."""
    if isinstance(settings, str) and settings.startswith(REFERENCE):
        return str(folder / settings.removeprefix(REFERENCE))
    if isinstance(settings, Mapping):
        return {key: filled(value, folder) for key, value in settings.items()}
    return [filled(value, folder) for value in settings] if isinstance(settings, list) else settings


def stage_of(reference: str) -> str:
    """`stage:t2i/run/transformer` -> `t2i`."""
    return reference.removeprefix(REFERENCE).partition("/")[0]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` in it: groups are merged, a group with another `kind` or `name` is replaced, as are lists.

    null takes a whole group back to its defaults.
    """
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, Mapping) and value is None:
            del result[key]
            continue
        same = isinstance(old, Mapping) and isinstance(value, Mapping) and not _is_other_variant(old, value)
        result[key] = merged(old, value) if same else value  # type: ignore[arg-type]
    return result


def _is_other_variant(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """A union's variant is chosen by one word; settings of the old one mean nothing for another."""
    return any(word in new and new[word] != old.get(word) for word in ("kind", "name"))


def _stage(name: str, stage: Mapping[str, Any], above: Mapping[str, StageText]) -> StageText:
    like = stage.get("like")
    own = {key: _taken(key, value, above) for key, value in stage.items() if key not in ("kind", "like")}
    base, group = _liked(like, above) if isinstance(like, str) else (None, None)
    kind = stage.get("kind", base.kind if base else None)
    return StageText(name, str(kind), merged(group, own) if group is not None else own, like if group is not None else None)


def _liked(like: str, above: Mapping[str, StageText]) -> tuple[StageText | None, Mapping[str, Any] | None]:
    """The stage that `like` names, and the settings of it that are meant: all, or one group; None where there is no such."""
    name, _, key = like.partition("/")
    stage = above.get(name)
    group = stage.settings.get(key) if stage and key else stage.settings if stage else None
    return stage, group if isinstance(group, Mapping) else None


def _taken(key: str, value: Any, above: Mapping[str, StageText]) -> Any:
    """The setting as it is written, or that of the stage which `{like: STAGE}` names, with what else is written in it."""
    name = _named_by(value)
    if name is None or name not in above:
        return value
    taken, own = above[name].settings.get(key), {key: one for key, one in value.items() if key != "like"}
    return merged(taken, own) if isinstance(taken, Mapping) else taken


def _named_by(value: Any) -> str | None:
    """The stage from which a setting is taken."""
    like = value.get("like") if isinstance(value, Mapping) else None
    return like if isinstance(like, str) else None


def _mistaken_settings(stage: Mapping[str, Any], above: Mapping[str, StageText]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that cannot be taken from the stage they name."""
    for key, value in stage.items():
        name = _named_by(value)
        if name is not None and name not in above:
            yield (key, "like"), f"{name!r} is no stage above this one, {nearest(name, above)}"
        elif name is not None and key not in above[name].settings:
            yield (key, "like"), f"{name} states no {key}, {nearest(key, above[name].settings)}"
        elif name is not None and len(value) > 1 and not isinstance(above[name].settings[key], Mapping):
            yield (key,), f"all of it is taken from {name}, write nothing beside `like`, or all of it here"


def _mistakes(
    name: str, stage: Any, above: Mapping[str, StageText], kinds: Mapping[str, Any] | None
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each with its place below the stage."""
    if not _STAGE.fullmatch(name):
        yield (), "a stage's name is its folder's: letters, digits, dashes and underscores, 64 at most"
    if name in TAKEN:
        yield (), "is what the recipe's own folder has beside its stages, choose another name"
    if not isinstance(stage, dict):
        yield (), "must be a group of settings, write `kind` and the settings of that kind indented below it"
        return
    like, kind = stage.get("like"), stage.get("kind")
    liked, group = _liked(str(like), above)
    if like is not None and liked is None:
        yield ("like",), f"{like!r} is no stage above this one, {nearest(str(like), above)}"
    elif liked is not None and group is None:
        known = [key for key, value in liked.settings.items() if isinstance(value, Mapping)]
        yield ("like",), f"{like!r} is no group of settings of {liked.name}, {nearest(str(like).partition('/')[2], known)}"
    elif kind is None and (liked is None or "/" in str(like)):
        yield ("kind",), f"missing, choose one of {', '.join(kinds or ())}"
    elif liked is not None and "/" not in str(like) and kind not in (None, liked.kind):
        yield ("kind",), f"{like} is of kind {liked.kind}, and `like` copies its settings; leave kind out"
    if kind is not None and kinds is not None and kind not in kinds:
        yield ("kind",), f"{kind!r} is not known, {nearest(str(kind), kinds)}"
    yield from _mistaken_settings(stage, above)
    for at, reference in references({key: value for key, value in stage.items() if key not in ("kind", "like")}):
        if stage_of(reference) not in above:
            yield tuple(map(str, at)), f"{reference!r} names no stage above this one, {nearest(stage_of(reference), above)}"
        elif ".." in reference.split("/"):
            yield tuple(map(str, at)), f"{reference!r} leaves the stage's folder, name what is inside"
