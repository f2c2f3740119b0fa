"""Scores while the next pictures are drawn: what is judged runs in a background thread, and is collected when it is needed.

    with ScoringPipeline(partial(score_all, rewards), deadline=1800) as scoring:
        handles = []
        for chunk in chunks:                                     # whole groups of one step
            handles.append(scoring.submit(chunk.id, draw(chunk), chunk.prompts))
        scores = joined([scoring.collect(handle) for handle in handles])

Batches are judged one at a time, in the order in which they were submitted, so a score never depends on timing. Rewards that
ask a server, or spread over processes, do so within a batch; see `Composite.score`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from tastemaker.errors import ServiceFailed, Stopped
from tastemaker.rewards.background import BackgroundThread
from tastemaker.types import Prompt, Scores

Score = Callable[[Tensor, Sequence[Prompt]], Scores]
"""Scores of pictures (B, 3, H, W) on the CPU, such as `partial(score_all, rewards)`."""


@dataclass(frozen=True, eq=False)
class Handle:
    """A batch that was submitted."""

    batch_id: Hashable
    future: Future[Scores]
    due: float
    """When the scores have to be there, on the clock `time.monotonic`."""


class ScoringPipeline:
    """Judges batches in the background. At most `depth` wait or are being judged; one more makes `submit` wait in its turn.

    `deadline` is in seconds from submission to scores; those of the judges themselves must be shorter. An error of a batch is
    raised where the batch is collected. When the pipeline is closed, what has not begun is dropped; what has begun ends by its
    judges' own deadlines.
    """

    def __init__(self, score: Score, *, deadline: float, depth: int = 4):
        if depth < 1 or not deadline > 0:
            raise ValueError(f"depth is {depth} and deadline {deadline}; both must be positive")
        self.seconds_judging = 0.0
        """Spent in `score` so far."""
        self.seconds_waiting = 0.0
        """Spent waiting in `submit` and `collect` so far: the part of the judging that was not hidden."""
        self._told = (0.0, 0.0)
        self._score, self._deadline = score, deadline
        self._room = threading.Semaphore(depth)
        self._thread = BackgroundThread("scoring")

    def submit(self, batch_id: Hashable, images: Tensor, prompts: Sequence[Prompt]) -> Handle:
        """Hands over pictures (B, 3, H, W) in [0, 1] and the prompt of each. Raises ServiceFailed if there is no room in time.

        The pictures are copied to the CPU here: copied in the background, they would wait for whatever else was put on the
        accelerator since.
        """
        pixels = images.detach().to("cpu", copy=True)
        due = time.monotonic() + self._deadline
        began = time.monotonic()
        free = self._room.acquire(timeout=self._deadline)
        self.seconds_waiting += time.monotonic() - began
        if not free:
            raise self._late(batch_id)
        future = self._thread.submit(self._judge, pixels, list(prompts))
        future.add_done_callback(lambda _: self._room.release())
        return Handle(batch_id, future, due)

    def collect(self, handle: Handle) -> Scores:
        """The scores of a batch. Raises what its judges raised; ServiceFailed when they are late, Stopped after `close`."""
        began = time.monotonic()
        try:
            return handle.future.result(timeout=max(handle.due - began, 0))
        except CancelledError:
            raise Stopped(f"scoring of batch {handle.batch_id} was stopped before it began") from None
        except TimeoutError:
            if handle.future.done():  # a judge's own, or the scores came this very moment
                return handle.future.result()
            raise self._late(handle.batch_id) from None
        finally:
            self.seconds_waiting += time.monotonic() - began

    def hidden_latency(self) -> float:
        """1 - seconds waiting / seconds judging, since the last call: the share of the judging that cost no time.

        At least 0; NaN when nothing was judged.
        """
        judging, waiting = self.seconds_judging - self._told[0], self.seconds_waiting - self._told[1]
        self._told = (self.seconds_judging, self.seconds_waiting)
        return max(1 - waiting / judging, 0.0) if judging > 0 else math.nan

    def close(self) -> None:
        """Drops what has not begun and waits for nothing."""
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _judge(self, pixels: Tensor, prompts: Sequence[Prompt]) -> Scores:
        began = time.monotonic()
        try:
            with torch.no_grad():  # is a setting of each thread
                return self._score(pixels, prompts)
        finally:
            self.seconds_judging += time.monotonic() - began

    def _late(self, batch_id: Hashable) -> ServiceFailed:
        return ServiceFailed(
            f"no scores of batch {batch_id} after {self._deadline:g} s; raise deadlines.step or speed up the judges, "
            "the same command resumes the run"
        )


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of several batches as those of one, in order. Raises ValueError if their rewards differ or there are none."""
    if len({part.names for part in parts}) != 1:
        raise ValueError(f"scores of {[part.names for part in parts]} cannot be joined; they need the same rewards")
    missing: dict[tuple[int, str], str] = {}
    rows = 0
    for part in parts:
        missing |= {(rows + row, name): reason for (row, name), reason in part.missing.items()}
        rows += len(part.values_BR)
    return Scores(parts[0].names, torch.cat([part.values_BR for part in parts]), missing)
