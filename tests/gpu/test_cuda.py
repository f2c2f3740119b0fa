"""What holds on a CPU holds on a CUDA device too, up to stated rounding; what was saved there opens here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tastemaker.config import TrainConfig
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.errors import UserMistake
from tastemaker.models.adapter import load
from tastemaker.models.qwen_image21 import adapt
from tastemaker.rollout import Sampler, denoise, replay
from tastemaker.runtime import seeds
from tastemaker.runtime.metrics import read_lines
from tastemaker.training.start import Task, run_training
from tastemaker.training.state import PolicyState
from tastemaker.types import Prompt, group_index
from tiny import picture, tiny_qwen_image21

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SIDE, STEPS = 64, 6
TEXTS = ["red", "a red circle on a blue background and three squares left of one green triangle, make it so", "zebras at night"]
PROMPTS = [Prompt(str(number), text) for number, text in enumerate([*TEXTS, "make it green"])]
PIPELINE_TOLERANCE = 1e-4
"""Largest difference of latents (about 1 in size) after a whole rollout in float32; on a CPU it is 1e-5. Kernels, and with them
the order of additions, are chosen by batch size here."""
RATIO_TOLERANCE = 1e-5
"""Nats per element between rollout and replay in float32: a tenth of the default clip range."""


class Brightness:
    """Mean brightness: a score that differs between pictures."""

    name, low, high, floor = "brightness", 0.0, 1.0, 1e-4

    def score(self, images, prompts):
        return images.flatten(1).mean(1).tolist()


@pytest.fixture(autouse=True)
def full_float32():
    """Convolutions, unlike matrix products, may use TensorFloat-32 by default, which has ten bits."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def adapter():
    return adapt(tiny_qwen_image21().to(DEVICE))


def sources(count: int):
    return [[picture(10 * row + i, 150 - 40 * i, 64) for i in range(count)] for row in range(len(TEXTS))] if count else None


def encoded(adapter, num_sources: int):
    pictures = sources(num_sources)
    blank = [""] * len(TEXTS) if pictures else [""]
    return (adapter.encode(texts, pictures, height=SIDE, width=SIDE) for texts in (TEXTS, blank))


def noise(adapter, rows: int):
    shape = adapter.latent_shape(SIDE, SIDE)
    return lambda where: seeds.noise_rows(shape, [("gpu", str(where), row) for row in range(rows)]).to(DEVICE)


def training(**changes) -> TrainConfig:
    values = {
        "name": "tiny",
        "model": "tiny",
        "data": {"prompts": "tiny"},
        "rewards": ({"name": "brightness", "floor": 1e-4},),
        "rollout": {"prompts": 4, "group_size": 4, "steps": 4, "window_size": 2, "guidance": 2.0},
        "optimiser": {"ema_decay": 0.9},
        "checkpoint": {"every": 1},
        "budget": {"max_steps": 2},
    }
    return TrainConfig(**{**values, **changes})


def go(config: TrainConfig, folder: Path, adapter, allow: tuple[str, ...] = ()) -> PolicyState:
    cache = EmbeddingCache(adapter, height=SIDE, width=SIDE, folder=folder / "cache")
    task = Task(PROMPTS, {"brightness": Brightness()}, SIDE, SIDE)
    return run_training(config, adapter, task, folder, embeddings=cache, allow_changes=allow)


def weights(state: PolicyState) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.named()}


def test_encoders_leave_once_all_is_encoded_and_pictures_stay_the_same(tmp_path, adapter):
    """What is asked for later is encoded on the CPU, up to rounding; decoding stays here."""
    picture(1, 64, 64).save(tmp_path / "a.png")
    edit = Prompt("e", "make it green", task="edit", sources=(str(tmp_path / "a.png"),))
    cache = EmbeddingCache(adapter, height=SIDE, width=SIDE, folder=tmp_path / "cache")
    latents = noise(adapter, 1)("init")
    images = torch.rand(1, 3, SIDE, SIDE, device=DEVICE)
    before = (adapter.decode(latents, SIDE, SIDE), adapter.encode_images(images))
    here = EmbeddingCache(adapter, height=SIDE, width=SIDE).condition([edit])
    full = torch.cuda.memory_allocated()
    cache.encode_ahead([*PROMPTS, edit], [""])
    pipeline = adapter.pipeline
    assert torch.cuda.memory_allocated() < full and pipeline.text_encoder.device.type == "cpu"
    assert next(pipeline.vae.encoder.parameters()).device.type == "cpu"
    assert all(value.device.type == "cuda" for value in pipeline.vae.decoder.parameters())
    assert torch.equal(adapter.decode(latents, SIDE, SIDE), before[0])
    after = adapter.encode_images(images)
    assert after.device.type == "cuda"
    torch.testing.assert_close(after, before[1], atol=PIPELINE_TOLERANCE, rtol=0)
    for name, value in EmbeddingCache(adapter, height=SIDE, width=SIDE).condition([edit]).tensors.items():
        torch.testing.assert_close(value, here.tensors[name], atol=PIPELINE_TOLERANCE, rtol=0)
    denoise(
        adapter,
        cache.condition([edit]).to(DEVICE),
        cache.negative("", [edit]).to(DEVICE),
        group_size=1,
        sampler=Sampler(adapter.sigmas(STEPS, SIDE, SIDE), guidance=2.0),
        noise=noise(adapter, 1),
    )


@pytest.mark.parametrize("num_sources", [0, 1, 2])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_rollout_is_the_pipeline_run_on_each_prompt_alone(adapter, num_sources, guidance):
    condition, negative = encoded(adapter, num_sources)
    sampler = Sampler(adapter.sigmas(STEPS, SIDE, SIDE), guidance=guidance)
    draw = noise(adapter, len(TEXTS))
    finals = denoise(adapter, condition, negative, group_size=1, sampler=sampler, noise=draw).final_BX
    pictures = sources(num_sources)
    for row, text in enumerate(TEXTS):
        expected = adapter.pipeline(
            prompt=text,
            image=pictures[row] if pictures else None,
            negative_prompt="" if guidance > 1 else None,
            true_cfg_scale=guidance,
            height=SIDE,
            width=SIDE,
            output_resolution=SIDE,
            num_inference_steps=STEPS,
            latents=draw("init")[row : row + 1],
            output_type="latent",
        ).images[0]
        torch.testing.assert_close(finals[row], expected, atol=PIPELINE_TOLERANCE, rtol=0)


def test_a_rollout_is_that_of_the_cpu(adapter):
    """Noise is keyed and drawn on the CPU, so the same picture is meant on every device."""
    there = adapt(tiny_qwen_image21())
    finals = []
    for one in (adapter, there):
        condition, negative = encoded(one, 1)
        sampler = Sampler(one.sigmas(STEPS, SIDE, SIDE), guidance=3.0)
        device = next(one.transformer.parameters()).device
        draw = noise(one, 6)
        trajectory = denoise(
            one, condition, negative, group_size=2, sampler=sampler, noise=lambda where, d=draw, to=device: d(where).to(to)
        )
        finals.append(trajectory.final_BX.cpu())
    torch.testing.assert_close(finals[0], finals[1], atol=10 * PIPELINE_TOLERANCE, rtol=0)


def ratio_floor(adapter) -> float:
    """Mean |log ratio| between a rollout and its replay at the same weights, nats per element."""
    condition, negative = encoded(adapter, 0)
    sampler = Sampler(adapter.sigmas(STEPS, SIDE, SIDE), "cps", 0.7, steps=(0, 1, 2), guidance=3.0)
    trajectory = denoise(adapter, condition, negative, group_size=8, sampler=sampler, noise=noise(adapter, 24))
    prefix = adapter.prefix(condition).select(group_index(3, 8))
    with torch.no_grad():
        log_probs, _ = replay(adapter, prefix, trajectory, sampler)
    return float((log_probs - trajectory.log_probs_BS).abs().mean())


def test_replay_in_float32_has_ratio_one(adapter):
    assert ratio_floor(adapter) < RATIO_TOLERANCE


def test_the_bf16_floor_is_below_the_clip_range_or_the_run_is_refused(tmp_path):
    """`pytest -s` shows the floor that was measured."""
    tiny_qwen_image21().save_pretrained(tmp_path / "model")
    adapter = load(tmp_path / "model", device=DEVICE, dtype=torch.bfloat16)
    print(f"bf16: mean |log ratio| of replay {ratio_floor(adapter):.1e} nats per element")
    config = training()
    try:
        go(config, tmp_path / "run", adapter)
    except UserMistake as refusal:
        assert "rounding" in str(refusal) and "clip_range" in str(refusal)
        assert not list((tmp_path / "run" / "checkpoints").glob("step-*")), "it was refused before anything was learnt"
    else:
        floors = [line["log_ratio_floor"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
        print(f"bf16: largest floor in training {max(floors):.1e}")
        assert len(floors) == 2 and all(0 <= floor < config.algorithm.clip_range for floor in floors)


def test_training_moves_the_weights(tmp_path, adapter):
    before = {name: value.detach().cpu().clone() for name, value in adapter.transformer.named_parameters()}
    state = go(training(), tmp_path, adapter)
    assert all(value.device.type == torch.device(DEVICE).type for _, value in state.named())
    assert any(not torch.equal(value, before[name]) for name, value in weights(state).items())
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["updates"] == 1 and line["grad_norm"] > 0 and line["log_ratio_floor"] < RATIO_TOLERANCE for line in lines)


def test_a_checkpoint_of_this_device_goes_on_here_and_opens_on_the_cpu(tmp_path, adapter):
    """Restored weights, their average and the optimiser's state are those that were saved, bit for bit."""
    state = go(training(), tmp_path, adapter)
    again = go(training(), tmp_path, adapt(tiny_qwen_image21().to(DEVICE)))
    with pytest.raises(UserMistake, match=r"hardware.device: cuda -> cpu"):
        go(training(), tmp_path, adapt(tiny_qwen_image21()))
    there = go(training(), tmp_path, adapt(tiny_qwen_image21()), ("hardware.device",))
    for other in (again, there):
        assert other.step == 2 and other.updates == state.updates
        for name, value in weights(state).items():
            assert torch.equal(value, weights(other)[name]), name
            assert torch.equal(state.ema[name].cpu(), other.ema[name].cpu()), name
        for name, value in state.tensors()["optimiser"].items():
            assert torch.equal(value.cpu(), other.tensors()["optimiser"][name].cpu()), name
    assert all(value.device.type == "cpu" for _, value in there.named())
    for place, steps in ((DEVICE, 3), ("cpu", 4)):
        moved = adapt(tiny_qwen_image21().to(place))
        resumed = go(training(budget={"max_steps": steps}), tmp_path, moved, ("hardware.device",))
        assert resumed.step == steps and all(value.device.type == place for value in resumed.ema.values())
