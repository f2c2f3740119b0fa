"""Who has guidance inside is not guided without a word: bases of a training and a curation, teachers of a distillation.

Nor is a base with noise levels of its own sampled at others.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tastemaker.commands import curate, distill, train
from tastemaker.commands.contest import prepare
from tastemaker.commands.distill import guided_teachers
from tastemaker.commands.train import export
from tastemaker.config import TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.models.adapter import load
from tastemaker.models.stated_guidance import state_guidance, stated_guidance
from tastemaker.named import inputs
from tastemaker.opening import RECORD, read_run, stated
from tiny import tiny_qwen_image21
from tiny_run import tiny_base, tiny_config, tiny_run


class Begins(Exception):
    """Where the model would be opened."""


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """A pipeline that says it is sampled without guidance."""
    pipeline = tiny_qwen_image21()
    state_guidance(pipeline.transformer, 1.0)
    folder = tmp_path_factory.mktemp("student") / "pipeline"
    pipeline.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(("command", "run"), [(train, train.run_train), (curate, curate.run_curate)])
def test_a_base_that_is_guided_on_top_is_warned_of_before_it_is_opened(
    command, run, guidance, student, tmp_path, monkeypatch, capsys
):
    def begins(*given):
        raise Begins

    monkeypatch.setattr(command, "prepare_hardware", begins)
    config = tiny_config(student, data={"prompts": "miniature", "most": 4}, rollout={"guidance": guidance})
    with pytest.raises(Begins):
        run(config, tmp_path, tmp_path / "run", Console())
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    assert len(told) == (guidance != 1)
    assert all("has guidance inside" in line and line.endswith("set rollout.guidance to 1") for line in told)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_model_that_was_trained_guided_does_not_say_what_its_base_said(student, tmp_path, scale):
    """A base with guidance inside that is trained with it outside: its export and its run name the training's scale."""
    config = tiny_config(student, rollout={"guidance": scale})
    adapter = load(student, device="cpu", dtype=torch.float32)
    assert stated(export(config, adapter, tmp_path)) == scale
    run = tiny_run(tmp_path / "run", student, rollout={"guidance": scale})
    assert read_run(run).guidance == scale
    assert stated_guidance(read_run(run).open("cpu", torch.float32).transformer) == scale


@pytest.mark.parametrize(("side", "large", "told"), [(None, True, 1), (64, True, 0), (None, False, 0)])
def test_a_large_model_that_would_draw_the_miniatures_size_is_warned_of(side, large, told, student, tmp_path, monkeypatch):
    if large:
        monkeypatch.setattr(inputs, "LARGE", 1000)
    values = {"name": "x", "model": str(student), "data": {"prompts": "miniature"}, "rewards": [{"name": "facts"}]}
    config = TrainConfig.model_validate_json(json.dumps({**values, "rollout": {"picture_side": side} if side else {}}))
    lines = [line for line in train.warnings_of(config, student) if "picture_side" in line]
    assert len(lines) == told and all("would draw 64 x 64 pixels" in line for line in lines)
    models = [{"name": name, "path": str(student)} for name in ("one", "other")]
    values = {"name": "x", "prompts": "miniature", "most": 4, "models": models, **({"picture_side": side} if side else {})}
    contest = prepare(EvaluateConfig.model_validate_json(json.dumps(values)), tmp_path, tmp_path / "out")
    lines = [line for line in contest.warnings if line.startswith("picture_side is not set, so ")]
    assert len(lines) == told and all("would draw 64 x 64 pixels" in line for line in lines)


@pytest.mark.parametrize("kind", ["train", "curate", "distill", "evaluate"])
@pytest.mark.parametrize("steps", [4, 5])
def test_a_base_that_is_not_sampled_at_its_own_noise_levels_is_warned_of(kind, steps, tmp_path, monkeypatch, capsys):
    def begins(*given):
        raise Begins

    pipeline = tiny_qwen_image21()
    pipeline.register_to_config(sample_sigmas=[1.0, 0.9, 0.6, 0.3])
    pipeline.save_pretrained(base := tmp_path / "base")
    if kind == "evaluate":
        models = [{"name": name, "path": str(base)} for name in ("one", "other")]
        values = {"name": "x", "prompts": "miniature", "most": 4, "steps": steps, "models": models}
        told = list(prepare(EvaluateConfig.model_validate_json(json.dumps(values)), tmp_path, tmp_path / "out").warnings)
    else:
        command = {"train": train, "curate": curate, "distill": distill}[kind]
        monkeypatch.setattr(command, "prepare_hardware", begins)
        data = {"prompts": "miniature", "most": 4}
        config = tiny_config(base, data=data, rollout={"guidance": 1.0, "steps": steps, "window_size": 1})
        if kind == "distill":
            teachers = [{"name": "t", "weights": str(base), "teaches": ["t2i"], "guidance": 1.0}]
            values = {"name": "x", "model": str(base), "teachers": teachers, "data": data, "rollout": {"steps": steps}}
            config = DistillConfig.model_validate_json(json.dumps(values))
        with pytest.raises(Begins):
            getattr(command, f"run_{kind}")(config, tmp_path, tmp_path / "run", Console())
        told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    assert len(told) == (steps != 4)
    assert all("fixes the noise levels of 4 steps" in line and "5 steps are sampled at even ones" in line for line in told)


def test_teachers_of_every_form_that_are_guided_on_top_are_warned_of(student, tmp_path):
    plain = tiny_base(tmp_path / "plain")
    folders = {"pipeline": student, "transformer": student / "transformer", "plain": plain, "unguided": student}
    for name, record in (("lora", {"guidance": 1.0}), ("guided_lora", {"guidance": 2.0})):
        (tmp_path / name).mkdir()
        (tmp_path / name / RECORD).write_text(json.dumps(record))
        folders[name] = tmp_path / name
    (tmp_path / "delta").mkdir()
    (tmp_path / "delta" / "delta.safetensors").touch()  # says nothing itself, its base does
    folders["delta"] = tmp_path / "delta"
    teachers = [
        {"name": name, "weights": str(folder), "teaches": [name], "guidance": 1.0 if name == "unguided" else 3.0}
        for name, folder in folders.items()
    ]
    values = {"name": "x", "model": str(student), "teachers": teachers, "data": {"prompts": "miniature"}}
    config = DistillConfig.model_validate_json(json.dumps(values))

    def warned(model: Path) -> set[str]:
        lines = list(guided_teachers(config, model, folders))
        assert all("guidance 3 on top" in line and line.endswith("set its guidance to 1") for line in lines)
        return {line.split()[1] for line in lines}

    assert warned(student) == {"pipeline", "transformer", "lora", "delta"}
    assert warned(plain) == {"pipeline", "transformer", "lora"}
