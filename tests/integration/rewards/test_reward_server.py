"""A judge behind our own server, asked by our own client over a real connection."""

import asyncio
import json
import multiprocessing
import os
import signal
import threading
import time
from contextlib import contextmanager
from functools import partial

import httpx
import pytest
import torch
import uvicorn
from faulty_server import free_port
from PIL import Image

from tastemaker.errors import ServiceFailed, UserMistake
from tastemaker.rewards import schema, service
from tastemaker.rewards.batching import Repetitions, ServerLimits
from tastemaker.rewards.cache import CachedJudge
from tastemaker.rewards.endpoint import ServedJudge
from tastemaker.rewards.judge import Answer, JudgeReward, Question
from tastemaker.rewards.pipeline import ScoringPipeline, joined
from tastemaker.rewards.reward import Missing, score_all
from tastemaker.rewards.server import create_app, open_door, serve
from tastemaker.rewards.service import Address, Limits
from tastemaker.types import Prompt

TOKEN = "a-token-of-the-tests"


def red(question):
    return float("nan") if question.text == "nan" else 1 + question.picture.getpixel((0, 0))[0] / 100


class Judge:
    """Scores a picture by its red; the text may tell it to break. Remembers the size of its batches."""

    name, low, high, fingerprint = "red", 1.0, 5.0, "red-1"

    def __init__(self, seconds=0.0):
        self.seconds, self.batches, self.down = seconds, [], False

    def answer(self, questions):
        self.batches.append(len(questions))
        time.sleep(self.seconds)
        if self.down:
            raise ServiceFailed("the judge's own server is down")
        if any(question.text == "break" for question in questions):
            raise RuntimeError("this picture breaks it")
        # In another order: the server matches by id.
        return [Answer(q.id, float("nan") if q.text == "nan" else 1 + q.picture.getpixel((0, 0))[0] / 100) for q in questions][
            ::-1
        ]


def questions(count, first=0, text="red"):
    return [Question(f"p{n}", text, Image.new("RGB", (4, 4), (n, 0, 0))) for n in range(first, first + count)]


def expected(count, first=0):
    return [1 + n / 100 for n in range(first, first + count)]


def scores(answers):
    return [None if isinstance(answer.score, Missing) else answer.score for answer in answers]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(service, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(service, "LONGEST_PAUSE", 0.05)


@contextmanager
def served(judge, token=None, deadline=2.0, **limits):
    """The URL of a running server."""
    app = create_app(judge, token=token, limits=ServerLimits(deadline=deadline, **limits))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def connect(url, token_variable=None, item=20.0, batch=30.0, per_request=16):
    return ServedJudge.connect(
        Address(url=url, token_variable=token_variable), limits=Limits(item=item, batch=batch), per_request=per_request
    )


def test_a_served_judge_answers_like_the_judge():
    judge = Judge()
    with served(judge, batch=5) as url:
        client = connect(url, per_request=4)
        assert (client.name, client.low, client.high, client.fingerprint) == ("red", 1.0, 5.0, "red-1")
        answers = client.answer(questions(17))
    assert scores(answers) == pytest.approx(expected(17)) and [a.id for a in answers] == [f"p{n}" for n in range(17)]
    assert sum(judge.batches) == 17 and max(judge.batches) <= 5


def test_from_pictures_to_scores_and_back(tmp_path):
    """Pipeline, reward, cache, client, wire, server and judge: the pixels that are judged are those that were drawn."""
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = [Prompt(str(row), "red") for row in range(6)]
    local, remote = Judge(), Judge()
    with served(remote, batch=4) as url:
        reward = JudgeReward(CachedJudge(connect(url), tmp_path))
        with ScoringPipeline(partial(score_all, [reward]), deadline=60) as scoring:
            handles = [scoring.submit(at, images[at : at + 2], prompts[at : at + 2]) for at in (0, 2, 4, 0)]
            there = joined([scoring.collect(handle) for handle in handles])
    here = score_all([JudgeReward(local)], images, prompts)
    assert torch.equal(there.values_BR, torch.cat([here.values_BR, here.values_BR[:2]])) and not there.missing
    assert sum(remote.batches) == 6


def test_questions_of_several_requests_become_one_batch():
    judge = Judge()
    with served(judge, batch=8, wait=5.0, deadline=10.0) as url:
        assert scores(connect(url, per_request=1).answer(questions(8))) == pytest.approx(expected(8))
    assert judge.batches == [8]


def test_a_batch_that_is_not_full_does_not_wait_long():
    judge = Judge()
    with served(judge, batch=8, wait=0.05) as url:
        assert scores(connect(url).answer(questions(3))) == pytest.approx(expected(3))
    assert judge.batches == [3]


def test_a_question_that_breaks_the_judge_is_missing_alone():
    with served(Judge(), wait=1.0, batch=5) as url:
        answers = connect(url).answer([*questions(4), *questions(1, 9, text="break")])
    assert scores(answers) == pytest.approx([*expected(4), None]) and answers[-1].score.reason.endswith("RuntimeError")


def test_a_judge_that_says_nan_says_nothing():
    with served(Judge()) as url:
        assert connect(url).answer(questions(1, text="nan"))[0].score == Missing("the score is nan")


def test_a_judge_that_is_down_is_tried_again_until_the_deadline():
    judge = Judge()
    with served(judge) as url:
        client = connect(url, item=2.5, batch=3)
        judge.down = True
        with pytest.raises(ServiceFailed, match="own server is down"):
            client.answer(questions(2))
        assert len(judge.batches) > 1
        judge.down = False
        assert scores(client.answer(questions(2))) == pytest.approx(expected(2))


def test_what_the_judge_does_not_finish_in_time_is_asked_again():
    """And not remembered as an answer."""
    judge = Judge(seconds=0.5)
    with served(judge, deadline=0.1) as url:
        with httpx.Client(base_url=url, timeout=20) as http:
            reply = post(http, body(questions(2)), **{"X-Request-Id": "one"})
            assert reply.status_code == 503 and int(reply.headers["Retry-After"]) >= 1
            assert "took longer than 0.1 s for 2 questions (--deadline, --batch)" in reply.json()["error"]["message"]
            judge.seconds = 0.0
            time.sleep(0.6)
            assert post(http, body(questions(2)), **{"X-Request-Id": "one"}).status_code == 200
        judge.seconds = 0.5
        with pytest.raises(ServiceFailed, match=r"took longer than 0\.1 s"):
            connect(url, item=1, batch=1.5).answer(questions(2))


def test_time_in_the_queue_is_not_the_judges():
    """A slow judge that keeps its own deadline scores a whole rollout: 512 pictures at once, scaled in time.

    They take 3 s and more, three times the server's deadline and longer than one attempt of the client.
    """
    limits = Limits(item=1.2, batch=8)
    assert limits.item < limits.request < 3.2 < limits.batch
    with served(Judge(seconds=0.1), batch=16, deadline=1.0) as url:
        client = ServedJudge.connect(Address(url=url), limits=limits)
        answers = client.answer([Question(f"p{n}", "red", Image.new("RGB", (4, 4), (n % 256, 0, 0))) for n in range(512)])
        metrics = httpx.get(f"{url}/metrics").text
    assert None not in scores(answers)
    assert 'status="503"' in metrics or 'status="429"' in metrics


def test_more_than_a_client_waits_for_is_turned_away():
    """Also where the queue has room; and what the client gave up waiting for is not judged."""

    async def ask(url):
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            await post(http, body(questions(1)))  # now the pace is known: 5 a second
            return await asyncio.gather(*(post(http, body(questions(1, n)), Prefer="wait=0.5") for n in range(6)))

    judge = Judge(seconds=0.2)
    with served(judge, batch=1) as url:
        replies = asyncio.run(ask(url))
        time.sleep(0.3)
        assert httpx.get(f"{url}/metrics").text.endswith("waiting 0\n")
    statuses = [reply.status_code for reply in replies]
    assert statuses.count(429) >= 3 and statuses.count(200) >= 1 and sum(judge.batches) <= 4


def test_the_servers_deadline_must_be_below_the_clients():
    with served(Judge(), deadline=30.0) as url:
        assert connect(url, item=31, batch=40).fingerprint == "red-1"
        with pytest.raises(UserMistake, match=r"30 s for a batch, which must be below deadlines\.item = 30 s"):
            connect(url, item=30, batch=40)


def test_a_full_queue_turns_away_and_the_client_comes_again():
    judge = Judge(seconds=0.05)
    with served(judge, batch=2, queue=4) as url:
        assert scores(connect(url, per_request=2).answer(questions(10))) == pytest.approx(expected(10))
        metrics = httpx.get(f"{url}/metrics").text
    assert 'requests_total{status="429"}' in metrics and sum(judge.batches) == 10


def test_a_full_queue_says_when_to_come_again():
    async def all_at_once(url):
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            return await asyncio.gather(*(post(http, body(questions(1, n))) for n in range(6)))

    with served(Judge(seconds=0.2), batch=1, queue=1) as url:
        replies = asyncio.run(all_at_once(url))
    turned_away = [reply for reply in replies if reply.status_code == 429]
    assert {reply.status_code for reply in replies} == {200, 429}
    assert all(int(reply.headers["Retry-After"]) >= 1 for reply in turned_away)


def test_a_request_that_never_fits_is_not_asked_to_come_again():
    with served(Judge(), batch=1, queue=1) as url, httpx.Client(base_url=url, timeout=20) as http:
        assert post(http, body(questions(2))).status_code == 413


def body(asked):
    return schema.ScoreRequest(questions=tuple(map(schema.asked, asked))).model_dump_json()


def post(http, body, path="/v1/score", **headers):
    return http.post(path, content=body, headers={"Content-Type": "application/json", **headers})


def test_a_request_sent_again_gets_the_first_answers():
    judge = Judge(seconds=0.05)
    same, other = body(questions(1, 1)), body(questions(1, 2))
    with served(judge) as url, httpx.Client(base_url=url, timeout=20) as http:
        first, second = (post(http, same, **{"X-Request-Id": "one"}).content for _ in range(2))
        assert first == second and judge.batches == [1]
        assert post(http, other, **{"X-Request-Id": "one"}).json()["answers"][0]["score"] == pytest.approx(1.02)
        post(http, same)
    assert judge.batches == [1, 1, 1]


def test_repetitions_are_bounded_and_failures_forgotten():
    async def check():
        kept, calls = Repetitions(most=2), []

        async def work(name):
            calls.append(name)
            if name == "bad":
                raise ServiceFailed("no")
            return name

        for name in ("a", "b", "c", "c", "a", None, None):
            assert await kept.once(name, b"", lambda name=name: work(name)) == name
        for _ in range(2):
            with pytest.raises(ServiceFailed):
                await kept.once("bad", b"", lambda: work("bad"))
        return calls

    assert asyncio.run(check()) == ["a", "b", "c", "a", None, None, "bad", "bad"]


def chat(*pictures, text="red", **more):
    parts = [{"type": "text", "text": text}, *({"type": "image_url", "image_url": {"url": url}} for url in pictures)]
    return json.dumps({"model": "red", "messages": [{"role": "user", "content": parts}], **more})


def data_url(n):
    return f"data:image/png;base64,{schema.png_base64(Image.new('RGB', (4, 4), (n, 0, 0)))}"


def test_any_openai_client_can_ask():
    with served(Judge()) as url, httpx.Client(base_url=url, timeout=20) as http:
        reply = post(http, chat(data_url(1), data_url(50)), "/v1/chat/completions").json()
        assert http.get("/v1/models").json()["data"][0]["id"] == "red"
    choice = reply["choices"][0]
    assert reply["object"] == "chat.completion" and choice["finish_reason"] == "stop"
    assert json.loads(choice["message"]["content"]) == {"score": 1.5, "reason": "", "rationale": "", "mass": None}


@pytest.mark.parametrize(
    "body",
    [
        chat("/etc/passwd"),
        chat("file:///etc/passwd"),
        chat("http://127.0.0.1:1/a.png"),
        chat("data:image/jpeg;base64,QUJD"),
        chat(),
        chat(data_url(1), temprature=0.5),
        chat(data_url(1), stream=True),
        chat(data_url(1), n=2),
        chat(data_url(1), logprobs=True),
        chat(data_url(1)).replace('"user"', '"system"'),
        json.dumps({"model": "red", "messages": [{"role": "user", "content": "red"}]}),
    ],
    ids=["path", "file", "url", "jpeg", "none", "misspelt", "stream", "several", "no probabilities", "system", "words"],
)
def test_the_chat_takes_pixels_and_nothing_that_would_be_missed(body):
    with served(Judge()) as url, httpx.Client(base_url=url, timeout=20) as http:
        reply = post(http, body, "/v1/chat/completions")
    assert reply.status_code in (400, 422) and reply.json()["error"]["message"]


STANDARD = {
    **{"max_tokens": 9, "max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["x"], "n": 1},
    **{"stream": False, "user": "me", "logprobs": False, "top_logprobs": 5, "presence_penalty": 0, "frequency_penalty": 0.5},
}


def test_standard_settings_of_a_chat_change_nothing():
    with served(Judge()) as url, httpx.Client(base_url=url, timeout=20) as http:
        plain, more = (post(http, chat(data_url(50), **one), "/v1/chat/completions").json() for one in ({}, STANDARD))
    assert plain["choices"] == more["choices"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"questions": []}', b"\x80\x04\x95pickle"])
def test_what_is_no_request_is_refused(body):
    with served(Judge()) as url, httpx.Client(base_url=url, timeout=20) as http:
        reply = post(http, body)
    assert reply.status_code == 422 and reply.json()["error"]["message"]


def test_a_picture_that_cannot_be_read_is_missing_alone():
    good, bad = (schema.asked(question) for question in questions(2))
    body = schema.ScoreRequest(questions=(bad.model_copy(update={"picture": "QUJD"}), good)).model_dump_json()
    with served(Judge()) as url, httpx.Client(base_url=url, timeout=20) as http:
        one, two = post(http, body).json()["answers"]
    assert one["score"] is None and "no PNG" in one["reason"] and two["score"] == pytest.approx(1.0)


def test_pictures_of_a_request_are_bounded_together():
    with served(Judge(), pixels=40) as url, httpx.Client(base_url=url, timeout=20) as http:
        asked = [schema.asked(question) for question in questions(3)]
        *two, third = post(http, schema.ScoreRequest(questions=tuple(asked)).model_dump_json()).json()["answers"]
        assert [one["score"] for one in two] == pytest.approx(expected(2))
        assert third["score"] is None and "4 x 4 pixels" in third["reason"]
        assert scores(connect(url).answer(questions(7))) == pytest.approx(expected(7)), "our client knows the bound"


def test_a_client_learns_how_many_questions_a_server_takes():
    with served(Judge(), queue=8, batch=4) as url:
        client = connect(url, per_request=16)
        assert client.per_request == 8 and scores(client.answer(questions(20))) == pytest.approx(expected(20))


def test_a_judge_that_fails_on_everything_is_broken_and_not_without_scores():
    """As after a fault of its device. Once it answers again, all is well."""
    judge = Judge()
    with served(judge) as url, httpx.Client(base_url=url, timeout=20) as http:
        client = connect(url, per_request=8, item=3.0, batch=4.0)
        assert scores(client.answer(questions(8, text="break"))) == [None] * 8, "these questions may be to blame"
        with pytest.raises(ServiceFailed, match="fails on every question"):
            for first in (8, 16, 24):
                client.answer(questions(8, first, text="break"))
        assert http.get("/health").status_code == 503
        assert scores(client.answer(questions(8))) == pytest.approx(expected(8))
        assert http.get("/health").status_code == 200


def test_the_chat_asks_again_where_there_was_no_score():
    """Whoever asks by the rubric asks under no id of its own; what failed for one is not what another gets."""
    kept, calls = Repetitions(), []

    async def work():
        calls.append(1)
        return [Answer("a", 3.0 if len(calls) > 1 else Missing("broke down"))]

    def scored(answers):
        return not any(isinstance(answer.score, Missing) for answer in answers)

    async def ask():
        return [(await kept.once("chat", b"a", work, scored))[0].score for _ in range(3)]

    assert asyncio.run(ask()) == [Missing("broke down"), 3.0, 3.0] and len(calls) == 2


def test_a_place_that_is_taken_or_unknown_is_one_line():
    with open_door(port=0) as door:
        door.listen()
        port = door.getsockname()[1]
        with pytest.raises(UserMistake, match=rf"nothing can listen on 127\.0\.0\.1:{port} .*--port or --host"):
            open_door(port=port)
    with pytest.raises(UserMistake, match="--port or --host"):
        open_door(port=99999)


def test_large_requests_and_other_content_are_refused_unread():
    with served(Judge(), body=1000) as url, httpx.Client(base_url=url, timeout=20) as http:
        assert post(http, "x" * 2000).status_code == 413
        assert post(http, (b"x" * 500 for _ in range(4))).status_code == 413  # says no length
        assert http.post("/v1/score", content="{}", headers={"Content-Type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("given", [None, "Bearer wrong", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_without_the_token_there_is_only_health(given):
    headers = {} if given is None else {"Authorization": given}
    with served(Judge(), token=TOKEN) as url, httpx.Client(base_url=url, headers=headers, timeout=20) as http:
        statuses = [http.get(path).status_code for path in ("/v1/judge", "/v1/models", "/metrics", "/health")]
        assert [*statuses, post(http, "{}").status_code] == [401, 401, 401, 200, 401]


def test_with_the_token_all_is_well(monkeypatch):
    monkeypatch.setenv("JUDGE_TOKEN", TOKEN)
    with served(Judge(), token=TOKEN) as url:
        assert scores(connect(url, "JUDGE_TOKEN").answer(questions(2))) == pytest.approx(expected(2))


def test_health_and_metrics():
    with served(Judge()) as url, httpx.Client(base_url=url, timeout=20) as http:
        connect(url).answer([*questions(3), *questions(1, 9, text="nan")])
        assert http.get("/health").json() == {"status": "ok"}
        lines = http.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values["tastemaker_judge_questions_total"] == "4" and values["tastemaker_judge_missing_total"] == "1"
    assert values['tastemaker_judge_requests_total{status="200"}'] == "3" and values["tastemaker_judge_waiting"] == "0"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "judge.example"])
def test_other_machines_need_a_token(host, monkeypatch):
    monkeypatch.delenv("TASTEMAKER_JUDGE_TOKEN", raising=False)
    with pytest.raises(UserMistake, match="TASTEMAKER_JUDGE_TOKEN"):
        serve(Judge(), host=host)
    monkeypatch.setenv("TASTEMAKER_JUDGE_TOKEN", "short")
    with pytest.raises(UserMistake, match="16 characters"):
        serve(Judge(), host=host)


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"batch": 9, "queue": 8}, {"wait": 50.0}, {"deadline": float("inf")}, {"body": 0}]
)
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(UserMistake):
        ServerLimits(**wrong)


def _serve(port):
    serve(Judge(seconds=0.3), port=port)
    os._exit(7)  # came back from serve, not killed


def test_sigterm_finishes_what_was_begun_and_ends_cleanly():
    port = free_port()
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(port,))
    process.start()
    client = connect(f"http://127.0.0.1:{port}", item=60, batch=90)
    answers = []
    asking = threading.Thread(target=lambda: answers.extend(client.answer(questions(2))))
    asking.start()
    time.sleep(0.15)
    os.kill(process.pid, signal.SIGTERM)
    asking.join(30)
    process.join(30)
    assert process.exitcode == 7 and scores(answers) == pytest.approx(expected(2))
