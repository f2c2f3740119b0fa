"""Every setting with its default, and the strict reader of YAML files; checks a whole file in about a second, without torch.

Its files:

    settings.py         what can be set for `tastemaker train`, and the rules between settings
    rewards.py          rewards, their weights by category and their gates, and the rules between them
    reward_training.py  what can be set for `tastemaker train-reward`
    distillation.py     what can be set for `tastemaker distill`
    evaluation.py       what can be set for `tastemaker evaluate`
    judges.py           judges by name: a folder, our server, a chat server, scorers of faces and lettering, your own
    stages.py           settings of the stages of a recipe whose commands have no file of their own
    recipe.py           the file of a recipe: stages, `like`, and references to what a stage leaves
    kinds.py            which command a file of settings is for
    categories.py       how prompts get a category: rules, or a model that is asked
    monitor.py          what is watched while training
    base.py             what all groups of settings share: unknown keys refused, frozen, rules that name their keys
    strict_yaml.py      YAML in which a key occurs once, `1e-5` is a number, and every value knows its line
    load.py             file + overrides -> settings, or one UserMistake that lists every mistake
    reference.py        all of it as a page, docs/settings.md
"""

from tastemaker.config.base import Broken, Settings
from tastemaker.config.categories import CategoriesConfig, CategoryRule, ChatClassifierConfig, FolderClassifierConfig
from tastemaker.config.judges import (
    AnyJudgeConfig,
    ArcFaceIdentityConfig,
    ChatJudgeConfig,
    DlibIdentityConfig,
    FaceIdentityConfig,
    FolderJudgeConfig,
    MiniatureIdentityConfig,
    MiniatureJudgeConfig,
    PythonJudgeConfig,
    ReadOutChanges,
    ReadOutConfig,
    ServerJudgeConfig,
    TextRenderingConfig,
    check_judges,
)
from tastemaker.config.load import dump, load, look, parse
from tastemaker.config.monitor import MonitorConfig
from tastemaker.config.rewards import CacheConfig, DeadlineConfig, GateConfig, Judged, RewardConfig
from tastemaker.config.settings import (
    AlgorithmConfig,
    BudgetConfig,
    CheckpointConfig,
    DataConfig,
    FullPolicy,
    GRPOConfig,
    LoraPolicy,
    NFTConfig,
    OldPolicyConfig,
    OptimiserConfig,
    PolicyConfig,
    RolloutConfig,
    TrainConfig,
)

__all__ = [
    "AlgorithmConfig",
    "AnyJudgeConfig",
    "ArcFaceIdentityConfig",
    "Broken",
    "BudgetConfig",
    "CacheConfig",
    "CategoriesConfig",
    "CategoryRule",
    "ChatClassifierConfig",
    "ChatJudgeConfig",
    "CheckpointConfig",
    "DataConfig",
    "DeadlineConfig",
    "DlibIdentityConfig",
    "FaceIdentityConfig",
    "FolderClassifierConfig",
    "FolderJudgeConfig",
    "FullPolicy",
    "GRPOConfig",
    "GateConfig",
    "Judged",
    "LoraPolicy",
    "MiniatureIdentityConfig",
    "MiniatureJudgeConfig",
    "MonitorConfig",
    "NFTConfig",
    "OldPolicyConfig",
    "OptimiserConfig",
    "PolicyConfig",
    "PythonJudgeConfig",
    "ReadOutChanges",
    "ReadOutConfig",
    "RewardConfig",
    "RolloutConfig",
    "ServerJudgeConfig",
    "Settings",
    "TextRenderingConfig",
    "TrainConfig",
    "check_judges",
    "dump",
    "load",
    "look",
    "parse",
]
