"""Watches a training against its base, every so many steps on the same prompts and noise, and says when the reward is bought.

    draw the set -> statistics, rewards, truths, probes -> readings against the base's bands -> notices and alarms

Each check is a line of monitor.jsonl; what a person should look at is an incident and a line in the terminal too. Checks read
the weights and change nothing: all their randomness is keyed apart from that of training. See docs/monitors.md.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from tastemaker.errors import Alarmed
from tastemaker.evaluation import baseline as bases
from tastemaker.evaluation.alarm import TRUTH, Verdict, held_to_limits, judge, sentence
from tastemaker.evaluation.band import Reading
from tastemaker.evaluation.baseline import Baseline
from tastemaker.evaluation.statistics import mean_over
from tastemaker.evaluation.watched import Values, Watched
from tastemaker.rewards.reward import Reward, to_uint8
from tastemaker.runtime.metrics import read_lines
from tastemaker.training.start import Observer, Running
from tastemaker.types import Prompt

STREAM = "monitor"
SHEET_SIDE = 256
"""Pixels of a picture on the sheet of a check, at most."""


@dataclass(frozen=True)
class Plan:
    """What is watched: `samples` pictures of each of the fixed prompts, every `every` steps, against `seeds` sets of the base.

    `threshold` is in standard deviations of a normal variable, see `band.limit`. With `stop` the first alarm ends the run.
    """

    prompts: Sequence[Prompt]
    every: int
    samples: int = 2
    seeds: int = 4
    threshold: float = 3.0
    stop: bool = False
    truths: Sequence[Reward] = ()
    say: Callable[[str], None] = print


def watching(plan: Plan) -> Callable[[Running], Observer]:
    """For `run_training(watch=...)`. Raises Alarmed at once where a former alarm ended the run and `stop` is still wanted."""

    def watch(running: Running) -> Observer:
        watched = Watched(running.setup, plan.prompts, plan.samples, plan.truths)
        records = read_lines(running.run.folder / f"{STREAM}.jsonl")
        alarmed = next((record for record in records if record["alarms"]), None)
        if plan.stop and alarmed is not None:
            raise Alarmed(_ended(alarmed, running.run.folder))
        monitor = Monitor(plan, running, watched, _baseline(plan, running, watched), records)
        if not records:
            monitor.begin()
        return lambda step, images, batch: monitor.after_step(step)

    return watch


def _baseline(plan: Plan, running: Running, watched: Watched) -> Baseline:
    """As a former run of the folder saved it, or measured now, while the policy is the base."""
    folder, measured_with = running.run.folder / STREAM, bases.key(watched, plan.seeds)
    found = bases.load(folder, measured_with)
    if found is None:
        count = plan.seeds * len(plan.prompts) * plan.samples
        plan.say(f"monitor: drawing {count} pictures of the base, {plan.seeds} sets of {len(plan.prompts)} prompts")
        found = bases.take(watched, plan.seeds, lambda images: _show(running, "base", images))
        bases.save(folder, found, measured_with)
    return found


@dataclass
class Monitor:
    """Checks a running training; `records` are the lines of its stream so far."""

    plan: Plan
    running: Running
    watched: Watched
    baseline: Baseline
    records: list[dict[str, Any]] = field(default_factory=list)

    def begin(self) -> None:
        """The line of step 0: the base's own first set."""
        self._log(0, self.read(self.baseline.start), Verdict((), {}), self.baseline.start, {"velocity_distance": 0.0})

    def after_step(self, step: int) -> None:
        """Where a check is due: measures, writes down, tells; asks for the end of the run where an alarm is to end it."""
        if step % self.plan.every:
            return
        began = time.perf_counter()
        images = self.watched.draw(0)
        velocities, effect_P = self.watched.velocities(self.baseline.latents_PX, 0)
        values: Values = {
            **self.watched.pictured(images),
            bases.PROMPT_EFFECT: effect_P,
            **self.watched.rewarded(self.watched.judged(images), self.baseline.scale_R),
            **self.watched.true(images),
        }
        readings = self.read(values)
        verdict = judge(readings)
        more: dict[str, Any] = {"velocity_distance": self.baseline.distance(velocities)}
        more["pictures"] = _show(self.running, f"step-{step:08d}", images)
        before = self.records[-1] if self.records else {"moved": [], "alarms": {}}
        if not verdict.alarms:
            self.running.run.hold(step)
        elif not before["alarms"]:
            more |= self._keep_good()
        record = self._log(step, readings, verdict, values, {**more, "seconds": time.perf_counter() - began})
        self._tell(record, before, readings)
        if verdict.alarms and self.plan.stop:
            self.running.stop.request(Alarmed(_ended(record, self.running.run.folder)))

    def read(self, values: Values) -> dict[str, Reading]:
        """Every statistic against its band, where both have something to say."""
        bands = self.baseline.bands
        known = [name for name in held_to_limits(bands) if not bands[name].empty]
        tests = {"deciding": max(sum(name.startswith(TRUTH) for name in known), 1), "looked_at": len(known)}
        found = {name: band.read(values[name], threshold=self.plan.threshold, **tests) for name, band in bands.items()}
        return {name: reading for name, reading in found.items() if reading is not None}

    def _keep_good(self) -> dict[str, Any]:
        """At the first of several alarms in a row: the newest checkpoint up to the last check without one is kept for good.

        Those after it were not looked at, and may be as bad as what the alarm saw.
        """
        kept = self.running.run.protect_held()
        return {"last_good": None if kept is None else kept.name}

    def _log(
        self, step: int, readings: Mapping[str, Reading], verdict: Verdict, values: Values, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        record = {
            "statistics": {name: asdict(reading) for name, reading in readings.items()},
            "intervals": _intervals(values),
            "moved": list(verdict.moved),
            "alarms": {kind: list(names) for kind, names in verdict.alarms.items()},
            **more,
        }
        self.running.run.log(step, record, stream=STREAM)
        self.records.append({"step": step, **record})
        return self.records[-1]

    def _tell(self, record: Mapping[str, Any], before: Mapping[str, Any], readings: Mapping[str, Reading]) -> None:
        """One line and one incident for each alarm that was not there at the check before, and one for what newly moved."""
        for kind, names in record["alarms"].items():
            if kind not in before["alarms"]:
                self._incident("monitor alarm", record, f"ALARM, {kind}: {sentence(names, readings)}{_kept(record)}")
        new = [name for name in record["moved"] if name not in before["moved"]]
        if new and not record["alarms"]:
            self._incident("monitor notice", record, f"left the base's band: {sentence(new, readings, notice=True)}")

    def _incident(self, kind: str, record: Mapping[str, Any], what: str) -> None:
        """Once a step and text: steps that are trained again after a crash write none a second time."""
        run, step = self.running.run, record["step"]
        self.plan.say(f"monitor, step {step}: {what}; pictures: {run.folder / record['pictures']}, of the base: base.png there")
        entry = {"kind": kind, "step": step, "what": what, "pictures": record["pictures"]}
        if not any(entry.items() <= line.items() for line in read_lines(run.folder / "incidents.jsonl")):
            run.incident(entry)


def _kept(record: Mapping[str, Any]) -> str:
    if "last_good" not in record:
        return ""
    if record["last_good"] is None:
        return "; there is no checkpoint that a check has found good"
    return f"; the last checkpoint that a check has found good is kept: {record['last_good']}"


def _ended(record: Mapping[str, Any], folder: Path) -> str:
    good = record.get("last_good")
    kept = f"the last good checkpoint is kept, {folder / 'checkpoints' / good}" if good else "no checkpoint was found good"
    kinds = " and ".join(record["alarms"])
    return (
        f"the monitor ended the run at step {record['step']}: {kinds} (see {folder / 'incidents.jsonl'}); {kept}; to train on "
        "nevertheless, set monitor.stop to false"
    )


def _intervals(values: Values) -> dict[str, Any]:
    """Mean and 95% interval over prompts of each reward, each swapped reward and each truth."""
    kinds = ("reward/", "swapped/", TRUTH)
    found = {name: mean_over(one) for name, one in values.items() if name.startswith(kinds)}
    return {name: {"n": e.n, "mean": e.value, "low": e.low, "high": e.high} for name, e in found.items() if e.n > 1}


def _show(running: Running, name: str, images: Tensor) -> str:
    """Writes the sheet of a set, small, and returns its path in the run's folder."""
    buffer = io.BytesIO()
    sheet(to_uint8(images).numpy()).save(buffer, "png")
    return str(running.run.write_image(f"{STREAM}/{name}.png", buffer.getvalue()).relative_to(running.run.folder))


def sheet(pictures: np.ndarray, columns: int = 8) -> Image.Image:
    """Pictures (n, H, W, 3) in rows, in order, each at most SHEET_SIDE pixels wide and high."""
    height, width = pictures.shape[1:3]
    scale = min(1.0, SHEET_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    found = Image.new("RGB", (min(columns, len(pictures)) * size[0], -(-len(pictures) // columns) * size[1]))
    for place, picture in enumerate(pictures):
        small = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS) if scale < 1 else Image.fromarray(picture)
        found.paste(small, (place % columns * size[0], place // columns * size[1]))
    return found
