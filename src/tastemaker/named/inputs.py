"""From the words of settings to models and prompts: what `model` and `data` name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from tastemaker.config import Judged, TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.data.prompts import read_prompts
from tastemaker.errors import UserMistake
from tastemaker.miniature import task as miniature
from tastemaker.rewards.composite import called
from tastemaker.types import Prompt

MINIATURE = "miniature"
MINIATURE_PROMPTS = {"miniature": (4000, 0), "miniature-edits": (0, 2000), "miniature-mix": (2000, 2000)}
"""How many prompts and edits the words stand for that `data.prompts` knows."""


def model_folder(config: TrainConfig | DistillConfig, beside: Path) -> Path:
    """The pipeline folder that `model` names: the shipped one, or a path, relative ones beside the recipe."""
    if config.model == MINIATURE:
        return miniature.WEIGHTS
    folder = beside / config.model
    if not folder.is_dir():
        raise UserMistake(f"model: {folder} is not a folder; name that of a diffusers pipeline, or write {MINIATURE}")
    return folder


def prompts_of(config: TrainConfig | DistillConfig, beside: Path, folder: Path) -> list[Prompt]:
    """What `data.prompts` names. The miniature's edits have their source pictures in the run's folder."""
    if config.data.prompts in MINIATURE_PROMPTS:
        texts, edits = (min(count, config.data.most or count) for count in MINIATURE_PROMPTS[config.data.prompts])
        sources = folder / "sources"
        return [*miniature.training_prompts(texts, config.seed), *miniature.training_edits(edits, sources, config.seed)]
    found = read_prompts(beside / config.data.prompts, skip_bad=config.data.skip_bad, decode=True)
    return first_of_each_task(found, config.data.most)


def first_of_each_task(prompts: Sequence[Prompt], most: int | None) -> list[Prompt]:
    """In their order; all of them where `most` is None."""
    seen: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        seen[prompt.task] += 1
        if most is None or seen[prompt.task] <= most:
            kept.append(prompt)
    return kept


def data_files(config: TrainConfig | DistillConfig, beside: Path) -> dict[str, Path]:
    """What of the run's inputs lies on the disk: the model, and the prompts where they come from a file."""
    files = {"model": model_folder(config, beside)}
    return files if config.data.prompts in MINIATURE_PROMPTS else {**files, "prompts": beside / config.data.prompts}


def check_categories(config: Judged, prompts: Iterable[Prompt]) -> None:
    """Refuses a category or task that no prompt has where one of the prompts' is like it: its weights would never be used."""
    present = {name for prompt in prompts for name in called(prompt)}
    named = {f"categories.{category}": category for category in config.categories} | {
        f"rewards.{row}.gates.{place}.categories.{position}": category
        for row, reward in enumerate(config.rewards)
        for place, gate in enumerate(reward.gates)
        for position, category in enumerate(gate.categories or ())
    }
    wrong = [
        f"{key}: {category!r} is the category of no prompt, did you mean `{near[0]}`?"
        for key, category in named.items()
        if category not in present and (near := get_close_matches(category, present, n=1))
    ]
    if wrong:
        raise UserMistake("\n".join(wrong))


def check_edit_share(config: TrainConfig | DistillConfig, prompts: Iterable[Prompt]) -> None:
    """A stated share of edits needs prompts of both tasks."""
    share, present = config.data.edit_share, {prompt.task for prompt in prompts}
    if share is not None and len(present) < 2:
        raise UserMistake(
            f"data.edit_share: {share:g} of a step's prompts are to be edits, but all of {config.data.prompts} are "
            f"{'edits' if 'edit' in present else 'text to image'}; remove it, or give prompts of both tasks"
        )
