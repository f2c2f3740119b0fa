import dataclasses
import random
from itertools import combinations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tastemaker.data.ratings import Rating
from tastemaker.data.splits import content_key, split
from tastemaker.data.votes import Side, Vote
from tastemaker.errors import UserMistake


def rating(number, prompt, *, generator="", sources=(), picture=None):
    return Rating(str(number), picture or f"{number}.png", prompt, "aesthetic", {"ann": 3}, "t2i", sources, generator)


def parts(found):
    return found.train, found.validation, found.test


ROWS = st.lists(
    st.tuples(st.integers(0, 30), st.lists(st.integers(0, 60), max_size=2), st.integers(0, 12)), min_size=1, max_size=80
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sets(st.sampled_from(["prompt", "source", "generator"])), st.integers(0, 5))
def test_no_two_parts_share_what_is_kept_apart(drawn, apart, seed):
    rows = [
        rating(number, f"p{prompt}", generator=f"g{generator}", sources=tuple(f"s{one}" for one in sources))
        for number, (prompt, sources, generator) in enumerate(drawn)
    ]
    try:
        found = split(rows, (0.6, 0.2, 0.2), apart=apart, seed=seed)
    except UserMistake:
        assume(False)
    assert sorted(int(row.id) for part in parts(found) for row in part) == list(range(len(rows)))
    assert sum(found.sizes) == len(rows)
    values = {"prompt": lambda row: {row.prompt}, "source": lambda row: set(row.sources), "generator": lambda r: {r.generator}}
    for kind in apart:
        held = [set().union(*map(values[kind], part)) for part in parts(found)]
        assert not any(a & b for a, b in combinations(held, 2)), kind


def test_sizes_are_near_what_was_asked_and_told():
    rows = [rating(number, f"p{number // 4}") for number in range(400)]
    found = split(rows)
    assert found.sizes == (320, 40, 40) and found.num_components == (80, 10, 10)
    assert str(found) == (
        "train 320 rows (80.0%) in 80 groups, validation 40 rows (10.0%) in 10 groups, test 40 rows (10.0%) in 10 groups"
    )
    assert split(rows, (1.0, 0.0, 0.0)).sizes == (400, 0, 0)
    assert split(rows[:3], (0.5, 0.0, 0.5), apart=()).sizes[1] == 0


def test_small_parts_get_large_groups_too():
    """Sizes 1 to 40: dealing the large ones to the training part alone would leave a test set of small ones."""
    rows = [rating(f"{size}-{k}", f"p{size}") for size in range(1, 41) for k in range(size)]
    found = split(rows, (0.6, 0.2, 0.2))
    assert all(abs(size / len(rows) - share) < 0.03 for size, share in zip(found.sizes, (0.6, 0.2, 0.2), strict=True))
    largest = [max(int(row.prompt[1:]) for row in part) for part in parts(found)]
    assert min(largest) >= 36


def test_it_depends_on_rows_and_seed_and_not_on_their_order():
    rows = [rating(number, f"p{number // 3}") for number in range(120)]
    mixed = random.Random(4).sample(rows, len(rows))
    first, again, other = split(rows), split(mixed), split(rows, seed=1)
    assert [set(map(id, part)) for part in parts(first)] == [set(map(id, part)) for part in parts(again)]
    assert {row.id for row in first.test} != {row.id for row in other.test}
    assert [row.id for row in first.train] == sorted((row.id for row in first.train), key=int)


def test_prompts_are_compared_as_people_read_them():
    rows = [rating(1, "A Red  circle"), rating(2, "a red circle "), rating(3, "a red ｃircle"), rating(4, "x"), rating(5, "y")]
    found = split(rows, (0.6, 0.2, 0.2))
    assert {row.id for row in found.train} == {"1", "2", "3"}


def test_a_judged_picture_is_never_in_two_parts():
    """Two raters' rows of one picture, and an edit that starts from a picture of another row."""
    rows = [rating(1, "a", picture="x.png"), rating(2, "b", picture="x.png"), rating(3, "c"), rating(4, "d")]
    assert {row.id for row in split(rows, (0.5, 0.25, 0.25), apart=()).train} == {"1", "2"}
    edits = [rating(1, "a"), rating(2, "b", sources=("1.png",)), rating(3, "c"), rating(4, "d")]
    assert {row.id for row in split(edits, (0.5, 0.25, 0.25)).train} == {"1", "2"}


def test_copies_of_a_picture_are_known_by_their_bytes(tmp_path):
    for name, content in {"1": b"a", "2": b"a", "3": b"c", "4": b"d"}.items():
        (tmp_path / name).write_bytes(content)
    rows = [rating(number, f"p{number}", picture=str(tmp_path / str(number))) for number in (1, 2, 3, 4)]
    assert {row.id for row in split(rows, (0.5, 0.25, 0.25), picture_key=content_key).train} == {"1", "2"}


def vote(number, left, right, generators=("", "")):
    sides = [Side(picture, generator) for picture, generator in zip((left, right), generators, strict=True)]
    return Vote(str(number), f"prompt {number}", "ann", "tie", *sides)


def test_votes_are_split_by_both_pictures():
    rows = [vote(1, "a", "b"), vote(2, "b", "c"), vote(3, "c", "d"), vote(4, "e", "f"), vote(5, "g", "h")]
    assert {row.id for row in split(rows, (0.6, 0.2, 0.2)).train} == {"1", "2", "3"}


def test_one_group_that_swallows_everything_names_what_joins_it():
    rows = [vote(number, f"l{number}", f"r{number}", ("base", f"tuned {number % 7}")) for number in range(100)]
    assert split(rows).sizes == (80, 10, 10)
    with pytest.raises(UserMistake) as caught:
        split(rows, apart=("prompt", "source", "generator"))
    message = str(caught.value)
    assert "100 rows fall into 1 groups" in message and "joined by generator: 'base' alone is in 100" in message
    assert "without generator the largest group in it has 1;" in message and "\n" not in message


def test_an_instruction_that_everybody_uses_is_named():
    rows = [rating(number, "make it brighter", sources=(f"s{number}",)) for number in range(50)]
    with pytest.raises(UserMistake, match="joined by prompt: 'make it brighter' alone is in 50"):
        split(rows)
    assert split(rows, apart=("source",)).sizes == (40, 5, 5)


def test_too_few_pictures_to_split():
    rows = [dataclasses.replace(rating(1, "a"), id=str(number)) for number in range(9)]
    with pytest.raises(UserMistake, match="add rows of other pictures"):
        split(rows)


def test_a_part_that_would_get_less_than_half_is_refused():
    rows = [rating(number, "same" if number < 95 else f"p{number}") for number in range(100)]
    assert split(rows, (0.94, 0.03, 0.03)).sizes == (95, 3, 2)
    with pytest.raises(UserMistake, match=r"0\.8/0\.1/0\.1 cannot be had"):
        split(rows)


def test_unknown_generators_cannot_be_kept_apart():
    with pytest.raises(UserMistake, match="row '1': generator is unknown"):
        split([rating(1, "a"), rating(2, "b", generator="base")], apart=("generator",))


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (1.1, -0.1, 0.0), (0.5, 0.5)])
def test_fractions_are_shares(fractions):
    with pytest.raises(ValueError, match="three shares"):
        split([rating(1, "a")], fractions)
    with pytest.raises(ValueError, match="rows to split"):
        split([])
    with pytest.raises(ValueError, match="rows to split"):
        split([rating(1, "a")], apart=("colour",))
