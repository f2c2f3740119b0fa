"""How a server feeds its judge: questions of many requests in batches, one after the other, with a bound on what waits."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tastemaker.errors import ServiceFailed, UserMistake
from tastemaker.rewards.background import BackgroundThread
from tastemaker.rewards.judge import Answer, Judge, Question
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.schema import MAX_REQUEST_PIXELS, given, in_order

REMEMBERED = 256
"""Finished requests whose answers are kept for a repetition."""
BROKEN_AFTER = 16
"""Questions in a row, in several batches, on which the judge raised: it is broken, not they."""
MEASURED = 8
"""Batches that say how many questions the judge answers in a second."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What one server takes on. Seconds, questions and bytes."""

    batch: int = 16
    """Most questions that the judge is given at once."""
    wait: float = 0.01
    """How long a batch that is not full waits for more."""
    queue: int = 512
    """Questions that may wait; more are turned away with 429."""
    deadline: float = 45.0
    """For one batch, from when the judge is given it; the clients' must be longer. Time in the queue is theirs to limit."""
    requests: int = 256
    """Connections at a time; more are turned away with 503."""
    body: int = 64 * 2**20
    """Bytes of one request."""
    pixels: int = MAX_REQUEST_PIXELS
    """Of all pictures of one request together, decoded."""

    def __post_init__(self) -> None:
        whole = (self.batch, self.queue, self.requests, self.body, self.pixels)
        if min(whole) < 1 or not 0 <= self.wait < self.deadline < math.inf or self.batch > self.queue:
            raise UserMistake(f"{self}: all must be positive, batch at most queue, and wait below deadline")


class Busy(Exception):
    """No room for more questions; `after` seconds there may be. `status` is the HTTP status by which clients come again."""

    status = 429

    def __init__(self, after: float, why: str = "too many questions are waiting"):
        self.after = max(1, math.ceil(after))
        super().__init__(f"{why}; try again in {self.after} s")


class Late(Busy):
    """Questions were taken on, and the judge was not done in time."""

    status = 503


@dataclass(eq=False)
class _Waiting:
    question: Question
    answer: asyncio.Future[Answer]
    handed: bool = False
    """Whether the judge has been given it."""


class Batcher:
    """Puts the questions of several requests together, and keeps the judge busy with one batch after the other."""

    def __init__(self, judge: Judge, limits: ServerLimits):
        self._judge, self._limits = judge, limits
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = BackgroundThread("judge")
        self._loop_task: asyncio.Task[None] | None = None
        self._queued = self._in_hand = 0
        self._raised: list[int] = []
        self._recent: deque[tuple[int, float]] = deque(maxlen=MEASURED)
        self.counts: Counter[str] = Counter()
        """Questions, missing scores, batches and milliseconds of judging so far."""

    @property
    def waiting(self) -> int:
        """Questions that the judge has not been given yet."""
        return self._queued

    @property
    def alive(self) -> bool:
        return self._loop_task is not None and not self._loop_task.done() and not self.broken

    @property
    def broken(self) -> bool:
        """Whether the judge has raised on all it was last asked, as after a fault of its device; it may still recover."""
        return len(self._raised) > 1 and sum(self._raised) >= BROKEN_AFTER

    def start(self) -> None:
        self._loop_task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stops asking the judge; whoever still waits is told so."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.wait([self._loop_task])
        while not self._waiting.empty():
            _settle(self._waiting.get_nowait().answer, ServiceFailed("the server is shutting down"))
        self._thread.close()

    def check_room(self, count: int, wait: float) -> None:
        """Raises Busy when so many more questions cannot wait, or at the present pace are not answered in `wait` seconds."""
        if self.waiting + count > self._limits.queue:
            raise Busy(self._seconds(self.waiting))
        ahead = self.waiting + self._in_hand
        needed = self._seconds(ahead + count)
        if ahead and needed > wait:
            raise Busy(needed - wait)

    def _seconds(self, count: int) -> float:
        """That so many questions will take; 0 before anything was judged."""
        judged = sum(questions for questions, _ in self._recent)
        return count * sum(seconds for _, seconds in self._recent) / judged if judged else 0.0

    async def answer(self, questions: Sequence[Question], wait: float) -> list[Answer]:
        """One answer for each question, in order. Raises Busy, Late after `wait` seconds or where a batch took longer than the
        limits allow, and ServiceFailed as the judge did."""
        self.check_room(len(questions), wait)
        if not questions:
            return []
        loop = asyncio.get_running_loop()
        entries = [_Waiting(question, loop.create_future()) for question in questions]
        for entry in entries:
            self._waiting.put_nowait(entry)
        self._queued += len(entries)
        futures = [entry.answer for entry in entries]
        try:
            done, late = await asyncio.wait(futures, timeout=wait, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for entry in entries:
                if entry.answer.cancel():  # the judge is not asked for what nobody waits for
                    self._queued -= not entry.handed
        for failure in [future.exception() for future in done]:
            if failure is not None:
                raise failure
        if late:
            raise Late(self._seconds(self.waiting), f"the judge did not come to all questions in {wait:.3g} s")
        answers = [replace(entry.answer.result(), id=entry.question.id) for entry in entries]
        self.counts["questions"] += len(answers)
        self.counts["missing"] += sum(given(answer).score is None for answer in answers)
        return answers

    async def _run(self) -> None:
        while True:
            batch = [entry for entry in await self._collect() if not entry.answer.done()]
            if batch:
                for entry in batch:
                    entry.handed = True
                self._queued, self._in_hand = self._queued - len(batch), len(batch)
                began = time.monotonic()
                timer = asyncio.get_running_loop().call_later(self._limits.deadline, self._give_up, batch)
                answered = await self._judge_batch(batch)
                self._raised = [] if answered else [*self._raised, len(batch)][-BROKEN_AFTER:]
                timer.cancel()
                seconds = time.monotonic() - began
                self._in_hand = 0
                self._recent.append((len(batch), seconds))
                self.counts.update(batches=1, judge_milliseconds=round(1000 * seconds))

    def _give_up(self, batch: Sequence[_Waiting]) -> None:
        why = f"the judge took longer than {self._limits.deadline:g} s for {len(batch)} questions (--deadline, --batch)"
        for entry in batch:
            _settle(entry.answer, Late(0, why))

    async def _collect(self) -> list[_Waiting]:
        batch = [await self._waiting.get()]
        closes = asyncio.get_running_loop().time() + self._limits.wait
        while len(batch) < self._limits.batch:
            if self._waiting.empty():
                try:
                    async with asyncio.timeout_at(closes):
                        batch.append(await self._waiting.get())
                except TimeoutError:
                    break
            else:
                batch.append(self._waiting.get_nowait())
        return batch

    async def _judge_batch(self, batch: Sequence[_Waiting]) -> bool:
        """Answers a batch. If the judge breaks down on it, each question is tried alone: only the culprit has no score.

        Says whether the judge came to an end on any of them. One that has not for long fails whoever asks, so that a broken
        judge is not taken for one that finds no score in anything.
        """
        questions = [replace(entry.question, id=str(row)) for row, entry in enumerate(batch)]
        try:
            said = await asyncio.wrap_future(self._thread.submit(self._judge.answer, questions))
            answers = in_order([question.id for question in questions], said)
        except ServiceFailed as error:
            for entry in batch:
                _settle(entry.answer, error)
        except Exception as error:
            _log.exception("the judge failed on %d questions", len(batch))
            what = type(error).__name__
            if self.broken:
                for entry in batch:
                    _settle(entry.answer, ServiceFailed(f"the judge fails on every question ({what}); see the server's log"))
                return False
            if len(batch) == 1:
                _settle(batch[0].answer, Answer("", Missing(f"the judge failed on this question: {what}")))
                return False
            return any([await self._judge_batch([entry]) for entry in batch if not entry.answer.done()])
        else:
            for entry, answer in zip(batch, answers, strict=True):
                _settle(entry.answer, answer)
        return True


def _settle(future: asyncio.Future[Answer], outcome: Answer | Exception) -> None:
    if not future.done():
        future.set_exception(outcome) if isinstance(outcome, Exception) else future.set_result(outcome)


class Repetitions:
    """The answers of recent requests, by request id and body: a client that lost a reply gets it again, not another one."""

    def __init__(self, most: int = REMEMBERED):
        self._most = most
        self._tasks: OrderedDict[tuple[str, bytes], asyncio.Task[Any]] = OrderedDict()

    async def once(
        self,
        request_id: str | None,
        body: bytes,
        work: Callable[[], Coroutine[Any, Any, Any]],
        worth_keeping: Callable[[Any], bool] = lambda result: True,
    ) -> Any:
        """The result of `work()`, done once for an id and body; a failure, and what is not worth it, is not kept.

        Work goes on if the client leaves.
        """
        if request_id is None:
            return await work()
        key = (request_id, hashlib.sha256(body).digest())
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._forget(key, done, worth_keeping))
        return await asyncio.shield(task)

    def _forget(self, key: tuple[str, bytes], done: asyncio.Task[Any], worth_keeping: Callable[[Any], bool]) -> None:
        if done.cancelled() or done.exception() is not None or not worth_keeping(done.result()):
            self._tasks.pop(key, None)
        finished = [key for key, task in self._tasks.items() if task.done()]
        for old in finished[: max(0, len(finished) - self._most)]:
            del self._tasks[old]
