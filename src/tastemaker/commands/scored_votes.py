"""Scores for votes on pictures, from the judges of a config: what `tastemaker calibrate` fits weights to.

votes -> every picture once -> composite.score, kept -> gates -> votes with the scores of both sides
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from tastemaker.config import TrainConfig
from tastemaker.data.pictures import open_picture, picture_size
from tastemaker.data.votes import Side, Vote, read_votes
from tastemaker.errors import UserMistake
from tastemaker.evaluation.calibrate_votes import CHOICES, ScoredVote
from tastemaker.named.judges import check_rewards, opened_rewards
from tastemaker.rewards.composite import Composite, commonest_reasons
from tastemaker.rewards.reward import fingerprint_of, fingerprints
from tastemaker.runtime import device as hardware
from tastemaker.runtime.metrics import append_line, read_lines
from tastemaker.training.reward_data import listed
from tastemaker.training.start import make_composite
from tastemaker.types import Prompt, Scores

AT_ONCE = 16
"""Pictures, of one size, that the judges are asked about together; what they said is then kept."""

Item = tuple[Prompt, str]
"""What was asked for, and the file of a picture."""


def scored_votes(path: Path, config: TrainConfig, beside: Path, console: Console) -> list[ScoredVote]:
    """The votes of the file, but those on a pair of which a side was called invalid, with the scores of both pictures.

    Each has the rewards that the config gives a weight for its prompt. The category of an edit is named as settings name it,
    such as edit/portrait.
    """
    check_rewards(config, beside)
    if built_in := [f"rewards.{row}: {r.name!r}" for row, r in enumerate(config.rewards) if r.judge is None]:
        raise UserMistake(f"{built_in[0]} reads a prompt's truth, which votes do not hold; leave it out or give it a judge")
    everything = read_votes(path, decode=True)
    votes = [vote for vote in everything if vote.left.valid is not False and vote.right.valid is not False]
    _check_categories(votes, path)
    if len(votes) < len(everything):
        console.print(f"left out: {len(everything) - len(votes):,} votes, a side of the pair was called invalid")
    items = list(dict.fromkeys(_item(vote, side) for vote in votes for side in (vote.left, vote.right)))
    hardware.set_threads(config.threads)
    with opened_rewards(config, beside, hardware.pick_device()) as rewards:
        composite = make_composite(config, rewards)
        kept = path.with_name(f"{path.stem}.scores.jsonl")

        def told(count: int) -> None:
            console.print(f"judged {count:,} of {len(items):,} pictures")

        def lacking(reasons: str) -> None:
            console.print(f"without a score: {reasons}", markup=False, highlight=False, soft_wrap=True)

        found = score_items(items, composite, kept, told, lacking)
    return [
        ScoredVote(
            id=vote.id,
            prompt=_named(vote),
            category=_category(vote),
            choice=CHOICES[vote.choice],
            left=found[_item(vote, vote.left)],
            right=found[_item(vote, vote.right)],
        )
        for vote in votes
    ]


def score_items(
    items: Sequence[Item],
    composite: Composite,
    path: Path,
    told: Callable[[int], None] = lambda count: None,
    lacking: Callable[[str], None] = lambda reasons: None,
) -> dict[Item, dict[str, float | None]]:
    """By reward, those that count for the item's prompt, under their gates; None is missing.

    The file keeps what every judge said of an item, before gates; it belongs to the judges, the words and the pictures. Where
    scores did not arrive, `lacking` is told the commonest reasons.
    """
    prompts, names = [prompt for prompt, _ in items], composite.names
    known = {line["item"]: line["scores"] for line in read_lines(path)}
    judges = fingerprint_of(
        [fingerprints(composite.rewards), [(r.name, r.low, r.high) for r in composite.rewards], version("tastemaker")]
    )
    asked_BR = composite.asked_BR(prompts)
    keys = [
        fingerprint_of([judges, asked.tolist(), prompt.text, prompt.task, Path(picture), *map(Path, prompt.sources)])
        for (prompt, picture), asked in zip(items, asked_BR, strict=True)
    ]
    values_BR = torch.full(asked_BR.shape, torch.nan, dtype=torch.float64)
    missing: dict[tuple[int, str], str] = {}
    for row, key in enumerate(keys):
        if key in known:
            values_BR[row] = torch.tensor([_number(known[key].get(name)) for name in names], dtype=torch.float64)
    done = sum(key in known for key in keys)
    for rows in _of_one_size([row for row, key in enumerate(keys) if key not in known], items):
        images = torch.from_numpy(np.stack([np.array(open_picture(items[row][1])) for row in rows])).permute(0, 3, 1, 2) / 255
        scores = composite.score(images, [prompts[row] for row in rows])
        values_BR[rows] = scores.values_BR.double()
        missing |= {(rows[at], name): reason for (at, name), reason in scores.missing.items()}
        for row in rows:
            if not any((row, name) in missing for name in names):
                said = dict(zip(names, map(_or_none, values_BR[row].tolist()), strict=True))
                append_line(path, {"item": keys[row], "scores": said})
        told(done := done + len(rows))
    judged = Scores(names, values_BR, missing)
    if missing:
        lacking(commonest_reasons(judged))
    gated = composite.gated(judged, prompts).values_BR.tolist()
    return {
        item: {name: _or_none(value) for name, value, counts in zip(names, row, weights, strict=True) if counts > 0}
        for item, row, weights in zip(items, gated, composite.weights_BR(prompts).tolist(), strict=True)
    }


def _or_none(score: float) -> float | None:
    """NaN, as a reward has it that was not asked or does not apply, as None, which JSON can hold."""
    return None if math.isnan(score) else score


def _number(score: float | None) -> float:
    return math.nan if score is None else score


def _of_one_size(rows: Sequence[int], items: Sequence[Item]) -> Iterator[list[int]]:
    sizes = {row: picture_size(items[row][1]) for row in rows}
    for _, same in groupby(sorted(rows, key=sizes.__getitem__), key=sizes.__getitem__):
        together = list(same)
        yield from (together[start : start + AT_ONCE] for start in range(0, len(together), AT_ONCE))


def _check_categories(votes: Sequence[Vote], path: Path) -> None:
    first: dict[str, Vote] = {}
    wrong = [
        f"{path}: {vote.id}: category {_category(vote)!r}, but {other.id} on this prompt has {_category(other)!r}; it has one"
        for vote in votes
        if _category(other := first.setdefault(_named(vote), vote)) != _category(vote)
    ]
    if wrong:
        raise UserMistake(listed(wrong))


def _item(vote: Vote, side: Side) -> Item:
    return Prompt(vote.prompt, vote.prompt, vote.category, vote.task, vote.sources), side.picture


def _named(vote: Vote) -> str:
    """Votes of one name are on one prompt: for an edit, with the same sources."""
    return " ".join([vote.prompt, *vote.sources])


def _category(vote: Vote) -> str:
    return vote.category if vote.task == "t2i" else f"{vote.task}/{vote.category}"
