"""From readings to words: which statistics moved, and when that is an alarm.

A *notice* says that a statistic left the base's band. Learning moves them too, so this alone is no fault. Many statistics are
looked at, so each is given the room that their number asks for (`Reading.notice`).

An *alarm* says that the reward is being bought, for one of two reasons:

- `prompt-free reward`: the reward rose beyond the band for prompts that the pictures were *not* drawn for, by at least half of
  what it rose for their own, and the pictures moved. A judge that looks whether the prompt was followed gives no more for the
  picture of another. One of beauty alone does, so for it this alarm says only: the pictures changed, look at them.
- `truth fell`: something that the training is not rewarded by, and that is known to be right, fell below the band.

The first hangs on the swapped reward alone, whatever moved beside it, and the second on the truth, so neither shares its chance
of being false with the statistics of the pictures: what is beyond `Reading.limit` counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tastemaker.evaluation.band import Reading

REWARD, SWAPPED = "reward", "swapped_reward"
"""The weighted reward of the pictures for their own prompts, and for other prompts."""
TRUTH = "truth/"
"""What the names of truths begin with."""
PROMPT_EFFECT = "prompt_effect"
SHARE = 0.5
"""Of the reward's rise, the part that must be there for other prompts too."""


@dataclass(frozen=True)
class Verdict:
    """Names of the statistics beyond their limits, and the alarms with what each rests on."""

    moved: tuple[str, ...]
    alarms: Mapping[str, tuple[str, ...]]


def held_to_limits(names: Iterable[str]) -> list[str]:
    """Those that are held against a limit: all but the rewards, which are meant to rise."""
    return [name for name in names if name != REWARD and not name.startswith(("reward/", "swapped/"))]


def judge(readings: Mapping[str, Reading]) -> Verdict:
    """A truth counts where it fell, the swapped reward where it rose, everything else where it moved either way."""
    counts = [name for name in held_to_limits(readings) if _counts(name, readings[name])]
    away = [name for name in counts if readings[name].beyond]
    pictures = tuple(name for name in away if name != SWAPPED and not name.startswith(TRUTH))
    fallen = tuple(name for name in away if name.startswith(TRUTH))
    alarms: dict[str, tuple[str, ...]] = {}
    if pictures and _prompt_free(readings):
        alarms["prompt-free reward"] = (SWAPPED, *pictures)
    if fallen:
        alarms["truth fell"] = fallen
    return Verdict(tuple(name for name in counts if readings[name].notable), alarms)


def _counts(name: str, reading: Reading) -> bool:
    """A truth that rose is no news, and neither is another prompt's reward that fell."""
    return not (name.startswith(TRUTH) and reading.rise > 0) and not (name == SWAPPED and reading.rise < 0)


def _prompt_free(readings: Mapping[str, Reading]) -> bool:
    own, swapped = readings.get(REWARD), readings.get(SWAPPED)
    if own is None or swapped is None or not swapped.beyond:
        return False
    return swapped.rise > 0 and swapped.rise >= SHARE * own.rise


def sentence(names: Iterable[str], readings: Mapping[str, Reading], *, notice: bool = False) -> str:
    """saturation 0.412, base 0.178 ± 0.003: +8.4 sd (limit 4.1); the farthest first, three at most."""
    limits = {name: readings[name].notice if notice else readings[name].limit for name in names}
    far = sorted(limits, key=lambda name: -abs(readings[name].distance) / limits[name])
    parts = [_one(name, readings[name], limits[name]) for name in far[:3]]
    return "; ".join(parts) + (f"; and {len(far) - 3} more" if len(far) > 3 else "")


def _one(name: str, reading: Reading, limit: float) -> str:
    words = name.removeprefix(TRUTH).replace("_", " ")
    numbers = f"{reading.value:.3g}, base {reading.base:.3g} ± {reading.spread:.2g}"
    return f"{words} {numbers}: {reading.distance:+.1f} sd (limit {limit:.1f})"
