"""The most memory of the device that a step of distillation takes, measured.

tests/unit/training/test_teachers.py counts the bytes of weights that are held, on any machine.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from tastemaker.config.distillation import DistillConfig
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.models.qwen_image21 import adapt
from tastemaker.training.batch import prepare
from tastemaker.training.distill_start import make_distillation
from tastemaker.training.policy import at_step, collect, pipeline
from tastemaker.training.start import make_state
from tastemaker.training.update import accumulate, taught
from tastemaker.types import Prompt
from teacher_folders import teacher_folder
from tiny import tiny_qwen_image21

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SIDE = 32
CATEGORIES = ("general", "portrait", "landscape")
PROMPTS = [Prompt(f"{category}-{n}", "a red circle", category) for n in range(2) for category in CATEGORIES]
POLICIES = {"full": {"kind": "full"}, "lora": {"kind": "lora", "rank": 4, "alpha": 4}}


def settings(policy: str, taught_by: dict[str, tuple[str, ...]], on_disk: bool) -> DistillConfig:
    """Passes of two prompts each, so that they are of one size however many teachers there are."""
    teachers = tuple(
        {"name": name, "weights": name, "teaches": taught, "guidance": 2.0, "on_disk": on_disk}
        for name, taught in taught_by.items()
    )
    return DistillConfig(
        **{"name": "student", "model": "tiny", "data": {"prompts": "tiny"}, "teachers": teachers},
        **{"rollout": {"prompts": 6, "steps": 3, "picture_side": SIDE}, "optimiser": {"micro_batch": 2}},
        policy=POLICIES[policy],
    )


def peak(config: DistillConfig, folders: dict[str, Path]) -> int:
    """Bytes, from the opening of the model through one update."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    adapter = adapt(tiny_qwen_image21().to(DEVICE))
    cache = EmbeddingCache(adapter, height=SIDE, width=SIDE)
    setup = at_step(make_distillation(config, adapter, PROMPTS, cache, folders), 1)
    state = make_state(config, adapter)
    batch = prepare(setup, 1)
    with pipeline(setup) as scoring, torch.no_grad():
        trajectory, _, signal = collect(setup, batch, batch, 1, scoring)
    for _ in range(2):  # each teacher is brought after another one too
        trajectory = taught(setup, setup.teachers, batch, trajectory, signal)
    accumulate(setup, batch, trajectory, signal, torch.arange(len(PROMPTS)))
    state.update()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    ("policy", "kind"), [("full", "full"), ("full", "delta"), ("full", "lora"), ("lora", "full"), ("lora", "lora")]
)
def test_three_teachers_cost_no_more_device_memory_than_one(tmp_path, policy, kind, on_disk):
    folders = {category: teacher_folder(kind, tmp_path / category, seed) for seed, category in enumerate(CATEGORIES)}
    teacher = min(sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in folders.values())
    one = settings(policy, {"general": CATEGORIES}, on_disk)
    three = settings(policy, {category: (category,) for category in CATEGORIES}, on_disk)
    peak(one, folders)  # the first run also allocates what libraries keep
    of_one, of_three = peak(one, folders), peak(three, folders)
    assert of_three <= of_one + teacher // 4, (
        f"{of_three} bytes with three teachers, {of_one} with one, of {teacher} bytes each"
    )
