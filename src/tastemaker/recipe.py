"""A recipe as a graph of stages, each a folder: what is finished and unchanged is not run again.

    recipe file -> stages, in the file's order -> settings checked, references filled in -> inputs by digest -> run -> outputs

    FOLDER/STAGE/stage.json      what it was made of (kind, settings, digests of its inputs), outputs, seconds, state
                 settings.yaml   every setting, defaults written out
                 ...             whatever the stage leaves
    FOLDER/digests.json          digests of large files by size and time of change, so that they are read once

A stage runs again when its settings or the bytes of anything it reads have changed; what it made before moves aside, under
STAGE.1, STAGE.2 ... A stage that was interrupted goes on in its own folder, as its own command would. What the kinds of stages
do is handed in (`Kind`): this file knows neither models nor training.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from tastemaker import config as settings
from tastemaker.config.base import nearest
from tastemaker.config.load import check_part
from tastemaker.config.recipe import REFERENCE, RecipeText, StageText, filled, references, stage_of
from tastemaker.errors import Corrupt, UserMistake
from tastemaker.runtime import changes
from tastemaker.runtime import folder as disk
from tastemaker.runtime.estimate import Estimate
from tastemaker.runtime.lock import Lock

STATE = "stage.json"
IDLE = ("checkpoint", "processes", "missing_budget", "cache")
"""Settings and groups of them that change no output."""


@dataclass(frozen=True)
class Job:
    """One stage to be run. Relative paths in `config` start at `beside`; everything is written into `folder`."""

    name: str
    config: Any
    beside: Path
    folder: Path
    console: Console
    above: tuple[str, ...] = ()
    """Names of the stages before it, each with a folder beside its own."""


@dataclass(frozen=True)
class Kind:
    """What stages of a kind do. `run` may be interrupted and called again: it goes on, and ends at the same outputs."""

    settings: type[BaseModel]
    run: Callable[[Job], None]
    outputs: Callable[[Any], Sequence[str]]
    """Files and folders in the stage's folder that it leaves, given its settings; others may refer to these."""
    inputs: Callable[[Job], Mapping[str, Path]] = lambda job: {}
    """Files and folders outside of the recipe that it reads, by the setting that names them."""
    check: Callable[[Job], None] = lambda job: None
    """Raises UserMistake for what can be told before it runs, once the stages it depends on are finished."""
    estimate: Callable[[Job], Estimate] = lambda job: Estimate()


@dataclass(frozen=True)
class Stage:
    """A stage whose settings are valid. `needs` are the stages it refers to, `reads` its references."""

    name: str
    kind: str
    config: Any
    reads: tuple[str, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(stage_of(reference) for reference in self.reads))


@dataclass(frozen=True)
class Recipe:
    """A recipe that can be run in `folder`."""

    name: str
    stages: tuple[Stage, ...]
    beside: Path
    folder: Path
    kinds: Mapping[str, Kind]
    console: Console = field(default_factory=Console)

    def job(self, stage: Stage) -> Job:
        above = tuple(other.name for other in self.stages[: self.stages.index(stage)])
        return Job(stage.name, stage.config, self.beside, self.folder / stage.name, self.console, above)

    def named(self, name: str) -> Stage:
        """Raises UserMistake for a name that no stage has."""
        found = {stage.name: stage for stage in self.stages}
        if name not in found:
            raise UserMistake(f"--stage: {name!r} is no stage of {self.name}, {nearest(name, found)}")
        return found[name]


@dataclass(frozen=True)
class Outlook:
    """What would become of a stage: `why` it runs, or an empty word when it is finished and unchanged."""

    stage: Stage
    why: str
    goes_on: bool = False
    """Whether it was begun with just these settings and inputs."""


def open_recipe(text: RecipeText, kinds: Mapping[str, Kind], folder: Path, beside: Path, console: Console) -> Recipe:
    """Checks the settings of all stages. Raises UserMistake with a line for each mistake."""
    mistakes: list[str] = []
    stages: list[Stage] = []
    outputs: dict[str, Sequence[str]] = {}
    for stage in text.stages:
        kind, at = kinds[stage.kind], ("stages", stage.name)
        values = filled(_completed(stage, kind.settings, text.shared), folder.absolute())
        found, config = check_part(text.document, at, values, kind.settings, text.source)
        mistakes += found
        mistakes += list(_unknown_outputs(text, stage, outputs))
        if config is not None:
            outputs[stage.name] = kind.outputs(config)
            stages.append(Stage(stage.name, stage.kind, config, tuple(r for _, r in references(stage.settings))))
    if mistakes:
        raise UserMistake("\n".join(mistakes))
    return Recipe(text.name, tuple(stages), beside, folder, kinds, console)


def outlook(recipe: Recipe) -> list[Outlook]:
    """Of every stage, without running anything; a stage runs when one that it needs will."""
    with _Digests(recipe.folder) as digests:
        found: dict[str, Outlook] = {}
        for stage in recipe.stages:
            waits = [name for name in stage.needs if found[name].why]
            found[stage.name] = Outlook(stage, f"needs {', '.join(waits)}") if waits else _look(recipe, stage, digests)
        return list(found.values())


def run(recipe: Recipe, only: str | None = None) -> None:
    """Runs what is not finished, in order, or one stage alone. Raises what a stage raises; the same call then goes on.

    Raises UserMistake when `only` needs a stage that is not finished, and for a folder in use.
    """
    chosen = recipe.stages if only is None else (recipe.named(only),)
    disk.make_folder(recipe.folder)
    lock = Lock(recipe.folder / "lock")
    try:
        if only is not None:
            _require(recipe, chosen[0])
        for stage in chosen:
            _run(recipe, stage, f"{recipe.stages.index(stage) + 1} of {len(recipe.stages)}")
    finally:
        lock.release()


def _run(recipe: Recipe, stage: Stage, place: str) -> None:
    say = recipe.console.print
    with _Digests(recipe.folder) as digests:
        look = _look(recipe, stage, digests)
        if not look.why:
            say(f"stage {place}, [bold]{stage.name}[/]: finished, unchanged", highlight=False)
            return
        say(f"stage {place}, [bold]{stage.name}[/] ({stage.kind}): {look.why}", highlight=False)
        made_of = _made_of(recipe, stage, digests)
    kind, job = recipe.kinds[stage.kind], recipe.job(stage)
    kind.check(job)
    if not look.goes_on:
        _set_aside(job.folder, recipe.console)
    record = _begun(job, stage, made_of)
    began = time.monotonic()
    try:
        kind.run(job)
    finally:
        record["seconds"] += time.monotonic() - began
        _write(job.folder, record)
    with _Digests(recipe.folder) as digests:
        record["outputs"] = {name: digests.of(job.folder / name) for name in _left(kind, job)}
    _write(job.folder, {**record, "state": "finished"})
    say(f"stage {place}, {stage.name}: finished after {record['seconds']:.0f} s", highlight=False)


def _left(kind: Kind, job: Job) -> Sequence[str]:
    """The outputs, all of which must be there."""
    names = kind.outputs(job.config)
    if absent := [name for name in names if not (job.folder / name).exists()]:
        raise Corrupt(f"stage {job.name} ended without {', '.join(absent)} in {job.folder}")
    return names


def _require(recipe: Recipe, stage: Stage) -> None:
    waiting = [look for look in outlook(recipe) if look.stage.name in stage.needs and look.why]
    if waiting:
        told = "; ".join(f"{look.stage.name}: {look.why}" for look in waiting)
        raise UserMistake(f"--stage {stage.name}: what it needs is not finished ({told}); run those first, or the whole recipe")


# ---- is it finished? -----------------------------------------------------------------------------


def _look(recipe: Recipe, stage: Stage, digests: _Digests) -> Outlook:
    """Of a stage whose needed stages are finished."""
    folder = recipe.folder / stage.name
    record = _read(folder)
    if record is None:
        return Outlook(stage, "not run yet")
    was, now = record["made_of"], _made_of(recipe, stage, digests)
    if different := [_told(change) for change in changes.differences(was, now)]:
        return Outlook(stage, f"changed: {'; '.join(different[:4])}" + (" ..." if len(different) > 4 else ""))
    if record["state"] != "finished":
        return Outlook(stage, "was interrupted, goes on", goes_on=True)
    spoilt = [name for name, digest in record["outputs"].items() if digests.of(folder / name) != digest]
    if spoilt:
        return Outlook(stage, f"{', '.join(spoilt)} of it changed or went missing since")
    return Outlook(stage, "")


def _made_of(recipe: Recipe, stage: Stage, digests: _Digests) -> dict[str, Any]:
    """All that decides a stage's outputs. A recipe's folder may move: paths in it are written as references."""
    plain = json.dumps(stage.config.model_dump(mode="json")).replace(
        json.dumps(f"{recipe.folder.absolute()}/")[1:-1], REFERENCE
    )
    read = {reference: digests.of(recipe.folder / reference.removeprefix(REFERENCE)) for reference in stage.reads}
    outside = recipe.kinds[stage.kind].inputs(recipe.job(stage))
    read |= {name: digests.of(path) for name, path in outside.items()}
    decides = {group: value for group, value in json.loads(plain).items() if group not in IDLE}
    return {"kind": stage.kind, "settings": decides, "inputs": read}


def _told(change: changes.Change) -> str:
    return f"{name} has other content" if (name := change.key.removeprefix("inputs.")) != change.key else str(change)


class _Digests:
    """sha256 of files, and of folders by the names and digests of what is in them; large ones are not read twice."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "digests.json"
        self._kept: dict[str, list[Any]] = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._new = False

    def of(self, path: Path) -> str:
        """An empty word where there is nothing."""
        if path.is_file():
            return self._of_file(path)
        if not path.is_dir():
            return ""
        whole = hashlib.sha256()
        for inner in sorted(p for p in path.rglob("*") if p.is_file()):
            whole.update(f"{inner.relative_to(path)}:{self._of_file(inner)}\n".encode())
        return whole.hexdigest()

    def _of_file(self, path: Path) -> str:
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        key = str(path.absolute())
        if self._kept.get(key, [])[:2] != stamp:
            with path.open("rb") as stream:
                self._kept[key] = [*stamp, hashlib.file_digest(stream, "sha256").hexdigest()]
            self._new = True
        return str(self._kept[key][2])

    def __enter__(self) -> _Digests:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._new and self._path.parent.is_dir():
            disk.write_text_atomic(self._path, json.dumps(self._kept) + "\n")
            self._new = False


# ---- records -------------------------------------------------------------------------------------


def _begun(job: Job, stage: Stage, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """The stage's record, new or that of the sitting before."""
    disk.make_folder(job.folder)
    record = _read(job.folder) or {"state": "begun", "made_of": made_of, "outputs": {}, "seconds": 0.0}
    disk.write_text_atomic(job.folder / "settings.yaml", settings.dump(stage.config))
    _write(job.folder, record)
    return record


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / STATE
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {key: record[key] for key in ("state", "made_of", "outputs", "seconds")}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise Corrupt(f"{path}: is not the record of a stage ({error!r}); remove {folder} to run it anew") from error


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    disk.write_text_atomic(folder / STATE, json.dumps(record, indent=1) + "\n")


def _set_aside(folder: Path, console: Console) -> None:
    """What a stage made of other settings or inputs is kept, under the next free number."""
    if not folder.exists():
        return
    number = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}.{n}").exists())
    aside = folder.with_name(f"{folder.name}.{number}")
    disk.rename_folder(folder, aside)
    console.print(f"what {folder.name} made before is kept in {aside}", highlight=False, soft_wrap=True)


def _completed(stage: StageText, model: type[BaseModel], shared: Mapping[str, Any]) -> dict[str, Any]:
    """With what the file leaves out: a name, which is the stage's, and what the recipe states for all."""
    named = {"name": stage.name, **stage.settings} if "name" in model.model_fields else dict(stage.settings)
    return _shared(named, model, shared)


def _shared(values: Mapping[str, Any], model: type[BaseModel], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Also in the groups that `values` has, such as the training that a curation is for."""
    found = {**{key: value for key, value in shared.items() if key in model.model_fields}, **values}
    for key, stated in model.model_fields.items():
        group, inner = found.get(key), stated.annotation
        if isinstance(group, Mapping) and isinstance(inner, type) and issubclass(inner, BaseModel):
            found[key] = _shared(group, inner, shared)
    return found


def _unknown_outputs(text: RecipeText, stage: StageText, outputs: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """References to what a stage does not leave. A stage whose settings are wrong says so itself."""
    for at, reference in references(stage.settings):
        name, _, rest = reference.removeprefix(REFERENCE).partition("/")
        left = outputs.get(name)
        if left is None or any(rest == output or rest.startswith(f"{output}/") for output in left):
            continue
        place = ("stages", stage.name, *at)
        known = ", ".join(f"{REFERENCE}{name}/{output}" for output in left)
        where = f"{text.source}:{text.document.line(place)} {'.'.join(map(str, place))}"
        yield f"{where}: {reference!r} is not what {name} leaves, which is {known}"
