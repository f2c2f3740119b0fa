"""The prompts that `data` names: lists in JSONL, and words for those of the miniature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from tastemaker.config import TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.data.prompts import read_prompts
from tastemaker.errors import UserMistake, together
from tastemaker.miniature import task as miniature
from tastemaker.types import Prompt

MINIATURE_PROMPTS = {"miniature": (4000, 0), "miniature-edits": (0, 2000), "miniature-mix": (2000, 2000)}
"""How many prompts and edits the words stand for that `data.prompts` knows."""


def prompt_files(config: TrainConfig | DistillConfig, beside: Path) -> list[Path]:
    """Of the lists that `data.prompts` names those which are files, whether or not they are there."""
    return [beside / name for name in config.data.lists if name not in MINIATURE_PROMPTS]


def prompts_of(
    config: TrainConfig | DistillConfig,
    beside: Path,
    folder: Path | None,
    *,
    decode: bool = False,
    awaits: Callable[[Path], bool] = lambda path: False,
) -> list[Prompt]:
    """All that `data.prompts` names, list after list; nothing where one of them is still to come.

    The miniature's edits have their source pictures in the run's folder. With no folder, for a look at words and categories,
    those have none, and pictures of a file are opened with `decode` alone. Raises UserMistake with the mistakes of all lists,
    and for an id that two of them have.
    """
    found: dict[str, list[Prompt]] = {}

    def read(name: str) -> None:
        if name in MINIATURE_PROMPTS:
            found[name] = _miniature(name, config, folder)
        elif not awaits(beside / name):
            found[name] = _read(config, beside, "prompts", name, decode=decode or folder is not None)

    together(*(partial(read, name) for name in config.data.lists))
    _check_ids(found)
    if len(found) < len(config.data.lists):
        return []
    return first_of_each_task([prompt for name in config.data.lists for prompt in found[name]], config.data.most)


def held_out_of(config: TrainConfig | DistillConfig, beside: Path) -> list[Prompt]:
    """What `data.held_out` names; nothing where it names none."""
    return _read(config, beside, "held_out", config.data.held_out) if config.data.held_out else []


def first_of_each_task(prompts: Sequence[Prompt], most: int | None) -> list[Prompt]:
    """In their order; all of them where `most` is None."""
    seen: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        seen[prompt.task] += 1
        if most is None or seen[prompt.task] <= most:
            kept.append(prompt)
    return kept


def _read(config: TrainConfig | DistillConfig, beside: Path, key: str, name: str, *, decode: bool = False) -> list[Prompt]:
    """A list that `data` has under the key."""
    if not (beside / name).exists():
        raise UserMistake(f"data.{key}: {beside / name}: there is no such file of prompts; name one in JSONL")
    return read_prompts(beside / name, skip_bad=config.data.skip_bad, decode=decode)


def _miniature(name: str, config: TrainConfig | DistillConfig, folder: Path | None) -> list[Prompt]:
    texts, edits = (min(count, config.data.most or count) for count in MINIATURE_PROMPTS[name])
    if folder is None:
        return list(_miniature_words(texts, edits, config.seed))
    return [
        *miniature.training_prompts(texts, config.seed),
        *miniature.training_edits(edits, folder / "sources", config.seed),
    ]


@cache
def _miniature_words(texts: int, edits: int, seed: int) -> tuple[Prompt, ...]:
    """Once for all that look at them: thousands of edits take seconds."""
    return (*miniature.training_prompts(texts, seed), *miniature.training_edits(edits, None, seed))


def _check_ids(found: Mapping[str, Iterable[Prompt]]) -> None:
    """Seeds and scores go by a prompt's id, so two prompts of one id would be drawn alike."""
    owner: dict[str, str] = {}
    twice = [
        (prompt.id, owner[prompt.id], name)
        for name, prompts in found.items()
        for prompt in prompts
        if owner.setdefault(prompt.id, name) != name
    ]
    if twice:
        which, first, second = twice[0]
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise UserMistake(f"data.prompts: id {which!r}{more} is in {first} and in {second}; give each prompt an id of its own")
