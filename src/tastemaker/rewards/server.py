"""Hosts a judge over HTTP: `serve(judge)`, or `create_app(judge)` for a server of your own.

    POST /v1/score               many questions (`schema.ScoreRequest`); `endpoint.ServedJudge` is the client
    POST /v1/chat/completions    one question in the shape of OpenAI's chat (`chat_protocol.py`)
    GET  /v1/judge, /v1/models   who answers
    GET  /health, /metrics       for whatever watches: 200 while questions are taken; Prometheus text

Questions of all requests are put together into batches for the judge, which runs in one thread. When too many wait, or more
than the judge answers in the seconds that a client waits (`Prefer: wait=50`), the reply is 429 with Retry-After; when they were
not answered in time after all, it is 503. A request that is sent again under its `X-Request-Id` gets the first one's answers.
Pictures come as base64 PNG; no path or URL in a request is opened, and nothing is unpickled. Without a token it listens on this
machine alone.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from tastemaker.errors import ServiceFailed, UserMistake
from tastemaker.rewards.batching import Batcher, Busy, Repetitions, ServerLimits
from tastemaker.rewards.chat_protocol import ChatRequest, completion, question_in
from tastemaker.rewards.judge import Answer, Judge, Question
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.schema import (
    MAX_PIXELS,
    MAX_QUESTIONS,
    AskedQuestion,
    ScoreRequest,
    ScoreResponse,
    ServerFacts,
    facts,
    given,
    question_of,
)

TOKEN_VARIABLE = "TASTEMAKER_JUDGE_TOKEN"
SHORTEST_TOKEN = 16
WAIT = 120.0
"""Seconds that a client is taken to wait for a reply, if it does not say."""


class Unwanted(Exception):
    """A request that cannot be answered, with its HTTP status."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


def create_app(judge: Judge, *, token: str | None = None, limits: ServerLimits | None = None) -> FastAPI:
    """The application. With a `token`, all but /health wants it as `Authorization: Bearer TOKEN`."""
    service = _Service(judge, token, limits or ServerLimits())
    app = FastAPI(title="tastemaker judge", lifespan=service.running, docs_url=None, redoc_url=None, openapi_url=None)
    wants_token = [Depends(service.authorised)]
    app.post("/v1/score", dependencies=wants_token)(service.score)
    app.post("/v1/chat/completions", dependencies=wants_token)(service.chat)
    app.get("/v1/judge", dependencies=wants_token)(service.who)
    app.get("/v1/models", dependencies=wants_token)(service.models)
    app.get("/health")(service.health)
    app.get("/metrics", dependencies=wants_token)(service.metrics)
    app.middleware("http")(service.counted)
    app.exception_handler(Unwanted)(_unwanted)
    app.exception_handler(Busy)(_busy)
    app.exception_handler(ServiceFailed)(_failed)
    return app


class _Service:
    """A judge with its queue, and what it has been asked so far; a method for each request."""

    def __init__(self, judge: Judge, token: str | None, limits: ServerLimits):
        self.judge, self.token, self.limits, self.about = judge, token, limits, facts(judge)
        most = min(limits.queue, MAX_QUESTIONS)
        self.introduction = ServerFacts(
            **self.about.model_dump(), deadline=limits.deadline, questions=most, pixels=limits.pixels
        )
        self.batcher, self.repetitions = Batcher(judge, limits), Repetitions()
        self.statuses: Counter[int] = Counter()

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        self.batcher.start()
        yield
        await self.batcher.stop()

    def authorised(self, request: Request) -> None:
        given = request.headers.get("Authorization", "").encode()
        if self.token is not None and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            raise Unwanted(401, "this server wants its token: Authorization: Bearer TOKEN")

    async def counted(self, request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await follow(request)
        self.statuses[response.status_code] += 1
        return response

    async def score(self, request: Request) -> Response:
        body = await _body(request, self.limits)
        sent = _parsed(ScoreRequest, body)
        answers = await self._answers_to(request.headers.get("X-Request-Id"), body, sent.questions, _patience(request))
        response = ScoreResponse(judge=self.about, answers=tuple(given(answer) for answer in answers))
        return Response(response.model_dump_json(), media_type="application/json")

    async def chat(self, request: Request) -> Response:
        body = await _body(request, self.limits)
        sent = _parsed(ChatRequest, body)
        try:
            asked = question_in(sent, self.judge)
            # Whoever asks by the rubric asks twice, for rationale and score; the second time gets what is known.
            key = "chat" if asked.by_rubric else request.headers.get("X-Request-Id")
            body = asked.question.model_dump_json().encode() if asked.by_rubric else body
            (answer,) = await self._answers_to(
                key, body, [asked.question], _patience(request), is_repetition=not asked.by_rubric
            )
            return JSONResponse(completion(sent, asked, answer, self.about.name))
        except ValidationError as error:
            raise Unwanted(422, _mistakes(error)) from None
        except ValueError as error:
            raise Unwanted(422, str(error)) from None

    async def _answers_to(
        self,
        key: str | None,
        body: bytes,
        sent: Sequence[AskedQuestion],
        wait: float,
        *,
        is_repetition: bool = True,
    ) -> list[Answer]:
        """Of what was asked before under the same key and body the same answers, unless the key is None.

        A key that is not a request's own, and so no repetition of it, does not keep a missing score: the next may get one.
        """
        limits = self.limits
        if len(sent) > limits.queue:
            raise Unwanted(413, f"{len(sent)} questions in a request, but no more than {limits.queue} may wait; send fewer")

        async def work() -> list[Answer]:
            self.batcher.check_room(len(sent), wait)  # before work goes into decoding
            opened = await asyncio.to_thread(_opened, sent, limits.pixels)
            answers = iter(await self.batcher.answer([one for one in opened if isinstance(one, Question)], wait))
            return [one if isinstance(one, Answer) else next(answers) for one in opened]

        def is_whole(answers: list[Answer]) -> bool:
            return is_repetition or not any(isinstance(answer.score, Missing) for answer in answers)

        return await self.repetitions.once(key, body, work, is_whole)

    async def who(self) -> Response:
        return Response(self.introduction.model_dump_json(), media_type="application/json")

    async def models(self) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.about.name, "object": "model", "owned_by": "tastemaker"}]})

    async def health(self) -> Response:
        alive = self.batcher.alive
        return JSONResponse({"status": "ok" if alive else "down"}, 200 if alive else 503)

    async def metrics(self) -> Response:
        return PlainTextResponse(_prometheus(self.batcher, self.statuses), media_type="text/plain; version=0.0.4")


async def _unwanted(request: Request, error: Unwanted) -> Response:
    return _problem(error.status, str(error), {"WWW-Authenticate": "Bearer"} if error.status == 401 else {})


async def _busy(request: Request, error: Busy) -> Response:
    return _problem(error.status, str(error), {"Retry-After": str(error.after)})


async def _failed(request: Request, error: ServiceFailed) -> Response:
    return _problem(503, str(error), {"Retry-After": "1"})


def serve(
    judge: Judge,
    *,
    host: str = "127.0.0.1",
    port: int = 8100,
    token_variable: str = TOKEN_VARIABLE,
    limits: ServerLimits | None = None,
    door: socket.socket | None = None,
) -> None:
    """Serves until SIGTERM or Ctrl-C; what is being judged is then finished, within the limits' deadline.

    `door` is what `open_door` gave for the same host, port and variable, if that was asked before. Raises UserMistake as it.
    """
    limits = limits or ServerLimits()
    door = door or open_door(host, port, token_variable)
    app = create_app(judge, token=_token(token_variable), limits=limits)
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.requests,
        timeout_graceful_shutdown=math.ceil(limits.deadline),
    )
    # uvicorn stops at the signal and then raises it again for the handler that was there before: this one.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        uvicorn.Server(config).run(sockets=[door])
    finally:
        door.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def open_door(host: str = "127.0.0.1", port: int = 8100, token_variable: str = TOKEN_VARIABLE) -> socket.socket:
    """The place where a server will listen, taken before a judge is loaded. A port of 0 is one that is free.

    Raises UserMistake when it cannot be had, when the environment variable `token_variable` holds no token and `host` is not
    this machine alone, and when the token is too short to be a secret.
    """
    token = _token(token_variable)
    if token is None and not _is_loopback(host):
        raise UserMistake(
            f"{host} can be reached from elsewhere: set the environment variable {token_variable} to a token first"
        )
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise UserMistake(f"the token in {token_variable} is shorter than {SHORTEST_TOKEN} characters; take a longer one")
    try:
        if not 0 <= port < 2**16:
            raise OverflowError("a port is a number below 65536")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        door = socket.socket(family, kind, protocol)
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
        except OSError:
            door.close()
            raise
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserMistake(f"nothing can listen on {host}:{port} ({why}); choose another --port or --host") from None
    return door


def _token(variable: str) -> str | None:
    return os.environ.get(variable, "").strip() or None


def _opened(sent: Sequence[AskedQuestion], most_pixels: int) -> list[Question | Answer]:
    """The questions with their pictures decoded; one whose pictures cannot be, or are too many, has its answer already."""
    opened: list[Question | Answer] = []
    for one in sent:
        try:
            question = question_of(one, min(most_pixels, MAX_PIXELS))
        except ValueError as error:
            opened.append(Answer(one.id, Missing(str(error))))
            continue
        most_pixels -= sum(picture.width * picture.height for picture in (question.picture, *question.sources))
        opened.append(question)
    return opened


async def _body(request: Request, limits: ServerLimits) -> bytes:
    """The bytes of a request of JSON. What is too long or too slow is not read to its end."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
        raise Unwanted(415, "send application/json")  # which a page in a browser cannot do unasked
    too_long = Unwanted(413, f"the request is longer than {limits.body:,} bytes; send fewer questions at a time")
    declared = request.headers.get("Content-Length", "")
    if re.fullmatch(r"\d+", declared) and int(declared) > limits.body:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(limits.deadline):
            async for piece in request.stream():
                body += piece
                if len(body) > limits.body:
                    raise too_long
    except ClientDisconnect:
        raise Unwanted(400, "the request ended before its end") from None
    except TimeoutError:
        raise Unwanted(408, f"the request did not arrive within {limits.deadline:g} s") from None
    return bytes(body)


def _patience(request: Request) -> float:
    """Seconds that the client waits for a reply (RFC 7240, with decimals)."""
    told = re.search(r"\bwait=(\d{1,6}(?:\.\d{1,6})?)", request.headers.get("Prefer", ""))
    return float(told[1]) if told else WAIT


def _parsed(kind: type[Any], body: bytes) -> Any:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise Unwanted(422, _mistakes(error)) from None


def _mistakes(error: ValidationError) -> str:
    """Where and what, for the first five; never the input, which may be megabytes."""
    shown = error.errors(include_url=False, include_input=False, include_context=False)[:5]
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in shown)


def _problem(status: int, message: str, headers: dict[str, str]) -> Response:
    return JSONResponse({"error": {"message": message, "type": "error", "code": status}}, status, headers)


def _prometheus(batcher: Batcher, statuses: Counter[int]) -> str:
    counts = batcher.counts
    lines = ["# TYPE tastemaker_judge_requests_total counter"]
    lines += [f'tastemaker_judge_requests_total{{status="{status}"}} {count}' for status, count in sorted(statuses.items())]
    for name, kind, value in (
        ("questions_total", "counter", counts["questions"]),
        ("missing_total", "counter", counts["missing"]),
        ("batches_total", "counter", counts["batches"]),
        ("seconds_total", "counter", counts["judge_milliseconds"] / 1000),
        ("waiting", "gauge", batcher.waiting),
    ):
        lines += [f"# TYPE tastemaker_judge_{name} {kind}", f"tastemaker_judge_{name} {value}"]
    return "\n".join(lines) + "\n"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
