"""What a dry run says of memory is what a training or a distillation will hold."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console
from test_train_reward import world

from tastemaker.commands.stages.kinds import KINDS
from tastemaker.config import TrainConfig, dump, load
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.config.stages import CurateStage, ExportStage
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


@pytest.mark.parametrize(("policy", "form"), [(FULL, None), (FULL, "transformer"), (LORA, None), (LORA, "pipeline")])
def test_an_export_takes_the_room_of_what_it_will_write(tmp_path, policy, form):
    """Of a run that is still to come too: by its base. A LoRA is small and left out."""
    values = {
        "name": "t",
        "model": "miniature",
        "data": {"prompts": "miniature"},
        "rewards": ({"name": "facts"},),
    }
    training, stage = TrainConfig(**values, policy=policy), tmp_path / "t2i"
    job = Job("m", ExportStage(run=str(stage / "run"), form=form), tmp_path, tmp_path, Console(), waits_for={stage: training})
    found = KINDS["export"].estimate(job)
    transformer, whole = (sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) for folder in
                          (miniature.WEIGHTS / "transformer", miniature.WEIGHTS))  # fmt: skip
    weights = 4 * num_parameters(miniature.WEIGHTS / "transformer") if policy == FULL else transformer
    assert found.memory == whole - transformer + weights
    expected = {"transformer": weights, "pipeline": whole - transformer + weights}
    assert found.disk == expected.get(form or ("lora" if policy == LORA else "pipeline"))
    (stage / "run").mkdir(parents=True)
    (stage / "run" / "config.yaml").write_text(dump(training))
    assert KINDS["export"].estimate(replace(job, waits_for={})) == found  # and of one that is there


@pytest.mark.parametrize("policy", [FULL, LORA])
def test_a_training_of_a_judge_is_estimated_by_its_examples(tmp_path, policy):
    path = world(tmp_path)
    own = {"policy": policy, "precision": "fp32", "budget": {"epochs": 1000, "max_steps": 60}}
    config = load(path, RewardTrainConfig).model_copy(update={})
    config = RewardTrainConfig.model_validate({**config.model_dump(), **own})
    found = KINDS["train-reward"].estimate(Job("j", config, tmp_path, tmp_path, Console()))
    base = 4 * num_parameters(tmp_path / "base")
    assert found.memory == (4 * base if policy == FULL else base) and (found.seconds or 0) > 0
    longer = RewardTrainConfig.model_validate({**config.model_dump(), "budget": {"epochs": 1000, "max_steps": 120}})
    assert KINDS["train-reward"].estimate(Job("j", longer, tmp_path, tmp_path, Console())).seconds == pytest.approx(
        2 * found.seconds
    )
    awaited = Job("j", config, tmp_path, tmp_path, Console(), waits_for={tmp_path / "base": config})
    assert KINDS["train-reward"].estimate(awaited) == Estimate()


def test_of_a_model_that_is_still_to_come_nothing_is_said(tmp_path):
    training = {"name": "t", "model": "stage/model", "data": {"prompts": "miniature"}, "rewards": ({"name": "facts"},)}
    for kind, config in (("train", TrainConfig(**training)), ("curate", CurateStage(training=TrainConfig(**training)))):
        assert KINDS[kind].estimate(Job("t", config, tmp_path, tmp_path, Console())) == Estimate()
