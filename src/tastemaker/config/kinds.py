"""Which command a file of settings is for, told by keys that only that command's files have."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from tastemaker.config.categories import CategoriesConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.config.settings import TrainConfig

RECIPE = "run"
"""Whose file is no settings but a recipe of stages."""
SETTINGS: dict[str, type[BaseModel]] = {
    "train": TrainConfig,
    "distill": DistillConfig,
    "evaluate": EvaluateConfig,
    "train-reward": RewardTrainConfig,
    "categorise": CategoriesConfig,
}
"""By the name of the command."""
_OWN = {
    RECIPE: ("stages",),
    "distill": ("teachers",),
    "evaluate": ("models",),
    "train-reward": ("base", "rubric", "objective"),
    "categorise": ("rules", "otherwise", "names"),
}


def command_of(data: Any) -> str:
    """The command, by its name; `train` where nothing says otherwise. `data` is what the file holds, mistaken or not."""
    keys = data if isinstance(data, dict) else {}
    return next((command for command, own in _OWN.items() if any(key in keys for key in own)), "train")
