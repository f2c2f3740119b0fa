"""Edits of the miniature as prompts with source pictures, their reward and their verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.miniature import task
from tastemaker.miniature.identity.network import CartoonFaces
from tastemaker.miniature.world import corpus, layout, splits
from tastemaker.miniature.world.description import from_dict
from tastemaker.miniature.world.edits import EDIT_KINDS
from tastemaker.miniature.world.renderer import render
from tastemaker.rewards.reward import Missing

COUNT = 28
WHICH = ("source", "target")


@pytest.fixture(scope="module")
def edits(tmp_path_factory):
    return task.held_out_edits(tmp_path_factory.mktemp("sources"), COUNT)


def pictures(edits, which):
    """(n, 64, 64, 3) the true source or target of each."""
    found = [corpus.from_row({"id": e.id, "text": e.text, "truth": e.truth}).pair for e in edits]
    return np.stack([render(getattr(pair.edit, which), getattr(pair, f"{which}_layout")) for pair in found])


def as_images(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def test_sources_are_files_named_by_what_they_show(edits, tmp_path):
    assert all(edit.task == "edit" and len(edit.sources) == 1 for edit in edits)
    shown = [np.asarray(Image.open(edit.sources[0])) for edit in edits]
    assert np.array_equal(np.stack(shown), pictures(edits, "source"))
    again = task.held_out_edits(tmp_path / "deeper" / "sources", COUNT)
    names = [edit.sources[0].rsplit("/", 1)[1] for edit in edits]
    assert [edit.sources[0].rsplit("/", 1)[1] for edit in again] == names
    assert [replace(edit, sources=()) for edit in again] == [replace(edit, sources=()) for edit in edits]


def test_a_source_that_is_there_stays_and_a_broken_one_is_written_again(tmp_path):
    (edit,) = task.training_edits(1, tmp_path)
    path = tmp_path / edit.sources[0].rsplit("/", 1)[1]
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert task.training_edits(1, tmp_path) == [edit] and path.stat().st_mtime_ns == written
    path.write_bytes(content[:20])
    assert task.training_edits(1, tmp_path) == [edit] and path.read_bytes() == content


def test_training_edits_are_of_the_rl_split_and_of_all_kinds(tmp_path):
    some = task.training_edits(len(EDIT_KINDS), tmp_path, seed=3)
    assert [edit.truth["kind"] for edit in some] == list(EDIT_KINDS)
    assert {splits.split_of(from_dict(edit.truth["target"])) for edit in some} == {"rl"}
    assert not {edit.id for edit in some} & {prompt.id for prompt in task.training_prompts(5, seed=3)}


def test_the_reward_of_an_edit_is_highest_at_its_target_and_says_nothing_of_what_is_kept(edits):
    reward, some = task.rewards()["edit_facts"], edits[:14]
    asked, done = (np.array(reward.score(as_images(pictures(some, which)), some)) for which in ("source", "target"))
    assert (done > 0.9).mean() > 0.95 and ((done >= 0) & (done <= 1)).all()
    assert (asked < done).mean() > 0.9, "doing nothing earns less"
    wanted, rng = [from_dict(edit.truth["target"]) for edit in some], np.random.default_rng(7)
    elsewhere = np.stack([render(one, layout.sample_layout(one, rng)) for one in wanted])
    kept = task.edit_verdicts(elsewhere, some).preserved
    assert (~kept).mean() > 0.5 and np.array(reward.score(as_images(elsewhere), some))[~kept].mean() > 0.8


def test_black_white_and_noise_earn_little(edits):
    reward = task.rewards()["edit_facts"]
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8)
    for plain in (np.zeros_like(noise), np.full_like(noise, 255), noise):
        scores = np.array(reward.score(as_images(plain), edits))
        assert scores.mean() < 0.4 and (scores > 0.9).mean() < 0.1


def test_a_reward_asked_about_the_other_task_has_no_score(edits):
    text = task.held_out_prompts(1)[0]
    images = as_images(pictures(edits[:1], "target"))
    rewards = task.rewards()
    (wrong,) = rewards["facts"].score(images, edits[:1])
    assert isinstance(wrong, Missing) and "edit_facts" in wrong.reason
    (wrong,) = rewards["edit_facts"].score(images, [text])
    assert isinstance(wrong, Missing) and "ask facts" in wrong.reason
    assert all(isinstance(rewards["quality"].score(images, [prompt])[0], float) for prompt in (text, edits[0]))


def test_verdicts_of_true_edits_and_of_untouched_sources(edits):
    targets, sources = pictures(edits, "target"), pictures(edits, "source")
    done, untouched = task.edit_verdicts(targets, edits), task.edit_verdicts(sources, edits)
    assert done.success.mean() > 0.95 and untouched.success.mean() < 0.1
    assert untouched.preserved.mean() > 0.95
    assert np.array_equal(done.success, done.facts & done.preserved)
    portraits = np.array([edit.category == "portrait" for edit in edits])
    alike = np.array([edit.truth["source"]["style"] == edit.truth["target"]["style"] for edit in edits])
    assert np.isnan(done.identity[~portraits]).all() and (portraits & alike).sum() > 5
    assert (untouched.identity[portraits & alike] == 1).all()  # read in the target's style, which a source may not have


def test_a_monitor_is_told_the_truth_of_edits_and_prompts_and_of_nobody_elses(edits):
    mixed = [*edits[:6], *task.held_out_prompts(6)]
    (exact,) = task.truths(mixed)
    shown = np.concatenate([pictures(edits[:6], "target"), np.zeros((6, 64, 64, 3), np.uint8)])
    assert exact.score(as_images(shown), mixed) == [True] * 6 + [False] * 6
    assert not task.truths([*mixed, replace(mixed[0], truth=None)])


def test_the_identity_embedder_that_ships_knows_a_face_again(edits):
    faces = [place for place, edit in enumerate(edits) if edit.category == "portrait" and edit.truth["kind"] != "restyle"]
    embedder = CartoonFaces()
    vectors = [np.concatenate([embedder.embed(Image.fromarray(p)) for p in pictures(edits, w)[faces]]) for w in WHICH]
    similarity = embedder.similarity(*vectors)
    assert similarity.shape == (len(faces), len(faces)) and similarity.min() >= 0 and similarity.max() <= 1
    assert (similarity.argmax(1) == np.arange(len(faces))).all() and similarity.diagonal().min() > 0.5
