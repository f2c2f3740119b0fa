"""`tastemaker check`: every mistake of a file that can be told before a model is opened, whichever command the file is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tastemaker.config import TrainConfig, dump, look
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.kinds import RECIPE, SETTINGS, command_of
from tastemaker.config.load import text_of
from tastemaker.config.strict_yaml import read
from tastemaker.errors import UserMistake

Say = Callable[[str], None]


def check(path: Path, *, overrides: Iterable[str] = (), show: bool = False, tell: Say = print, say: Say = print) -> bool:
    """Whether the file holds no mistake. `tell` is given each as soon as it is known: those of settings before anything heavy
    is imported, then those of what they name, by the very functions with which the file's own command begins.

    `say` is given the rest: with `show` every setting, else a sentence and warnings. Raises UserMistake for those of a recipe.
    """
    command, overrides = command_of(read(text_of(path)).data), tuple(overrides)
    if command == RECIPE:
        _check_recipe(path, overrides, show)
        return True
    looked = look(path, SETTINGS[command], overrides)
    for line in looked.mistakes:
        tell(line)
    if looked.settings is None:
        say("what the settings name was not looked at, since they do not say what it is; check again when these are mended")
        return False
    mistakes = looked.told(_mistakes(command, looked.settings, path.parent))
    for line in mistakes:
        tell(line)
    if looked.mistakes or mistakes:
        return False
    for line in dump(looked.settings).splitlines() if show else _meaning(path, command, looked.settings):
        say(line)
    return True


def _check_recipe(path: Path, overrides: tuple[str, ...], show: bool) -> None:
    from tastemaker.commands.run import run

    if show:
        raise UserMistake(f"--show: {path} is a recipe; `tastemaker run` writes each stage's settings into its settings.yaml")
    run(path, overrides=overrides, dry_run=True)


def _mistakes(command: str, config: Any, beside: Path) -> list[str]:
    """In what the settings name, as the command itself tells them."""
    from tastemaker.commands.checks import check_distillation, check_training
    from tastemaker.commands.contest import named_by
    from tastemaker.commands.train_reward import collect

    checks: dict[str, Callable[[], Any]] = {
        "train": lambda: check_training(config, beside, decode=True),
        "distill": lambda: check_distillation(config, beside, decode=True),
        "evaluate": lambda: named_by(config, beside, None),
        "train-reward": lambda: collect(config, beside),
        "categorise": lambda: None,
    }
    try:
        checks[command]()
    except UserMistake as error:
        return str(error).splitlines()
    return []


def _meaning(path: Path, command: str, config: Any) -> Iterator[str]:
    told = f"It is for tastemaker {command}"
    if isinstance(config, TrainConfig):
        rollout, budget = config.rollout, config.budget
        trained = f"steps {rollout.window_start} to {rollout.window_start + rollout.window_size - 1} of which are trained"
        if config.algorithm.name == "nft":
            trained = f"trained on {config.algorithm.points} points of the forward process"
        told = (
            f"{config.algorithm.name} on {config.model}, at most {budget.max_steps} steps of "
            f"{rollout.prompts} prompts x {rollout.group_size} pictures; {rollout.steps} sampling steps, "
            f"{trained}; guidance {rollout.guidance:g}."
        )
    yield f"{path}: no mistakes. {told}"
    yield from (f"warning: {line}" for line in _warnings(config, path.parent))


def _warnings(config: Any, beside: Path) -> Iterator[str]:
    """As the command itself gives them when it begins."""
    from tastemaker.commands import distill, train
    from tastemaker.named.inputs import model_folder, teacher_folders

    if isinstance(config, TrainConfig):
        yield from train.warnings_of(config, model_folder(config, beside))
    elif isinstance(config, DistillConfig):
        yield from distill.warnings_of(config, model_folder(config, beside), teacher_folders(config, beside))
