"""Every file behind what settings name: a model, a list of prompts with its pictures, a judge. A change of any is seen by it.

Nothing is opened but lists and a LoRA's word on its base, and nothing is complained about: what is not there has no files.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tastemaker.config import (
    AnyJudgeConfig,
    ArcFaceIdentityConfig,
    ChatJudgeConfig,
    FolderJudgeConfig,
    Judged,
    MiniatureIdentityConfig,
    MiniatureJudgeConfig,
    PythonJudgeConfig,
    TrainConfig,
)
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.data.jsonl import named_files
from tastemaker.errors import Corrupt, UserMistake
from tastemaker.miniature import oracle, world
from tastemaker.miniature.identity import network
from tastemaker.miniature.judge import model
from tastemaker.named.inputs import model_path
from tastemaker.named.prompts import prompt_files
from tastemaker.rewards.rubrics import FOLDER as RUBRICS
from tastemaker.rewards.rubrics import shipped
from tastemaker.rewards.vlm_folder import base_of

Files = dict[str, Path | list[Path]]
"""Files and folders by what they are behind; a list of them counts as one."""


def data_files(config: TrainConfig | DistillConfig, beside: Path) -> Files:
    """The model, and the prompts, held-out ones too, where they come from files."""
    files: Files = {"model": model_path(config.model, beside)}
    files |= lists_files("prompts", prompt_files(config, beside))
    if config.data.held_out is not None:
        files |= list_files("held_out", beside / config.data.held_out)
    return files


def list_files(name: str, path: Path, root: Path | None = None) -> Files:
    """A JSONL file, and apart from it the pictures that its rows name, where they name some."""
    pictures = named_files(path, root)
    return {name: path, **({f"{name}.pictures": pictures} if pictures else {})}


def lists_files(name: str, paths: list[Path]) -> Files:
    """Several JSONL files as one: a single one by itself, so that its digest is that of the file."""
    if len(paths) < 2:
        return list_files(name, paths[0]) if paths else {}
    pictures = [picture for path in paths for picture in named_files(path, None)]
    return {name: paths, **({f"{name}.pictures": pictures} if pictures else {})}


def said_files(config: RewardTrainConfig, beside: Path) -> Files:
    """What people said, with the pictures it is about, by the names of the files."""
    root = beside / config.data.pictures if config.data.pictures else None
    found: Files = {}
    for name in (*config.data.ratings, *config.data.votes):
        found |= list_files(name, beside / name, root)
    return found


def judges_files(config: Judged, beside: Path) -> Files:
    """By the name of the reward. Of a judge behind a server only its rubric: the settings hold address and revision."""
    found = {reward.name: judge_files(reward.judge, beside) for reward in config.rewards}
    return {name: files for name, files in found.items() if files}


def judge_files(judge: AnyJudgeConfig | None, beside: Path) -> list[Path]:
    """None is a verifiable reward of the miniature, which is what its program reads."""
    if judge is None:
        return [*_sources(oracle.__path__), *world_files()]
    if isinstance(judge, FolderJudgeConfig):
        base = beside / judge.base if judge.base else None
        return [*vlm_files(beside / judge.path, base), *rubric_files(judge.rubric, beside)]
    if isinstance(judge, ChatJudgeConfig):
        return rubric_files(judge.rubric, beside)
    if isinstance(judge, ArcFaceIdentityConfig | PythonJudgeConfig):
        return [beside / judge.path]
    if isinstance(judge, MiniatureJudgeConfig):
        return [model.SHIPPED, *sorted((model.SHIPPED / "rubrics").glob("*.md"))]
    return [network.SHIPPED] if isinstance(judge, MiniatureIdentityConfig) else []


def vlm_files(folder: Path, base: Path | None = None) -> list[Path]:
    """A judge's folder; of a LoRA that of its base too, which is where it says unless `base` is given."""
    if base is None:
        with suppress(UserMistake, Corrupt):
            base = base_of(folder)
    return [folder, *([base] if base is not None else [])]


def rubric_files(rubric: str | None, beside: Path) -> list[Path]:
    """Shipped texts are files of the package."""
    return [] if rubric is None else [RUBRICS / f"{rubric}.md" if rubric in shipped() else beside / rubric]


def world_files() -> list[Path]:
    """The program that makes the miniature's prompts and pictures."""
    return _sources(world.__path__)


def _sources(package: Iterable[str]) -> list[Path]:
    return sorted(file for folder in package for file in Path(folder).glob("*.py"))


def grouped(group: str, files: Files) -> Files:
    """With the group before each name, as they are called where a run's changes are told and allowed."""
    return {f"{group}.{name}": place for name, place in files.items()}
