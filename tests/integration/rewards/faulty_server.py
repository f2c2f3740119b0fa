"""A real HTTP server in a thread that answers as a test tells it to, well or badly."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tastemaker.rewards.schema import GivenAnswer, JudgeFacts, ScoreRequest, ScoreResponse

FACTS = JudgeFacts(name="fake", low=1.0, high=5.0, fingerprint="fake-1")


class Faulty(ThreadingHTTPServer):
    """`answer(handler, body)` replies to a POST; `requests` are (path, headers, body) of all of them so far."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[Any, bytes], None], port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.requests, self.over, self.gone = answer, [], threading.Event(), False
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that leaves is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.server.gone:
            return dies(self, b"")
        self.reply(FACTS.model_dump_json().encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
        self.server.answer(self, body)

    def reply(self, body: bytes, status: int = 200, **headers: str):
        self.begin(len(body), status, **headers)
        self.wfile.write(body)

    def begin(self, length: int, status: int = 200, **headers: str):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.flush()

    def log_message(self, *arguments):
        pass


@contextmanager
def running(answer, port: int = 0):
    server = Faulty(answer, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Ways to answer.


def hangs(handler, body):
    handler.server.over.wait(20)


def hangs_after_headers(handler, body):
    handler.begin(1000)
    handler.server.over.wait(20)


def drips(handler, body):
    """A byte again and again: a timeout between bytes never fires."""
    handler.begin(100_000)
    with suppress(OSError):
        while not handler.server.over.wait(0.01):
            handler.wfile.write(b" ")
            handler.wfile.flush()


def dies(handler, body):
    """Closes the connection with a reset, without a word."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def goes(handler, body):
    """Dies, and answers nothing from now on."""
    handler.server.gone = True
    dies(handler, body)


def dies_in_the_reply(handler, body):
    handler.begin(1000)
    handler.wfile.write(b'{"version"')
    handler.wfile.flush()
    handler.close_connection = True


def says(text: str | bytes, status: int = 200, **headers: str):
    data = text.encode() if isinstance(text, str) else text
    return lambda handler, body: handler.reply(data, status, **headers)


def in_turn(*ways):
    """The first request is answered the first way, and so on; the last way stays."""

    def answer(handler, body):
        with handler.server.lock:
            number = len(handler.server.requests)
            turn = getattr(handler.server, "turn", 0)
            handler.server.turn = turn + 1
        assert number
        ways[min(turn, len(ways) - 1)](handler, body)

    return answer


def scored(change: Callable[[list[GivenAnswer]], Any] = lambda answers: answers, facts: JudgeFacts = FACTS):
    """Gives question "a picture of N" the score 1 + N / 10, after `change` to the list of answers."""

    def answer(handler, body):
        asked = ScoreRequest.model_validate_json(body).questions
        answers = [GivenAnswer(id=one.id, score=1 + int(one.text.split()[-1]) / 10) for one in asked]
        handler.reply(ScoreResponse(judge=facts, answers=tuple(change(answers))).model_dump_json().encode())

    return answer


def completion(text: str | None = None, top: dict[str, float] | None = None, **choice: Any) -> bytes:
    """A chat completion: words, or the log-probabilities of one token."""
    logprobs = None
    if top is not None:
        listed = [{"token": token, "logprob": value, "bytes": None} for token, value in top.items()]
        logprobs = {"content": [{"token": listed[0]["token"] if listed else "", "logprob": -1.0, "top_logprobs": listed}]}
    whole = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": logprobs}
    return json.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": [whole | choice]}).encode()
