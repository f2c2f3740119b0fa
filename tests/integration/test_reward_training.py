"""Training a tiny judge: it learns what it is shown, resumes bit for bit, survives NaN, and loads without us."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import BaseModel
from transformers import AutoModelForImageTextToText

from tastemaker.errors import Diverged, Stopped, UserMistake
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.vlm import VLMJudge
from tastemaker.rewards.vlm_folder import load_vlm
from tastemaker.runtime.guard import NanGuard
from tastemaker.runtime.metrics import read_lines
from tastemaker.runtime.run import Run
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.reward_model import (
    Compared,
    Rated,
    RewardSetup,
    accumulate,
    examples_of_step,
    reward_parameters,
    save_judge,
    train_reward,
)
from tastemaker.training.state import PolicyState
from tiny_judge import EDIT_RUBRIC, RUBRIC, question, save, tiny_vlm

DIRECT = ReadOut(chain_of_thought=False)
THINKS = ReadOut(max_rationale_tokens=24)
REASONS = ("red", "a blue circle", "on background", "one line")
RATED = [Rated.of(question(n), [1 + n % 5, 1 + n % 5, 1 + (n + 1) % 5], REASONS[n % 4]) for n in range(8)]
PAIRS = [Compared(question(n), question(10 + n), float(n % 2), ("red", "blue")) for n in range(8)]


class Settings(BaseModel):
    """Stands for a config file."""

    name: str = "tiny"


def setup(examples=RATED, read_out=DIRECT, **changes) -> RewardSetup:
    return RewardSetup(tiny_vlm(), RUBRIC, read_out, examples, **{"batch_size": 8, **changes})


def train(made: RewardSetup, run, steps: int, kind="full", rate=3e-3, stop=None) -> PolicyState:
    parameters = reward_parameters(made.vlm, kind, rank=4)
    state = PolicyState(made.vlm.model, torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0), None)
    guard = NanGuard(run.incident)
    found = run.restore()
    if found is not None:
        state.restore(found.tensors, found.state)
        guard.load_state(found.state["guard"])
    with stop or StopRequest() as request:
        train_reward(made, state, run, max_steps=steps, checkpoint_every=2, guard=guard, stop=request)
    return state


class NoRun:
    """Takes what the loop writes; `logged` by step."""

    def __init__(self):
        self.logged, self.saved, self.incidents = [], [], []

    def log(self, step, metrics, stream="metrics"):
        self.logged.append(dict(metrics))

    def checkpoint(self, step, tensors, state):
        self.saved.append(step)

    def incident(self, record):
        self.incidents.append(record)

    def restore(self):
        return None


# ---- learning ------------------------------------------------------------------------------------


def test_ratings_are_learnt(tmp_path):
    """Eight pictures by heart: the error falls under a fifth of a point, and the judge reads the same scores after a reload."""
    made, run = setup(), NoRun()
    train(made, run, 60)
    assert run.logged[-1]["abs_error"] < 0.2 < run.logged[0]["abs_error"] and run.logged[-1]["digit_mass"] > 0.9
    judge = VLMJudge(made.vlm, RUBRIC, DIRECT)
    scores = [answer.score for answer in judge.answer([example.question for example in RATED])]
    assert scores == pytest.approx([example.score for example in RATED], abs=0.5)
    again = VLMJudge.load(save_judge(tmp_path / "judge", made.vlm, RUBRIC, DIRECT))
    assert [answer.score for answer in again.answer([example.question for example in RATED])] == pytest.approx(scores, abs=1e-5)
    assert len(again.fingerprint) == 64


def test_pairs_are_learnt():
    made, run = setup(PAIRS), NoRun()
    train(made, run, 15)
    assert run.logged[-1]["pairs_right"] == 1.0 and run.logged[-1]["score_loss"] < run.logged[0]["score_loss"]


def test_rationale_and_score_are_learnt_together_and_the_judge_then_says_both():
    examples = RATED[:4]
    made, run = setup(examples, THINKS, batch_size=4, pointwise="soft_label"), NoRun()
    train(made, run, 80)
    answers = VLMJudge(made.vlm, RUBRIC, THINKS).answer([example.question for example in examples])
    assert [answer.rationale for answer in answers] == [example.rationale for example in examples]
    assert [answer.score for answer in answers] == pytest.approx([example.score for example in examples], abs=0.4)


# ---- equivalences --------------------------------------------------------------------------------


@pytest.mark.parametrize("examples, read_out", [(RATED, THINKS), (PAIRS, DIRECT)])
def test_micro_batches_change_no_gradient(examples, read_out):
    gradients = []
    for size in (None, 3):
        made = setup(examples, read_out, micro_batch=size)
        parameters = reward_parameters(made.vlm, "full")
        metrics = accumulate(made, examples)
        gradients.append([p.grad for p in parameters if p.grad is not None])
        assert metrics["loss"].shape == (8,)
    scale = max(float(gradient.abs().max()) for gradient in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * scale)


def test_an_epoch_is_every_example_once_and_depends_on_its_number_alone():
    steps = [examples_of_step(RATED, step, 3, seed=1) for step in range(1, 9)]
    first = [id(example) for step in steps for example in step][:8]
    assert sorted(first) == sorted(map(id, RATED)) and first != [*map(id, RATED)]
    assert [*map(id, examples_of_step(RATED, 5, 3, seed=1))] == [*map(id, steps[4])]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_stopped_in_the_middle_and_resumed_the_weights_are_the_same_bit_for_bit(tmp_path, kind):
    with Run.open(tmp_path / "whole", Settings()) as run:
        whole = train(setup(batch_size=3), run, 4, kind)
    stop = StopRequest()
    with Run.open(tmp_path / "parts", Settings()) as run, pytest.raises(Stopped, match="checkpoint of step 1 saved"):
        stop.request()
        train(setup(batch_size=3), run, 4, kind, stop=stop)
    with Run.open(tmp_path / "parts", Settings()) as run:
        parts = train(setup(batch_size=3), run, 4, kind)
    for (name, one), (_, other) in zip(whole.named(), parts.named(), strict=True):
        assert torch.equal(one, other), name
    lines = [read_lines(tmp_path / folder / "metrics.jsonl") for folder in ("whole", "parts")]
    assert [line["step"] for line in lines[1]] == [1, 2, 3, 4]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]


# ---- what goes wrong -----------------------------------------------------------------------------


def test_nan_never_reaches_the_weights():
    made, run = setup(batch_size=2, score_weight=math.nan), NoRun()
    before = {name: value.detach().clone() for name, value in made.vlm.model.named_parameters()}
    with pytest.raises(Diverged, match="3 times in a row"):
        train(made, run, 9)
    assert all(torch.equal(before[name], value) for name, value in made.vlm.model.named_parameters())
    assert len(run.incidents) == 3 and run.incidents[0]["culprits"]["loss"]


def test_every_example_that_cannot_be_used_is_named():
    bad = [
        replace(RATED[0], score=5.5),
        replace(RATED[1], shares=(1.0,)),
        replace(RATED[2], rationale="ends</think>"),
        RATED[3],
    ]
    with pytest.raises(UserMistake) as caught:
        setup(bad, THINKS, pointwise="soft_label", batch_size=0)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["batch_size 0", "example 1 (q0)", "example 2 (q1)", "example 3 (q2)"]
    with pytest.raises(UserMistake, match="no rationale"):
        setup([replace(RATED[0], rationale=" ")], THINKS)
    with pytest.raises(UserMistake, match="mixed"):
        setup([RATED[0], PAIRS[0]])
    with pytest.raises(UserMistake, match=r"choice 0\.7"):
        setup([replace(PAIRS[0], choice=0.7)])
    with pytest.raises(UserMistake, match="source pictures"):
        RewardSetup(tiny_vlm(), EDIT_RUBRIC, DIRECT, RATED)
    with pytest.raises(UserMistake, match="no examples"):
        setup([])


@pytest.mark.parametrize("scores", [[], [0, 5], [4, 6], [4.25], [5.5]])
def test_raters_give_whole_or_half_scores_from_1_to_5(scores):
    with pytest.raises(ValueError, match="from 1 to 5"):
        Rated.of(question(0), scores)


# ---- what is saved -------------------------------------------------------------------------------


def test_a_lora_is_saved_as_peft_does_and_scores_alike_with_and_without_us(tmp_path):
    base = save(tiny_vlm(), tmp_path / "base")
    made = RewardSetup(load_vlm(base), RUBRIC, DIRECT, RATED, batch_size=4)
    train(made, NoRun(), 2, "lora", rate=1e-2)
    with pytest.raises(ValueError, match="no fingerprint"):
        _ = VLMJudge(made.vlm, RUBRIC, DIRECT).fingerprint
    loose = replace(DIRECT, min_mass=1e-9)
    folder = save_judge(tmp_path / "judge", made.vlm, RUBRIC, loose)
    asked = [example.question for example in RATED[:3]]
    trained = [answer.score for answer in VLMJudge(made.vlm, RUBRIC, loose).answer(asked)]
    assert [answer.score for answer in VLMJudge.load(folder).answer(asked)] == pytest.approx(trained, abs=1e-5)
    untrained = [answer.score for answer in VLMJudge.load(base, rubric=RUBRIC, read_out=loose).answer(asked)]
    assert max(abs(a - b) for a, b in zip(trained, untrained, strict=True)) > 1e-3
    plain = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval()
    made.vlm.model = plain
    assert [a.score for a in VLMJudge(made.vlm, RUBRIC, loose).answer(asked)] == pytest.approx(trained, abs=1e-5)
    with pytest.raises(UserMistake, match="exists already"):
        save_judge(folder, made.vlm, RUBRIC, loose)


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    made = setup()
    monkeypatch.setattr(made.vlm.processor, "save_pretrained", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_judge(tmp_path / "judge", made.vlm, RUBRIC, DIRECT)
    assert list(tmp_path.iterdir()) == []
