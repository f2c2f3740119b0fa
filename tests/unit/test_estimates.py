"""What a dry run says of memory is what a training or a distillation will hold."""

import pytest
import torch
from rich.console import Console

from tastemaker.commands.stages.kinds import KINDS
from tastemaker.config import TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.stages import CurateStage
from tastemaker.miniature import task as miniature
from tastemaker.recipe import Job
from tastemaker.runtime.estimate import Estimate, num_parameters

FULL, LORA = {"kind": "full"}, {"kind": "lora"}


def copies(job: Job, trained_copies: int) -> float:
    """Of the transformer, in float32, beside what a training of all weights (or of a LoRA, with 1) takes by itself."""
    one = 4 * num_parameters(miniature.WEIGHTS / "transformer")
    memory = KINDS["distill" if isinstance(job.config, DistillConfig) else "train"].estimate(job).memory
    return memory / one - trained_copies


@pytest.mark.parametrize("velocity_kl", [0.0, 0.1])
def test_the_memory_of_a_training_has_a_reference_where_one_is_kept(tmp_path, velocity_kl):
    for policy, old, trained, kept in ((FULL, None, 4, velocity_kl > 0), (LORA, None, 1, 0), (FULL, {}, 5, velocity_kl > 0)):
        training = TrainConfig(
            **{"name": "t", "model": "miniature", "data": {"prompts": "miniature"}, "rewards": ({"name": "facts"},)},
            **{"policy": policy, "algorithm": {"name": "nft", "velocity_kl": velocity_kl, "old_policy": old}},
            precision="fp32",
        )
        assert copies(Job("t", training, tmp_path, tmp_path, Console()), trained) == kept


@pytest.mark.parametrize(("device", "waiting"), [("cpu", 1), ("cuda", 0)])
def test_the_memory_of_a_distillation_has_the_seat_that_is_held(tmp_path, monkeypatch, device, waiting):
    """A whole transformer, with those that wait for it where the device is the CPU; none where all are LoRAs."""
    monkeypatch.setattr("tastemaker.commands.stages.estimates.pick_device", lambda: torch.device(device))
    monkeypatch.setattr("tastemaker.commands.stages.estimates.matrix_rate", lambda *args: 1.0)
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "pytorch_lora_weights.safetensors").touch()
    for policy, folders, kept in (
        (FULL, ("t2i/run/transformer",), 1 + waiting),
        (FULL, ("t2i/run/transformer", "edit/run/transformer"), 1 + 2 * waiting),
        (FULL, ("t2i/run/lora", "style"), 1 + waiting),
        (LORA, ("t2i/run/lora", "edit/run/transformer"), 1 + 2 * waiting),
        (LORA, ("t2i/run/lora", "style"), 0),
    ):
        teachers = tuple(
            {"name": task, "weights": folder, "teaches": (task,)}
            for task, folder in zip(("t2i", "edit"), folders, strict=False)
        )
        distillation = DistillConfig(
            name="s", model="miniature", data={"prompts": "miniature"}, teachers=teachers, policy=policy, precision="fp32"
        )
        assert copies(Job("s", distillation, tmp_path, tmp_path, Console()), 4 if policy == FULL else 1) == kept


@pytest.mark.parametrize(("precision", "of_lora", "of_all"), [("fp32", 4, 16), ("bf16", 2, 2 + 16)])
def test_frozen_weights_take_the_bytes_of_their_precision(tmp_path, monkeypatch, precision, of_lora, of_all):
    """What is trained keeps itself, its gradient and two means in float32 whatever the forwards are in."""
    timed = []
    monkeypatch.setattr("tastemaker.commands.stages.estimates.matrix_rate", lambda *args: timed.append(args[2]) or 1.0)
    for policy, each in ((LORA, of_lora), (FULL, of_all)):
        training = TrainConfig(
            **{"name": "t", "model": "miniature", "data": {"prompts": "miniature"}, "rewards": ({"name": "facts"},)},
            **{"policy": policy, "algorithm": {"velocity_kl": 0.0}, "precision": precision},
        )
        found = KINDS["train"].estimate(Job("t", training, tmp_path, tmp_path, Console()))
        assert found.memory == each * num_parameters(miniature.WEIGHTS / "transformer")
    curation = KINDS["curate"].estimate(Job("c", CurateStage(training=training), tmp_path, tmp_path, Console()))
    assert curation.memory == of_lora * num_parameters(miniature.WEIGHTS / "transformer")
    assert set(timed) == {{"fp32": torch.float32, "bf16": torch.bfloat16}[precision]}


def test_of_a_model_that_is_still_to_come_nothing_is_said(tmp_path):
    training = {"name": "t", "model": "stage/model", "data": {"prompts": "miniature"}, "rewards": ({"name": "facts"},)}
    for kind, config in (("train", TrainConfig(**training)), ("curate", CurateStage(training=TrainConfig(**training)))):
        assert KINDS[kind].estimate(Job("t", config, tmp_path, tmp_path, Console())) == Estimate()
