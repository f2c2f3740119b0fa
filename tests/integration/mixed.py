"""A tiny run over text-to-image prompts and edits of one and of two source pictures, for the tests of training."""

from __future__ import annotations

from pathlib import Path

from test_training import SIDE, Brightness, fresh, settings

from tastemaker.config import TrainConfig
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.training.start import Task, make_setup, make_state, run_training
from tastemaker.types import Prompt
from tiny import picture

ALGORITHMS = {"grpo": {"name": "grpo", "clip_range": 1e-2}, "nft": {"name": "nft", "points": 2}}


def prompts(folder: Path) -> list[Prompt]:
    """Three of text to image, three edits of one picture, two of two, not in this order; texts differ in length."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        picture(number, 64, 64).save(path)
    files = [str(path) for path in paths]

    def edit(name: str, text: str, *sources: str) -> Prompt:
        return Prompt(name, text, task="edit", sources=sources)

    return [
        edit("one-0", "make it green", files[0]),
        Prompt("text-0", "a red circle"),
        edit("two-0", "Picture one on a blue background", files[1], files[2]),
        Prompt("text-1", "three squares left of one triangle"),
        edit("one-1", "make it blue", files[3]),
        Prompt("text-2", "red", category="portrait"),
        edit("one-2", "a red circle left of it", files[4]),
        edit("two-1", "red", files[0], files[4]),
    ]


def config(name: str = "grpo", **changes) -> TrainConfig:
    """Of an algorithm; `changes` as in `test_training.settings`."""
    window = {"grpo": 2, "nft": 3}[name]  # the default where it has no meaning
    rollout = {"prompts": 6, "group_size": 3, "steps": 4, "window_size": window, **changes.pop("rollout", {})}
    algorithm = {**ALGORITHMS[name], **changes.pop("algorithm", {})}
    values = settings(rollout=rollout, **changes).model_dump()
    return TrainConfig(**{**values, "algorithm": algorithm})


def made(config: TrainConfig, prompts: list[Prompt], rewards=None):
    """Setup and state on a fresh tiny model."""
    adapter = fresh()
    embeddings = EmbeddingCache(adapter, height=SIDE, width=SIDE)
    judges = rewards or {"brightness": Brightness()}
    return make_setup(config, adapter, prompts, judges, embeddings, height=SIDE, width=SIDE), make_state(config, adapter)


def go(config: TrainConfig, prompts: list[Prompt], folder: Path, rewards=None, **kwargs):
    """A whole run."""
    return run_training(config, fresh(), Task(prompts, rewards or {"brightness": Brightness()}, SIDE, SIDE), folder, **kwargs)
