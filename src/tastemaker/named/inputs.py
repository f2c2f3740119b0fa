"""From the words of settings to models, and what is said of prompts before and after they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from tastemaker.config import Judged, RolloutConfig, TrainConfig
from tastemaker.config.distillation import DistillConfig, StudentRollout
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.data.jsonl import TASKS
from tastemaker.data.pictures import elongation
from tastemaker.data.splits import content_key, text_key
from tastemaker.errors import UserMistake
from tastemaker.miniature import task as miniature
from tastemaker.named.prompts import held_out_of
from tastemaker.rewards.composite import called
from tastemaker.runtime.estimate import num_parameters
from tastemaker.types import Prompt

MINIATURE = "miniature"
LARGE = 100_000_000
"""Parameters of a transformer above which a model is no miniature."""
SQUARE = 1.2
"""The longer side over the shorter one, up to which a source is about square."""


def model_folder(config: TrainConfig | DistillConfig, beside: Path) -> Path:
    """The pipeline folder that `model` names: the shipped one, or a path, relative ones beside the recipe."""
    folder = model_path(config.model, beside)
    if not folder.is_dir():
        raise UserMistake(f"model: {folder} is not a folder; name that of a diffusers pipeline, or write {MINIATURE}")
    return folder


def model_path(model: str, beside: Path) -> Path:
    """Whether or not it is there."""
    return miniature.WEIGHTS if model == MINIATURE else beside / model


def teacher_folders(
    config: DistillConfig, beside: Path, awaits: Callable[[Path], bool] = lambda path: False
) -> dict[str, Path]:
    """By the teacher's name. Raises UserMistake for those that are not there, but for those that are still to come."""
    folders = {teacher.name: beside / teacher.weights for teacher in config.teachers}
    wrong = [
        f"teachers.{row}.weights: {folders[teacher.name]} is not a folder; name what a training or an export left"
        for row, teacher in enumerate(config.teachers)
        if not folders[teacher.name].is_dir() and not awaits(folders[teacher.name])
    ]
    if wrong:
        raise UserMistake("\n".join(wrong))
    return folders


def check_held_out(config: TrainConfig | DistillConfig, beside: Path, prompts: Sequence[Prompt]) -> None:
    """Refuses prompts to be trained on that are held out too: those of one id, or of one text and the same source pictures.

    Instructions of edits are often alike, hence the pictures, which are compared by their bytes.
    """
    held_out = held_out_of(config, beside)
    ids, texts = {prompt.id for prompt in held_out}, {text_key(prompt.text) for prompt in prompts}
    asked = {_asked(prompt) for prompt in held_out if text_key(prompt.text) in texts}
    texts = {text for text, *_ in asked}
    same_id = [f"{prompt.id!r} (id)" for prompt in prompts if prompt.id in ids]
    same_text = [f"{p.id!r} (text)" for p in prompts if p.id not in ids and text_key(p.text) in texts and _asked(p) in asked]
    if both := same_id + same_text:
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        raise UserMistake(
            f"data.held_out: {len(both)} of the prompts to train on are in {config.data.held_out} too: "
            f"{', '.join(both[:3])}{more}; what is held out is not trained on, remove or rename them in one of the files"
        )


def _asked(prompt: Prompt) -> tuple[str, ...]:
    return text_key(prompt.text), *(content_key(source) for source in prompt.sources)


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
        if category not in present and (near := _alike(category, present))
    ]
    if wrong:
        raise UserMistake("\n".join(wrong))


def _alike(category: str, present: Iterable[str]) -> list[str]:
    """One that may have been meant; a category of one task is no misspelling of the other's (edit/portrait, t2i/portrait)."""
    task, slash, _ = category.partition("/")
    if slash and task in TASKS:
        present = [name for name in present if name.startswith(f"{task}/")]
    return get_close_matches(category, list(present), n=1)


def not_square(prompts: Iterable[Prompt], side: int) -> str | None:
    """A warning where sources are clearly not square, since what is drawn always is; None where there are none."""
    edits = [prompt for prompt in prompts if prompt.sources]
    longest = {prompt.id: max(map(elongation, prompt.sources)) for prompt in edits}
    far = {name: ratio for name, ratio in longest.items() if ratio > SQUARE}
    if not far:
        return None
    most = max(far, key=far.__getitem__)
    return (
        f"{len(far)} of {len(edits)} edits have a source that is clearly not square ({most!r}: {far[most]:.2f} to 1); they are "
        f"drawn as {side} x {side} pixels all the same (rollout.picture_side), so crop such sources or leave them out"
    )


def small_pictures(
    drawn: RolloutConfig | StudentRollout | EvaluateConfig, key: str, model: Path, named: Path | str
) -> Iterator[str]:
    """A warning where a large model would draw pictures of the miniature's size because nobody said how large they are.

    `key` is the name of what says it, picture_side, in the settings, and `named` what they call the folder `model`.
    """
    if "picture_side" not in drawn.model_fields_set and num_parameters(model / "transformer") > LARGE:
        side = drawn.picture_side
        yield (
            f"{key} is not set, so {named} would draw {side} x {side} pixels, the miniature's size; set it to a size that the "
            "model was made for, such as 512"
        )


def check_edit_share(config: TrainConfig | DistillConfig, prompts: Iterable[Prompt]) -> None:
    """A stated share of edits needs prompts of both tasks."""
    share, present = config.data.edit_share, {prompt.task for prompt in prompts}
    if share is not None and len(present) < 2:
        raise UserMistake(
            f"data.edit_share: {share:g} of a step's prompts are to be edits, but all of {' and '.join(config.data.lists)} are "
            f"{'edits' if 'edit' in present else 'text to image'}; remove it, or give prompts of both tasks"
        )
