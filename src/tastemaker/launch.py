"""From a recipe's words to the things they name, and off: `tastemaker train`, `tastemaker serve-reward`.

The one place that knows both the names in settings (a model's folder, a file of prompts, a reward) and what they stand for.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import torch
from rich.console import Console

from tastemaker import config as settings
from tastemaker.config import LoraPolicy, TrainConfig
from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.data.prompts import read_prompts
from tastemaker.errors import UserMistake
from tastemaker.miniature import task as miniature
from tastemaker.models.adapter import Adapter, load
from tastemaker.models.lora import save_lora
from tastemaker.rewards.batching import ServerLimits
from tastemaker.rewards.reward import Reward
from tastemaker.rewards.vlm import VLMJudge
from tastemaker.runtime.device import Precision, pick_device, pick_precision
from tastemaker.runtime.progress import Progress
from tastemaker.training.start import Task, prepare_hardware, run_training
from tastemaker.types import Prompt

MINIATURE = "miniature"
MINIATURE_PROMPTS = 4000


def train(path: Path, *, overrides: Iterable[str] = (), folder: Path | None = None, allow: Iterable[str] = ()) -> Path:
    """Trains what the file says in `folder` (runs/NAME by default), or goes on where it stopped; returns the exported policy.

    All mistakes in settings, prompts and rewards are reported before the model is loaded.
    """
    console = Console()
    config = settings.load(path, TrainConfig, tuple(overrides))
    folder = folder or Path("runs") / config.name
    prompts = prompts_of(config, path.parent)
    check_categories(config, prompts)
    rewards = rewards_of(config)
    model = model_folder(config, path.parent)
    device, dtype = prepare_hardware(config)
    adapter = load(model, device=device, dtype=dtype)
    side = config.rollout.picture_side
    cache = EmbeddingCache(adapter, height=side, width=side, folder=folder / "embeddings", encoder_key=encoder_key(model))
    state = run_training(
        config,
        adapter,
        Task(prompts, rewards, side, side),
        folder,
        embeddings=cache,
        allow_changes=allow,
        trackers=lambda start, total: [Progress(total, start=start, console=console)],
    )
    with state.averaged():
        exported = export(config, adapter, folder)
    console.print(f"trained {state.step} steps; the policy is in {exported}")
    return exported


def model_folder(config: TrainConfig, beside: Path) -> Path:
    """The pipeline folder that `model` names: the shipped one, or a path, relative ones beside the recipe."""
    if config.model == MINIATURE:
        return miniature.WEIGHTS
    folder = beside / config.model
    if not folder.is_dir():
        raise UserMistake(f"model: {folder} is not a folder; name that of a diffusers pipeline, or write {MINIATURE}")
    return folder


def prompts_of(config: TrainConfig, beside: Path) -> list[Prompt]:
    if config.data.prompts == MINIATURE:
        return miniature.training_prompts(MINIATURE_PROMPTS, config.seed)
    return read_prompts(beside / config.data.prompts, skip_bad=config.data.skip_bad)


def rewards_of(config: TrainConfig) -> dict[str, Reward]:
    """The judges by name. So far they are the verifiable ones of the miniature, for prompts that state their truth."""
    known = miniature.rewards()
    unknown = [reward.name for reward in config.rewards if reward.name not in known]
    if unknown:
        raise UserMistake(
            "\n".join(f"rewards: {name!r} is not known; there are {', '.join(sorted(known))}" for name in unknown)
        )
    return {reward.name: known[reward.name] for reward in config.rewards}


def check_categories(config: TrainConfig, prompts: Iterable[Prompt]) -> None:
    """Refuses a category that no prompt has where one that prompts have looks like it: its weights would never be used."""
    present = {prompt.category for prompt in prompts}
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


def export(config: TrainConfig, adapter: Adapter, folder: Path) -> Path:
    """Plain diffusers files: a LoRA for `load_lora_weights`, or the transformer's folder."""
    if isinstance(config.policy, LoraPolicy):
        save_lora(adapter, folder / "lora")
        return folder / "lora"
    adapter.transformer.save_pretrained(folder / "transformer")
    return folder / "transformer"


def serve_reward(
    folder: Path,
    *,
    rubric: str | None = None,
    base: Path | None = None,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8100,
    device: str | None = None,
    precision: Precision = "auto",
    batch: int = 16,
) -> None:
    """Opens a vision-language model as a judge and answers over HTTP until it is told to stop; see `rewards.server.serve`."""
    try:
        from tastemaker.rewards.server import serve
    except ImportError as error:
        raise UserMistake(f"a server needs {error.name}: pip install 'tastemaker[serve]'") from None
    where = torch.device(device) if device else pick_device()
    judge = VLMJudge.load(
        folder,
        rubric=rubric,
        device=where,
        dtype=pick_precision(precision, where),
        base=base,
        label=name,
        max_pictures=batch,
    )
    Console().print(f"judge {judge.name} on {where}, listening on http://{host}:{port}; Ctrl-C stops it")
    serve(judge, host=host, port=port, limits=ServerLimits(batch=batch))
