"""What a reward is: it looks at pictures and what was asked for, and gives each a score in a declared range, or none."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from tastemaker.types import Prompt, Scores


@dataclass(frozen=True)
class Missing:
    """In the place of a score that did not arrive or cannot be told; it is never read as a number."""

    reason: str


class NotAsked(Missing):
    """The prompt does not call for this score, such as the likeness of a face that no source shows. Nothing is missing: the
    reward has no weight for the picture (`Composite.counting_BR`)."""


class Reward(Protocol):
    """One judge. `low` and `high` bound its scores; `floor` is its noise, the least spread that counts as a difference.

    Two attributes are optional: `fingerprint`, a text that changes whenever a picture could get another score, and which a
    resumed run compares; and `remote`, true where the work is done elsewhere, so that several may be asked at the same time.
    """

    @property
    def name(self) -> str: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def floor(self) -> float: ...

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Sequence[float | Missing]:
        """One score for each picture of (B, 3, H, W) in [0, 1], in order; `prompts[i]` is what picture i answers."""
        ...


def fingerprints(rewards: Sequence[Reward]) -> dict[str, str]:
    """By name, of those that have one."""
    found = {reward.name: getattr(reward, "fingerprint", None) for reward in rewards}
    return {name: fingerprint for name, fingerprint in found.items() if fingerprint is not None}


def fingerprint_of(parts: Any) -> str:
    """Hex, of what decides a score: JSON values, and paths, which stand for the bytes of their files."""
    text = json.dumps(parts, sort_keys=True, default=lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    return hashlib.sha256(text.encode()).hexdigest()


def score_all(rewards: Sequence[Reward], images: Tensor, prompts: Sequence[Prompt]) -> Scores:
    """Asks every reward about every picture. A score that is no finite number of the declared range counts as missing, unless
    the reward said that it was not asked for.

    A picture with NaN or infinite pixels is shown to nobody: all its scores are missing.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} pictures but {len(prompts)} prompts; give one prompt for each picture")
    whole = images.flatten(1).isfinite().all(1).tolist()
    rows = [row for row, fine in enumerate(whole) if fine]
    values = torch.full((len(prompts), len(rewards)), math.nan)
    missing = {
        (row, reward.name): "the picture has NaN or inf pixels"
        for row in set(range(len(prompts))) - {*rows}
        for reward in rewards
    }
    for column, reward in enumerate(rewards):
        given = reward.score(images[rows], [prompts[row] for row in rows]) if rows else []
        if len(given) != len(rows):
            raise ValueError(
                f"reward {reward.name!r} gave {len(given)} scores for {len(rows)} pictures; the answer is rejected whole"
            )
        for row, score in zip(rows, given, strict=True):
            reason = _why_missing(score, reward)
            if reason is None:
                values[row, column] = float(score)  # type: ignore[arg-type]
            elif not isinstance(score, NotAsked):
                missing[row, reward.name] = reason
    return Scores(tuple(reward.name for reward in rewards), values, missing)


def _why_missing(score: float | Missing, reward: Reward) -> str | None:
    if isinstance(score, Missing):
        return score.reason
    if not math.isfinite(score):
        return f"the score is {score}"
    if not reward.low <= score <= reward.high:
        return f"the score {score:g} is outside the declared range [{reward.low:g}, {reward.high:g}]"
    return None


@dataclass(frozen=True)
class FunctionReward:
    """A reward from a plain function of one uint8 picture (H, W, 3) and the prompt's truth, such as an oracle's reading.

    Verifiable rewards are for prompts whose facts are known by construction; a prompt without `truth` has no score, nor one of
    which `read` says that it is missing. With a `pool` of processes the pictures are read side by side; `read` must then be a
    function of a module.
    """

    name: str
    read: Callable[[Any, Any], float | Missing]
    low: float = 0.0
    high: float = 1.0
    floor: float = 0.02
    pool: Executor | None = None

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> list[float | Missing]:
        told = [row for row, prompt in enumerate(prompts) if prompt.truth is not None]
        pictures = list(to_uint8(images[told]).numpy())
        truths = [prompts[row].truth for row in told]
        side_by_side = self.pool.map(self.read, pictures, truths, chunksize=max(1, len(told) // 16)) if self.pool else None
        scores: list[float | Missing] = [Missing("the prompt states no truth to verify")] * len(prompts)
        for row, score in zip(told, side_by_side or map(self.read, pictures, truths), strict=True):
            scores[row] = score if isinstance(score, Missing) else float(score)
        return scores


def as_pictures(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [0, 1] as RGB pictures, without loss beyond that of `to_uint8`."""
    return [Image.fromarray(pixels) for pixels in to_uint8(images).numpy()]


def to_uint8(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] to (B, H, W, 3) uint8 on the CPU: what would be in the PNG."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
