"""How large the experiment is, and the arithmetic by which the arms cost the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tastemaker.errors import UserMistake
from tastemaker.miniature.judge.language import RUBRICS
from tastemaker.miniature.judge.train import Plan
from tastemaker.miniature.raters.collect import Sitting
from tastemaker.miniature.raters.panel import MARGINS
from tastemaker.training.reward_model import Compared, Example

PAIRWISE, POINTWISE, SEVERE = "pairwise", "pointwise", "pointwise, severe raters"
DIMENSIONS = tuple(name for name in RUBRICS if name in MARGINS)
"""What simulated raters both rate and vote on; they have no margin for portraits."""


@dataclass(frozen=True)
class Design:
    """Raises UserMistake, one line for each setting that cannot be."""

    t2i: int = 300
    edits: int = 200
    pictures: int = 4
    """Of each training prompt."""
    raters: int = 3
    """Ratings of each picture."""
    panel: int = 9
    held_out_t2i: int = 200
    held_out_edits: int = 150
    held_out_pictures: int = 6
    naming_steps: int = 600
    """Before it is told any score: of the eye, which names what is in pictures, ..."""
    start_steps: int = 1200
    """... and of the whole model, which describes pictures and holds requests against them."""
    describing: int = 16
    comparing: int = 48
    """Captions, and requests held against pictures, in one of these."""
    steps: int = 750
    """Updates of each arm."""
    batch: int = 16
    """Pictures judged in one update, for each dimension."""
    seeds: int = 3
    severity: float = 3.0
    """The raters of a third arm are so many times as severe or lenient, which votes do not show; 0 leaves the arm out."""

    def __post_init__(self) -> None:
        rules = {
            f"seeds {self.seeds}: at least 1": self.seeds >= 1,
            f"t2i {self.t2i}, edits {self.edits}: at least 1 each": min(self.t2i, self.edits) >= 1,
            f"steps {self.steps}, naming_steps {self.naming_steps}, start_steps {self.start_steps}: at least 1 each": min(
                self.steps, self.naming_steps, self.start_steps
            )
            >= 1,
            f"severity {self.severity:g}: 0 or above": self.severity >= 0,
            f"batch {self.batch}: an even number, since a pair has two pictures": self.batch > 0 and self.batch % 2 == 0,
            f"raters {self.raters}, pictures {self.pictures}: 2 raters / (pictures - 1) must be whole, the votes on a pair": (
                self.pictures >= 2 and 2 * self.raters % (self.pictures - 1) == 0
            ),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if not broken and self.steps < self.least_steps:
            broken.append(f"steps {self.steps}: at least {self.least_steps}, or votes are paid for that no update sees")
        if broken:
            raise UserMistake("\n".join(f"pointwise against pairwise: {rule}" for rule in broken))

    @property
    def votes_per_pair(self) -> int:
        """r ratings of each of K pictures are K r judgements; spread over K (K - 1) / 2 pairs, 2 r / (K - 1) votes on each."""
        return 2 * self.raters // (self.pictures - 1)

    @property
    def least_steps(self) -> int:
        """Updates that pass every vote once, on the dimension with most: all prompts have an aesthetic score."""
        votes = (self.t2i + self.edits) * self.pictures * self.raters
        return -(-2 * votes // self.batch)

    @property
    def arms(self) -> tuple[str, ...]:
        return (PAIRWISE, POINTWISE, SEVERE) if self.severity else (PAIRWISE, POINTWISE)

    @property
    def training(self) -> Sitting:
        return Sitting("train", self.t2i, self.edits, self.pictures, 0.0, self.panel, self.raters)

    @property
    def held_out(self) -> Sitting:
        """Prompts that ask for what no training picture shows; see miniature/world/splits.py."""
        return Sitting("eval", self.held_out_t2i, self.held_out_edits, self.held_out_pictures, 0.0, self.panel, self.raters)

    def start(self, seed: int) -> Plan:
        """The stages that all arms start from: no rating and no vote is in them."""
        parts: dict[str, Any] = {"seeing_steps": self.naming_steps, "comparing_steps": self.start_steps, "rating_steps": 0}
        shown = {"naming": _NAMED, "describing": self.describing, "comparing": self.comparing}
        return Plan(**{**_NOTHING, **shown}, **parts, seed=seed)

    def plan(self, arm: str, seed: int) -> Plan:
        """Without captions: beside them the two losses, which have different units, would weigh differently."""
        examples = self.batch // 2 if arm == PAIRWISE else self.batch
        parts: dict[str, Any] = {"seeing_steps": 0, "comparing_steps": 0, "rating_steps": self.steps}
        return Plan(**{**_NOTHING, **dict.fromkeys(DIMENSIONS, examples)}, **parts, seed=seed)


_NAMED = 96  # pictures in a step of naming
_NOTHING: dict[str, Any] = dict.fromkeys((*RUBRICS, "looking", "glances", "captions", "describing", "comparing", "matching"), 0)
QUICK = Design(
    t2i=2,
    edits=2,
    held_out_t2i=4,
    held_out_edits=4,
    held_out_pictures=4,
    naming_steps=3,
    start_steps=3,
    describing=8,
    comparing=4,
    steps=12,
    batch=8,
    seeds=2,
)
"""Shows that everything runs; its numbers mean nothing."""


@dataclass(frozen=True)
class Cost:
    """Of one dimension in one arm. A source picture passes the network beside each picture of an edit, and is not counted."""

    judgements: int
    pictures: int
    """Different ones."""
    updates: int
    passes: int
    """Pictures passed through the network, over all updates."""


def cost(examples: Sequence[Example], judgements: int, plan: Plan, dimension: str) -> Cost:
    """What an arm really spends, counted on its examples."""
    asked = [[e.first, e.second] if isinstance(e, Compared) else [e.question] for e in examples]
    pictures = {question.id for one in asked for question in one}
    return Cost(judgements, len(pictures), plan.steps, plan.steps * getattr(plan, dimension) * len(asked[0]))
