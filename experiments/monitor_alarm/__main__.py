"""`python -m experiments.monitor_alarm FOLDER`: whatever FOLDER lacks of the runs, and the table; see the package."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from experiments.arms import claim
from experiments.monitor_alarm.runs import EVERY, PROMPTS, REWARDS, Outcome, run
from tastemaker.errors import UserMistake
from tastemaker.runtime import folder as disk
from tastemaker.runtime.device import set_threads


@dataclass(frozen=True)
class Design:
    """What all runs of a folder have in common."""

    every: int = EVERY
    """Steps between two checks of the monitor."""
    watched: int = PROMPTS
    """Prompts that the monitor draws."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.monitor_alarm", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=sorted(REWARDS), default=["hackable", "honest"])
    parser.add_argument(
        "--every", type=int, default=EVERY, help=f"steps between two checks, of all runs in FOLDER; default {EVERY}"
    )
    parser.add_argument("--watched", type=int, default=PROMPTS, help=f"prompts that the monitor draws; default {PROMPTS}")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    design = Design(given.every, given.watched)
    try:
        claim(given.folder, design)
    except UserMistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    set_threads(given.threads)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    outcomes = []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for kind in given.kinds:
            outcomes.append(known(given.folder, kind, seed, design))
            print(outcomes[-1], flush=True)
    print("\n".join(table(outcomes, kind) for kind in given.kinds))
    return 0


def known(folder: Path, kind: str, seed: int, design: Design) -> Outcome:
    """What the run gave, from the folder where it is there."""
    path = folder / f"{kind}-{seed}.json"
    if not path.exists():
        found = run(folder / f"{kind}-{seed}", kind, seed, every=design.every, watched=design.watched)
        disk.write_text_atomic(path, json.dumps(asdict(found), indent=1) + "\n")
    return Outcome(**json.loads(path.read_text(encoding="utf-8")))


def table(outcomes: list[Outcome], kind: str) -> str:
    rows = [one for one in outcomes if one.kind == kind]
    alarmed = [one for one in rows if one.alarm is not None]
    noticed = [one for one in rows if one.notice is not None]
    early = [one for one in alarmed if one.in_time]
    steps = sorted(one.alarm for one in alarmed if one.alarm is not None)
    middle = f", first at steps {steps[0]} to {steps[-1]}, median {steps[len(steps) // 2]}" if steps else ""
    return (
        f"{kind}: {len(rows)} runs; notice in {len(noticed)}, alarm in {len(alarmed)}{middle}; "
        f"before truth had fallen by one sd in {len(early)}"
    )


if __name__ == "__main__":
    sys.exit(main())
