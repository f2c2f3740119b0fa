"""The judges that come with the miniature, by name from a config."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.config import TrainConfig, parse
from tastemaker.errors import UserMistake
from tastemaker.miniature import task
from tastemaker.miniature.world.layout import sample_layout
from tastemaker.miniature.world.renderer import render
from tastemaker.named.judges import opened_rewards
from tastemaker.rewards.reward import Missing

CONFIG = """\
name: judged
model: miniature
threads: 1
data: {prompts: miniature}
rewards:
- {name: follows, weight: 0.5, low: 1, high: 5, judge: {kind: miniature, dimension: alignment}}
- {name: looks, weight: 0.3, low: 1, high: 5, judge: {kind: miniature, dimension: aesthetic}}
- {name: person, weight: 0.2, low: 0, high: 1, judge: {kind: miniature_identity}}
"""


@pytest.fixture(scope="module")
def rewards():
    with opened_rewards(parse(CONFIG, TrainConfig), Path(), torch.device("cpu")) as opened:
        yield opened


def drawings(prompts):
    """What each prompt asks for, drawn."""
    found = [task.described(prompt.truth) for prompt in prompts]
    rng = np.random.default_rng(0)
    pictures = np.stack([render(one, sample_layout(one, rng)) for one in found])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def test_scores_follow_the_request_more_often_than_not(rewards):
    """A sanity check far below what its card says: the right picture is preferred to that of another prompt of its category."""
    prompts = task.held_out_prompts(48)
    right = drawings(prompts)
    wrong = torch.roll(right, 4, 0)  # categories come in turns of four
    own, other = (np.array(rewards["follows"].score(images, prompts)) for images in (right, wrong))
    assert ((own >= 1) & (own <= 5)).all() and own.std() > 0
    assert (own > other).mean() > 0.75


def test_the_dimensions_share_one_model_and_have_their_own_names(rewards):
    follows, looks = (rewards[name].judge for name in ("follows", "looks"))
    assert follows.vlm is looks.vlm and (follows.name, looks.name) == ("follows", "looks")
    assert follows.fingerprint != looks.fingerprint


def test_identity_is_asked_of_edits_alone(rewards, tmp_path):
    edits = [edit for edit in task.held_out_edits(tmp_path, 56) if edit.category == "portrait"]
    prompts = task.held_out_prompts(2)
    assert all(isinstance(score, Missing) for score in rewards["person"].score(drawings(prompts), prompts))
    same = torch.stack([_source(edit) for edit in edits])
    assert min(rewards["person"].score(same, edits)) > 0.99
    assert np.mean(rewards["person"].score(torch.roll(same, 1, 0), edits)) < 0.5


def test_a_range_that_is_not_the_judges_is_refused():
    with pytest.raises(UserMistake, match="a judge of kind miniature scores from 1 to 5"):
        parse(CONFIG.replace("low: 1, high: 5,", "low: 0, high: 1,"), TrainConfig)


def _source(edit):
    return torch.from_numpy(np.array(Image.open(edit.sources[0]).convert("RGB"))).permute(2, 0, 1).float() / 255
