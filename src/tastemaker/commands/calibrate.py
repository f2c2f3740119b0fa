"""`tastemaker calibrate`: from people's votes to weights; judges score the pictures of votes that hold no scores."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from tastemaker.config import TrainConfig, load
from tastemaker.errors import UserMistake
from tastemaker.evaluation.calibrate_votes import read_scored_votes, run


def calibrate(path: Path, *, config: Path | None, strength: float, resamples: int, seed: int, out: Path | None = None) -> Path:
    """Fits the weights and writes them as YAML, whose path it returns.

    Votes with scores (`evaluation/calibrate_votes.py`) need no `config`; without one all scores range from 0 to 1. Votes on
    pictures (`data/votes.py`) are scored by the rewards of `config`, and the scores are kept: the same command goes on.
    """
    settings, console = load(config, TrainConfig) if config else None, Console()
    ranges = {reward.name: (reward.low, reward.high) for reward in settings.rewards} if settings else None
    if not _on_pictures(path):
        votes = read_scored_votes(path, ranges)
    elif settings is None or config is None:
        raise UserMistake(f"{path}: votes on pictures, without scores; name the judges with --config, a config with rewards")
    else:
        from tastemaker.commands.scored_votes import scored_votes  # opens judges, which takes torch

        votes = scored_votes(path, settings, config.parent, console)
    return run(votes, path, ranges=ranges, strength=strength, resamples=resamples, seed=seed, out=out, console=console)


def _on_pictures(path: Path) -> bool:
    """Whether the file's first row names pictures in place of scores. What is no such file is for its reader to refuse."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            row = json.loads(next(line for line in lines if line.strip()))
            return isinstance(row["left"]["picture"], str)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return False
