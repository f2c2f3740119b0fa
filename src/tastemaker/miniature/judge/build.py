"""The miniature judge from nothing: pictures and simulated ratings, training, a folder, and its card.

    FOLDER/ratings held-out    what the simulated raters left        FOLDER/training   checkpoints and log.jsonl
    FOLDER/judge               the model with its processor, judge.json, rubrics/ and README.md

Every part that is there is kept, and one that was interrupted goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch

from tastemaker.data.ratings import read_ratings
from tastemaker.miniature.judge.language import DIRECT, RUBRICS, THINKING
from tastemaker.miniature.judge.measure import measure, render_measures
from tastemaker.miniature.judge.model import new_judge, open_judges
from tastemaker.miniature.judge.train import JudgeTrainer, Plan, by_dimension, train
from tastemaker.miniature.raters.collect import RATINGS, Sitting, collect
from tastemaker.models.adapter import Adapter
from tastemaker.rewards.vlm_folder import VLM
from tastemaker.runtime import folder as disk
from tastemaker.runtime.device import set_threads
from tastemaker.runtime.distributed import connected
from tastemaker.runtime.together import how_many, spread
from tastemaker.training.reward_model import save_judge

HELD_OUT = Sitting(split="eval", t2i=300, edits=280, pictures=6, base=1 / 6)
"""Balanced over categories and kinds of edits."""
Say = Callable[[str], None]


def build_judge(
    folder: Path,
    plan: Plan | None = None,
    sitting: Sitting | None = None,
    held_out: Sitting = HELD_OUT,
    *,
    adapter: Adapter | None = None,
    pool: Executor | None = None,
    device: torch.device | str = "cpu",
    processes: int | Literal["auto"] = "auto",
    say: Say = lambda text: None,
) -> Path:
    """Builds what `folder` does not hold yet; returns the judge's folder inside it.

    `adapter` is the miniature's base, which draws a share of the pictures; `pool` has the processes that read pictures.
    `processes` train the judge together.
    """
    plan, sitting = plan or Plan(), sitting or Sitting()
    rated = collect(folder / "ratings", sitting, adapter, pool, say)
    checked = collect(folder / "held-out", held_out, adapter, pool, say)
    out = folder / "judge"
    if not out.exists():
        count = how_many(processes, device=torch.device(device))
        finished = spread(count, _fit, folder, rated, plan, str(device), say=say)
        finished.model.to("cpu", torch.bfloat16)
        save_judge(out, finished, RUBRICS["alignment"], THINKING)
    disk.make_folder(out / "rubrics")
    for rubric in RUBRICS.values():
        disk.write_bytes_atomic(out / "rubrics" / f"{rubric.label}.md", rubric.text.encode())
    write_card(out, checked, plan, sitting, say)
    return out


def _fit(folder: Path, rated: Path, plan: Plan, device: str, say: Say = lambda text: None) -> VLM:
    """What every process does; the first one writes."""
    with connected(torch.device(device)) as ranks:
        set_threads(None if ranks.count > 1 else torch.get_num_threads())
        torch.manual_seed(plan.seed)  # parts of the training that are no part of the judge begin alike too
        vlm = new_judge(plan.seed)
        vlm.model.to(device)
        trainer = JudgeTrainer(vlm, by_dimension(read_ratings(rated / RATINGS)), plan.share(ranks), ranks=ranks)
        train(trainer, folder / "training", say)
        return trainer.finish()


def write_card(judge: Path, held_out: Path, plan: Plan, sitting: Sitting, say: Say = lambda text: None) -> None:
    """Measures the judge's folder as anyone opens it, with and without rationales, and writes its README.md."""
    measures = []
    for read_out in (DIRECT, THINKING):
        say(f"measuring {'with' if read_out.chain_of_thought else 'without'} rationales")
        measures += measure(open_judges(judge, read_out=read_out), held_out)
    told = ", ".join(f"{key} {value}" for key, value in {**asdict(sitting), **asdict(plan)}.items())
    disk.write_bytes_atomic(judge / "README.md", _CARD.format(table=render_measures(measures), told=told).encode())


_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# tastemaker's miniature judge

A Qwen3-VL of a few million parameters that scores 64x64 drawings of tastemaker's miniature world, from 1 to 5, on alignment,
aesthetic, portrait and instruction following. It was trained on scores of *simulated* raters. It is good for nothing else.

Spearman's correlation within held-out prompts, 95% intervals in brackets; "simulated raters' own" is that of the mean of their
scores; a judge that learns from many ratings may do better. Scores a second include the encoding, on the threads at hand.

{table}
Built with {told}.
"""
