"""What a person sees while a run is going on: a live panel in a terminal, plain lines in a log file.

Watching changes nothing: metrics.jsonl is the truth, and a tracker that fails is dropped by the run.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class Tracker(Protocol):
    """Something that follows a run: this panel, or a service."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Sees the metrics of a step after they were written to the file."""

    def close(self) -> None:
        """The run is over."""


class Progress:
    """Shows step, time left, pictures a second (metric "images") and a sparkline for each metric right under `prefix`."""

    WIDTH = 32

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        prefix: str = "reward/",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._start = start
        self._prefix = prefix
        self._console = console or Console()
        self._clock = clock
        self._began = self._last_time = clock()
        self._step = start
        self._images_per_second = math.nan
        self._history: dict[str, deque[float]] = {}
        self._live: Live | None = None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        now = self._clock()
        elapsed, self._last_time, self._step = now - self._last_time, now, step
        if "images" in metrics and elapsed > 0:
            self._images_per_second = float(metrics["images"]) / elapsed
        for name, value in metrics.items():
            if name.startswith(self._prefix) and "/" not in name.removeprefix(self._prefix):
                self._history.setdefault(name.removeprefix(self._prefix), deque(maxlen=self.WIDTH)).append(float(value))
        self._show()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self) -> str:
        """The state in one line: step 12/100 · alignment 3.41 · 41 images/s · 00:12:30 left."""
        parts = [f"step {self._step}/{self._total}"]
        parts += [f"{name} {values[-1]:.3g}" for name, values in self._history.items()]
        if not math.isnan(self._images_per_second):
            parts.append(f"{self._images_per_second:.3g} images/s")
        return " · ".join([*parts, f"{_clock_text(self.seconds_left())} left"])

    def seconds_left(self) -> float:
        """At the average pace since this process began; NaN before its first step."""
        done = self._step - self._start
        if done <= 0:
            return math.nan
        return (self._clock() - self._began) / done * max(self._total - self._step, 0)

    def _show(self) -> None:
        if not self._console.is_terminal:
            self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        self._live.update(self._panel())

    def _panel(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for name, values in self._history.items():
            table.add_row(name, Text(sparkline(list(values)), style="cyan"), f"{values[-1]:.4g}")
        return Group(Text(self.line()), ProgressBar(total=self._total, completed=self._step, width=60), table)


def telling(
    say: Callable[[str], None], what: str, *, every: float = 10.0, clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int], None]:
    """Hears how much of some work is done and says it with the time left, each so many seconds: of short work nothing at all.

    >>> hear = telling(print, "encoding prompts")
    >>> for done in range(1, 9001): hear(done, 9000)
    """
    began: float | None = None
    last, first = 0.0, 0

    def hear(done: int, total: int) -> None:
        nonlocal began, last, first
        now = clock()
        if began is None:  # the work begins with the first call: what is before it may have taken longer
            began = last = now
            first = done
        elif now - last >= every and done > first:
            last = now
            say(f"{what}: {done} of {total}, {_clock_text((now - began) / (done - first) * (total - done))} left")

    return hear


def sparkline(values: list[float]) -> str:
    """One character a value, scaled between the smallest and the largest; a value that is not finite is a blank.

    >>> sparkline([0.0, 1.0, 2.0])
    '▁▅█'
    """
    bars = "▁▂▃▄▅▆▇█"
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(bars[round((value - low) * scale + 1e-9)] if math.isfinite(value) else " " for value in values)


def _clock_text(seconds: float) -> str:
    if math.isnan(seconds):
        return "--:--:--"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"
