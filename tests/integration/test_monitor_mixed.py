"""The monitor over text to image and edits together: prompts of any layout, and instructions swapped without their sources."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import numpy as np
import pytest
import torch
from mixed import config, go, made, prompts
from test_training import SIDE

from tastemaker.data.pictures import open_picture
from tastemaker.evaluation.monitor import Plan, watching
from tastemaker.evaluation.watched import Watched
from tastemaker.rewards.reward import to_uint8
from tastemaker.rollout import denoise
from tastemaker.runtime.metrics import read_lines
from tastemaker.training.policy import keyed_noise
from tastemaker.types import Prompt
from tiny import picture


def watched(folder):
    """As of Mix-RL, and one edit more, of a picture of another shape."""
    picture(9, 96, 32).save(folder / "wide.png")
    return [*prompts(folder), Prompt("wide", "make it red", task="edit", sources=(str(folder / "wide.png"),))]


def test_pictures_of_any_layout_are_drawn_each_for_its_own_prompt(tmp_path, monkeypatch):
    """Against every prompt drawn alone, from the noise of its place; no forward and no decoding of more than max_batch."""
    some = watched(tmp_path)
    setup, _ = made(config(), some)
    assert len(setup.embeddings.by_layout(some)) == 4
    sizes = []
    decode = type(setup.adapter).decode
    monkeypatch.setattr(type(setup.adapter), "decode", lambda self, x, *side: sizes.append(len(x)) or decode(self, x, *side))
    images = Watched(replace(setup, max_batch=4), some, 2).draw(1)
    assert images.shape == (18, 3, SIDE, SIDE) and max(sizes) == 4 and sum(sizes) == 18
    sampler = replace(setup.sampler, kind="ode", steps=())
    for place, prompt in enumerate(some):
        trajectory = denoise(
            setup.adapter,
            setup.embeddings.condition([prompt]),
            setup.embeddings.negative("", [prompt]),
            group_size=2,
            sampler=sampler,
            noise=keyed_noise(setup, [prompt], 2, "monitor", 1, places=[place]),
        )
        alone = to_uint8(setup.adapter.decode(trajectory.final_BX, SIDE, SIDE)).permute(0, 3, 1, 2).float() / 255
        assert torch.allclose(images[2 * place : 2 * place + 2], alone, atol=1.5 / 255), prompt.id
    assert len({tuple(image.flatten().tolist()) for image in images}) == 18


def test_a_mixed_run_can_be_watched(tmp_path):
    some = watched(tmp_path)
    plan = Plan(some, every=1, seeds=2, say=lambda line: None)
    go(config(budget={"max_steps": 1}), some, tmp_path / "run", watch=watching(plan))
    first, last = read_lines(tmp_path / "run" / "monitor.jsonl")
    assert {"saturation", "prompt_effect", "reward", "swapped_reward"} <= last["statistics"].keys()
    assert (first["step"], last["step"]) == (0, 1) and last["intervals"]["reward/brightness"]["n"] == 9


def test_a_prompt_is_swapped_with_another_text_for_the_same_sources(tmp_path):
    some = watched(tmp_path)
    some.append(replace(some[0], id="again", sources=some[4].sources))  # the same words for another picture
    swapped = Watched(made(config(), some)[0], some, 2).swapped
    for own, other in zip(some, swapped, strict=True):
        assert other.sources == own.sources and other.task == own.task and other.text != own.text
    assert swapped[1] == some[3], "text to image is swapped whole"
    assert swapped[0].text == some[4].text and swapped[0].truth == some[4].truth
    assert swapped[2].text == some[7].text, "an instruction for two pictures is never given one"


class Kept:
    """How near the picture is to its source: a judge that does not read the instruction."""

    name, low, high, floor = "kept", 0.0, 1.0, 1e-4

    def score(self, images, prompts):
        return [1 - float((image - source(one)).abs().mean()) for image, one in zip(images, prompts, strict=True)]


def source(prompt):
    return torch.tensor(np.asarray(open_picture(prompt.sources[0]).resize((SIDE, SIDE)))).permute(2, 0, 1).float() / 255


def test_an_edit_policy_that_ignores_its_instruction_earns_as_much_for_another(tmp_path, monkeypatch):
    """It returns its source. With the sources swapped too, each picture would be held against another's source."""
    edits = [prompt for prompt in watched(tmp_path) if len(prompt.sources) == 1]
    setup, _ = made(config(rewards=({"name": "kept", "floor": 1e-4},)), edits, {"kept": Kept()})
    encode = setup.embeddings._one
    monkeypatch.setattr(setup.embeddings, "_one", lambda text, sources: encode("the same for all", sources))
    look = Watched(setup, edits, 2)
    images = torch.stack([source(one) for one in edits for _ in range(2)])
    own, swapped = look.judged(images)
    assert own.scores_BR == pytest.approx(1, abs=1e-6) and swapped.scores_BR == pytest.approx(1, abs=1e-6)
    _, effect_P = look.velocities(look.latents(images), 0)
    assert (effect_P == 0).all()


def test_a_swapped_instruction_is_encoded_for_itself(tmp_path):
    """So a policy that reads it is told from one that does not."""
    edits = [prompt for prompt in watched(tmp_path) if len(prompt.sources) == 1]
    look = Watched(made(config(), edits)[0], edits, 2)
    _, effect_P = look.velocities(look.latents(look.draw(0)), 0)
    assert (effect_P > 1e-4).all() and not any(map(isnan, effect_P))
