import itertools
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.errors import UserMistake
from tastemaker.rewards.reward import Missing, score_all
from tastemaker.rewards.text_rendering import RapidOcrReader, TextRenderingReward, asked_text, normalised, text_score
from tastemaker.types import Prompt


class Given:
    """Reads the same lines in every picture."""

    def __init__(self, *lines):
        self.lines = list(lines)

    def read(self, picture):
        return self.lines


def score(asked, *lines, **options):
    reward = TextRenderingReward(Given(*lines), **options)
    return reward.score(torch.zeros(1, 3, 8, 8), [Prompt("1", f'a sign that says "{asked}"')])[0]


def levenshtein(left, right):
    """The textbook's table."""
    table = {(i, 0): i for i in range(len(left) + 1)} | {(0, j): j for j in range(len(right) + 1)}
    for i, j in itertools.product(range(1, len(left) + 1), range(1, len(right) + 1)):
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (left[i - 1] != right[j - 1]))
    return table[len(left), len(right)]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ('a sign that says "OPEN"', ("OPEN",)),
        ('"OPEN" above, "24 hours" below', ("OPEN", "24 hours")),
        ("a sign: “OPEN”", ("OPEN",)),
        ("ein Schild „OFFEN“", ("OFFEN",)),
        ("une enseigne «Café»", ("Café",)),
        ('写着"你好"的招牌', ("你好",)),
        ("写着「你好」的招牌", ("你好",)),
        ("a sign that says 'OPEN'", ("OPEN",)),
        ("a mug with 'Don't panic' on it", ("Don't panic",)),
        ("a mug with ‘Don’t panic’ on it", ("Don’t panic",)),
        ('a 5" screen and a 7" screen that shows "Route 66"', ("Route 66",)),
        ('a poster\n"two\nlines"', ("two\nlines",)),
    ],
)
def test_quoted_parts_are_what_is_asked_for(text, asked):
    assert asked_text(Prompt("1", text)) == asked


@pytest.mark.parametrize(
    "text", ["a dog", "the dogs' bowl isn't Tom's", 'a 5" screen and a 7" screen', "in the '80s and '90s", '""']
)
def test_no_quoted_text_is_missing(text):
    assert isinstance(asked_text(Prompt("1", text)), Missing)


def test_a_field_of_the_truth_comes_first():
    prompt = Prompt("1", 'a sign that says "OPEN"', truth={"text": ["A", "B"], "label": "C", "count": 3, "none": []})
    assert (
        asked_text(prompt) == ("A", "B") and asked_text(prompt, "label") == ("C",) and asked_text(prompt, "other") == ("OPEN",)
    )
    for field in ("count", "none"):
        assert f"truth.{field}" in asked_text(prompt, field).reason


def test_the_fingerprint_is_that_of_the_reader_and_the_options():
    reader = Given("OPEN")
    reader.fingerprint = "a"
    before = TextRenderingReward(reader).fingerprint
    assert TextRenderingReward(reader, name="lettering", floor=0.1).fingerprint == before
    for options in ({"ignore_case": False}, {"ignore_punctuation": True}, {"extra_counts": False}, {"field": "label"}):
        assert TextRenderingReward(reader, **options).fingerprint != before
    reader.fingerprint = "b"
    assert TextRenderingReward(reader).fingerprint != before


def test_missing_in_training():
    reward = TextRenderingReward(Given("OPEN"))
    scores = score_all(
        [reward], torch.zeros(3, 3, 8, 8), [Prompt("1", "a dog"), Prompt("2", 'says " "'), Prompt("3", '"open"')]
    )
    assert scores.values_BR[2, 0] == 1 and set(scores.missing) == {(0, "text_rendering"), (1, "text_rendering")}


def test_spaces_and_breaks_do_not_count():
    assert score("HAPPY NEW YEAR", "HAPPYNEWYEAR") == score("HAPPY NEW YEAR", "HAPPY", "NEW YEAR") == 1
    assert score("HAPPYNEWYEAR", "H A P P Y NEW", "YEAR") == 1


def test_order_of_lines_does_not_count():
    for lines in itertools.permutations(["the quick", "brown fox", "jumps over", "the dog"]):
        assert score("the quick brown fox jumps over the dog", *lines) == 1


def test_order_of_parts_does_not_count_on_one_line():
    assert text_score(["open", "24h"], ["24hopen"]) == 1


@pytest.mark.parametrize(("ignore_case", "expected"), [(True, 1.0), (False, 0.25)])
def test_case_is_an_option(ignore_case, expected):
    assert score("Open", "OPEN", ignore_case=ignore_case) == expected


@pytest.mark.parametrize(("ignore_punctuation", "expected"), [(True, 1.0), (False, 5 / 7)])
def test_punctuation_is_an_option(ignore_punctuation, expected):
    assert score("Hi, you!", "Hi you", ignore_punctuation=ignore_punctuation) == pytest.approx(expected)


def test_forms_of_one_character_are_one():
    assert normalised("ＯＫ’ — Straße") == normalised("ok' - STRASSE") == "ok'-strasse"


def test_nothing_readable_is_zero_and_never_missing():
    assert score("OPEN") == 0 and score("OPEN", "  ") == 0 and score("OPEN", "xyzq") == 0


def test_each_wrong_character_costs_its_share():
    assert score("HELLO WORLD", "HELO WORLD") == pytest.approx(0.9)
    assert score("HELLO WORLD", "HELLO", "WORLT") == pytest.approx(0.9)


def test_text_that_nobody_asked_for_costs_unless_it_is_free():
    assert score("OPEN", "OPEN", "SALE") == score("OPEN", "OPEN", "OPEN") == 0.5
    assert score("OPEN", "OPEN", "SALE", extra_counts=False) == 1
    assert score("OPEN", "SALE", "EXIT", extra_counts=False) < 0.6


def test_many_lines():
    lines = [f"line {n}" for n in range(12)]
    assert score(" ".join(lines), *lines) == 1
    noise = ["aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff"]
    assert score("hello world", "world", *noise, "hello", extra_counts=False) == 1


words = st.text("abc", max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.text("abc", min_size=1, max_size=8), st.lists(words.filter(bool), max_size=4))
def test_score_is_the_best_over_all_orders(asked, lines):
    edits = min(levenshtein("".join(order), asked) for order in itertools.permutations(lines))
    assert text_score([asked], lines) == pytest.approx(1 - edits / max(len(asked), len("".join(lines))))
    chosen = (order for count in range(len(lines) + 1) for order in itertools.permutations(lines, count))
    edits = min(levenshtein("".join(order), asked) for order in chosen)
    assert text_score([asked], lines, extra_counts=False) == pytest.approx(max(0, 1 - edits / len(asked)))


@pytest.mark.parametrize("module", ["rapidocr", "onnxruntime"])
def test_without_the_extra_one_line_names_it(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserMistake, match=r"tastemaker\[ocr\]") as error:
        RapidOcrReader()
    assert "\n" not in str(error.value)
