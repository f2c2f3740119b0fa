"""Every model family trains, resumes and is evaluated by the same house; what its pipeline does by default is what is done."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from families import HEIGHT, LONG, SHORT, WIDTH, small_sources, token_types
from tastemaker.config import TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.errors import UserMistake
from tastemaker.evaluation.benchmark import Drawing, draw
from tastemaker.models import qwen_image, qwen_image21, qwen_image_edit
from tastemaker.models.adapter import load
from tastemaker.runtime import seeds
from tastemaker.training.distill_start import make_distillation
from tastemaker.training.start import Task, make_setup, run_training
from tastemaker.types import Prompt
from tiny import picture, tiny_qwen_image, tiny_qwen_image21, tiny_qwen_image_edit_plus

SIDE = 32


class Brightness:
    """Mean brightness."""

    name, low, high, floor = "brightness", 0.0, 1.0, 1e-4

    def score(self, images, prompts):
        return images.flatten(1).mean(1).tolist()


def settings(policy, steps: int = 2, **rollout) -> TrainConfig:
    return TrainConfig(
        name="tiny",
        model="tiny",
        data={"prompts": "tiny"},
        rewards=({"name": "brightness", "floor": 1e-4},),
        rollout={"prompts": 2, "group_size": 2, "steps": 3, "window_size": 2, "guidance": 2.0, **rollout},
        algorithm={"clip_range": 1e-2},
        optimiser={"learning_rate": 1e-3, "ema_decay": 0.9},
        policy=policy,
        checkpoint={"every": 1},
        budget={"max_steps": steps},
    )


def edits(folder, count: int = 1):
    paths = tuple(str(folder / f"{n}.png") for n in range(count))
    for n, path in enumerate(paths):
        picture(n).save(path)
    return [Prompt(text, text, task="edit", sources=paths) for text in (SHORT, LONG)]


TEXT = [Prompt(text, text) for text in (SHORT, LONG)]
FULL, LORA = {"kind": "full"}, {"kind": "lora", "rank": 2}


@pytest.mark.parametrize(("task", "policy"), [("t2i", FULL), ("t2i", LORA), ("edit", FULL), ("edit", LORA)])
def test_a_two_stream_model_trains_and_resumes_bit_for_bit(tmp_path, task, policy):
    """The last block's text never reaches the velocity, so that some parameters have no gradient and no optimiser state."""

    def go(steps, folder):
        adapter = qwen_image.adapt(tiny_qwen_image()) if task == "t2i" else qwen_image_edit.adapt(tiny_qwen_image_edit_plus())
        torch.manual_seed(0)
        prompts = TEXT if task == "t2i" else edits(tmp_path)
        state = run_training(settings(policy, steps), adapter, Task(prompts, {"brightness": Brightness()}, SIDE, SIDE), folder)
        return {name: value.detach().clone() for name, value in state.named()}

    with small_sources():
        whole = go(2, tmp_path / "whole")
        first = go(1, tmp_path / "parts")
        resumed = go(2, tmp_path / "parts")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert sum(not torch.equal(value, first[name]) for name, value in whole.items()) > len(whole) // 2


def test_guidance_is_rescaled_where_the_models_pipeline_does_so_unless_said_otherwise():
    for adapter, pipelines in ((qwen_image.adapt(tiny_qwen_image()), True), (qwen_image21.adapt(tiny_qwen_image21()), False)):
        cache = EmbeddingCache(adapter, height=SIDE, width=SIDE)
        for said, expected in ((None, pipelines), (True, True), (False, False)):
            config = settings(FULL, guidance_rescale=said)
            setup = make_setup(config, adapter, TEXT, {"brightness": Brightness()}, cache, height=SIDE, width=SIDE)
            assert setup.sampler.rescale is expected


def test_a_teacher_is_rescaled_as_it_was_in_its_own_training_unless_said_otherwise(tmp_path):
    for adapter, pipelines in ((qwen_image.adapt(tiny_qwen_image()), True), (qwen_image21.adapt(tiny_qwen_image21()), False)):
        folder = tmp_path / adapter.family
        adapter.transformer.save_pretrained(folder)
        cache = EmbeddingCache(adapter, height=SIDE, width=SIDE)
        for said, expected in ((None, pipelines), (True, True), (False, False)):
            config = DistillConfig(
                name="student",
                model="tiny",
                teachers=({"name": "t2i", "weights": str(folder), "teaches": ("t2i",), "guidance_rescale": said},),
                data={"prompts": "tiny"},
                rollout={"picture_side": SIDE, "steps": 3},
            )
            setup = make_distillation(config, adapter, TEXT, cache, {"t2i": folder})
            assert setup.teachers.by_name["t2i"].rescale is expected


@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_a_benchmark_draws_what_the_pipeline_draws(tmp_path, task):
    adapter = qwen_image.adapt(tiny_qwen_image()) if task == "t2i" else qwen_image_edit.adapt(tiny_qwen_image_edit_plus())
    prompts = TEXT if task == "t2i" else edits(tmp_path, 2)
    with small_sources(), token_types(adapter.pipeline):
        drawing = Drawing(steps=4, guidance=4.0, seed=5, height=HEIGHT, width=WIDTH)
        drawn = draw(adapter, EmbeddingCache(adapter, height=HEIGHT, width=WIDTH), prompts, drawing)
        for row, prompt in enumerate(prompts):
            expected = adapter.pipeline(
                prompt=prompt.text,
                negative_prompt="",
                true_cfg_scale=4.0,
                height=HEIGHT,
                width=WIDTH,
                num_inference_steps=4,
                latents=seeds.noise_rows(adapter.latent_shape(HEIGHT, WIDTH), [(5, "evaluation", prompt.id)]),
                **({"image": [picture(0), picture(1)]} if task == "edit" else {}),
            ).images[0]
            assert np.abs(drawn[row].astype(int) - np.asarray(expected)).max() <= 1


def test_prompts_that_a_model_cannot_draw_are_refused_before_training(tmp_path):
    config, rewards = settings(FULL), {"brightness": Brightness()}
    t2i, edit = qwen_image.adapt(tiny_qwen_image()), qwen_image_edit.adapt(tiny_qwen_image_edit_plus())
    for adapter, prompts, words in (
        (t2i, edits(tmp_path), "prompt 'red' and 1 more: qwen-image takes no source pictures"),
        (edit, TEXT, "prompt 'red' and 1 more: qwen-image-edit-plus needs source pictures"),
    ):
        with pytest.raises(UserMistake, match=words):
            run_training(config, adapter, Task(prompts, rewards, SIDE, SIDE), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_tokenizer_is_another_encoder(tmp_path):
    """Cached embeddings must not survive it: Qwen-Image keeps its tokenizer in a folder of its own."""
    tiny_qwen_image().save_pretrained(tmp_path)
    before = encoder_key(tmp_path)
    assert load(tmp_path, device="cpu", dtype=torch.float32).family == "qwen-image"
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    assert encoder_key(tmp_path) != before
