import hashlib
import logging
import os
import re
from dataclasses import replace

import pytest
from judge_fakes import BrightnessJudge, picture, questions
from PIL import Image

from tastemaker.errors import ServiceFailed
from tastemaker.rewards.cache import CachedJudge
from tastemaker.rewards.judge import Answer, Question
from tastemaker.rewards.reward import Missing


class Changed(BrightnessJudge):
    fingerprint = "brightness-2"


class Silent(BrightnessJudge):
    def answer(self, questions):
        self.asked.append([question.text for question in questions])
        return [Answer(question.id, Missing("no digit")) for question in questions]


def entries(folder):
    return sorted(folder.glob("??/*.json"))


def test_what_is_known_is_not_asked_again(tmp_path):
    judge = BrightnessJudge()
    first = CachedJudge(judge, tmp_path).answer(questions(3))
    later = CachedJudge(judge, tmp_path)
    again = later.answer([replace(question, id=f"other {question.id}") for question in questions(5)])
    assert judge.asked == [["a picture of 0", "a picture of 1", "a picture of 2"], ["a picture of 3", "a picture of 4"]]
    assert [answer.id for answer in again] == [f"other p{n}/0" for n in range(5)]
    assert [(a.score, a.rationale, a.mass) for a in again[:3]] == [(a.score, a.rationale, a.mass) for a in first]
    assert (later.hits, later.misses) == (3, 2)


def test_it_is_the_judge_it_asks(tmp_path):
    judge = BrightnessJudge()
    cached = CachedJudge(judge, tmp_path)
    assert [cached.name, cached.low, cached.high, cached.fingerprint] == ["brightness", 1.0, 5.0, "brightness-1"]


@pytest.mark.parametrize("other", ["text", "picture", "source", "shape", "fingerprint"])
def test_everything_a_score_depends_on_is_in_the_key(tmp_path, other):
    judge = BrightnessJudge()
    asked = Question("a", "text", picture(0), (picture(1),))
    CachedJudge(judge, tmp_path).answer([asked])
    different = {
        "text": replace(asked, text="text "),
        "picture": replace(asked, picture=picture(2)),
        "source": replace(asked, sources=(picture(1), picture(1))),
        "shape": replace(asked, picture=Image.frombytes("RGB", (16, 4), picture(0).tobytes())),
        "fingerprint": asked,
    }[other]
    judge = Changed() if other == "fingerprint" else judge
    CachedJudge(judge, tmp_path).answer([different])
    assert len(entries(tmp_path)) == 2


def test_the_same_question_under_two_ids_is_asked_once(tmp_path):
    judge = BrightnessJudge()
    one, two = questions(1)[0], replace(questions(1)[0], id="again")
    answers = CachedJudge(judge, tmp_path).answer([one, two])
    assert judge.asked == [["a picture of 0"]] and [answer.id for answer in answers] == ["p0/0", "again"]


def test_what_is_missing_is_asked_again(tmp_path):
    judge = Silent()
    for _ in range(2):
        assert isinstance(CachedJudge(judge, tmp_path).answer(questions(1))[0].score, Missing)
    assert len(judge.asked) == 2 and not entries(tmp_path)


def test_a_failure_is_not_kept(tmp_path):
    class Down(BrightnessJudge):
        def answer(self, questions):
            raise ServiceFailed("down")

    with pytest.raises(ServiceFailed):
        CachedJudge(Down(), tmp_path).answer(questions(1))
    assert not entries(tmp_path)


@pytest.mark.parametrize("harm", ["cut", "empty", "bit", "swapped", "text", "out of range"])
def test_a_corrupt_entry_is_a_miss_with_a_warning(tmp_path, harm, caplog):
    judge = BrightnessJudge()
    good = CachedJudge(judge, tmp_path).answer(questions(2))
    path, other = entries(tmp_path)
    data = path.read_bytes()
    flipped = data.replace(b'"score":', b'"score":1', 1)
    path.write_bytes(
        {
            "cut": data[:-20],
            "empty": b"",
            "bit": flipped,
            "swapped": other.read_bytes(),
            "text": b"<html>",
            "out of range": sealed(data, b'"score":9e9'),
        }[harm]
    )
    with caplog.at_level(logging.WARNING):
        assert CachedJudge(judge, tmp_path).answer(questions(2)) == good
    assert len(judge.asked[1]) == 1 and str(path) in caplog.text
    assert path.read_bytes() == data


def sealed(data, score):
    body = re.sub(rb'"score":[\d.]+', score, data.split(b"\n")[1])
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body + b"\n"


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    judge = BrightnessJudge()
    size = 20 * 4096
    cached = CachedJudge(judge, tmp_path, max_bytes=size)
    cached.answer(questions(10))
    for age, path in enumerate(entries(tmp_path)):
        os.utime(path, (1000 + age, 1000 + age))
    cached.answer(questions(1))  # used: is now the newest of the ten
    for first in range(10, 25, 5):
        cached.answer(questions(5, first))
    assert len(entries(tmp_path)) <= 20
    judge.asked.clear()
    cached.answer([*questions(1), *questions(15, 10)])
    assert judge.asked == []


def test_a_folder_that_shrank_is_cut_to_size_at_once(tmp_path):
    CachedJudge(BrightnessJudge(), tmp_path).answer(questions(10))
    CachedJudge(BrightnessJudge(), tmp_path, max_bytes=5 * 4096)
    assert len(entries(tmp_path)) == 4


def test_two_processes_that_evict_and_write_the_same_do_not_disturb_each_other(tmp_path):
    """Both run in this process here; their files and evictions meet in the same folder all the same."""
    one, two = (CachedJudge(BrightnessJudge(), tmp_path, max_bytes=6 * 4096) for _ in range(2))
    for first in range(0, 20, 2):
        assert one.answer(questions(4, first)) == two.answer(questions(4, first))
    assert len(entries(tmp_path)) <= 7 and not list(tmp_path.glob("??/.*"))


def test_a_disk_that_takes_nothing_costs_the_copy_alone(tmp_path, caplog, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tastemaker.rewards.cache.os.replace", full)
    answers = CachedJudge(BrightnessJudge(), tmp_path).answer(questions(1))
    assert answers[0].score > 1 and "No space left" in caplog.text and not list(tmp_path.glob("??/*"))
