"""Pictures and scores that are on the disk are neither drawn nor paid for again, and never taken for another model's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.errors import ServiceFailed
from tastemaker.evaluation import drawn as module
from tastemaker.evaluation import judged as judging
from tastemaker.evaluation.benchmark import Drawing
from tastemaker.evaluation.drawn import draw_kept, kept, missing_bytes
from tastemaker.evaluation.judged import judge_kept, judged, kept_scores
from tastemaker.rewards.composite import Composite, Gate
from tastemaker.rewards.reward import Missing, NotAsked
from tastemaker.types import Prompt

DRAWING = Drawing(steps=4, guidance=1.0, seed=0, height=8, width=8, batch=3)
PROMPTS = [Prompt(str(n), f"text {n}") for n in range(8)]


class Artist:
    """In the place of `draw`: a picture's every pixel is its prompt's number; dies where it is told to."""

    def __init__(self, monkeypatch):
        self.drawn, self.opened, self.dies_at = [], 0, None
        monkeypatch.setattr(module, "draw", self.draw)

    def open(self):
        self.opened += 1
        return None, None

    def draw(self, adapter, embeddings, prompts, drawing):
        for prompt in prompts:
            if prompt.id == self.dies_at:
                raise KeyboardInterrupt
            self.drawn.append(prompt.id)
        return np.stack([np.full((8, 8, 3), int(prompt.id), np.uint8) for prompt in prompts])


@pytest.fixture
def artist(monkeypatch):
    return Artist(monkeypatch)


def test_an_interruption_costs_one_batch(tmp_path, artist):
    artist.dies_at = "7"
    with pytest.raises(KeyboardInterrupt):
        draw_kept(tmp_path, "model", PROMPTS, DRAWING, artist.open)
    whole = kept(tmp_path, "model", PROMPTS, DRAWING)
    assert [file.exists() for file in whole.files] == [True, True, False] and missing_bytes(whole, DRAWING) == 3 * 8 * 8 * 3
    artist.drawn, artist.dies_at, heard = [], None, []
    found = draw_kept(tmp_path, "model", PROMPTS, DRAWING, artist.open, lambda *where: heard.append(where))
    assert artist.drawn == ["6", "7"] and heard == [(8, 8)]
    assert found.pictures()[:, 0, 0, 0].tolist() == list(range(8))
    assert found.pictures([7, 0, 4])[:, 0, 0, 0].tolist() == [7, 0, 4]
    assert [places for _, places, _ in found.batches()] == [slice(0, 3), slice(3, 6), slice(6, 9)]
    opened = artist.opened
    draw_kept(tmp_path, "model", PROMPTS, DRAWING, artist.open)
    assert artist.opened == opened and artist.drawn == ["6", "7"]


def test_a_file_that_was_cut_short_is_drawn_again(tmp_path, artist):
    found = draw_kept(tmp_path, "model", PROMPTS, DRAWING, artist.open)
    found.files[1].write_bytes(found.files[1].read_bytes()[:-10])
    found.files[2].write_bytes(b"")
    artist.drawn = []
    draw_kept(tmp_path, "model", PROMPTS, DRAWING, artist.open)
    assert artist.drawn == ["3", "4", "5", "6", "7"]


@pytest.mark.parametrize("change", ["key", "guidance", "seed", "text", "source"])
def test_whatever_decides_a_picture_decides_its_file(tmp_path, artist, change):
    source = tmp_path / "source.png"
    Image.new("RGB", (8, 8)).save(source)
    prompts = [*PROMPTS[:2], Prompt("2", "edit", task="edit", sources=(str(source),))]
    before = kept(tmp_path, "model", prompts, DRAWING).files
    assert before == kept(tmp_path, "model", prompts, DRAWING).files
    if change == "source":
        Image.new("RGB", (8, 8), "red").save(source)
    after = kept(
        tmp_path,
        "other" if change == "key" else "model",
        [replace(prompts[0], text="another") if change == "text" else prompts[0], *prompts[1:]],
        replace(DRAWING, **{change: 5}) if change in ("guidance", "seed") else DRAWING,
    ).files
    assert not set(before) & set(after)


class Judge:
    """Scores the first pixel, counts what it is asked, and fails for some."""

    low, high, floor, fingerprint = 0.0, 10.0, 1.0, "v1"

    def __init__(self, name="taste", fails=()):
        self.name, self.fails, self.asked = name, set(fails), []

    def score(self, images, prompts):
        self.asked += [prompt.id for prompt in prompts]
        read = (images[:, 0, 0, 0] * 255).round().tolist()
        return [Missing("no answer") if p.id in self.fails else value for p, value in zip(prompts, read, strict=True)]


def test_only_what_is_missing_is_asked_for_again(tmp_path, artist):
    drawn = draw_kept(tmp_path, "model", PROMPTS, DRAWING, artist.open)
    judge = Judge(fails={"4"})
    composite = Composite((judge,), (1.0,))
    first = judge_kept(drawn, composite)
    assert first.values_BR[:, 0].isnan().nonzero().flatten().tolist() == [4] and first.missing == {(4, "taste"): "no answer"}
    assert judged(composite, first, PROMPTS).missing["taste"].sum() == 1
    judge.asked.clear()
    judge.fails.clear()
    second = judge_kept(drawn, composite)
    assert judge.asked == ["4"] and not second.missing
    assert second.values_BR[:, 0].tolist() == list(range(8))
    judge.asked.clear()
    assert torch.equal(judge_kept(drawn, composite).values_BR, second.values_BR) and not judge.asked
    judge.fingerprint = "v2"
    judge_kept(drawn, composite)
    assert len(judge.asked) == 8


def test_a_death_among_the_answers_costs_no_more_than_those_asked_for_together(tmp_path, artist, monkeypatch):
    """Batches are of eight pictures, judges are shown two at a time."""
    monkeypatch.setattr(judging, "AT_ONCE", 2)
    drawn = draw_kept(tmp_path, "model", PROMPTS, replace(DRAWING, batch=8), artist.open)
    judge = Judge()
    composite = Composite((judge,), (1.0,))
    score = judge.score

    def dies(images, prompts):
        if any(prompt.id == "5" for prompt in prompts):
            raise ServiceFailed("the server is gone")
        return score(images, prompts)

    judge.score = dies
    with pytest.raises(ServiceFailed):
        judge_kept(drawn, composite)
    assert judge.asked == ["0", "1", "2", "3"]
    so_far = kept_scores(drawn, composite)
    assert so_far.values_BR[:4, 0].tolist() == [0, 1, 2, 3] and [row for row, _ in so_far.missing] == [4, 5, 6, 7]
    assert judge.asked == ["0", "1", "2", "3"], "looking asks nobody"
    judge.score = score
    whole = judge_kept(drawn, composite)
    assert judge.asked == [str(n) for n in range(8)] and not whole.missing
    assert torch.equal(whole.values_BR, kept_scores(drawn, composite).values_BR) and whole.values_BR[:, 0].tolist() == list(
        range(8)
    )


def test_what_was_not_asked_is_neither_missing_nor_asked_for_again(tmp_path, artist):
    prompts = [replace(prompt, category="ab"[n % 2]) for n, prompt in enumerate(PROMPTS)]
    drawn = draw_kept(tmp_path, "model", prompts, DRAWING, artist.open)
    one, two = Judge("one"), Judge("two")
    composite = Composite((one, two), (1.0, 0.0), {"b": (0.5, 0.5)}, gates=(Gate("two", "one", below=4.0, cap=1.0),))
    said = judged(composite, judge_kept(drawn, composite), prompts)
    judge_kept(drawn, composite)
    assert two.asked == ["1", "3", "5", "7"] and len(one.asked) == 8
    np.testing.assert_array_equal(said.scores["two"], [np.nan, 1, np.nan, 1, np.nan, 5, np.nan, 7])  # capped while one < 4
    np.testing.assert_allclose(said.total, [0, 0.1, 0.2, 0.2, 0.4, 0.5, 0.6, 0.7])
    assert not said.missing["two"].any()
    np.testing.assert_allclose(said.noise[:2], [2**0.5 * 0.1, 2**0.5 * (2 * 0.05**2) ** 0.5])


def test_what_a_judge_was_not_asked_is_settled_and_its_weight_is_the_others(tmp_path, artist):
    class Choosy(Judge):
        def score(self, images, prompts):
            found = super().score(images, prompts)
            return [NotAsked("no face") if prompt.id == "4" else score for prompt, score in zip(prompts, found, strict=True)]

    drawn = draw_kept(tmp_path, "model", PROMPTS, DRAWING, artist.open)
    one, two = Judge("one"), Choosy("two")
    composite = Composite((one, two), (0.5, 0.5))
    for _ in range(2):
        said = judged(composite, judge_kept(drawn, composite), PROMPTS)
        np.testing.assert_allclose(said.total, np.arange(8) / 10)
        assert not said.missing["two"].any() and not said.missing["all judges"].any()
        np.testing.assert_allclose(said.noise[3:5], [0.1, 2**0.5 * 0.1])
    assert len(one.asked) == len(two.asked) == 8
