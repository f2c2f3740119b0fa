"""Edit requests with their truth: a source picture, an instruction, and the picture it asks for.

A source and its target share their layout except for what the instruction moves, adds or removes, so that whatever else
differs in an edited picture is an unwanted change. A compound edit is a core change and a secondary one of another kind;
`middle` is what the core alone would give, so that each half can be judged.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tastemaker.miniature.world import edit_steps, edit_things
from tastemaker.miniature.world.description import STYLES, Description, General, Thing
from tastemaker.miniature.world.edit_steps import Moved, Scene, Step, StepFunction
from tastemaker.miniature.world.instructions import clause
from tastemaker.miniature.world.layout import Layout, sample_layout
from tastemaker.miniature.world.sampling import pick, sample_description

SOURCE_STYLE_WEIGHTS = (0.85, 0.05, 0.05, 0.05)
PLAIN_SOURCE_OF_RESTYLE = 0.7
# share of each (kind, category) among all edits; compound draws two of the category's other kinds
WEIGHTS: dict[str, dict[str, float]] = {
    "recolour": {"general": 0.054, "portrait": 0.018, "typography": 0.018},
    "resize": {"general": 0.06},
    "replace": {"general": 0.07},
    "add": {"general": 0.06, "landscape": 0.02},
    "remove": {"general": 0.05, "landscape": 0.02},
    "move": {"general": 0.08},
    "hair": {"portrait": 0.07},
    "glasses": {"portrait": 0.05},
    "smile": {"portrait": 0.05},
    "time": {"landscape": 0.06},
    "season": {"landscape": 0.06},
    "text": {"typography": 0.06},
    "restyle": {"general": 0.024, "portrait": 0.02, "landscape": 0.02, "typography": 0.016},
    "compound": {"general": 0.05, "portrait": 0.03, "landscape": 0.022, "typography": 0.018},
}
EDIT_KINDS = tuple(WEIGHTS)
_STEPS: dict[str, dict[str, StepFunction]] = {
    "general": {
        "recolour": edit_things.recolour_thing,
        "resize": edit_things.resize,
        "replace": edit_things.replace_thing,
        "add": edit_things.add_thing,
        "remove": edit_things.remove_thing,
        "move": edit_things.move,
        "restyle": edit_steps.restyle,
    },
    "portrait": {
        "recolour": edit_steps.recolour_shirt,
        "hair": edit_steps.hair,
        "glasses": edit_steps.glasses,
        "smile": edit_steps.smile,
        "restyle": edit_steps.restyle,
    },
    "landscape": {
        "add": edit_steps.add_to_landscape,
        "remove": edit_steps.remove_from_landscape,
        "time": edit_steps.time,
        "season": edit_steps.season,
        "restyle": edit_steps.restyle,
    },
    "typography": {
        "recolour": edit_steps.recolour_letters,
        "text": edit_steps.text,
        "restyle": edit_steps.restyle,
    },
}
_MAX_TRIES = 2000


@dataclass(frozen=True)
class Edit:
    """`core` and `secondary` are kinds; `secondary` and `middle` are None unless `kind` is compound."""

    kind: str
    source: Description
    target: Description
    core: str
    secondary: str | None = None
    middle: Description | None = None
    moved: Moved | None = None

    def __post_init__(self) -> None:
        if self.kind not in EDIT_KINDS:
            raise ValueError(f"kind is {self.kind!r}; allowed: {', '.join(EDIT_KINDS)}")
        compound = self.kind == "compound"
        if compound != (self.secondary is not None) or compound != (self.middle is not None):
            given = f"secondary {self.secondary!r} and {'no' if self.middle is None else 'a'} middle"
            raise ValueError(f"kind is {self.kind!r} with {given}; allowed: both in compound, neither elsewhere")
        if self.source.category != self.target.category:
            raise ValueError(f"target is of {self.target.category!r}; allowed: {self.source.category!r}, as its source")


@dataclass(frozen=True)
class EditPair:
    """An edit with both layouts and the words that ask for it."""

    edit: Edit
    source_layout: Layout
    target_layout: Layout
    instruction: str

    @property
    def category(self) -> str:
        return self.edit.source.category


def sample_edit(
    rng: np.random.Generator,
    kind: str | None = None,
    category: str | None = None,
    draw: Callable[[np.random.Generator, str], Description] = sample_description,
) -> EditPair:
    """A random edit of a picture whose description `draw` gives; ValueError where `category` has no edits of this `kind`."""
    kind, category = pick_kind(rng, kind, category)
    for _ in range(_MAX_TRIES):
        scene = _sample_scene(rng, kind, category, draw)
        pair = _compound(scene, rng) if kind == "compound" else _simple(scene, kind, rng)
        if pair is not None:
            return pair
    raise ValueError(f"no {kind} edit of a {category} picture found in {_MAX_TRIES} tries")


def pick_kind(rng: np.random.Generator, kind: str | None, category: str | None) -> tuple[str, str]:
    """A (kind, category) by WEIGHTS, where not given."""
    cells = {
        (k, c): weight
        for k, weights in WEIGHTS.items()
        for c, weight in weights.items()
        if kind in (None, k) and category in (None, c)
    }
    if not cells:
        allowed = "; ".join(f"{k} of {', '.join(weights)}" for k, weights in WEIGHTS.items())
        raise ValueError(f"kind is {kind!r} with category {category!r}; allowed: {allowed}")
    shares = np.array(list(cells.values()))
    return pick(rng, list(cells), shares / shares.sum())


def _sample_scene(rng: np.random.Generator, kind: str, category: str, draw: Callable) -> Scene[Any, Any]:
    if kind == "restyle":
        style = "plain" if rng.random() < PLAIN_SOURCE_OF_RESTYLE else pick(rng, ("line drawing", "pixel art"))
    else:
        style = pick(rng, STYLES, SOURCE_STYLE_WEIGHTS)
    description = replace(draw(rng, category), style=style)
    return Scene(description, sample_layout(description, rng), _things(description))


def _things(description: Description) -> tuple[Thing, ...]:
    return description.things if isinstance(description, General) else ()


def _simple(scene: Scene[Any, Any], kind: str, rng: np.random.Generator) -> EditPair | None:
    step = _STEPS[scene.description.category][kind](scene, rng)
    if step is None:
        return None
    edit = Edit(kind, scene.description, step.target, core=kind, moved=step.moved)
    return EditPair(edit, scene.layout, step.layout, step.clause)


def _compound(scene: Scene[Any, Any], rng: np.random.Generator) -> EditPair | None:
    """Two steps that speak of different things, so that their order does not matter and both show in the end."""
    steps = _STEPS[scene.description.category]
    kinds = tuple(steps)
    weights = np.array([0.4 if kind == "restyle" else 1.0 for kind in kinds])
    core_kind, secondary_kind = rng.choice(kinds, size=2, replace=False, p=weights / weights.sum())
    core = steps[core_kind](scene, rng)
    if core is None:
        return None
    seen = tuple(dict.fromkeys((*scene.seen, *_things(core.target))))
    secondary = steps[secondary_kind](Scene(core.target, core.layout, seen), rng)
    if secondary is None or not _both_show(scene.description, core, secondary):
        return None
    edit = Edit(
        "compound",
        scene.description,
        secondary.target,
        core=str(core_kind),
        secondary=str(secondary_kind),
        middle=core.target,
        moved=core.moved or secondary.moved,
    )
    words = clause("compound", rng, core=core.clause, secondary=secondary.clause)
    return EditPair(edit, scene.layout, secondary.layout, words)


def _both_show(source: Description, core: Step, secondary: Step) -> bool:
    """No thing spoken of twice, nothing made invisible by sepia, no relation asked for and then dropped."""
    if core.mentioned & secondary.mentioned or secondary.target.style == "sepia" != source.style:
        return False
    before, asked, after = (getattr(d, "relation", None) for d in (source, core.target, secondary.target))
    return asked in (None, before) or after == asked
