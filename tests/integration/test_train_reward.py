"""`tastemaker train-reward` from files to a served judge, on a taste that can be learnt: people like bright pictures."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import kendalltau, spearmanr
from typer.testing import CliRunner

import tastemaker.training.reward_model as reward_model
from processes import Started, command
from tastemaker import cli
from tastemaker.commands.train_reward import JUDGE, collect, train_reward
from tastemaker.config import load
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.data.ratings import Rating, read_ratings, write_ratings
from tastemaker.data.votes import Side, Vote, write_votes
from tastemaker.errors import Stopped, UserMistake
from tastemaker.evaluation import judge_card, judge_measures
from tastemaker.rewards.judge import Question
from tastemaker.rewards.vlm import VLMJudge
from tastemaker.runtime.metrics import read_lines
from tiny_judge import FAMILIES, RUBRIC, save, tiny_vlm

PROMPTS, FEW_PROMPTS, PICTURES = 24, 8, 4
SETTINGS = """\
name: bright
base: base
rubric: tiny.v1.md
precision: fp32
threads: 1
data: {ratings: [ratings.jsonl], votes: [votes.jsonl]}
objective: {kind: pointwise, mass_weight: 0.5}
policy: {kind: full}
optimiser: {learning_rate: 3e-3, batch_size: 12}
splits: {train: 0.6, calibration: 0.2, test: 0.2, apart: [prompt, source]}
evaluation: {bootstrap_samples: 200, batch_size: 4}
read_out: {min_mass: 0.3}
budget: {epochs: 1000, max_steps: 60}
"""


def world(folder: Path, family: str = "qwen3_vl", prompts: int = FEW_PROMPTS) -> Path:
    """A base, a rubric, four pictures a prompt from dark to bright with three raters, and votes; returns the config."""
    folder.mkdir(parents=True, exist_ok=True)
    save(tiny_vlm(family), folder / "base")
    (folder / "tiny.v1.md").write_text(RUBRIC.text)
    rng = np.random.default_rng(0)
    ratings, votes = [], []
    for prompt in range(prompts):
        light = rng.permutation(np.linspace(0.05, 0.95, PICTURES)) + rng.uniform(-0.04, 0.04, PICTURES)
        names = [f"{prompt}-{nth}.png" for nth in range(PICTURES)]
        for name, level in zip(names, light, strict=True):
            noise = rng.uniform(-0.05, 0.05, (64, 64, 3))
            Image.fromarray(((level + noise).clip(0, 1) * 255).astype(np.uint8)).save(folder / name)
            scores = {rater: int(np.clip(round(1 + 4 * level + rng.normal(0, 0.3)), 1, 5)) for rater in ("ann", "bo", "cy")}
            words = "bright" if level > 0.5 else "dark"
            row = Rating(f"{prompt}-{name}", str(folder / name), f"a red circle {prompt}", "light", scores, rationale=words)
            ratings.append(replace(row, generator=f"model-{name[-5]}"))
        for rater in ("ann", "bo"):
            choice = "left" if light[0] > light[1] else "right"
            sides = (Side(str(folder / names[0])), Side(str(folder / names[1])))
            votes.append(Vote(f"{prompt}-{rater}", f"a red circle {prompt}", rater, choice, *sides))
    write_ratings(folder / "ratings.jsonl", ratings)
    write_votes(folder / "votes.jsonl", votes)
    (folder / "bright.yaml").write_text(SETTINGS)
    return folder / "bright.yaml"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"), prompts=PROMPTS)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return world(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """The run of the whole command; the folder of its judge."""
    return train_reward(config, folder=tmp_path_factory.mktemp("runs") / "bright")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# ---- what comes out ------------------------------------------------------------------------------


def test_brightness_is_learnt_and_the_card_says_so(trained):
    card = judge_card.read_card(trained)
    within, across = card["measured"]["within_prompts.spearman"], card["measured"]["across_prompts.spearman"]
    assert within["value"] > 0.6 and across["value"] > 0.6 and across["low"] > 0.3
    assert within["num_prompts"] == across["num_prompts"] == card["data"]["parts"]["test"]["prompts"] >= 4
    assert card["measured"]["votes.both"]["value"] > 0.6
    raters = card["measured"]["raters.ratings"]
    assert raters["value"] > 0.8 and raters["n"] == within["n"]
    assert card["missing"] == {} and card["steps"] == 60
    assert set(card["measured"]) == set(judge_measures.HEADINGS)


def test_the_numbers_are_those_of_scipy_on_the_judge_that_is_served(config, trained):
    """Asked here anew, from the folder alone, and counted by hand."""
    material = collect(load(config, RewardTrainConfig), config.parent)
    judge, test = VLMJudge.load(trained), material.parts[2]
    asked = [Question(r.id, r.prompt, Image.open(r.picture).convert("RGB")) for r in test.ratings]
    scores = {r.picture: a.score for r, a in zip(test.ratings, judge.answer(asked), strict=True)}
    said, people = [scores[r.picture] for r in test.ratings], [np.mean([*r.scores.values()]) for r in test.ratings]
    measured = {name: one["value"] for name, one in judge_card.read_card(trained)["measured"].items()}
    assert measured["across_prompts.spearman"] == pytest.approx(spearmanr(said, people).statistic, abs=1e-9)
    assert measured["across_prompts.kendall"] == pytest.approx(kendalltau(said, people).statistic, abs=1e-9)
    groups = {r.prompt for r in test.ratings}
    rows = [[k for k, r in enumerate(test.ratings) if r.prompt == prompt] for prompt in groups]
    for name, rank in (("spearman", spearmanr), ("kendall", kendalltau)):
        each = [rank([said[k] for k in row], [people[k] for k in row]).statistic for row in rows]
        assert measured[f"within_prompts.{name}"] == pytest.approx(np.mean(each), abs=1e-9)
    right = [(scores[v.left.picture] > scores[v.right.picture]) == (v.choice == "left") for v in test.votes]
    assert measured["votes.as_shown"] == measured["votes.exchanged"] == pytest.approx(np.mean(right))
    place = np.minimum((np.array(said) - 1) / 4 * 10, 9).astype(int)
    gaps = [np.sum(place == b) * abs(np.mean((np.array(said) - people)[place == b])) for b in set(place.tolist())]
    assert measured["calibration.before"] == pytest.approx(sum(gaps) / len(said), abs=1e-6)


def test_the_parts_share_nothing_and_the_test_part_is_never_trained_on(config):
    material = collect(load(config, RewardTrainConfig), config.parent)
    prompts = [{row.prompt for row in part.rows} for part in material.parts]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])
    assert {example.question.text for example in material.examples} == prompts[0]


def test_the_card_knows_the_judge_as_its_server_does_and_tells_no_secret(config, trained):
    card, judge = judge_card.read_card(trained), VLMJudge.load(trained)
    assert card["model"]["fingerprint"] == judge.fingerprint and card["model"]["sha256"] == judge.vlm.sha256
    assert card["rubric"]["sha256"] == judge.rubric.sha256 and card["rubric"]["label"] == "tiny.v1"
    text = (trained / "README.md").read_text()
    assert "within a prompt" in text and "0." in text and card["model"]["fingerprint"] in text
    for secret in ("ann", str(config.parent)):
        assert f'"{secret}"' not in json.dumps(card) and str(config.parent) not in text
    parts = card["data"]["parts"]
    assert sum(part["ratings"] for part in parts.values()) == PROMPTS * PICTURES
    assert parts["train"]["raters"] == 3 and parts["train"]["scores"] == 3 * parts["train"]["ratings"]


def test_a_finished_run_is_not_trained_again_but_measured_again_when_asked(config, trained, monkeypatch):
    monkeypatch.setattr("tastemaker.commands.train_reward.load_vlm", lambda *_, **__: pytest.fail("the base was opened"))
    before, made = weights(trained), (trained / "model.safetensors").stat().st_mtime_ns
    assert train_reward(config, folder=trained.parent) == trained
    train_reward(config, folder=trained.parent, overrides=["evaluation.bins=5"])
    assert judge_card.read_card(trained)["evaluation"]["bins"] == 5
    train_reward(config, folder=trained.parent)
    assert (trained / "model.safetensors").stat().st_mtime_ns == made and before.keys() == weights(trained).keys()


def test_a_served_judge_answers_over_http_as_the_folder_does(trained):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from tastemaker.rewards.schema import ScoreRequest, ScoreResponse, asked
    from tastemaker.rewards.server import create_app

    question = Question("q", "a red circle", Image.new("RGB", (64, 64), "white"))
    sent = ScoreRequest(questions=(asked(question),)).model_dump_json()
    judge = VLMJudge.load(trained)
    with TestClient(create_app(judge)) as client:
        told = client.get("/v1/judge").json()
        given = ScoreResponse.model_validate_json(
            client.post("/v1/score", content=sent, headers={"content-type": "application/json"}).content
        )
    assert told["fingerprint"] == judge_card.read_card(trained)["model"]["fingerprint"]
    assert given.answers[0].score == pytest.approx(judge.answer([question])[0].score, abs=1e-6)


# ---- every objective, policy and family ----------------------------------------------------------

SHORT = ["budget.max_steps=3", "evaluation.bootstrap_samples=100", "read_out.min_mass=1e-9"]
LORA = "policy={kind: lora, rank: 4}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("merge", ["true", "false"])
def test_a_lora_of_each_family_opens_as_a_judge(tmp_path, family, merge):
    path = world(tmp_path, family)
    policy = f"policy={{kind: lora, rank: 4, merge: {merge}}}"
    judge = train_reward(path, folder=tmp_path / "run", overrides=[*SHORT, policy])
    assert (judge / "adapter_config.json").exists() == (merge == "false")
    card = judge_card.read_card(judge)
    assert card["model"]["whole"] == (merge == "true") and card["measured"]["across_prompts.spearman"]["missing"] == 0
    assert card["model"]["fingerprint"] == VLMJudge.load(judge).fingerprint


@pytest.mark.parametrize(
    "objective, metric",
    [
        ("{kind: soft_label}", "abs_error"),
        ("{kind: pairwise}", "pairs_right"),
        ("{kind: chain_of_thought, max_rationale_tokens: 16, rationale_weight: 0.5}", "rationale_loss"),
    ],
)
def test_every_objective_runs_to_its_card(small, tmp_path, objective, metric):
    judge = train_reward(small, folder=tmp_path / "run", overrides=[*SHORT, LORA, f"objective={objective}"])
    assert all(metric in line for line in read_lines(tmp_path / "run" / "metrics.jsonl"))
    card = judge_card.read_card(judge)
    assert card["read_out"]["chain_of_thought"] == ("rationale_weight" in objective)
    if card["missing"]:  # a judge that has learnt nothing yet seldom ends its rationale: missing, and never a number
        assert card["measured"]["across_prompts.spearman"]["value"] is None or "rationale" in next(iter(card["missing"]))


def test_a_judge_that_learns_to_think_scores_what_it_has_not_seen(small, tmp_path):
    objective = "objective={kind: chain_of_thought, max_rationale_tokens: 16}"
    judge = train_reward(small, folder=tmp_path / "run", overrides=[objective, "budget.max_steps=80"])
    card = judge_card.read_card(judge)
    assert not card["missing"] and card["measured"]["across_prompts.spearman"]["value"] > 0.5
    (answer,) = VLMJudge.load(judge).answer([Question("a", "a red circle 1", Image.new("RGB", (64, 64), (240, 240, 240)))])
    assert answer.rationale == "bright" and answer.score > 3


def test_pairs_come_from_ratings_where_there_are_no_votes(small, tmp_path):
    changes = [*SHORT, LORA, "objective={kind: pairwise}", "data.votes=[]"]
    judge = train_reward(small, folder=tmp_path / "run", overrides=changes)
    card = judge_card.read_card(judge)
    assert card["examples"] == card["data"]["parts"]["train"]["prompts"] * PICTURES * (PICTURES - 1) // 2
    assert not [name for name in card["measured"] if name.startswith("vote")]


def test_without_a_calibration_part_nothing_is_recalibrated(small, tmp_path):
    changes = [*SHORT, LORA, "splits.train=0.7", "splits.calibration=0", "splits.test=0.3", "optimiser.ema_decay=0.5"]
    judge = train_reward(small, folder=tmp_path / "run", overrides=changes)
    card = judge_card.read_card(judge)
    assert "calibration.before" in card["measured"] and "calibration.after" not in card["measured"] and not card["maps"]
    assert "not recalibrated" in (judge / "README.md").read_text()


def test_more_epochs_later_move_the_old_judge_aside(small, tmp_path):
    first = train_reward(small, folder=tmp_path / "run", overrides=[*SHORT, LORA])
    old = weights(first)
    again = train_reward(small, folder=tmp_path / "run", overrides=[*SHORT, LORA, "budget.max_steps=5"])
    assert judge_card.read_card(again)["steps"] == 5
    aside = tmp_path / "run" / f"{JUDGE}-step-00000003"
    assert all(torch.equal(old[name], value) for name, value in weights(aside).items())
    assert any(not torch.equal(old[name], value) for name, value in weights(again).items())
    with pytest.raises(UserMistake, match="is at step 5 already, past the 3"):
        train_reward(small, folder=tmp_path / "run", overrides=[*SHORT, LORA])


# ---- the same run, changed -----------------------------------------------------------------------


def test_rows_that_come_later_are_not_measured_on_where_they_were_trained_on(tmp_path):
    """The parts are dealt from all rows, so a few more move prompts from one part to another."""
    path = world(tmp_path, prompts=16)
    rows = (tmp_path / "ratings.jsonl").read_text().splitlines(keepends=True)
    how, run = [*SHORT, LORA, "data.votes=[]"], tmp_path / "run"

    def first(count: int) -> list[str]:
        (tmp_path / "ratings.jsonl").write_text("".join(rows[: count * PICTURES]))
        material = collect(load(path, RewardTrainConfig, tuple(how)), tmp_path, decode=False)
        return [{row.prompt for row in part.rows} for part in material.parts]

    before = first(12)
    train_reward(path, folder=run, overrides=how)
    after = first(16)
    assert before[0] & (after[1] | after[2]), "or nothing is tested here"
    allow = ["data_files.ratings.jsonl"]
    with pytest.raises(UserMistake) as caught:
        train_reward(path, folder=run, overrides=[*how, "budget.max_steps=5"], allow=allow)
    assert "are not apart from what this run was trained on" in str(caught.value)
    assert "was trained on, or a row was that shares a picture or prompt or source with it" in str(caught.value)
    assert read_lines(run / "metrics.jsonl")[-1]["step"] == 3, "nothing was trained"
    first(12)
    train_reward(path, folder=run, overrides=[*how, "budget.max_steps=5"])
    train_reward(path, folder=tmp_path / "another", overrides=how)


def test_a_trained_judge_gets_no_card_of_another_training(small, tmp_path):
    judge = train_reward(small, folder=tmp_path / "run", overrides=[*SHORT, LORA])
    card = judge_card.read_card(judge)
    changed = ["seed=7", "optimiser.learning_rate=1e-5", "evaluation.bins=5"]
    with pytest.raises(UserMistake, match=r"is trained, and was not trained with .*seed: 0 -> 7; optimiser\.learning_rate"):
        train_reward(
            small, folder=tmp_path / "run", overrides=[*SHORT, LORA, *changed], allow=["seed", "optimiser.learning_rate"]
        )
    assert judge_card.read_card(judge) == card
    train_reward(small, folder=tmp_path / "run", overrides=[*SHORT, LORA, "evaluation.bins=5"])
    assert judge_card.read_card(judge)["evaluation"]["bins"] == 5


def test_targets_that_are_nowhere_are_one_line_and_block_no_folder(small, tmp_path):
    wrong = "policy={kind: lora, rank: 4, targets: [nothing]}"
    with pytest.raises(UserMistake, match=r"^policy\.targets: .*nothing"):
        train_reward(small, folder=tmp_path / "run", overrides=[*SHORT, wrong])
    train_reward(small, folder=tmp_path / "run", overrides=[*SHORT, LORA])


def test_a_rationale_that_the_judge_could_not_write_to_its_end_is_told_before(small, tmp_path):
    objective = "objective={kind: chain_of_thought, max_rationale_tokens: 4}"
    with pytest.raises(UserMistake, match=r"its rationale takes \d+ tokens with its end, more than max_rationale_tokens 4"):
        train_reward(small, folder=tmp_path / "run", overrides=[*SHORT, LORA, objective], check=True)


# ---- stopped and killed --------------------------------------------------------------------------

RESUMED = [*SHORT, "budget.max_steps=6", "policy={kind: full}", "checkpoint.every=2"]


@pytest.fixture(scope="module")
def uninterrupted(small, tmp_path_factory):
    return train_reward(small, folder=tmp_path_factory.mktemp("whole") / "run", overrides=RESUMED)


def train_slowly(config: Path, run: Path) -> None:
    """The program that is killed; it leaves the test time to send its signal."""
    original = reward_model.update

    def slowly(*args):
        time.sleep(0.3)
        return original(*args)

    reward_model.update = slowly
    arguments = [part for override in RESUMED for part in ("-o", override)]
    command("train-reward", str(config), "--folder", str(run), *arguments)


def test_a_process_killed_then_terminated_comes_to_the_same_judge_and_card(small, tmp_path, uninterrupted):
    """SIGKILL once three steps are logged, then SIGTERM (exit code 75), then to the end."""
    run = tmp_path / "run"
    first = Started(train_slowly, small, run)
    assert any("step 3/" in line for line in first)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = Started(train_slowly, small, run)
    assert any("step 3/" in line for line in second)
    second.send_signal(signal.SIGTERM)
    assert second.wait() == 75
    assert not (run / JUDGE).exists()
    assert Started(train_slowly, small, run).wait() == 0
    same(run / JUDGE, uninterrupted)
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert judge_card.read_card(run / JUDGE) == judge_card.read_card(uninterrupted)


class Killed(BaseException):
    """Not an Exception: no handler of the product may swallow it."""


def test_killed_in_the_measurement_no_answer_is_paid_for_twice(small, tmp_path, monkeypatch, uninterrupted):
    asked: list[int] = []
    original = VLMJudge.answer

    def dies(judge, questions):
        asked.append(len(questions))
        if sum(asked) > 12:
            raise Killed
        return original(judge, questions)

    monkeypatch.setattr(VLMJudge, "answer", dies)
    with pytest.raises(Killed):
        train_reward(small, folder=tmp_path / "run", overrides=RESUMED)
    assert judge_card.read_card(tmp_path / "run" / JUDGE) is None
    done, total = sum(asked[:-1]), None
    asked.clear()
    monkeypatch.setattr(VLMJudge, "answer", lambda judge, questions: asked.append(len(questions)) or original(judge, questions))
    judge = train_reward(small, folder=tmp_path / "run", overrides=RESUMED)
    card = judge_card.read_card(judge)
    pictures = {name: card["data"]["parts"][name]["ratings"] for name in ("calibration", "test")}
    total = pictures["calibration"] + 4 * pictures["test"]  # twice as they are, twice with lettering
    assert sum(asked) == total - done
    assert card == judge_card.read_card(uninterrupted)


def test_a_time_budget_stops_resumably_and_writes_no_judge(small, tmp_path, uninterrupted):
    with pytest.raises(Stopped, match="step 1 of 6 is saved"):
        train_reward(small, folder=tmp_path / "run", overrides=[*RESUMED, "budget.max_minutes=1e-9"])
    assert not (tmp_path / "run" / JUDGE).exists()
    same(train_reward(small, folder=tmp_path / "run", overrides=RESUMED), uninterrupted)


def test_a_resumption_with_other_data_is_refused(small, tmp_path):
    path = world(tmp_path)
    with pytest.raises(Stopped):
        train_reward(path, folder=tmp_path / "run", overrides=[*RESUMED, "budget.max_minutes=1e-9"])
    *others, last = read_ratings(tmp_path / "ratings.jsonl")
    write_ratings(tmp_path / "ratings.jsonl", [*others, replace(last, scores={"ann": 3})])
    with pytest.raises(UserMistake, match=r"data_files\.ratings\.jsonl"):
        train_reward(path, folder=tmp_path / "run", overrides=RESUMED)


# ---- two dimensions ------------------------------------------------------------------------------

BOTH = "data.dimension=[quality, fidelity]"


def on_two_dimensions(path: Path) -> Path:
    """The world with two files: quality and fidelity, which differ on the first and the last picture."""
    folder = path.parent
    rows = read_ratings(folder / "ratings.jsonl")
    write_ratings(folder / "ratings.jsonl", [replace(row, dimension="quality") for row in rows])
    others = [replace(row, dimension="fidelity", scores={**row.scores}, rationale="firm") for row in rows]
    others[0] = replace(others[0], scores={"bo": 1, "cy": 2, "dot": 5})
    write_ratings(folder / "fidelity.jsonl", others[:-1])
    path.write_text(path.read_text().replace("[ratings.jsonl]", "[ratings.jsonl, fidelity.jsonl]"))
    return path


def test_two_dimensions_are_one_score_of_each_rater_who_gave_both(tmp_path):
    path = on_two_dimensions(world(tmp_path))
    quality = [replace(row, scores={"ann": 4, "bo": 5, "cy": 3}) for row in read_ratings(tmp_path / "ratings.jsonl")]
    write_ratings(tmp_path / "ratings.jsonl", quality)
    said = collect(load(path, RewardTrainConfig, [BOTH]), tmp_path).said
    assert len(said.ratings) == FEW_PROMPTS * PICTURES - 1
    assert {row.dimension for row in said.ratings} == {"quality and fidelity"}
    assert said.ratings[0].scores == {"bo": 2.0, "cy": 2.5}, "5 with 1 is capped, 3 with 2 a half, ann and dot gave one alone"
    assert said.ratings[0].rationale.endswith("firm") and said.ratings[0].id == f"ratings.jsonl:{quality[0].id}"
    alone = "as far as a rater gave the picture quality or fidelity alone"
    assert said.left_out == {alone: 3}, "two rows on one picture, one on another"


def test_a_judge_of_two_dimensions_is_trained_and_its_card_says_so(tmp_path):
    path = on_two_dimensions(world(tmp_path))
    judge = train_reward(path, folder=tmp_path / "run", overrides=[*SHORT, LORA, BOTH, "objective={kind: soft_label}"])
    card = judge_card.read_card(judge)
    assert card["data"]["dimension"] == "quality and fidelity" and card["measured"]["across_prompts.spearman"]["n"] > 0


def test_which_dimension_is_meant_has_to_be_said(tmp_path):
    path = on_two_dimensions(world(tmp_path))
    assert "quality (32), fidelity (31); say which one the judge is to learn, or two that make its score" in told(path)[0]
    assert "'beauty' is the dimension of no rating" in told(path, "data.dimension=[quality, beauty]")[0]
    assert any("names one dimension twice" in line for line in told(path, "data.dimension=[quality, quality]"))


# ---- mistakes ------------------------------------------------------------------------------------


def told(config: Path, *overrides: str, check: bool = True) -> list[str]:
    with pytest.raises(UserMistake) as caught:
        train_reward(config, overrides=overrides, check=check, folder=config.parent / "never")
    assert not (config.parent / "never").exists()
    return str(caught.value).splitlines()


def test_all_mistakes_of_base_rubric_and_data_are_listed_before_the_model_is_loaded(tmp_path):
    path = world(tmp_path)
    rows = (tmp_path / "ratings.jsonl").read_text().splitlines()
    rows[2] = rows[2].replace('"ann": ', '"ann": 7')
    rows[5] = rows[5].replace("1-1.png", "../1-1.png")
    (tmp_path / "ratings.jsonl").write_text("\n".join(rows))
    (tmp_path / "0-0.png").write_bytes(b"no picture")
    lines = told(path, "base=nowhere", "rubric=beauty.v9")
    assert lines[0].startswith("base: ") and "no config.json" in lines[0]
    assert "there is no rubric" in lines[1]
    assert any("ratings.jsonl:3: scores: 'ann' gave 7" in line for line in lines)
    assert any("ratings.jsonl:6: picture: " in line for line in lines)
    assert any("votes.jsonl:1: left.picture: " in line for line in lines)


@pytest.mark.parametrize(
    "override, says",
    [
        ("data.dimension=dark", r"data.dimension: 'dark' is the dimension of no rating; there are light (32)"),
        ("data.task=edit", "data: no row is left of"),
        ("splits.apart=[prompt, generator]", "splits.apart: "),
        ("rubric=instruction.v1", "compares with source pictures, and this row has none"),
        ("data.pictures=base", "is not a file in"),
    ],
)
def test_what_the_data_cannot_give_is_told(small, override, says):
    assert any(says in line for line in told(small, override))


def test_a_picture_that_the_processor_refuses_is_told_with_its_row_before_anything_is_trained(tmp_path):
    path = world(tmp_path)
    Image.new("RGB", (8, 2000)).save(tmp_path / "1-1.png")
    Image.new("RGB", (2000, 8)).save(tmp_path / "2-0.png")
    lines = told(path)
    assert [line.partition(", ")[0] for line in lines[:2]] == [
        "ratings.jsonl:1-1-1.png: 1-1.png",
        "ratings.jsonl:2-2-0.png: 2-0.png",
    ]
    assert "8x2000: the judge's processor refuses its picture: absolute aspect ratio must be smaller than 200" in lines[0]
    assert len(lines) > 2 and all(line.startswith("votes.jsonl:") for line in lines[2:])


def test_a_rationale_is_wanted_where_one_is_learnt(tmp_path):
    path = world(tmp_path)
    ratings = read_ratings(tmp_path / "ratings.jsonl")
    write_ratings(tmp_path / "ratings.jsonl", [replace(rating, rationale="") for rating in ratings])
    lines = told(path, "objective={kind: chain_of_thought}")
    assert "has no rationale; give one, or train with another objective.kind" in lines[0] and lines[0].startswith(
        "ratings.jsonl:"
    )
    assert len(lines) > 10 and all("no rationale" in line for line in lines)


def test_check_reads_everything_and_writes_nothing(small):
    result = CliRunner().invoke(cli.app, ["train-reward", str(small), "--check", "--folder", str(small.parent / "never")])
    assert result.exit_code == 0 and "examples to train on, 60 steps" in result.output and "calibration: " in result.output
    assert not (small.parent / "never").exists()
