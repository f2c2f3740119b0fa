import math

import pytest
import torch
from judge_fakes import BrightnessJudge

from tastemaker.rewards.judge import JudgeReward
from tastemaker.rewards.reward import FunctionReward, Missing, fingerprint_of, fingerprints, score_all, to_uint8
from tastemaker.types import Prompt


class Given:
    """Answers with what it was made with."""

    def __init__(self, *answers, name="given"):
        self.name, self.low, self.high, self.floor, self.answers = name, 1.0, 5.0, 0.1, answers

    def score(self, images, prompts):
        return list(self.answers)


def pictures(count):
    return torch.rand(count, 3, 8, 8)


def prompts(count, truth=None):
    return [Prompt(str(n), "a red circle", truth=truth) for n in range(count)]


def test_scores_keep_their_order_and_reward():
    scores = score_all([Given(1.0, 2.0, name="a"), Given(3.0, 4.0, name="b")], pictures(2), prompts(2))
    assert scores.names == ("a", "b") and scores.values_BR.tolist() == [[1.0, 3.0], [2.0, 4.0]] and not scores.missing


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.99, 5.01, 9e9, Missing("timed out")])
def test_what_is_no_score_is_missing_with_a_reason(bad):
    scores = score_all([Given(2.0, bad)], pictures(2), prompts(2))
    assert scores.values_BR[0, 0] == 2.0 and scores.values_BR[1, 0].isnan()
    assert set(scores.missing) == {(1, "given")} and scores.missing[1, "given"]


@pytest.mark.parametrize("answers", [(), (2.0,), (2.0, 2.0, 2.0)])
def test_a_wrong_number_of_answers_is_rejected_whole(answers):
    with pytest.raises(ValueError, match="rejected whole"):
        score_all([Given(*answers)], pictures(2), prompts(2))


def test_a_picture_with_nan_is_shown_to_nobody():
    images = pictures(3)
    images[1, 0, 2, 2] = math.nan
    scores = score_all([Given(2.0, 4.0)], images, prompts(3))
    assert scores.values_BR[:, 0].nan_to_num(-1).tolist() == [2.0, -1.0, 4.0]
    assert "NaN" in scores.missing[1, "given"]


def test_only_broken_pictures_ask_nobody():
    scores = score_all([Given()], torch.full((2, 3, 8, 8), math.nan), prompts(2))
    assert scores.values_BR.isnan().all() and len(scores.missing) == 2


def test_a_verifiable_reward_needs_a_truth():
    reward = FunctionReward("facts", lambda picture, truth: truth["value"])
    scores = score_all([reward], pictures(2), [*prompts(1), *prompts(1, {"value": 0.5})])
    assert scores.values_BR[0, 0].isnan() and scores.values_BR[1, 0] == 0.5


def test_judges_have_fingerprints_and_functions_have_none():
    plain = FunctionReward("facts", lambda picture, truth: 1.0)
    assert fingerprints([JudgeReward(BrightnessJudge()), plain, Given()]) == {"brightness": "brightness-1"}


def test_a_fingerprint_holds_the_bytes_of_files(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    before = fingerprint_of([path, 1])
    assert fingerprint_of([path, 2]) != before
    path.write_bytes(b"two")
    assert fingerprint_of([path, 1]) != before
    path.rename(tmp_path / "moved").write_bytes(b"one")
    assert fingerprint_of([tmp_path / "moved", 1]) == before


def test_pixels_are_rounded_not_cut():
    assert to_uint8(torch.tensor([0.0, 1.0, 0.5, 2.0, -1.0, 254.6 / 255]).view(1, 1, 1, 6).expand(1, 3, 1, 6))[
        0, 0, :, 0
    ].tolist() == [
        0,
        255,
        128,
        255,
        0,
        255,
    ]
