"""Our own server's client, against servers that fail in every way (reliability: servers and deadlines)."""

import json
import math
import threading
import time
from dataclasses import replace

import pytest
from faulty_server import (
    FACTS,
    dies,
    dies_in_the_reply,
    drips,
    free_port,
    goes,
    hangs,
    hangs_after_headers,
    in_turn,
    running,
    says,
    scored,
)
from PIL import Image

from tastemaker.errors import ServiceFailed, UserMistake
from tastemaker.rewards import service
from tastemaker.rewards.endpoint import ServedJudge
from tastemaker.rewards.judge import Question
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.service import Address, Limits

SHORT = Limits(item=0.4, batch=0.6, concurrency=8)
LONG = Limits(item=20, batch=30, concurrency=8)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(service, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(service, "LONGEST_PAUSE", 0.05)


def judge(url, limits=LONG, per_request=16, token_variable=None):
    return ServedJudge(
        **FACTS.model_dump(), address=Address(url=url, token_variable=token_variable), limits=limits, per_request=per_request
    )


def questions(count):
    return [Question(f"p{n}/0", f"a picture of {n}", Image.new("RGB", (2, 2), (n, n, n))) for n in range(count)]


def scores(answers):
    return [None if isinstance(answer.score, Missing) else answer.score for answer in answers]


def expected(count):
    return [1 + n / 10 for n in range(count)]


def reasons(answers):
    return {answer.score.reason for answer in answers if isinstance(answer.score, Missing)}


def test_answers_come_back_in_the_order_of_the_questions():
    with running(scored()) as server:
        answers = judge(server.url, per_request=3).answer(questions(8))
    assert scores(answers) == expected(8) and [answer.id for answer in answers] == [f"p{n}/0" for n in range(8)]
    assert sorted(len(json.loads(body)["questions"]) for *_, body in server.requests) == [2, 3, 3]


def test_no_questions_ask_nobody():
    assert judge("http://127.0.0.1:9").answer([]) == []


def test_who_answers_is_asked_first():
    with running(scored()) as server:
        connected = ServedJudge.connect(Address(url=server.url), limits=LONG)
        assert (connected.name, connected.low, connected.high, connected.fingerprint) == ("fake", 1.0, 5.0, "fake-1")
        assert scores(connected.answer(questions(2))) == expected(2)


def test_shuffled_answers_are_matched_by_id():
    with running(scored(lambda answers: answers[::-1])) as server:
        assert scores(judge(server.url).answer(questions(5))) == expected(5)


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda answers: answers[:-1], "4 answers to 5"),
        (lambda answers: [*answers, answers[0].model_copy(update={"id": "more"})], "6 answers to 5"),
        (lambda answers: [answers[1], *answers[1:]], "two answers to question '1'"),
        (lambda answers: [answers[0].model_copy(update={"id": "x"}), *answers[1:]], "'x', which was not asked"),
    ],
    ids=["too few", "too many", "duplicate", "unknown"],
)
def test_answers_that_do_not_fit_are_rejected_whole(change, why):
    with running(scored(change)) as server:
        answers = judge(server.url).answer(questions(5))
    assert scores(answers) == [None] * 5 and why in reasons(answers).pop()
    assert len(server.requests) == 1


def test_a_part_that_does_not_fit_leaves_the_others_alone():
    def change(answers):
        return answers[:1] if answers[0].id == "2" else answers

    with running(scored(change)) as server:
        answers = judge(server.url, per_request=2).answer(questions(6))
    assert scores(answers) == [1.0, 1.1, None, None, 1.4, 1.5]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html><body>502 Bad Gateway, score 5</body></html>",
        '{"version":1,"judge":{"name":"fake","low":1,',
        "On a scale of 1 to 5, I rate it 2",
        "error 500 1024x1024",
        "4/5",
        "4",
        "null",
        '{"answers":[{"id":"p0/0","score":4}]}',
    ],
)
def test_what_is_no_answer_is_missing_with_a_reason(text):
    with running(says(text)) as server:
        answers = judge(server.url).answer(questions(2))
    assert scores(answers) == [None, None] and all(reason.startswith("fake: ") for reason in reasons(answers))


@pytest.mark.parametrize("score", ["NaN", "Infinity", "9e9", "-3", "null", '"4"', "5.01", "1e400"])
def test_a_score_that_is_none_is_missing(score):
    body = '{"version":1,"judge":%s,"answers":[{"id":"p0/0","score":%s},{"id":"p1/0","score":2.5}]}'
    with running(says(body % (FACTS.model_dump_json(), score))) as server:
        answers = judge(server.url).answer(questions(2))
    assert scores(answers)[0] is None and reasons(answers)
    assert scores(answers)[1] in (2.5, None)


def test_a_server_that_starts_late_is_waited_for():
    port = free_port()
    started = threading.Event()

    def late():
        started.wait(5)
        time.sleep(0.1)
        with running(scored(), port):
            done.wait(10)

    done = threading.Event()
    thread = threading.Thread(target=late, daemon=True)
    thread.start()
    started.set()
    assert scores(judge(f"http://127.0.0.1:{port}").answer(questions(3))) == expected(3)
    done.set()
    thread.join(5)


def test_a_server_that_is_down_fails_inside_the_deadline():
    began = time.monotonic()
    with pytest.raises(ServiceFailed, match=r"no answer from http://127.0.0.1:\d+: .*ConnectError"):
        judge(f"http://127.0.0.1:{free_port()}", SHORT).answer(questions(3))
    with pytest.raises(ServiceFailed, match="no answer"):
        ServedJudge.connect(Address(url=f"http://127.0.0.1:{free_port()}"), limits=SHORT)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "fault",
    [dies, dies_in_the_reply, says("oh", 500), says("oh", 503), says("slow down", 429), says("too slow", 408)],
    ids=lambda fault: fault.__name__,
)
def test_a_fault_that_passes_is_retried_under_the_same_id(fault):
    with running(in_turn(fault, fault, scored())) as server:
        assert scores(judge(server.url).answer(questions(3))) == expected(3)
    assert len(server.requests) == 3
    assert len({headers["X-Request-Id"] for _, headers, _ in server.requests}) == 1
    assert len({body for *_, body in server.requests}) == 1


def test_a_server_that_dies_in_a_batch_and_recovers_continues_it():
    with running(in_turn(scored(), dies, dies_in_the_reply, says("starting", 503), scored())) as server:
        assert scores(judge(server.url, per_request=2).answer(questions(8))) == expected(8)


def test_a_server_that_dies_in_a_batch_for_good_is_lost():
    began = time.monotonic()
    with running(in_turn(scored(), goes)) as server, pytest.raises(ServiceFailed, match="no answer"):
        judge(server.url, SHORT, per_request=1).answer(questions(8))
    assert time.monotonic() - began < 5


def test_questions_that_hang_together_cost_no_other_answer():
    """A server that has answered since they began is not lost, however many of them there are."""

    def answer(handler, body):
        (hangs if any(b'a picture of %d"' % n in body for n in (5, 20, 21)) else scored())(handler, body)

    with running(answer) as server:
        answers = judge(server.url, Limits(item=1, batch=2.5, concurrency=32), per_request=1).answer(questions(40))
    assert [n for n, score in enumerate(scores(answers)) if score is None] == [5, 20, 21]


def test_retry_after_is_honoured():
    with running(in_turn(says("busy", 429, Retry_After="1"), scored())) as server:
        began = time.monotonic()
        assert scores(judge(server.url).answer(questions(1))) == expected(1)
    assert time.monotonic() - began >= 1


def test_a_retry_after_beyond_the_deadline_is_not_waited_for():
    with running(says("busy", 429, Retry_After="3600")) as server:
        began = time.monotonic()
        with pytest.raises(ServiceFailed, match="HTTP 429 'busy'"):
            judge(server.url).answer(questions(1))
    assert time.monotonic() - began < 5 and len(server.requests) == 1


@pytest.mark.parametrize("fault", [hangs, hangs_after_headers, drips])
def test_the_deadline_holds_and_the_others_are_not_touched(fault):
    def answer(handler, body):
        (fault if b"a picture of 1" in body else scored())(handler, body)

    with running(answer) as server:
        began = time.monotonic()
        answers = judge(server.url, Limits(item=1, batch=1.5), per_request=1).answer(questions(4))
        assert time.monotonic() - began < 5
    assert scores(answers) == [1.0, None, 1.2, 1.3] and "no whole reply in 1." in reasons(answers).pop()


@pytest.mark.parametrize("fault", [hangs, hangs_after_headers, drips])
def test_a_server_that_never_answers_is_lost_inside_the_deadline(fault):
    with running(fault) as server:
        began = time.monotonic()
        with pytest.raises(ServiceFailed, match="no whole reply"):
            judge(server.url, SHORT, per_request=1).answer(questions(4))
        assert time.monotonic() - began < 5


def test_an_attempt_that_hangs_is_given_up_before_the_batch_and_made_again():
    with running(in_turn(hangs, scored())) as server:
        limits = Limits(item=0.3, batch=10)
        assert scores(judge(server.url, limits).answer(questions(2))) == expected(2)
    assert limits.item < limits.request < limits.batch
    (_, first, body), (_, second, again) = server.requests
    assert first["X-Request-Id"] == second["X-Request-Id"] and body == again
    assert first["Prefer"] == f"wait={0.9 * limits.request:.2f}"


def test_an_endless_reply_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(service, "MAX_REPLY", 1000)
    with running(says("x" * 100_000)) as server:
        assert "longer than 1,000 bytes" in reasons(judge(server.url).answer(questions(1))).pop()


def test_redirects_are_not_followed():
    with (
        running(scored()) as other,
        running(says("", 307, Location=f"{other.url}/v1/score")) as server,
        pytest.raises(ServiceFailed, match="redirects are not followed"),
    ):
        judge(server.url).answer(questions(1))
    assert not other.requests


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_the_server_refuses_is_missing_and_not_asked_again(status):
    with running(says("too large\x1b[2J", status)) as server:
        answers = judge(server.url).answer(questions(1))
    assert reasons(answers) == {f"fake: HTTP {status} 'too large [2J'"} and len(server.requests) == 1


def test_another_judge_under_the_same_address_is_not_believed():
    other = FACTS.model_copy(update={"fingerprint": "fake-2"})
    with running(scored(facts=other)) as server, pytest.raises(ServiceFailed, match="another judge"):
        judge(server.url).answer(questions(1))


def test_the_token_is_sent_and_never_shown(monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("JUDGE_TOKEN", "a-secret-of-mine")
    with running(in_turn(scored(), says("who are you?", 401))) as server:
        ours = judge(server.url, token_variable="JUDGE_TOKEN")
        ours.answer(questions(1))
        with pytest.raises(ServiceFailed, match="HTTP 401") as failed:
            ours.answer(questions(1))
    assert server.requests[0][1]["Authorization"] == "Bearer a-secret-of-mine"
    assert "a-secret-of-mine" not in caplog.text + str(failed.value) + repr(ours)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://a/b",
        "http://",
        "http://a?b=c",
        "http://me:word@a",
        "http://a:99999",
        "http://[::1",
        "http://☃.x",
    ],
)
def test_an_address_is_a_plain_url(url):
    with pytest.raises(UserMistake) as mistake:
        Address(url=url)
    assert "word" not in str(mistake.value).replace("password", "")


def test_a_token_that_is_not_set_is_a_mistake(monkeypatch):
    monkeypatch.delenv("JUDGE_TOKEN", raising=False)
    with pytest.raises(UserMistake, match="JUDGE_TOKEN"):
        Address(url="http://localhost", token_variable="JUDGE_TOKEN")


@pytest.mark.parametrize(
    "wrong", [{"item": 5, "batch": 5}, {"item": 0}, {"batch": math.inf}, {"item": math.nan}, {"concurrency": 0}]
)
def test_deadlines_nest(wrong):
    with pytest.raises(UserMistake, match="below batch"):
        Limits(**wrong)


def test_a_question_over_the_limits_of_the_wire_is_missing_alone():
    long = Question("long", "x" * 20_000, Image.new("RGB", (2, 2)))
    with running(scored()) as server:
        answers = judge(server.url).answer([long, *questions(2)])
    assert scores(answers) == [None, *expected(2)] and "cannot be sent (text" in reasons(answers).pop()


def test_a_question_is_called_by_its_row_on_the_wire_however_long_its_name_is():
    """`calibrate` calls a question by its prompt, which may be longer than a server takes ids."""
    asked = [Question(f"{'a long prompt ' * 100}{n}", f"a picture of {n}", Image.new("RGB", (2, 2))) for n in range(3)]
    with running(scored()) as server:
        answers = judge(server.url).answer(asked)
    assert scores(answers) == expected(3) and [answer.id for answer in answers] == [question.id for question in asked]


def test_pictures_travel_in_requests_of_no_more_pixels_than_the_server_takes():
    asked = [Question(f"p{n}", f"a picture of {n}", Image.new("RGB", (4, 4)), (Image.new("RGB", (4, 2)),)) for n in range(5)]
    with running(scored()) as server:
        client = replace(judge(server.url), pixels=50)
        assert scores(client.answer(asked)) == expected(5)
        assert sorted(len(json.loads(body)["questions"]) for *_, body in server.requests) == [1, 2, 2]
        assert scores(replace(client, pixels=1).answer(asked)) == expected(5), "one that is larger alone goes alone"


def test_those_turned_away_together_do_not_come_again_together(monkeypatch):
    monkeypatch.setattr(service, "FIRST_PAUSE", 0.6)
    monkeypatch.setattr(service, "LONGEST_PAUSE", 0.6)
    times = []

    def turned_away_once(handler, body):
        times.append(time.monotonic())
        if len(times) <= 6:
            handler.reply(b"", 429, Retry_After="1")
        else:
            scored()(handler, body)

    with running(turned_away_once) as server:
        assert scores(judge(server.url, per_request=1).answer(questions(6))) == expected(6)
    again = times[6:]
    assert min(again) - min(times) >= 1 and max(again) - min(again) > 0.05


def test_two_questions_of_one_id_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="'p0/0'"):
        judge("http://127.0.0.1:9").answer(questions(1) * 2)
