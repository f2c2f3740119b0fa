"""Settings of the read-out, and what counts as a score token in a tokenizer."""

import math
from dataclasses import asdict

import pytest
import torch

from tastemaker.errors import UserMistake
from tastemaker.rewards.readout import Reading, ReadOut, ScoreTokens, average, read
from tastemaker.rewards.reward import Missing

TOKENS = ScoreTokens(lead=(9,), scores=(1, 2, 3, 4, 5))


class Words:
    """A tokenizer that knows the pieces it is given, longest first, and letters."""

    def __init__(self, *pieces: str):
        self.pieces = sorted(pieces, key=len, reverse=True)

    def __call__(self, text, add_special_tokens):
        ids = []
        while text:
            piece = next((piece for piece in self.pieces if text.startswith(piece)), text[0])
            ids.append(1000 + self.pieces.index(piece) if piece in self.pieces else ord(piece))
            text = text[len(piece) :]
        return type("Encoding", (), {"input_ids": ids})


def test_a_space_before_the_digit_may_be_a_token_of_its_own():
    tokens = ScoreTokens.of(Words("Score:"), "Score: ")
    assert tokens.scores == tuple(map(ord, "12345")) and tokens.lead == (1000, ord(" "))


def test_or_a_part_of_the_digits_token():
    words = Words("Score:", *(f" {score}" for score in range(10)))
    tokens = ScoreTokens.of(words, "Score: ")
    assert tokens.scores == tuple(1000 + words.pieces.index(f" {score}") for score in range(1, 6))
    assert tokens.lead == (1000,)


@pytest.mark.parametrize("pieces", [("Score: 5",), (" 5", "Score:"), ("Score", ": 1")])
def test_scores_that_are_not_one_token_each_are_refused_with_what_was_found(pieces):
    with pytest.raises(UserMistake, match=r"no single token for each score after 'Score: '.*lead"):
        ScoreTokens.of(Words(*pieces), "Score: ")


def test_all_impossible_settings_are_listed_at_once():
    with pytest.raises(UserMistake) as caught:
        ReadOut(num_rationales=0, temperature=math.nan, min_mass=0.0, stop=" ")
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    "settings", [{"num_rationales": 4}, {"num_rationales": 2, "chain_of_thought": False, "temperature": 1.0}]
)
def test_averaging_equal_rationales_is_refused(settings):
    with pytest.raises(UserMistake, match="num_rationales"):
        ReadOut(**settings)


def test_the_read_out_survives_json():
    read_out = ReadOut(temperature=0.7, num_rationales=3)
    assert ReadOut(**asdict(read_out)) == read_out


def logits(*probabilities: float) -> torch.Tensor:
    """(1, 10): token 1 to 5 as given, the rest on token 7."""
    values = torch.full((10,), 1e-12)
    values[1:6] = torch.tensor(probabilities)
    values[7] = 1 - sum(probabilities)
    return values.log()[None]


def test_the_score_is_the_expectation_over_the_five_tokens():
    reading = read(logits(0.0, 0.0, 0.095, 0.38, 0.475), TOKENS, 0.9)[0]
    assert reading.score == pytest.approx(0.1 * 3 + 0.4 * 4 + 0.5 * 5, abs=1e-5)
    assert reading.mass == pytest.approx(0.95, abs=1e-6)


@pytest.mark.parametrize("shares", [(0.1, 0.4, 0.5), (0.2, 0.3, 0.5), (0.15, 0.15, 0.7), (1 / 3, 1 / 3, 1 / 3)])
def test_exactly_the_least_mass_is_enough_however_it_rounds(shares):
    reading = read(logits(0.0, 0.0, *(0.9 * share for share in shares)), TOKENS, 0.9)[0]
    assert reading.score == pytest.approx(sum(s * k for s, k in zip((3, 4, 5), shares, strict=True)), abs=1e-5)
    assert isinstance(read(logits(0.0, 0.0, *(0.89999 * share for share in shares)), TOKENS, 0.9)[0].score, Missing)


def test_too_little_mass_is_missing_and_says_so():
    reading = read(logits(0.0, 0.0, 0.0, 0.4, 0.49), TOKENS, 0.9)[0]
    assert isinstance(reading.score, Missing) and "0.890" in reading.score.reason


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_missing(bad):
    values = logits(0.2, 0.2, 0.2, 0.2, 0.2)
    values[0, 3] = bad
    assert isinstance(read(values, TOKENS, 0.9)[0].score, Missing)


@pytest.mark.parametrize("score", [1, 5])
def test_certainty_stays_in_the_range(score):
    values = torch.full((1, 10), -1e4)
    values[0, score] = 1e4
    assert read(values, TOKENS, 0.9)[0].score == score


def test_the_mean_is_over_the_rationales_that_gave_a_score():
    late = Missing("too long")
    assert average([Reading(2.0, 0.95), late, Reading(4.0, 0.99)]) == Reading(3.0, pytest.approx(0.97))
    assert average([late, Reading(Missing("mass"), 0.5)]).score == late
    kept = average([Reading(Missing("mass"), 0.5), Reading(4.0, 0.95)])
    assert kept == Reading(4.0, 0.95), "the mass is that of what the score is made of"
