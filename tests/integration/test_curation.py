"""Samples for curation: killed anywhere they end as uninterrupted, a missing score costs its own prompt, files say so."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from test_training import SIDE, Brightness, fresh, settings

import tastemaker.training.curate as curating
from tastemaker.commands import curate as command
from tastemaker.commands.train import train
from tastemaker.data.curation import MISSING, select
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.data.prompts import read_prompts
from tastemaker.errors import ServiceFailed, Stopped, UserMistake
from tastemaker.evaluation.curation import half_agreement, shares_by_category, write_findings, write_walls
from tastemaker.named import prompts as named_prompts
from tastemaker.rewards.reward import Missing
from tastemaker.runtime.metrics import read_lines
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.curate import judge_prompts, kept_pictures
from tastemaker.training.policy import draw_and_judge, pipeline, prepare, signal_of
from tastemaker.training.start import make_setup
from tastemaker.types import Prompt, Scores

WORDS = ["a red circle", "three squares", "make it green", "one triangle left", "a circle", "blue squares", "Picture of red"]
PROMPTS = [Prompt(f"p{n}", text, ("even", "odd")[n % 2]) for n, text in enumerate(WORDS)]


class Killed(BaseException):
    """Not an Exception: no handler of the product may swallow it."""


class Choosy(Brightness):
    """Has no score for pictures of some prompts."""

    def __init__(self, *without):
        self.without = without

    def score(self, images, prompts):
        scores = super().score(images, prompts)
        return [Missing("no face") if p.id in self.without else s for s, p in zip(scores, prompts, strict=True)]


def setup_of(reward=None, **rollout):
    config = settings(rollout={"prompts": 3, **rollout}, algorithm={"velocity_kl": 0.0})
    adapter = fresh()
    cache = EmbeddingCache(adapter, height=SIDE, width=SIDE)
    return make_setup(config, adapter, PROMPTS, {"brightness": reward or Brightness()}, cache, height=SIDE, width=SIDE)


def judged(folder, setup=None, **more):
    return judge_prompts(setup or setup_of(), folder, **{"trackers": [], "stop": StopRequest(), **more})


def content(folder: Path):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return judged(folder), content(folder)


def test_every_prompt_once_in_the_order_of_the_list(uninterrupted):
    samples, files = uninterrupted
    assert [one.prompt for one in samples] == PROMPTS
    assert all(one.composite_G.shape == (4,) and np.ptp(one.composite_G) > 0 for one in samples)
    assert sorted(files) == [*(f"pictures/block-0000{n}.png" for n in (1, 2, 3)), "scores.jsonl"]


@pytest.mark.parametrize("phase", ["prepare", "draw_and_judge", "_sheet", "_row"])
def test_killed_and_started_again_is_as_uninterrupted(tmp_path, monkeypatch, uninterrupted, phase):
    original, calls = getattr(curating, phase), []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == (5 if phase == "_row" else 2):
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(curating, phase, dies)
    with pytest.raises(Killed):
        judged(tmp_path)
    assert len(read_lines(tmp_path / "scores.jsonl")) == 1
    assert {one.prompt.id: one.scores["brightness"].tolist() for one in judged(tmp_path)} == {
        one.prompt.id: one.scores["brightness"].tolist() for one in uninterrupted[0]
    }
    assert content(tmp_path) == uninterrupted[1]


def test_a_torn_line_is_drawn_again(tmp_path, uninterrupted):
    judged(tmp_path)
    path = tmp_path / "scores.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    judged(tmp_path)
    assert content(tmp_path) == uninterrupted[1]


def test_a_stop_is_taken_between_blocks_and_what_is_there_is_not_drawn_again(tmp_path, uninterrupted):
    class Asks:
        def log(self, step, metrics):
            steps.append(step)
            if step == 2 and not stop.requested:
                stop.request()

    steps, stop = [], StopRequest()
    with pytest.raises(Stopped, match="2 of 3 blocks"):
        judged(tmp_path, trackers=[Asks()], stop=stop)
    judged(tmp_path, trackers=[Asks()])
    assert steps == [1, 2, 3] and content(tmp_path) == uninterrupted[1]


def test_chunks_change_no_score_beyond_rounding(tmp_path, uninterrupted):
    for one, other in zip(judged(tmp_path, setup_of(chunks=3)), uninterrupted[0], strict=True):
        np.testing.assert_allclose(one.composite_G, other.composite_G, atol=1e-5)


def test_the_first_step_of_training_draws_other_pictures(uninterrupted):
    """Prompts are chosen by these pictures: were they trained on, their luck would be taken for the prompt's."""
    setup = replace(setup_of(), prompts_per_step=len(PROMPTS))
    batch = prepare(setup, 1)
    with pipeline(setup) as scoring:
        _, _, scores = draw_and_judge(setup, batch, 1, scoring)
    drawn = {p.id: scores.values_BR[4 * n : 4 * n + 4, 0].double().numpy() for n, p in enumerate(batch.prompts)}
    assert all(np.abs(one.composite_G - drawn[one.prompt.id]).min() > 1e-6 for one in uninterrupted[0])


def test_a_missing_score_costs_its_own_prompt_alone(tmp_path, uninterrupted):
    samples = judged(tmp_path, setup_of(Choosy("p1")))
    outcomes = dict(zip([p.id for p in PROMPTS], select(samples, {"t2i": 0.0}), strict=True))
    assert outcomes["p1"].what == MISSING and samples[1].missing == ("no face",) * 4
    assert np.isnan(samples[1].composite_G).all()
    assert all(outcomes[p.id].kept for p in PROMPTS if p.id != "p1")
    assert '"p1", "scores": {"brightness": [null, null, null, null]}' in (tmp_path / "scores.jsonl").read_text()


def test_a_judge_that_fails_stops_the_command(tmp_path):
    with pytest.raises(ServiceFailed, match="no face"):
        judged(tmp_path, setup_of(Choosy(*(p.id for p in PROMPTS))))
    assert not (tmp_path / "scores.jsonl").exists()


def test_pictures_judged_by_other_rewards_are_refused_by_name(tmp_path, uninterrupted):
    judged(tmp_path)
    other, sharpness = setup_of(), Brightness()
    sharpness.name = "sharpness"
    renamed = replace(other, composite=replace(other.judges, rewards=(sharpness,)))
    with pytest.raises(UserMistake, match=r"have no scores of sharpness.*choose another folder"):
        judged(tmp_path, renamed)


def test_kept_pictures_are_those_that_were_judged(tmp_path):
    samples = {one.prompt.id: one for one in judged(tmp_path)}
    found = kept_pictures(tmp_path)
    assert found.keys() == samples.keys()
    for id, pictures in found.items():
        assert pictures.shape == (4, SIDE, SIDE, 3)
        np.testing.assert_allclose(pictures.mean((1, 2, 3)) / 255, samples[id].scores["brightness"], atol=0.01)


def test_files_for_people(tmp_path):
    samples = judged(tmp_path, setup_of(Choosy("p1")))
    threshold = sorted(np.ptp(one.composite_G) for one in samples if one.prompt.id != "p1")[3]
    thresholds = {"t2i": threshold}
    outcomes = select(samples, thresholds)
    shares = write_findings(tmp_path, samples, outcomes, thresholds, "range above x")
    assert (shares[0].category, shares[0].n, shares[0].kept) == ("all", 7, 2)
    assert shares == shares_by_category(samples, outcomes)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["id"] for row in rows] == [p.id for p in PROMPTS] and rows[1]["range"] == rows[1]["brightness mean"] == ""
    assert rows[1]["why missing"] == "no face (4)" and rows[1]["scores missing"] == "4"
    assert float(rows[0]["brightness mean"]) == pytest.approx(samples[0].scores["brightness"].mean(), rel=1e-5)
    assert json.loads((tmp_path / "summary.json").read_text())["categories"][0]["outcomes"]["missing scores"] == 1
    assert (tmp_path / "ranges.png").read_bytes().startswith(b"\x89PNG")
    walls = write_walls(tmp_path, samples, outcomes, kept_pictures(tmp_path), thresholds)
    assert [wall.name for wall in walls] == ["wall-kept.png", "wall-dropped.png"]


def test_halves_of_honest_ranges_agree_and_of_noise_do_not(tmp_path):
    from tastemaker.data.curation import Samples

    rng = np.random.default_rng(0)
    spreads = rng.uniform(0.01, 0.3, 200)

    def of(scales):
        return [Samples(Prompt(str(n), "x"), {}, 0.5 + s * rng.normal(size=8)) for n, s in enumerate(scales)]

    assert half_agreement(of(spreads)).low > 0.5
    noise = half_agreement(of(np.full(200, 0.1)))
    assert noise.low < 0 < noise.high and noise.n == 200
    assert math.isnan(half_agreement(of([0.1])).low)


def test_metrics_hold_each_reward_by_category_where_there_are_several():
    setup = setup_of()
    batch = prepare(setup, 1)
    values = torch.rand(12, 1, generator=torch.Generator().manual_seed(0))
    scores = Scores(("brightness",), values)
    metrics = signal_of(setup, batch, scores).metrics
    categories = [prompt.category for prompt in batch.prompts for _ in range(4)]
    for category in set(categories):
        mine = [value for value, c in zip(values.flatten().tolist(), categories, strict=True) if c == category]
        assert metrics[f"reward/brightness/{category}"] == pytest.approx(np.mean(mine), rel=1e-5)
    one = [replace(prompt, category="odd") for prompt in PROMPTS]
    alone = signal_of(
        replace(setup, prompts=one), replace(batch, parts=(replace(batch.parts[0], prompts=one[:3]),)), scores
    ).metrics
    assert [name for name in alone if name.startswith("reward/")] == ["reward/brightness"]


CONFIG = """\
name: c
model: miniature
data: {prompts: prompts.jsonl}
rewards: [{name: facts, weight: 0.9}, {name: quality, weight: 0.1}]
rollout: {prompts: 2, group_size: 2, steps: 3, window_size: 1, guidance: 1}
budget: {max_steps: 1}
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"id": "1", "text": "a"}\n')
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path / "c.yaml"


def test_mistakes_come_before_anything_is_drawn(config, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    with pytest.raises(UserMistake, match="one threshold"):
        command.curate(config, above=0.1, keep=0.5)
    with pytest.raises(UserMistake, match="not a folder"):
        command.curate(config, out=tmp_path / "nowhere" / "list.jsonl")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "prompts.jsonl").write_text('{"id": "1", "text": "a", "task": "edit", "sources": ["a.png"]}\n')
    (tmp_path / "below").mkdir()
    with pytest.raises(UserMistake, match="lies outside"):
        command.curate(config, out=tmp_path / "below" / "list.jsonl")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_curated_list_of_the_miniature_is_trained_on(config, tmp_path, monkeypatch):
    """The truth of its prompts travels in the list; another threshold draws nothing anew, another seed is refused."""
    monkeypatch.setitem(named_prompts.MINIATURE_PROMPTS, "miniature", (6, 0))
    monkeypatch.setattr(Console, "print", lambda self, *args, **kwargs: None)
    more = {"overrides": ["data.prompts=miniature", "threads=1"], "folder": tmp_path / "f"}
    out = command.curate(config, **more)
    scores = (tmp_path / "f" / "scores.jsonl").read_bytes()
    assert "model" in json.loads((tmp_path / "f" / "environment.json").read_text())["data_files"]
    assert out == tmp_path / "f" / "curated.jsonl" and 0 < len(read_prompts(out)) < 6
    monkeypatch.setattr(curating, "draw_and_judge", lambda *args: pytest.fail("a picture was drawn"))
    command.curate(config, keep=1.0, **more)
    assert len(read_prompts(out)) == 6 and (tmp_path / "f" / "scores.jsonl").read_bytes() == scores
    with pytest.raises(UserMistake, match="no prompt has"):
        command.curate(config, above=1.0, **more)
    with pytest.raises(UserMistake, match="seed"):
        command.curate(config, **{**more, "overrides": [*more["overrides"], "seed=1"]})
    train(config, overrides=[f"data.prompts={out}", "threads=1"], folder=tmp_path / "trained")
    (line,) = read_lines(tmp_path / "trained" / "metrics.jsonl")
    assert line["scores_missing"] == 0 and 0 < line["reward/facts"] < 1
    assert torch.isfinite(torch.tensor(line["reward/quality"]))
