"""How far a trained judge agrees with people on pictures it was not trained on.

    judge + what people said -> answers -> numbers with n and 95% intervals (-> judge_card.py)

All numbers are of the test part. The calibration part fits the isotonic map, and nothing else. A picture without a score counts
nowhere and is counted as missing; what the data cannot say is "not measured", never a number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from tastemaker.data.ratings import Rating
from tastemaker.data.votes import Vote
from tastemaker.evaluation.agreement import (
    Agreement,
    Isotonic,
    across_prompts,
    calibration_error,
    krippendorff_alpha,
    mean_shift,
    pair_agreement,
    rater_table,
    recalibrate,
    within_prompts,
)
from tastemaker.evaluation.lettering import lettered
from tastemaker.rewards.judge import Judge, Question
from tastemaker.rewards.reward import Missing
from tastemaker.training.reward_data import Part, StoredQuestion, group_of, rated_pairs

_PAIRS = {
    "as_shown": "right, sides as shown",
    "exchanged": "right, sides exchanged",
    "both": "right in both orders",
    "consistent": "same verdict in both",
    "left_bias": "bias to the left",
}
HEADINGS = {
    "within_prompts.spearman": "Spearman's ρ within a prompt",
    "within_prompts.kendall": "Kendall's τ-b within a prompt",
    "across_prompts.spearman": "Spearman's ρ across prompts",
    "across_prompts.kendall": "Kendall's τ-b across prompts",
    **{f"votes.{name}": f"votes: {text}" for name, text in _PAIRS.items()},
    **{f"rated_pairs.{name}": f"rated pairs: {text}" for name, text in _PAIRS.items()},
    "calibration.before": "ECE in points",
    "calibration.after": "ECE in points, isotonic",
    "vote_calibration.before": "ECE of σ(difference)",
    "vote_calibration.after": "ECE of σ(difference), isotonic",
    "lettering.shift": "score with 5/5 in the picture, less without",
    "lettering.obeyed": "score with 5/5 in the picture, less with 1/5",
    "raters.ratings": "raters: Krippendorff's α, scores",
    "raters.votes": "raters: Krippendorff's α, votes",
}
"""What each number is, in the order of the card."""

Scores = Mapping[Hashable, float]
"""Of a picture of a group (`_key`), NaN where the judge gave none."""


@dataclass(frozen=True)
class Measured:
    """Numbers by their names in `HEADINGS`; `maps` recalibrate scores, and differences of scores."""

    numbers: Mapping[str, Agreement]
    maps: Mapping[str, Isotonic]
    missing: Mapping[str, int]
    """Test pictures without a score, by reason."""


def measure(
    judge: Judge,
    test: Part,
    calibration: Part,
    *,
    again: Judge | None = None,
    num_lettered: int = 0,
    batch: int = 16,
    bins: int = 10,
    resamples: int = 2000,
    seed: int = 0,
    told: Callable[[int], None] = lambda count: None,
) -> Measured:
    """Asks about every picture of both parts, and about the test part's a second time in reverse, so each pair in both orders.

    `again` answers the second time (a judge behind another cache); `told` hears how many pictures were judged. Some of the test
    part, `num_lettered` that `seed` chooses, are asked about with 5/5 and with 1/5 drawn on them, too.
    """
    fitted, _ = _scores(judge, _pictures(calibration), batch, told)
    shown, reasons = _scores(judge, _pictures(test), batch, told)
    exchanged, _ = _scores(again or judge, dict(reversed(_pictures(test).items())), batch, told)
    drawn = {"resamples": resamples, "seed": seed}
    numbers: dict[str, Agreement] = {}
    maps: dict[str, Isotonic] = {}
    if test.ratings:
        numbers |= _ranks(shown, test.ratings, drawn)
        numbers["raters.ratings"] = krippendorff_alpha(
            rater_table([rating.scores for rating in test.ratings]), _groups(test.ratings), resamples=resamples, seed=seed
        )
        pairs = [*rated_pairs(test.ratings)]
        keys = [(_key(a, a.picture), _key(b, b.picture)) for a, b in pairs]
        numbers |= _pairs("rated_pairs", shown, exchanged, keys, [a.mean - b.mean for a, b in pairs], pairs, drawn)
        fit, held_out = _rated(fitted, calibration.ratings), _rated(shown, test.ratings)
        _calibrate("calibration", fit, held_out, (judge.low, judge.high), bins, drawn, numbers, maps)
    if test.votes:
        keys = [_sides(vote) for vote in test.votes]
        people = [float(vote.preference) for vote in test.votes]
        numbers |= _pairs("votes", shown, exchanged, keys, people, [(vote,) for vote in test.votes], drawn)
        fit, held_out = _voted(fitted, calibration.votes), _voted(shown, test.votes)
        _calibrate("vote_calibration", fit, held_out, (0.0, 1.0), bins, drawn, numbers, maps)
        numbers["raters.votes"] = _agreement_of_votes(test.votes, drawn)
    chosen = _drawn(_pictures(test), num_lettered, seed)
    if chosen:
        five, one = (_scores(judge, chosen, batch, told, partial(lettered, score=score))[0] for score in (5, 1))
        groups = [group_of(row) for row, _ in chosen.values()]
        plain, high, low = ([scores[key] for key in chosen] for scores in (shown, five, one))
        numbers["lettering.shift"] = mean_shift(plain, high, groups, **drawn)
        numbers["lettering.obeyed"] = mean_shift(low, high, groups, **drawn)
    return Measured({name: numbers[name] for name in HEADINGS if name in numbers}, maps, reasons)


def num_questions(test: Part, calibration: Part, num_lettered: int = 0) -> int:
    """Pictures that `measure` has judged: each of the test part twice, and some of it with two kinds of lettering."""
    pictures = len(_pictures(test))
    return len(_pictures(calibration)) + 2 * pictures + 2 * min(num_lettered, pictures)


# ---- asking --------------------------------------------------------------------------------------


Pictures = Mapping[Hashable, tuple[Rating | Vote, str]]
"""By their keys (`_key`), each with a row that speaks of it."""


class ChangedQuestion(StoredQuestion):
    """A stored question about its picture with something drawn on it."""

    def __init__(self, change: Callable[[Image.Image], Image.Image], *rest: Any) -> None:
        super().__init__(*rest)
        object.__setattr__(self, "_change", change)

    @property
    def picture(self) -> Image.Image:  # type: ignore[override]
        return self._change(super().picture)  # type: ignore[attr-defined, no-any-return]


def _pictures(part: Part) -> dict[Hashable, tuple[Rating | Vote, str]]:
    """Every different picture of a group once, however many rows speak of it."""
    return {_key(row, picture): (row, picture) for row in part.rows for picture in row.pictures}


def _drawn(pictures: Pictures, count: int, seed: int) -> Pictures:
    """So many of them, or all where there are not, in their order."""
    places = np.sort(np.random.default_rng(seed).permutation(len(pictures))[:count])
    keys = [*pictures]
    return {keys[place]: pictures[keys[place]] for place in places}


def _key(row: Rating | Vote, picture: str) -> Hashable:
    return group_of(row), picture


def _sides(vote: Vote) -> tuple[Hashable, Hashable]:
    return _key(vote, vote.left.picture), _key(vote, vote.right.picture)


def _groups(rows: Iterable[Rating | Vote]) -> list[Hashable]:
    return [group_of(row) for row in rows]


def _scores(
    judge: Judge,
    pictures: Pictures,
    batch: int,
    told: Callable[[int], None],
    change: Callable[[Image.Image], Image.Image] = lambda picture: picture,
) -> tuple[dict[Hashable, float], Counter[str]]:
    """Scores of the pictures, each after `change`, and the reasons of those that are missing."""
    keys = [*pictures]
    scores: dict[Hashable, float] = {}
    reasons: Counter[str] = Counter()
    for start in range(0, len(keys), batch):
        asked = keys[start : start + batch]
        questions: list[Question] = [
            ChangedQuestion(change, str(start + nth), row.prompt, picture, row.sources)
            for nth, (row, picture) in enumerate(map(pictures.__getitem__, asked))
        ]
        for key, answer in zip(asked, judge.answer(questions), strict=True):
            if isinstance(answer.score, Missing):
                scores[key] = math.nan
                reasons[answer.score.reason] += 1
            else:
                scores[key] = answer.score
        told(len(asked))
    return scores, reasons


# ---- numbers -------------------------------------------------------------------------------------

Observed = tuple[list[float], list[float], list[Hashable]]
"""What the judge said, what people said, and of which group."""


def _rated(scores: Scores, ratings: Sequence[Rating]) -> Observed:
    return [scores[_key(r, r.picture)] for r in ratings], [r.mean for r in ratings], _groups(ratings)


def _voted(scores: Scores, votes: Sequence[Vote]) -> Observed:
    """The chance that the left is preferred, sigmoid(R_left - R_right) (Eq. 1), and whether it was: 1, 0, or 0.5 for a tie."""
    margins = [scores[left] - scores[right] for left, right in map(_sides, votes)]
    return [1 / (1 + math.exp(-margin)) for margin in margins], [(1 + vote.preference) / 2 for vote in votes], _groups(votes)


def _ranks(scores: Scores, ratings: Sequence[Rating], drawn: Mapping[str, int]) -> dict[str, Agreement]:
    observed = _rated(scores, ratings)
    return {
        f"{where}.{rank}": of(*observed, rank=rank, **drawn)  # type: ignore[arg-type]
        for where, of in (("within_prompts", within_prompts), ("across_prompts", across_prompts))
        for rank in ("spearman", "kendall")
    }


def _pairs(
    name: str,
    shown: Scores,
    exchanged: Scores,
    keys: Sequence[tuple[Hashable, Hashable]],
    people: Sequence[float],
    rows: Sequence[Sequence[Rating | Vote]],
    drawn: Mapping[str, int],
) -> dict[str, Agreement]:
    """Nothing where there is no pair."""
    if not keys:
        return {}
    margins = [[scores[first] - scores[second] for first, second in keys] for scores in (shown, exchanged)]
    found = pair_agreement(*margins, people, [group_of(pair[0]) for pair in rows], **drawn)  # type: ignore[misc, arg-type]
    return {f"{name}.{kind}": getattr(found, kind) for kind in _PAIRS}


def _calibrate(
    name: str,
    fit: Observed,
    held_out: Observed,
    bounds: tuple[float, float],
    bins: int,
    drawn: Mapping[str, int],
    numbers: dict[str, Agreement],
    maps: dict[str, Isotonic],
) -> None:
    """Adds the error before, and where there is something to fit the map, the map and the error after."""
    low, high = bounds
    if np.isfinite(fit[0]).any():
        found = recalibrate(fit, held_out, low=low, high=high, bins=bins, **drawn)  # type: ignore[arg-type]
        numbers |= {f"{name}.before": found.before, f"{name}.after": found.after}
        maps[name] = found.map
    else:
        numbers[f"{name}.before"] = calibration_error(*held_out, low=low, high=high, bins=bins, **drawn)  # type: ignore[arg-type]


def _agreement_of_votes(votes: Sequence[Vote], drawn: Mapping[str, int]) -> Agreement:
    """Votes on one pair belong together whichever side its pictures were on."""
    given: dict[Hashable, dict[str, float]] = {}
    for vote in votes:
        first = min(vote.pictures)
        toward_first = vote.preference if vote.left.picture == first else -vote.preference
        given.setdefault((group_of(vote), frozenset(vote.pictures)), {}).setdefault(vote.rater, float(toward_first))
    groups = [key[0] for key in given]  # type: ignore[index]
    return krippendorff_alpha(rater_table([*given.values()]), groups, **drawn)  # type: ignore[arg-type]
