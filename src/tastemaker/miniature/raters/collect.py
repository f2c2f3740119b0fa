"""Writes a folder of simulated ratings and votes, in the files that people's would come in.

pictures/ sources/       PNG                      ratings.jsonl votes.jsonl   as `tastemaker.data` reads them
truth.jsonl              what the oracle and the taste say of each picture: for measuring a judge, never for training one
base/ parts/             samples of the base and finished parts, from which an interrupted call goes on

python -m tastemaker.miniature.raters FOLDER [--split eval] [--t2i 13000 --edits 9000 --pictures 4 --base 0.25]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from tastemaker.data.ratings import Rating, write_ratings
from tastemaker.data.votes import Side, Vote, write_votes
from tastemaker.errors import UserMistake
from tastemaker.miniature.raters import panel, samples
from tastemaker.miniature.raters.drawings import Drawn, drawn
from tastemaker.miniature.raters.rationale import reason
from tastemaker.miniature.raters.truth import DIMENSIONS, Truth, truth_of
from tastemaker.miniature.world.prompts import write_prompt
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import HELD_OUT_SIZE, Item, held_out, sample_edit
from tastemaker.miniature.world.splits import sample as sample_description
from tastemaker.models.adapter import Adapter
from tastemaker.runtime import folder as disk
from tastemaker.runtime import seeds
from tastemaker.types import Prompt, Task

RATINGS, VOTES, TRUTH = "ratings.jsonl", "votes.jsonl", "truth.jsonl"
PART = 50
"""Prompts of one part."""
TASKS: tuple[Task, ...] = get_args(Task)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sitting:
    """How much is rated. `base` is the share of pictures that the base draws, at most one a prompt."""

    split: str = "train"
    t2i: int = 13000
    edits: int = 9000
    pictures: int = 4
    base: float = 0.25
    panel: int = 9
    raters: int = 3
    pairs: int = 2
    """Pairs of each prompt, each voted on by `raters` simulated raters."""
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            f"split {self.split!r}: train or eval": self.split in ("train", "eval"),
            f"raters {self.raters}: at least 3, at most the panel's {self.panel}": 3 <= self.raters <= self.panel,
            f"pictures {self.pictures}: at least 2": self.pictures >= 2,
            f"base {self.base:g}: from 0 to 1 / pictures, one of each prompt": 0 <= self.base * self.pictures <= 1,
            f"{self.t2i} t2i and {self.edits} edits: at most {HELD_OUT_SIZE} are held out": (
                self.split != "eval" or (self.t2i <= HELD_OUT_SIZE["t2i"] and self.edits <= HELD_OUT_SIZE["edit"])
            ),
        }
        if broken := [f"sitting: {rule}" for rule, holds in rules.items() if not holds]:
            raise UserMistake("\n".join(broken))


def collect(
    folder: Path, sitting: Sitting, adapter: Adapter | None = None, pool: Executor | None = None, say: Say = lambda text: None
) -> Path:
    """Writes whatever `folder` does not hold yet; `adapter` is the base, needed where it draws a share of the pictures.

    Raises UserMistake where the folder holds another sitting, and for a missing base.
    """
    if sitting.base and adapter is None:
        raise UserMistake("the base draws a share of the pictures: give its adapter, or set the share to 0")
    _claim(folder, sitting)
    if (folder / TRUTH).exists():
        return folder
    for name in ("pictures", "sources", "parts"):
        disk.make_folder(folder / name)
    items = [*items_of("t2i", sitting), *items_of("edit", sitting)]
    sources = {item.id: _save_source(folder, item) for item in items if item.pair}
    sampled = _sampled(folder, sitting, items, sources, adapter, say)
    parts = [items[start : start + PART] for start in range(0, len(items), PART)]
    todo = [n for n in range(len(parts)) if not _part(folder, n).exists()]
    jobs = [(folder, sitting, n, parts[n], {i.id: sampled[i.id] for i in parts[n] if i.id in sampled}) for n in todo]
    for done, number in enumerate((pool.map if pool else map)(_rate_part, jobs), start=1):
        say(f"rated part {number + 1} of {len(parts)} ({done} of {len(todo)} in this sitting)")
    _join(folder, len(parts))
    return folder


def items_of(task: Task, sitting: Sitting) -> list[Item]:
    """The prompts: the fixed held-out ones, or new ones of the training split."""
    count = sitting.t2i if task == "t2i" else sitting.edits
    if sitting.split == "eval":
        return held_out(task, count)
    return [_training_item(task, number, sitting.seed) for number in range(count)]


def _training_item(task: Task, number: int, seed: int) -> Item:
    rng, name = seeds.random(seed, "item", task, number), f"train-{task}-{seed}-{number:05d}"
    if task == "edit":
        pair = sample_edit("train", rng)
        return Item(name, pair.instruction, pair.edit.target, pair)
    description = sample_description("train", rng)
    return Item(name, write_prompt(description, rng), description)


def _sampled(
    folder: Path, sitting: Sitting, items: Sequence[Item], sources: dict[str, str], adapter: Adapter | None, say: Say
) -> dict[str, Drawn]:
    """One picture of the base for the prompts whose turn it is."""
    found: dict[str, Drawn] = {}
    share = sitting.base * sitting.pictures
    for task in TASKS:
        mine = [i for i in items if i.task == task and seeds.random(sitting.seed, "base", i.id).random() < share]
        prompts = [Prompt(i.id, i.text, i.category, task, (sources[i.id],) if i.pair else ()) for i in mine]
        if prompts and adapter is not None:
            found |= samples.sample(adapter, prompts, folder / "base", sitting.seed, say)
    return found


def _rate_part(job: tuple[Path, Sitting, int, Sequence[Item], dict[str, Drawn]]) -> int:
    folder, sitting, number, items, sampled = job
    rows: dict[str, list[dict[str, Any]]] = {RATINGS: [], VOTES: [], TRUTH: []}
    raters = panel.panel(sitting.panel, sitting.seed)
    for item in items:
        pictures = drawn(
            item, sitting.pictures - (item.id in sampled), sitting.split, seeds.random(sitting.seed, "draw", item.id)
        )
        pictures += [sampled[item.id]] if item.id in sampled else []
        source = np.asarray(render(item.pair.edit.source, item.pair.source_layout)) if item.pair else None
        truths = [truth_of(item, picture, source) for _, picture in pictures]
        names = [_save(folder / "pictures" / f"{item.id}-{n}.png", picture) for n, (_, picture) in enumerate(pictures)]
        told = list(zip(names, (generator for generator, _ in pictures), truths, strict=True))
        rows[RATINGS] += [row for one in told for row in _ratings(item, *one, raters, sitting)]
        rows[VOTES] += _votes(item, told, raters, sitting)
        rows[TRUTH] += [{"picture": name, "prompt": item.id, "generator": made, **t.scores} for name, made, t in told]
    disk.write_bytes_atomic(_part(folder, number), json.dumps(rows).encode())
    return number


def _ratings(
    item: Item, picture: str, generator: str, truth: Truth, raters: Sequence[panel.Rater], sitting: Sitting
) -> Iterator[dict[str, Any]]:
    seen_by = panel.chosen(raters, sitting.raters, sitting.seed, picture)
    for dimension in DIMENSIONS:
        if dimension in truth.scores:
            scores = {r.name: panel.score(r, truth, dimension, item.category, picture, sitting.seed) for r in seen_by}
            yield {
                "id": f"{Path(picture).stem}-{dimension}",
                "picture": picture,
                "prompt": item.text,
                "dimension": dimension,
                "scores": scores,
                **_common(item),
                "generator": generator,
                "rationale": reason(truth, dimension),
            }


def _votes(
    item: Item, told: Sequence[tuple[str, str, Truth]], raters: Sequence[panel.Rater], sitting: Sitting
) -> Iterator[dict[str, Any]]:
    for nth in range(sitting.pairs):
        order = seeds.random(sitting.seed, "pair", item.id, nth).permutation(len(told))[:2]
        pair = [told[place] for place in order]
        for rater in panel.chosen(raters, sitting.raters, sitting.seed, f"{item.id}-{nth}"):
            shown = pair[::-1] if seeds.random(sitting.seed, "side", item.id, nth, rater.name).random() < 0.5 else pair
            left, right = ((picture, truth) for picture, _, truth in shown)
            yield {
                "id": f"{item.id}-{nth}-{rater.name}",
                "prompt": item.text,
                "rater": rater.name,
                "choice": panel.choice(rater, left, right, sitting.seed),
                "left": _side(item, *shown[0]),
                "right": _side(item, *shown[1]),
                **_common(item),
            }


def _common(item: Item) -> dict[str, Any]:
    sources = [f"sources/{item.id}.png"] if item.pair else []
    return {"task": item.task, "sources": sources, "category": item.category}


def _side(item: Item, picture: str, generator: str, truth: Truth) -> dict[str, Any]:
    """Labels: valid when anything can be seen; lettering and figures are asked about where the prompt has them."""
    whole = truth.scores["fidelity"] >= 2.5
    labels = {"typography": {"text_distorted": not whole}, "portrait": {"figure_distorted": not whole}}
    return {
        "picture": picture,
        "generator": generator,
        "valid": truth.scores["quality"] >= 1.5,
        **labels.get(item.category, {}),
    }


def _join(folder: Path, num_parts: int) -> None:
    """The parts as three files, through the writers whose readers real ratings go through; the truth is written last."""
    parts = [json.loads(_part(folder, n).read_text(encoding="utf-8")) for n in range(num_parts)]

    def inside(row: dict[str, Any]) -> dict[str, Any]:
        placed = {"sources": tuple(str(folder / name) for name in row["sources"])}
        return {**row, **placed, **({"picture": str(folder / row["picture"])} if "picture" in row else {})}

    def side(values: dict[str, Any]) -> Side:
        return Side(**{**values, "picture": str(folder / values["picture"])})

    write_ratings(folder / RATINGS, [Rating(**inside(row)) for part in parts for row in part[RATINGS]])
    votes = [{**inside(row), "left": side(row["left"]), "right": side(row["right"])} for part in parts for row in part[VOTES]]
    write_votes(folder / VOTES, [Vote(**row) for row in votes])
    truths = "".join(json.dumps(row) + "\n" for part in parts for row in part[TRUTH])
    disk.write_bytes_atomic(folder / TRUTH, truths.encode())


def _claim(folder: Path, sitting: Sitting) -> None:
    """A folder belongs to one sitting: parts of two would mix."""
    disk.make_folder(folder)
    path, text = folder / "sitting.json", json.dumps(asdict(sitting), indent=1) + "\n"
    if not path.exists():
        disk.write_bytes_atomic(path, text.encode())
    elif path.read_text(encoding="utf-8") != text:
        raise UserMistake(f"{folder} holds another sitting ({path.name}): give a new folder, or the same settings")


def _part(folder: Path, number: int) -> Path:
    return folder / "parts" / f"{number:05d}.json"


def _save_source(folder: Path, item: Item) -> str:
    assert item.pair is not None
    path = folder / "sources" / f"{item.id}.png"
    if not path.exists():
        Image.fromarray(render(item.pair.edit.source, item.pair.source_layout)).save(path)
    return str(path)


def _save(path: Path, picture: np.ndarray) -> str:
    Image.fromarray(np.ascontiguousarray(picture)).save(path)
    return f"{path.parent.name}/{path.name}"
