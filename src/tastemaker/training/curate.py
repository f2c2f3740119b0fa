"""Draws and judges the samples by which prompts are chosen, as training would at its first step, and keeps them block by block.

    prompts, shuffled -> prepare -> rollout -> pictures -> scores -> FOLDER/scores.jsonl, one line a block
                                                              and FOLDER/pictures/, of the first blocks

A block holds as many prompts as a training step and is drawn by the same functions with the same sampler, guided also where
training leaves guidance out of every so many-th step. Its noise is keyed, but not that of any training step: the first steps
would otherwise learn from the very pictures by which their prompts were chosen. Killed anywhere, the same call goes on behind
the last whole block. Weights are not touched.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tastemaker.config import TrainConfig
from tastemaker.data.curation import Samples
from tastemaker.errors import UserMistake
from tastemaker.flow.advantage import composite
from tastemaker.rewards.pipeline import ScoringPipeline
from tastemaker.rewards.reward import to_uint8
from tastemaker.runtime import folder as disk
from tastemaker.runtime import seeds
from tastemaker.runtime.metrics import StepLog, read_lines
from tastemaker.runtime.progress import Tracker
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.policy import Setup, draw_and_judge, pipeline, prepare
from tastemaker.types import Prompt, Scores

SCORES_FILE = "scores.jsonl"
MOST_MISSING = 0.5
"""Share of a block's scores above which judging itself has failed; a single prompt that cannot be judged is dropped later."""
KEPT_PICTURES = 4096
"""Pictures that are kept for people, of the first blocks. Blocks are shuffled, so these prompts are a random choice."""
TILE = 128
"""Most pixels of a kept picture's longer side."""


def unread_settings(config: TrainConfig) -> tuple[str, ...]:
    """Of a training, the settings and groups of them that decide how it learns, and nothing that curation draws or keeps."""
    learning = [name for name in type(config.algorithm).model_fields if name not in ("name", "guidance_mode")]
    return ("optimiser", "policy", "budget", *(f"algorithm.{name}" for name in learning))


def judge_prompts(setup: Setup, folder: Path, *, trackers: Sequence[Tracker], stop: StopRequest) -> list[Samples]:
    """The samples of every prompt, in the order of `setup.prompts`: what `folder` lacks of them is drawn and judged.

    Raises Stopped between blocks when a stop is requested, ServiceFailed when most scores of a block are missing.
    """
    blocks = blocks_of(setup)
    log = StepLog(folder / SCORES_FILE, contiguous=True)
    done = judged_blocks(folder)
    log.cut(done or None)
    with pipeline(setup) as scoring:
        for block in range(done + 1, len(blocks) + 1):
            stop.leave(f"{block - 1} of {len(blocks)} blocks of prompts are judged and kept")
            metrics = _judge_block(setup, blocks[block - 1], block, folder, log, scoring)
            for tracker in trackers:
                tracker.log(block, metrics)
    by_id = {row["id"]: row for line in read_lines(log.path) for row in line["prompts"]}
    if unscored := {*setup.judges.names} - set.intersection(*({*row["scores"]} for row in by_id.values())):
        raise UserMistake(
            f"{log.path}: pictures judged earlier have no scores of {', '.join(sorted(unscored))}, which are not drawn "
            "again; choose another folder, or restore the rewards"
        )
    return [_samples(setup, prompt, by_id[prompt.id]) for prompt in setup.prompts]


def judged_blocks(folder: Path) -> int:
    """How many blocks `folder` holds."""
    return len(read_lines(folder / SCORES_FILE))


def blocks_of(setup: Setup) -> list[list[Prompt]]:
    """The prompts in a keyed random order, `prompts_per_step` at a time."""
    order = seeds.random(setup.seed, "curation").permutation(len(setup.prompts))
    size = setup.prompts_per_step
    return [[setup.prompts[row] for row in order[start : start + size]] for start in range(0, len(order), size)]


def _judge_block(
    setup: Setup, prompts: Sequence[Prompt], block: int, folder: Path, log: StepLog, scoring: ScoringPipeline
) -> dict[str, float]:
    """Draws, judges and keeps a block, its line last; returns what a tracker shows of it."""
    now = replace(
        setup,
        prompts=prompts,
        prompts_per_step=len(prompts),
        seed=seeds.seed(setup.seed, "curation"),
        missing_budget=MOST_MISSING,
    )
    batch = prepare(now, block)
    _, images, scores = draw_and_judge(now, batch, block, scoring)
    if (block - 1) * setup.prompts_per_step * setup.group_size < KEPT_PICTURES:
        disk.make_folder(folder / "pictures")
        disk.write_bytes_atomic(_sheet_path(folder, block), _sheet(images, setup.group_size))
    rows = [_row(prompt, nth, scores, setup.group_size) for nth, prompt in enumerate(batch.prompts)]
    log.append(block, {"prompts": rows})
    log.sync()
    samples = [_samples(setup, prompt, row) for prompt, row in zip(batch.prompts, rows, strict=True)]
    means = {f"reward/{name}": value for name, value in zip(scores.names, scores.values_BR.nanmean(0).tolist(), strict=True)}
    return {**means, "missing": float(sum(len(one.missing) for one in samples)), "images": float(len(images))}


def _row(prompt: Prompt, nth: int, scores: Scores, group_size: int) -> dict[str, Any]:
    """What is written of one prompt: its scores by reward, before gates, null where there is none; and the reasons."""
    first = nth * group_size
    values = scores.values_BR[first : first + group_size].T.tolist()
    missing = [
        {"sample": row - first, "reward": name, "reason": reason}
        for (row, name), reason in scores.missing.items()
        if first <= row < first + group_size
    ]
    by_reward = {
        name: [None if math.isnan(value) else value for value in column]
        for name, column in zip(scores.names, values, strict=True)
    }
    return {"id": prompt.id, "scores": by_reward, "missing": missing}


def _samples(setup: Setup, prompt: Prompt, row: Mapping[str, Any]) -> Samples:
    """A written row under the setup's gates and the weights of the prompt's category."""
    composite_of, algorithm = setup.judges, setup.comparing
    names = composite_of.names
    columns = [[math.nan if value is None else value for value in row["scores"][name]] for name in names]
    missing = {(one["sample"], one["reward"]): one["reason"] for one in row["missing"]}
    scores = Scores(names, torch.tensor(columns, dtype=torch.float32).T, missing)
    prompts = [prompt] * len(scores.values_BR)
    gated = composite_of.gated(scores, prompts)
    ranges_R2 = torch.tensor(algorithm.ranges)
    composite_G = composite(gated.values_BR, composite_of.counting_BR(gated, prompts), ranges_R2)
    by_reward = dict(zip(names, gated.values_BR.T.double().numpy(), strict=True))
    return Samples(prompt, by_reward, composite_G.numpy(), tuple(missing.values()))


def _sheet(images: Tensor, group_size: int) -> bytes:
    """PNG: a row for each prompt of (P * G, 3, H, W), its samples side by side, made smaller where they are large."""
    tiles = [Image.fromarray(pixels) for pixels in to_uint8(images).numpy()]
    for tile in tiles:
        tile.thumbnail((TILE, TILE))
    width, height = tiles[0].size
    sheet = Image.new("RGB", (width * group_size, height * (len(tiles) // group_size)))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % group_size * width, place // group_size * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def kept_pictures(folder: Path) -> dict[str, np.ndarray]:
    """By prompt, (G, h, w, 3) uint8: the pictures that `judge_prompts` kept, in the order of the scores."""
    found: dict[str, np.ndarray] = {}
    for line in read_lines(folder / SCORES_FILE):
        path, rows = _sheet_path(folder, line["step"]), line["prompts"]
        if not path.exists():
            continue
        group_size = len(next(iter(rows[0]["scores"].values())))
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        height, width = pixels.shape[0] // len(rows), pixels.shape[1] // group_size
        tiles = pixels.reshape(len(rows), height, group_size, width, 3).swapaxes(1, 2)
        found |= {row["id"]: tiles[nth] for nth, row in enumerate(rows)}
    return found


def _sheet_path(folder: Path, block: int) -> Path:
    return folder / "pictures" / f"block-{block:05d}.png"
