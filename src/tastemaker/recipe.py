"""A recipe as a graph of stages, each a folder: what is finished and unchanged is not run again.

    recipe file -> stages, in the file's order -> settings checked, references filled in -> inputs by digest -> run -> outputs

    FOLDER/STAGE/stage.json      what it was made of (kind, settings, digests of its inputs), results, seconds, state
                 settings.yaml   every setting, defaults written out
                 ...             whatever the stage leaves
    FOLDER/digests.json          digests of large files by size and time of change, so that they are read once

A stage runs again when its settings, the bytes of anything it reads, or those of what it left have changed; what it made before
moves aside, under STAGE.1, STAGE.2 ... A stage that was interrupted goes on in its own folder, as its own command would, and so
does one of which nothing has changed but what may on resuming, or what was allowed by name. What the kinds of stages do is
handed in (`Kind`): this file knows neither models nor training.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from tastemaker.runtime.digests import Digests
from tastemaker.runtime.estimate import Estimate
from tastemaker.runtime.lock import Lock

STATE = "stage.json"
IDLE = ("checkpoint", "processes", "monitor", "budget.max_minutes", "missing_budget", "cache", "deadlines")
"""Settings and groups of them that change no result, among those that may differ on resuming."""


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
    allow: tuple[str, ...] = ()
    """Names of what may differ from when it was begun."""
    waits_for: Mapping[Path, Any] = field(default_factory=dict)
    """The settings of stages that are still to run, by their folders."""

    def awaits(self, path: Path) -> bool:
        """Whether this is what a stage above has still to leave, so that little can be said of it yet."""
        return self.awaited(path) is not None

    def awaited(self, path: Path) -> Any | None:
        """The settings of the stage that has still to leave this; None for what no such stage leaves."""
        found = (config for folder, config in self.waits_for.items() if path.absolute().is_relative_to(folder.absolute()))
        return next(found, None)


@dataclass(frozen=True)
class Kind:
    """What stages of a kind do. `run` may be interrupted and called again: it goes on, and ends at the same outputs."""

    settings: type[BaseModel]
    run: Callable[[Job], None]
    outputs: Callable[[Any], Sequence[str]]
    """Files and folders in the stage's folder that it leaves, given its settings; others may refer to these.

    And to what is below them, but for a folder of which the outputs name a part: then to that part alone.
    """
    inputs: Callable[[Job], Mapping[str, Path | Sequence[Path]]] = lambda job: {}
    """Files and folders outside of the recipe that it reads, by the name under which a change of them is told and allowed."""
    check: Callable[[Job], None] = lambda job: None
    """Raises UserMistake for all that can be told before it runs and before what the job awaits is there; writes nothing."""
    estimate: Callable[[Job], Estimate] = lambda job: Estimate()
    results: Callable[[Job], Sequence[str]] | None = None
    """Of a finished stage, the part of what it left without which it would have to run again; None is all of its outputs."""
    carries: Sequence[str] = ()
    """Folders in the stage's folder whose files are named by all that decides them: one that begins anew takes them over."""
    unread: Callable[[Any], Sequence[str]] = lambda config: ()
    """Settings and groups of them, given all, of which no output depends."""
    extends: Callable[[Job], bool] = lambda job: True
    """Whether what is in its folder, finished or not, can go on with another budget, and need not begin anew."""


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
    allow: tuple[str, ...] = ()
    """Names of settings and inputs of stages that may differ from when they were begun."""

    def job(self, stage: Stage, unfinished: Iterable[str] = ()) -> Job:
        above = tuple(other.name for other in self.stages[: self.stages.index(stage)])
        waits_for = {self.folder / name: self.named(name).config for name in unfinished if name in above}
        return Job(stage.name, stage.config, self.beside, self.folder / stage.name, self.console, above, self.allow, waits_for)

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
    """Whether it goes on in its folder, which was begun with these settings and inputs or with others that do not matter."""


def open_recipe(
    text: RecipeText,
    kinds: Mapping[str, Kind],
    folder: Path,
    beside: Path,
    console: Console,
    allow: Iterable[str] = (),
) -> Recipe:
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
    return Recipe(text.name, tuple(stages), beside, folder, kinds, console, tuple(allow))


def outlook(recipe: Recipe) -> list[Outlook]:
    """Of every stage, without running anything; a stage runs when one that it needs will."""
    with Digests(recipe.folder) as digests:
        found: dict[str, Outlook] = {}
        for stage in recipe.stages:
            waits = [name for name in stage.needs if found[name].why]
            found[stage.name] = Outlook(stage, f"needs {', '.join(waits)}") if waits else _look(recipe, stage, digests)
        return list(found.values())


def check(recipe: Recipe, looks: Sequence[Outlook], only: str | None = None) -> None:
    """Raises UserMistake with the mistakes of all stages that are to run, or of one, each after the name of its stage."""
    unfinished = [look.stage.name for look in looks if look.why]
    mistakes: list[str] = []
    for look in (look for look in looks if look.why and only in (None, look.stage.name)):
        try:
            recipe.kinds[look.stage.kind].check(recipe.job(look.stage, unfinished))
        except UserMistake as error:
            mistakes += [f"stages.{look.stage.name}: {line}" for line in str(error).splitlines()]
    if mistakes:
        raise UserMistake("\n".join(mistakes))


def run(recipe: Recipe, only: str | None = None) -> None:
    """Runs what is not finished, in order, or one stage alone. Raises what a stage raises; the same call then goes on.

    Raises UserMistake with the mistakes of all these stages before the first one runs, when `only` needs a stage that is not
    finished, and for a folder in use.
    """
    chosen = recipe.stages if only is None else (recipe.named(only),)
    disk.make_folder(recipe.folder)
    lock = Lock(recipe.folder / "lock")
    try:
        if only is not None:
            _require(recipe, chosen[0])
        check(recipe, outlook(recipe), only)
        for stage in chosen:
            _run(recipe, stage, f"{recipe.stages.index(stage) + 1} of {len(recipe.stages)}")
    finally:
        lock.release()


def _run(recipe: Recipe, stage: Stage, place: str) -> None:
    say = recipe.console.print
    with Digests(recipe.folder) as digests:
        look = _look(recipe, stage, digests)
        if not look.why:
            say(f"stage {place}, [bold]{stage.name}[/]: finished, unchanged", highlight=False)
            return
        say(f"stage {place}, [bold]{stage.name}[/] ({stage.kind}): {look.why}", highlight=False)
        made_of = _made_of(recipe, stage, digests)
    kind, job = recipe.kinds[stage.kind], recipe.job(stage)
    kind.check(job)
    if not look.goes_on:
        _set_aside(job.folder, kind.carries, recipe.console)
    record = _begun(job, stage, made_of)
    began = time.monotonic()
    try:
        kind.run(job)
    finally:
        record["seconds"] += time.monotonic() - began
        _write(job.folder, record)
    with Digests(recipe.folder) as digests:
        record["outputs"] = {name: digests.of(job.folder / name) for name in _results(kind, job)}
    _write(job.folder, {**record, "state": "finished"})
    say(f"stage {place}, {stage.name}: finished after {record['seconds']:.0f} s", highlight=False)


def _results(kind: Kind, job: Job) -> list[str]:
    """The files that were left; the outputs must all be there. What is added to a folder later is none of them."""
    if absent := [name for name in kind.outputs(job.config) if not (job.folder / name).exists()]:
        raise Corrupt(f"stage {job.name} ended without {', '.join(absent)} in {job.folder}")
    places = [job.folder / name for name in (kind.results(job) if kind.results else kind.outputs(job.config))]
    files = [file for place in places for file in (map(place.joinpath, changes.names_in(place)) if place.is_dir() else [place])]
    return list(dict.fromkeys(file.relative_to(job.folder).as_posix() for file in files))


def _require(recipe: Recipe, stage: Stage) -> None:
    waiting = [look for look in outlook(recipe) if look.stage.name in stage.needs and look.why]
    if waiting:
        told = "; ".join(f"{look.stage.name}: {look.why}" for look in waiting)
        raise UserMistake(f"--stage {stage.name}: what it needs is not finished ({told}); run those first, or the whole recipe")


# ---- is it finished? -----------------------------------------------------------------------------


def _look(recipe: Recipe, stage: Stage, digests: Digests) -> Outlook:
    """Of a stage whose needed stages are finished."""
    folder = recipe.folder / stage.name
    record = _read(folder)
    if record is None:
        return Outlook(stage, "not run yet")
    finished = record["state"] == "finished"
    if changed := _changed(recipe, stage, record["made_of"], _made_of(recipe, stage, digests)):
        rest = [key for key in changed if not changes.allowed(key, recipe.allow)]
        free = all(changes.allowed(key, changes.free_settings(stage.config)) for key in rest)
        goes_on = not rest or (free and recipe.kinds[stage.kind].extends(recipe.job(stage)))
        return Outlook(stage, f"changed: {_listed([*changed.values()])}" + ("; goes on" if goes_on else ""), goes_on)
    if not finished:
        return Outlook(stage, "was interrupted, goes on", goes_on=True)
    spoilt = [name for name, digest in record["outputs"].items() if digests.of(folder / name) != digest]
    return Outlook(stage, f"of it changed or went missing since: {_listed(spoilt)}" if spoilt else "")


def _changed(recipe: Recipe, stage: Stage, was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What decides a result and has changed, by the name of the setting or input, with how it is told."""
    idle = [key for key in changes.free_settings(stage.config) if key.endswith(IDLE)]
    idle += recipe.kinds[stage.kind].unread(stage.config)
    found = {}
    for change in changes.differences(was, now):
        group, _, name = change.key.partition(".")
        key = name or group
        if not changes.allowed(key, idle):
            found[key] = f"{key} has other content" if group == "inputs" else str(change._replace(key=key))
    return found


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _made_of(recipe: Recipe, stage: Stage, digests: Digests) -> dict[str, Any]:
    """All that decides a stage's outputs. A recipe's folder may move: paths in it are written as references."""
    plain = json.dumps(stage.config.model_dump(mode="json")).replace(
        json.dumps(f"{recipe.folder.absolute()}/")[1:-1], REFERENCE
    )
    read = {reference: _left(recipe, reference, digests) for reference in stage.reads}
    outside = recipe.kinds[stage.kind].inputs(recipe.job(stage))
    read |= {name: digests.of(place) for name, place in outside.items()}
    return {"kind": stage.kind, "settings": json.loads(plain), "inputs": read}


def _left(recipe: Recipe, reference: str, digests: Digests) -> str:
    """Digest of what a finished stage left under the name: of its results alone, where they are a part of it."""
    name, _, inner = reference.removeprefix(REFERENCE).partition("/")
    outputs = (_read(recipe.folder / name) or {"outputs": {}})["outputs"]
    left = {file: digest for file, digest in outputs.items() if file.startswith(f"{inner}/")}
    if not left:
        return digests.of(recipe.folder / name / inner)
    return hashlib.sha256("".join(f"{digest}  {file}\n" for file, digest in sorted(left.items())).encode()).hexdigest()


# ---- records -------------------------------------------------------------------------------------


def _begun(job: Job, stage: Stage, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """The stage's record, with the seconds of the sittings before."""
    disk.make_folder(job.folder)
    before = _read(job.folder) or {"seconds": 0.0}
    record = {**before, "state": "begun", "made_of": made_of, "outputs": {}}
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


def _set_aside(folder: Path, carried: Iterable[str], console: Console) -> None:
    """What a stage made of other settings or inputs is kept, under the next free number, but for what is carried on."""
    if not folder.exists():
        return
    number = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}.{n}").exists())
    aside = folder.with_name(f"{folder.name}.{number}")
    disk.rename_folder(folder, aside)
    for name in carried:
        if (aside / name).exists():
            disk.make_folder((folder / name).parent)
            disk.rename_folder(aside / name, folder / name)
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


def _closed(output: str, left: Sequence[str]) -> bool:
    """Whether no other output names a part of it."""
    return not any(other.startswith(f"{output}/") for other in left)


def _unknown_outputs(text: RecipeText, stage: StageText, outputs: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """References to what a stage does not leave. A stage whose settings are wrong says so itself."""
    for at, reference in references(stage.settings):
        name, _, rest = reference.removeprefix(REFERENCE).partition("/")
        left = outputs.get(name)
        if left is None or any(rest == output or (rest.startswith(f"{output}/") and _closed(output, left)) for output in left):
            continue
        place = ("stages", stage.name, *at)
        known = ", ".join(f"{REFERENCE}{name}/{output}" for output in left)
        where = f"{text.source}:{text.document.line(place)} {'.'.join(map(str, place))}"
        yield f"{where}: {reference!r} is not what {name} leaves, which is {known}"
