"""Which pictures may be trained on: splits that are disjoint in combinations of facts, not in samples.

Every description has combinations (a shape with its colour, two shapes with their relation, a hair with its clothing, a
word ...). A hash reserves some of them for reinforcement learning and some for evaluation. A description with a reserved
combination belongs to that split, so evaluation asks for things no training picture showed, made of parts all of which
training did show. Only facts a prompt says take part: in sepia, colours do not.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from tastemaker.miniature.world import edits
from tastemaker.miniature.world.description import (
    CATEGORIES,
    Description,
    General,
    Landscape,
    Portrait,
    Typography,
)
from tastemaker.miniature.world.edits import EDIT_KINDS, Edit, EditPair
from tastemaker.miniature.world.prompts import says_ground, write_prompt
from tastemaker.miniature.world.sampling import CATEGORY_WEIGHTS, KIND_WEIGHTS, pick, sample_description

SPLITS = ("train", "rl", "eval")
HELD_OUT_SIZE = {"t2i": 600, "edit": 560}
RL_TURNS = {"t2i": ("general", "portrait", "landscape") * 5 + ("typography",), "edit": EDIT_KINDS}
"""What prompts of reinforcement learning are about, in turn. Of lettering there is little: the base that ships hardly ever gets
it right, and a group without a success teaches little."""
_HELD_OUT_SEED = {"t2i": 20_260_701, "edit": 20_260_702}
# Shares reserved for evaluation and for reinforcement learning. With few combinations a policy learns those few ("draw more
# green stars") and not to do as it is told; so many are kept from the base.
_RESERVED = {
    "look": (0.04, 0.26),
    "count": (0.05, 0.20),
    "relation": (0.05, 0.25),
    "face": (0.08, 0.28),
    "landscape": (0.08, 0.28),
    "text": (0.08, 0.20),
    "sepia": (0.08, 0.20),
}
_SALT = "miniature-24794"  # one whose reserved cells differ in shape, colour, ground and weather; a test checks it
_KEEPING_KINDS = ("resize", "add", "remove", "move", "glasses", "smile", "restyle", "compound")
_MAX_TRIES = 20_000


@dataclass(frozen=True)
class Item:
    """One prompt with its truth. `description` is what the picture should show, for an edit its target."""

    id: str
    text: str
    description: Description
    pair: EditPair | None = None

    @property
    def category(self) -> str:
        return self.description.category

    @property
    def task(self) -> str:
        return "t2i" if self.pair is None else "edit"


def split_of(description: Description) -> str:
    """'train', 'rl' or 'eval': the strictest split that any of the description's combinations is reserved for."""
    return SPLITS[max(_rank(combination) for combination in combinations(description))]


def split_of_edit(edit: Edit) -> str | None:
    """The target's split; None where the source (or the middle) shows what is reserved for a stricter one."""
    ranks = [SPLITS.index(split_of(d)) for d in (edit.source, edit.middle, edit.target) if d is not None]
    return SPLITS[ranks[-1]] if ranks[-1] == max(ranks) else None


def combinations(description: Description) -> list[tuple[str, ...]]:
    """The combinations of facts that decide the split, each led by the name of its kind."""
    if description.style == "sepia":
        return [("sepia", *_sepia_facts(description))]
    match description:
        case General():
            return _general_combinations(description)
        case Portrait():
            return [("face", description.hair_style, str(description.hair_colour), description.clothing)]
        case Landscape():
            return [("landscape", description.time, description.ground, description.weather, description.sky_body)]
        case Typography():
            one = len(description.text) == 1  # letters are parts: reserve one only together with a colour
            return [("text", description.text, description.colour if one else "any")]


def _general_combinations(description: General) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [("look", thing.shape, thing.colour) for thing in description.things]
    first = description.things[0]
    if first.count > 1:
        found.append(("count", str(first.count), first.shape, first.colour))
    if description.relation:
        shapes = [thing.shape for thing in description.things]
        found.append(("relation", *_canonical(shapes, description.relation)))
    return found


def _canonical(parts: list[str], relation: str) -> tuple[str, ...]:
    """'a right of b' is 'b left of a', and the same for below and above."""
    flipped = {"right of": "left of", "below": "above"}
    ordered = parts[::-1] if relation in flipped else parts
    return (ordered[0], flipped.get(relation, relation), ordered[1])


def _sepia_facts(description: Description) -> tuple[str, ...]:
    """All that a sepia prompt says."""
    match description:
        case General():
            things = [f"{thing.count} {thing.size} {thing.shape}" for thing in description.things]
            return _canonical(things, description.relation) if description.relation else tuple(sorted(things))
        case Portrait():
            return (description.hair_style, str(description.glasses), str(description.smile))
        case Landscape():
            ground = description.ground if says_ground(description) else "any"
            facts = (description.time, ground, description.weather, description.sky_body)
            return (*facts, str(description.trees), str(description.mountains))
        case Typography():
            return (description.text,)


@lru_cache(maxsize=65536)
def _rank(combination: tuple[str, ...]) -> int:
    """0 for train, 1 for rl, 2 for eval."""
    digest = hashlib.sha256("|".join((_SALT, *combination)).encode()).digest()
    chance = int.from_bytes(digest[:8], "big") / 2**64
    evaluation, reinforcement = _RESERVED[combination[0]]
    return 2 if chance < evaluation else 1 if chance < evaluation + reinforcement else 0


def sample(split: str, rng: np.random.Generator, category: str | None = None, kind: str | None = None) -> Description:
    """A random description of the split; sepia scenes never hold two things of one shape, which no prompt could tell apart."""
    _check_split(split)
    category = pick(rng, CATEGORIES, CATEGORY_WEIGHTS) if category is None else category
    for _ in range(_MAX_TRIES):
        description = sample_description(rng, category, kind)
        if split_of(description) == split and _is_tellable(description):
            return description
    raise ValueError(f"no {category} description found in split {split!r}; use another category")


def _is_tellable(description: Description) -> bool:
    if not isinstance(description, General) or description.style != "sepia":
        return True
    return len({thing.shape for thing in description.things}) == len(description.things)


def sample_edit(split: str, rng: np.random.Generator, kind: str | None = None, category: str | None = None) -> EditPair:
    """A random edit of the split; the source is often of it already, where the edit keeps the combination."""
    _check_split(split)
    kind, category = edits.pick_kind(rng, kind, category)  # before any rejection, which would favour the easy kinds
    same_split = 0.8 if kind in _KEEPING_KINDS else 0.15

    def draw(rng: np.random.Generator, category: str) -> Description:
        source_split = split if rng.random() < same_split else "train"
        while split_of(replace(description := sample_description(rng, category), style="plain")) != source_split:
            pass
        return description

    for _ in range(_MAX_TRIES):
        pair = edits.sample_edit(rng, kind, category, draw)
        if split_of_edit(pair.edit) == split and _is_tellable(pair.edit.target):
            return pair
    raise ValueError(f"no {kind} edit of {category} found in split {split!r}; use another kind")


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")


def rl_prompts(n: int, seed: int, task: str = "t2i") -> list[Item]:
    """Prompts for reinforcement learning, over categories or edit kinds in turn (`RL_TURNS`); repeats are possible."""
    _check_task(task)
    rng = np.random.default_rng(seed)
    turns, make = RL_TURNS[task], _t2i_item if task == "t2i" else _edit_item
    return [make(f"rl-{task}-{seed}-{i:05d}", "rl", rng, turns[i % len(turns)]) for i in range(n)]


def held_out(task: str = "t2i", n: int | None = None) -> list[Item]:
    """The fixed evaluation set: balanced over categories and general kinds, or over edit kinds.

    The items are interleaved, so that a shorter set is the beginning of a longer one and balanced as well.
    """
    _check_task(task)
    rng = np.random.default_rng(_HELD_OUT_SEED[task])
    candidates = _t2i_candidates(rng) if task == "t2i" else _edit_candidates(rng)
    items: list[Item] = []
    for _ in range(HELD_OUT_SIZE[task] if n is None else n):
        items.append(replace(next(candidates), id=f"eval-{task}-{len(items):04d}"))
    return items


def _check_task(task: str) -> None:
    if task not in HELD_OUT_SIZE:
        raise ValueError(f"task is {task!r}; allowed: {', '.join(HELD_OUT_SIZE)}")


def _t2i_candidates(rng: np.random.Generator) -> Iterator[Item]:
    """Categories in turn, and within general its kinds in turn; an endless stream without repeated texts."""
    seen: set[str] = set()
    turn = 0
    while True:
        category = CATEGORIES[turn % len(CATEGORIES)]
        kind = tuple(KIND_WEIGHTS)[turn // len(CATEGORIES) % len(KIND_WEIGHTS)]
        item = _t2i_item("", "eval", rng, category, kind if category == "general" else None)
        if item.text in seen:
            continue
        seen.add(item.text)
        turn += 1
        yield item


def _edit_candidates(rng: np.random.Generator) -> Iterator[Item]:
    """Kinds in turn, and each kind's categories in turn."""
    turn = 0
    while True:
        kind = EDIT_KINDS[turn % len(EDIT_KINDS)]
        categories = tuple(edits.WEIGHTS[kind])
        yield _edit_item("", "eval", rng, kind, categories[turn // len(EDIT_KINDS) % len(categories)])
        turn += 1


def _t2i_item(name: str, split: str, rng: np.random.Generator, category: str | None = None, kind: str | None = None) -> Item:
    description = sample(split, rng, category, kind)
    return Item(name, write_prompt(description, rng), description)


def _edit_item(name: str, split: str, rng: np.random.Generator, kind: str | None = None, category: str | None = None) -> Item:
    pair = sample_edit(split, rng, kind, category)
    return Item(name, pair.instruction, pair.edit.target, pair)
