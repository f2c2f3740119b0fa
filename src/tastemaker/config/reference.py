"""docs/settings.md: every key of every file, with its default and rules, from the settings themselves.

    python -m tastemaker.config.reference > docs/settings.md

What a key means is the text under it in the code; a group's rules are those that its `broken_rules` states. A group that
several files have is written out where it comes first, and the others link there. The keys of a recipe around its stages are
told by hand, since no class holds them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import ModelSchema

from tastemaker.config.base import Settings
from tastemaker.config.categories import CategoriesConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.config.settings import TrainConfig
from tastemaker.config.stages import CurateStage, ExportStage

Schema = Mapping[str, Any]


class File(NamedTuple):
    """A kind of file, or of a recipe's stage."""

    name: str
    settings: type[Settings]
    read_by: str


FILES = (
    File(
        "train",
        TrainConfig,
        "The file of `tastemaker train` and `curate`, and of `calibrate --config`. `check` takes any file on this page.",
    ),
    File("distill", DistillConfig, "The file of `tastemaker distill`; see [distill.md](distill.md)."),
    File("train-reward", RewardTrainConfig, "The file of `tastemaker train-reward`; see [reward-models.md](reward-models.md)."),
    File("evaluate", EvaluateConfig, "The file of `tastemaker evaluate`; see [evaluate.md](evaluate.md)."),
    File("categorise", CategoriesConfig, "The second file of `tastemaker categorise`; see [curation.md](curation.md)."),
    File("curate", CurateStage, "A stage of a recipe."),
    File("export", ExportStage, "A stage of a recipe; see [export.md](export.md)."),
)
STAGES = ("train-reward", "curate", "train", "distill", "evaluate", "export")
"""The files whose settings a stage of a recipe may have, by its `kind`."""

HEAD = """\
# Settings

Every key of every file of settings. Printed by `python -m tastemaker.config.reference` from the settings' own classes: a text
is changed there, not here.

- **Values.** YAML in which a key occurs once and `1e-5` is a number. An unknown key or a value that breaks a rule is refused
  before anything is loaded, with its line, the rule and the remedy. A *name* is of letters, digits, dots, dashes and
  underscores, 100 at most, and begins with a letter or digit. Names and paths are never empty.
- **Defaults.** What is not in a file has its default; what is *required* has none. A group without a default here has those of
  its own keys.
- **Variants.** Where there are several kinds of a group, one word in it (`kind`, `name` or `backend`) chooses its keys.
- **Overrides.** Where a command takes `-o`, `-o rollout.steps=20` wins over the file; `-o rewards.0.weight=0.5` reaches into
  a list.
- **Paths.** Relative ones start at the file's own folder, those of a shipped recipe where the command is run.
- ***Free*** settings may be others when a run, or a recipe's stage, goes on. Any other change has to be allowed by name, such
  as `--allow optimiser.learning_rate`.
"""

RECIPE = """\
## recipe

The file of `tastemaker run`; see [recipes.md](recipes.md).

| key | value | default | |
|---|---|---|---|
| `name` | name, at most 64 characters | required | The recipe's name, and its folder's. |
| `seed`, `threads`, `processes` | as in the stages | | Of every stage that has such a setting and does not state it. |
| `stages` | by name: [`stages.NAME`](#recipe-stagesname) | required | In order. A stage's name is its folder's: letters, \
digits, dashes and underscores, 64 at most. |

### recipe: `stages.NAME`

These keys stand beside those of the stage's kind, whose own `name` may be left out and is then the stage's. Any text may be
`stage:NAME/FILE`, what a stage above leaves in its folder, and any setting `{like: NAME}`, that of a stage above.

| key | value | default | |
|---|---|---|---|
| `kind` | KINDS | that of `like: NAME` | Whose settings the stage has. |
| `like` | `NAME` or `NAME/GROUP` | none | A stage above, or a group of its settings, that these start from. |
"""

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$": "name",
    r"^[A-Za-z_]\w*$": "a name in Python",
    r"^(cpu|mps|cuda(:\d+)?)$": "`cpu`, `mps`, `cuda` or `cuda:N`",
    r"^\S(.*\S)?$": "text, at most 100 characters",
    r"\S": "text, not blank",
}
WORDS = {"integer": "whole number", "number": "number", "null": "`null`"}
FREE = {True: " *Free.*", "optimiser.decay_from": " *Free* where `optimiser.decay_from` is null."}


class _WithRules(GenerateJsonSchema):
    """Adds the rules between a group's keys, and what it is derived from."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        group: type[Settings] = schema["cls"]
        own = group.broken_rules is not Settings.broken_rules
        rules = _line(group.broken_rules.__doc__) if own else ""
        return {**super().model_schema(schema), "rules": rules, "base": group.__base__}


@dataclass
class Section:
    """A group with a heading of its own, or one of several that a word chooses from."""

    title: str
    node: Schema
    also: list[str] = field(default_factory=list)
    """Where else it stands."""


class Page:
    """Groups are found by what they refer to, so that each is written once."""

    def __init__(self) -> None:
        models = [(file.settings, "validation") for file in FILES]
        found, schema = models_json_schema(models, schema_generator=_WithRules)  # type: ignore[arg-type]
        self.groups: dict[str, Schema] = schema["$defs"]
        self.files: dict[str, list[Section]] = {}
        nodes = {file.name: found[file.settings, "validation"] for file in FILES}
        self.sections = {_key(node): Section(name, node) for name, node in nodes.items()}
        for name, node in nodes.items():
            before = len(self.sections)
            self._collect(name, "", node)
            self.files[name] = [self.sections[_key(node)], *list(self.sections.values())[before:]]

    def text(self) -> str:
        self.written: dict[str, tuple[str, dict[str, Schema]]] = {}
        parts = [HEAD, "\n".join([*map(self._contents, FILES), f"- {_link('recipe')}\n"])]
        kinds = ", ".join(map(_link, STAGES))
        return "\n".join([*parts, *map(self._file, FILES), RECIPE.replace("KINDS", kinds)])

    def _collect(self, file: str, path: str, node: Schema) -> None:
        for words, ref in self._variants(node):
            for name, value in self._properties(ref).items():
                inner, mark = _inner(value)
                if inner is None:
                    continue
                below = f"{path}: {{{words}, {name}}}" if words else f"{path}.{name}" if path else name
                title = f"{file}: `{below}{mark}`"
                if (section := self.sections.get(_key(inner))) is not None:
                    section.also.append(title)
                    continue
                self.sections[_key(inner)] = Section(title, inner)
                self._collect(file, below + mark, inner)

    def _variants(self, node: Schema, words: str = "") -> Iterator[tuple[str, str]]:
        """The words that choose each group of `node`, such as `kind: chat`, and the group's name."""
        if "oneOf" not in node:
            yield words, _name(node)
            return
        key = node["discriminator"]["propertyName"]
        for inner in node["oneOf"]:
            _, any_ref = next(self._variants(inner))
            word = f"{key}: {self.groups[any_ref]['properties'][key]['const']}"
            yield from self._variants(inner, f"{words}, {word}" if words else word)

    def _properties(self, group: str) -> dict[str, Schema]:
        """Without the words that choose it."""
        return {name: value for name, value in self.groups[group]["properties"].items() if "const" not in value}

    # ---- writing ---------------------------------------------------------------------------------

    def _contents(self, file: File) -> str:
        own, *inner = self.files[file.name]
        links = [_link(section.title, section.title.partition(": ")[2]) for section in inner]
        return f"- {_link(own.title)}" + (f": {', '.join(links)}" if links else "")

    def _file(self, file: File) -> str:
        own, *inner = self.files[file.name]
        group = _name(own.node)
        whole = self._rows(group, self._properties(group)) + self._rules(group)
        return "\n".join([f"## {file.name}\n\n{file.read_by}\n\n{whole}", *map(self._section, inner)])

    def _section(self, section: Section) -> str:
        also = f"*Also {', '.join(section.also)}.*\n\n" if section.also else ""
        if "oneOf" not in section.node:
            group = _name(section.node)
            return f"### {section.title}\n\n{also}{self._group(section.title, group, self._properties(group))}"
        variants = dict(self._variants(section.node))
        shared = self._shared(list(variants.values()))
        heads, parts = [], []
        for words, group in variants.items():
            title, own = _variant(section.title, words), self._properties(group)
            if several := {name: value for name, value in own.items() if name not in shared}:
                parts.append(f"#### {title}\n\n{self._group(title, group, several)}")
            heads.append(f"| {_link(title, f'`{words}`') if several else f'`{words}`'} | {self._about(_ref(group))} |\n")
        common = f"\nKeys of all of them:\n\n{self._rows(group, shared)}" if shared else ""
        return "\n".join([f"### {section.title}\n\n{also}| one of | |\n|---|---|\n{''.join(heads)}{common}", *parts])

    def _shared(self, groups: list[str]) -> dict[str, Schema]:
        """Keys that are the same in all of the groups."""
        first, *others = map(self._properties, groups)
        return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}

    def _group(self, title: str, group: str, keys: Mapping[str, Schema]) -> str:
        """What it is, its keys and rules; of one that is derived from what is written already, what is other there."""
        own, base = self.groups[group]["title"], self.groups[group]["base"].__name__
        like = ""
        if base in self.written:
            there, theirs = self.written[base]
            changed = {name: value for name, value in keys.items() if theirs.get(name) != value}
            if len(changed) < len(keys):
                keys, like = changed, f"The keys of {_link(there)}, with these changed or added:\n\n"
        for name in {own, base} - {Settings.__name__}:
            self.written.setdefault(name, (title, self._properties(group)))
        return f"{self._about(_ref(group))}\n\n{like}{self._rows(group, keys)}{self._rules(group)}"

    def _rules(self, group: str) -> str:
        rules = self.groups[group]["rules"]
        return f"\n**Rules.** {rules}\n" if rules else ""

    def _rows(self, group: str, keys: Mapping[str, Schema]) -> str:
        required = self.groups[group].get("required", ())
        rows = ["| key | value | default | |", "|---|---|---|---|"]
        for name, value in keys.items():
            default = "required" if name in required else self._default(value)
            about = self._about(value) + FREE.get(value.get("free_on_resume"), "")
            rows.append(f"| `{name}` | {self._value(value)} | {default} | {about} |")
        return "\n".join(rows) + "\n"

    def _about(self, node: Schema) -> str:
        inner, _ = _inner(node)
        text = node.get("description") or self.groups[_name(inner)]["description"]  # type: ignore[arg-type]
        return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", _line(text)).replace("|", "\\|")

    def _default(self, node: Schema) -> str:
        value, (inner, _) = node["default"], _inner(node)
        if inner is None or not isinstance(value, dict):
            return f"`{_yaml(value)}`"
        if "oneOf" not in inner:
            return ""
        key = inner["discriminator"]["propertyName"]
        return f"`{{{key}: {value[key]}}}`"

    def _value(self, node: Schema) -> str:
        """The kind of value and the rule for it alone, in words."""
        *others, last = self._kinds(node)
        return f"{', '.join(others)} or {last}" if others else last

    def _kinds(self, node: Schema) -> Iterator[str]:
        """Each kind that a value may be of."""
        few = ", at least one" if node.get("minItems") else ""
        inner, mark = _inner(node)
        kind = node.get("type")
        if inner is not None and "anyOf" not in node:
            title = self.sections[_key(inner)].title
            link = ("one of " if "oneOf" in inner else "") + _link(title, title.partition(": ")[2] or None)
            yield f"list of {link}{few}" if mark else link
        elif "anyOf" in node:
            for option in node["anyOf"]:
                yield from self._kinds(option)
        elif "const" in node or "enum" in node:
            yield from (f"`{word}`" for word in node.get("enum", [node.get("const")]))
        elif "prefixItems" in node:  # all of ours are pairs of one kind
            yield f"two of {self._value(node['prefixItems'][0])}"
        elif kind == "array":
            yield f"list of {self._value(node['items'])}{few}"
        elif kind == "object":
            values = [*node.get("patternProperties", {}).values(), node.get("additionalProperties", True)][0]
            yield "anything by name" if values is True else f"by name: {self._value(values)}"
        elif kind == "string":
            yield PATTERNS[node["pattern"]] if "pattern" in node else "text"
        elif kind == "boolean":
            yield from ("`true`", "`false`")
        else:
            yield WORDS[str(kind)] + _bounds(node)


def _inner(node: Schema) -> tuple[Schema | None, str]:
    """The group, or groups to choose from, that a value is or holds, and `[]` where it is a list of them."""
    if "$ref" in node or "oneOf" in node:
        return node, ""
    if isinstance(node.get("items"), dict) and (inner := _inner(node["items"])[0]) is not None:
        return inner, "[]"
    for option in node.get("anyOf", ()):
        if _inner(option)[0] is not None:
            return _inner(option)
    return None, ""


def _key(node: Schema) -> str:
    return json.dumps(node["discriminator"]["mapping"]) if "oneOf" in node else node["$ref"]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _name(node: Schema) -> str:
    return str(node["$ref"]).rpartition("/")[2]


def _variant(title: str, words: str) -> str:
    """train: `policy` -> train: `policy: {kind: lora}`"""
    return f"{title.removesuffix('`')}: {{{words}}}`"


def _link(title: str, text: str | None = None) -> str:
    """To a heading, by the anchor that GitHub gives it."""
    anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
    return f"[{text or title}](#{anchor})"


def _bounds(node: Schema) -> str:
    """Such as ` from 1 to 64`, ` > 0 and ≤ 1`."""
    low, high = node.get("minimum"), node.get("maximum")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = " and ".join(f"{sign} {_number(node[key])}" for key, sign in signs.items() if key in node)
    if low is not None and high is not None:
        found = f"from {_number(low)} to {_number(high)}"
    step = f", a multiple of {node['multipleOf']}" if "multipleOf" in node else ""
    return f" {found}{step}" if found else step


def _number(value: float) -> str:
    """Whole ones in full, others as short as they can be written: 10000, 2^63, 0.05, 1e-8."""
    if value == 2**63:
        return "2^63"
    return str(int(value)) if value == int(value) else re.sub(r"e-0", "e-", f"{value:g}")


def _yaml(value: Any) -> str:
    """As it is written in a file."""
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, float):
        return _number(value)
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def main() -> None:
    print(Page().text(), end="")


if __name__ == "__main__":
    main()
