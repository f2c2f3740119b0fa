"""Holds the house rules that imports can break: the direction of the path, no cycles, and what a station may depend on.

Every import counts, also one inside a function or for type checking only; for the direction, a module named in a string too.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
STATIONS = (
    "errors",
    "types",
    "config",
    "flow",
    "models",
    "data",
    "rewards",
    "rollout",
    "algorithms",
    "runtime",
    "training",
    "evaluation",
    "recipe",
    "miniature",
    "named",
    "opening",
    "export",
    "commands",
    "cli",
    "__main__",
)
"""The path, first to last: a module imports from its own station or an earlier one."""

TAKE_VALUES = ("flow", "models", "data", "rewards", "rollout", "evaluation")
"""Stations that are given the values they use and never see the settings."""

TEST_FOLDERS = {
    "unit": "one part at a time, in milliseconds",
    "numerics": "against a formula or another implementation",
    "integration": "several parts, processes, files, signals",
    "gpu": "needs a CUDA device",
}


def station(module: str) -> str:
    """tastemaker.flow.loss -> flow; the package itself -> an empty word."""
    return module.partition(".")[2].partition(".")[0]


@cache
def modules() -> dict[str, Path]:
    paths = sorted(SOURCE.glob("tastemaker/**/*.py"))
    return {".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def imports() -> dict[str, set[str]]:
    """Module -> full names of the modules that it imports, ours down to the file."""
    return {module: set(_imported(path, module)) for module, path in modules().items()}


@cache
def named() -> dict[str, set[str]]:
    """Module -> our modules that it names in strings, to import them when they are asked for."""
    return {module: set(_named(path)) for module, path in modules().items()}


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == "tastemaker"}


def third_party(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"tastemaker"}


def _imported(path: Path, module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, module, path.name == "__init__.py")
            yield from {_file(f"{base}.{alias.name}") or base for alias in node.names}


def _named(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = re.fullmatch(r"(tastemaker(?:\.\w+)+)(?::\w+)?", node.value)
            if match and _file(match[1]):
                yield match[1]


def _base(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".") + ([""] if is_package else [])
    return ".".join([*parts[: -node.level], *filter(None, [node.module])])


def _file(name: str) -> str | None:
    return name if name in modules() else None


def reachable(start: set[str]) -> set[str]:
    """Everything that importing `start` may import, third parties included."""
    seen: set[str] = set()
    todo = set(start)
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= imports().get(name, set()) - seen
    return seen


def test_every_module_stands_on_a_station():
    strangers = {station(module) for module in modules()} - {"", *STATIONS}
    assert not strangers, f"{sorted(strangers)}: give each a place on the path (STATIONS) and a line in docs/architecture.md"


def test_imports_go_only_towards_earlier_stations():
    order = {name: place for place, name in enumerate(STATIONS)}
    wrong = [
        f"{module} imports {target}: {station(target)} comes after {station(module)}"
        for module, targets in imports().items()
        for target in sorted(ours(targets) | named()[module])
        if station(module) and station(target) and order[station(target)] > order[station(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_imports_nothing():
    assert imports()["tastemaker"] == set()


def test_no_cycles():
    """A registry may name, in a string, a module that imports the registry."""
    try:
        TopologicalSorter({module: ours(targets) for module, targets in imports().items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_flow_is_mathematics():
    """torch, the nouns and pure parts of the standard library: no file, clock, process, device or logger."""
    impure = {"io", "logging", "os", "pathlib", "random", "socket", "subprocess", "sys", "threading", "time", "warnings"}
    for module, targets in imports().items():
        if station(module) == "flow":
            assert third_party(targets) <= {"torch"}, module
            assert {station(target) for target in ours(targets)} <= {"flow", "types"}, module
            assert not {target.split(".")[0] for target in targets} & impure, module


def test_config_never_reaches_torch():
    """A mistake in a config has to show before anything heavy is imported."""
    found = reachable({module for module in modules() if station(module) == "config"})
    assert third_party(found) <= {"pydantic", "pydantic_core", "yaml"}


def test_few_stations_see_the_settings():
    wrong = [m for m, targets in imports().items() if station(m) in TAKE_VALUES and "config" in map(station, ours(targets))]
    assert not wrong, f"{wrong}: take the values you use as arguments"


def test_the_command_line_is_thin():
    """Whatever the top of its files imports is paid by `tastemaker --help`."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for module, path in modules().items() if station(module) == "cli"]
    top = {node.module for tree in trees for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
    ours = {name for name in top if name.startswith("tastemaker") and station(name) != "cli"}
    assert len(trees) > 3 and ours <= {"tastemaker", "tastemaker.errors"}


def test_what_renames_a_file_is_known():
    """All else writes through these, so that a file is whole or absent."""
    renames = re.compile(r"\bos\.(replace|rename)\(|\.rename\(")
    found = {module for module, path in modules().items() if renames.search(path.read_text(encoding="utf-8"))}
    assert found == {"tastemaker.runtime.folder", "tastemaker.data.whole_file", "tastemaker.rewards.cache"}


def test_names_say_what_is_inside():
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [module for module in modules() if set(module.split(".")) & vague]


def test_every_module_opens_with_what_it_is():
    silent = [
        module
        for module, path in modules().items()
        if (text := path.read_text(encoding="utf-8")).strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert not silent, f"{silent}: begin with a docstring"


def test_test_folders_have_a_purpose():
    """tests/KIND/STATION/test_*.py: the kind says how it is tested, the station what."""
    files = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    kinds = {path.parts[0] for path in files if len(path.parts) > 1}
    assert kinds <= set(TEST_FOLDERS), "tests live in " + ", ".join(f"{name} ({why})" for name, why in TEST_FOLDERS.items())
    subjects = {path.parts[1] for path in files if len(path.parts) > 2}
    assert subjects <= set(STATIONS), "folders below are named after stations"


def test_the_house_is_drawn_as_it_is():
    """README and docs/architecture.md name every station that exists."""
    names = {module: path.stem if path.stem != "__init__" else path.parent.name + "/" for module, path in modules().items()}
    present = {names[m] if names[m].endswith("/") else names[m] + ".py" for m in names if m.count(".") == 1}
    for page in ("README.md", "docs/architecture.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert not [name for name in sorted(present) if not re.search(rf"^\W*{re.escape(name)}\W", text, re.MULTILINE)], page


def test_a_station_that_lists_its_files_lists_all_of_them():
    lists = {path.parent: text for path in modules().values() if "Its files:" in (text := path.read_text(encoding="utf-8"))}
    absent = [
        path.relative_to(SOURCE)
        for folder, text in lists.items()
        for path in folder.glob("*.py")
        if path.name != "__init__.py" and not re.search(rf"^    {path.name} ", text, re.MULTILINE)
    ]
    assert len(lists) > 1 and not absent
