"""Requests to a server that may be down, slow or broken: the one place with deadlines, retries and the token.

A request ends in one of three ways: with the bytes of a reply, with `NoReply` (nothing came in time, whatever was tried) or
with `Refused` (the server does not want it, and would not want it a second time). What the bytes mean is the caller's.

Retried are lost connections, 408, 429 and 5xx, under the same request id, after pauses that double and are jittered, until the
deadline; nothing else retries. Redirects are not followed, and neither proxies nor passwords are taken from the environment.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import ssl
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from tastemaker.errors import ServiceFailed, UserMistake

FIRST_PAUSE = 0.25
"""Seconds before the second attempt; each later pause is twice as long, up to LONGEST_PAUSE, times a random 0.5 to 1."""
LONGEST_PAUSE = 8.0
CONNECT = 10.0
"""Seconds that an attempt may take to connect."""
MAX_REPLY = 2**24
"""Bytes of a reply that are read."""
LOST_AFTER = 3
"""Units of work in a row without a reply after which a server counts as lost."""
TOLD = 0.9
"""Share of an attempt's seconds that the server is told it has; the rest is for the way."""
PROBE = 2.0
"""Seconds that a server has to answer anything at all, when it has answered others since a unit without a reply began."""
WRONG_ADDRESS = (401, 403, 404, 405)
"""The server is not what was meant, or does not know us: no question will fare better."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds, retries included, and how much is asked at a time.

    `item` is for one picture, counted from its first request; `batch` for all pictures of one call, and must be longer. The
    item's must be longer than the server's own, or finished work is thrown away. `request` follows from both.
    """

    item: float = 60.0
    batch: float = 300.0
    concurrency: int = 32
    """Most requests at a time."""

    def __post_init__(self) -> None:
        if not 0 < self.item < self.batch < math.inf or self.concurrency < 1:
            raise UserMistake(f"{self}: item must be above 0 and below batch, and concurrency at least 1")

    @property
    def request(self) -> float:
        """For one attempt at pictures that travel together, their time in the server's queue included: between the two."""
        return math.sqrt(self.item * self.batch)


class NoReply(Exception):
    """No whole reply before the deadline; says what was seen last."""


class Refused(Exception):
    """The server answered that this request is wrong."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is. Its token comes from the environment variable `token_variable` whenever it is needed; it is neither
    stored nor shown. Raises UserMistake for what is no plain http(s) URL and for a variable that is not set."""

    url: str
    token_variable: str | None = None

    def __post_init__(self) -> None:
        parts = _parts(self.url)
        if parts is None or parts.query or parts.fragment:
            raise UserMistake(f"{_plain(self.url)!r} is no address of a server; write one like http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None:
            raise UserMistake(
                f"the address of {parts.hostname} holds a name or password, which would be logged; use a token_variable"
            )
        self.headers()

    def headers(self) -> dict[str, str]:
        """Of every request."""
        if self.token_variable is None:
            return {}
        token = os.environ.get(self.token_variable, "").strip()
        if not token or not token.isascii() or not token.isprintable():
            raise UserMistake(f"the environment variable {self.token_variable} holds no token for {self.url}; set it")
        return {"Authorization": f"Bearer {token}"}

    def at(self, path: str) -> str:
        return self.url.rstrip("/") + path


class Line:
    """Connections to one server for the time of one call, in `async with`. Work given to `each` is done side by side."""

    def __init__(self, address: Address, *, concurrency: int, deadline: float):
        self._address, self._deadline = address, deadline
        self._slots = asyncio.Semaphore(concurrency)
        self._unanswered = 0
        self._replied = -math.inf
        self._last = NoReply("nothing was asked in time")
        self._client = _connections(address, concurrency)
        self._ends = _now() + deadline

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.aclose()

    async def each(self, work: Sequence[Any], do: Callable[[Any, float], Awaitable[Any]], deadline: float) -> list[Any]:
        """The results of `do(unit, ends)` for each unit of work, in order; `NoReply` and `Refused` are returned, not raised.

        A unit has `deadline` seconds, counted from when it begins, and all of them together the line's. Raises ServiceFailed
        when `LOST_AFTER` units in a row, or all there are, had no reply. A unit is not counted if others were answered since it
        began and the server still answers a probe: it is the question that hangs.
        """

        async def guarded(unit: Any) -> Any:
            async with self._slots:
                began = _now()
                ends = min(began + deadline, self._ends)
                if ends <= began:
                    return NoReply(f"its turn did not come in the {self._deadline:g} s of the batch")
                try:
                    result = await do(unit, ends)
                except NoReply as error:
                    await self._missed(error, began)
                    return error
                except Refused as error:
                    result = error
                self._unanswered, self._replied = 0, _now()
                return result

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(guarded(unit)) for unit in work]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        results = [task.result() for task in tasks]
        if work and self._replied == -math.inf:
            raise self._lost()
        return results

    async def request(self, path: str, body: bytes | None, ends: float, limit: float = math.inf) -> bytes:
        """The reply to a POST of JSON, or to a GET when there is no body, by `ends` (of the event loop's clock).

        A single attempt is given up after `limit` seconds. The server is told how long it has.
        """
        url, began, attempt, last = self._address.at(path), _now(), 0, ""
        headers = {"X-Request-Id": uuid.uuid4().hex, "Content-Type": "application/json"}
        while True:
            wait = 0.0
            stops = min(ends, _now() + limit)
            headers["Prefer"] = f"wait={TOLD * (stops - _now()):.2f}"
            try:
                async with asyncio.timeout_at(stops):
                    status, wait, reply = await self._attempt(url, body, headers)
            except TimeoutError:
                if stops < ends:
                    attempt, last = attempt + 1, f"no whole reply in {limit:.3g} s"
                    continue
                before = f", after {attempt} attempts that ended in {last}" if last else ""
                raise NoReply(f"no whole reply in {_now() - began:.3g} s{before}") from None
            except httpx.TransportError as error:
                last = f"{type(error).__name__} ({error})" if str(error) else type(error).__name__
            else:
                if status == 200:
                    return reply
                last = f"HTTP {status} {_plain(reply.decode('utf-8', 'replace'))!r}"
                if status in WRONG_ADDRESS or 300 <= status < 400:
                    raise ServiceFailed(f"{url} answered {last}: check the address and the token; redirects are not followed")
                if status not in (408, 429) and status < 500:
                    raise Refused(last)
            # After Retry-After too: those who were turned away together would otherwise come again together.
            pause = wait + min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1)
            attempt += 1
            if _now() + pause >= ends:
                raise NoReply(f"{last}, {attempt} times in {_now() - began:.3g} s")
            await asyncio.sleep(pause)

    async def _attempt(self, url: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, float, bytes]:
        """Status, seconds to wait before another attempt, and the reply, of which at most MAX_REPLY bytes are read."""
        method = "GET" if body is None else "POST"
        async with self._client.stream(method, url, content=body, headers=headers) as response:
            reply = bytearray()
            async for piece in response.aiter_raw():
                reply += piece
                if len(reply) > MAX_REPLY:
                    raise Refused(f"the reply is longer than {MAX_REPLY:,} bytes")
            return response.status_code, _retry_after(response.headers), bytes(reply)

    async def _missed(self, error: NoReply, began: float) -> None:
        self._last = error
        if began < self._replied and await self._answers():
            return
        self._unanswered += 1
        if self._unanswered >= LOST_AFTER:
            raise self._lost()

    async def _answers(self) -> bool:
        """Whether the server says anything; what, does not matter."""
        try:
            # By a connection of its own: those of the line may all be waiting for what hangs.
            async with asyncio.timeout(PROBE), _connections(self._address, 1) as probe, probe.stream("GET", self._address.url):
                return True
        except (TimeoutError, httpx.TransportError):
            return False

    def _lost(self) -> ServiceFailed:
        return ServiceFailed(
            f"no answer from {self._address.url}: {self._last}; see whether the server runs and keeps up, "
            "the same command resumes the run"
        )


def _connections(address: Address, most: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        headers={"Accept-Encoding": "identity", **address.headers()},
        timeout=httpx.Timeout(None, connect=CONNECT),  # whole requests have a deadline, which holds against drips too
        limits=httpx.Limits(max_connections=most),
        follow_redirects=False,
        trust_env=False,
        verify=_tls() if address.url.startswith("https") else False,  # plain HTTP stays plain: no redirects
    )


@cache
def _tls() -> ssl.SSLContext:
    """Made once: it reads all certificate authorities."""
    return httpx.create_ssl_context(trust_env=False)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _parts(url: str) -> SplitResult | None:
    """Of an http(s) URL with a host, and a port if it names one; None for what is none."""
    try:
        parts = urlsplit(url)
        httpx.URL(url)
        return parts if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 else None
    except (ValueError, httpx.InvalidURL):
        return None


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds; 0 where the server says nothing, or a date."""
    text = headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"\d{1,9}", text) else 0.0


def _plain(text: str, limit: int = 200) -> str:
    """The beginning of a stranger's text, without what moves a terminal."""
    return "".join(char if char.isprintable() else " " for char in text[:limit]).strip()
