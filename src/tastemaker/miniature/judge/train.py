"""Trains the miniature judge on simulated ratings: four dimensions and two read-outs in one model, by the house's own losses.

    seeing      the eye alone: it names what is in pictures of the world, and scores those ratings that need no words
    comparing   the whole model describes such pictures, and holds words against them (captions, no scores)
    rating      soft labels of the raters' scores, with and without the reason before them, and some of the former still

Each part begins with the averaged weights of the one before, and its rate falls to nothing at its end. A step that rates takes
examples of every dimension, each by one read-out in turn. What a step sees depends on seed and step alone, so a training that
was interrupted goes on as if it had not been. No prompt's truth is read here: only pictures, texts and ratings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tastemaker.data.ratings import Rating
from tastemaker.errors import UserMistake
from tastemaker.miniature.builder.optimiser import Optimiser, split
from tastemaker.miniature.judge.describing import Describing, captioned
from tastemaker.miniature.judge.language import DIRECT, RUBRICS, THINKING
from tastemaker.miniature.judge.looking import NEEDS_NO_WORDS, Looking, by_picture
from tastemaker.miniature.judge.matching import Matching
from tastemaker.miniature.judge.naming import Naming
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.vlm_folder import VLM
from tastemaker.runtime import checkpoint, seeds
from tastemaker.runtime import folder as disk
from tastemaker.runtime.distributed import ALONE, Ranks
from tastemaker.runtime.metrics import StepLog
from tastemaker.training.reward_data import StoredQuestion
from tastemaker.training.reward_model import Example, Rated, RewardSetup, examples_of_step, losses

EMA_DECAY = 0.99
READ_OUTS = (DIRECT, DIRECT, THINKING, DIRECT)
"""In turn: a score after the right reason is soon learnt, and one without any is what the judge is mostly asked for."""
_NAMING_WEIGHT = 0.2  # its loss is summed over the vocabulary
_SHOWN = ("naming_loss", "looks", "abs_error", "pairs_right", "caption_loss", "matching_answer", "matching_words")
_SIZES = ("naming", "looking", "describing", "comparing", *RUBRICS, "glances", "captions", "matching")
_BESIDE = ("model.language_model.embed_tokens", "lm_head", "model.visual.pos_embed")
Part = Literal["seeing", "comparing", "rating"]
Examples = Mapping[str, Sequence[Example]]
"""By dimension; either ratings or pairs in each."""


@dataclass(frozen=True)
class Plan:
    """How the judge is trained: the steps of its three parts, and how many examples of what one step of each takes."""

    seeing_steps: int = 1600
    naming: int = 64
    """Pictures whose words the eye finds by itself."""
    looking: int = 96
    """Rated pictures that the eye scores by itself, on all that needs no words."""
    comparing_steps: int = 2000
    describing: int = 24
    comparing: int = 56
    """Requests held against pictures."""
    rating_steps: int = 1800
    alignment: int = 80
    aesthetic: int = 26
    portrait: int = 14
    instruction: int = 80
    glances: int = 32
    """Rated pictures that the eye scores by itself in a step that rates."""
    captions: int = 2
    """Pictures described in a step that rates."""
    matching: int = 32
    """Requests held against pictures in a step that rates."""
    muon_lr: float = 0.01
    adam_lr: float = 1.5e-3
    rating_rate: float = 0.3
    """Share of these rates that a step which rates takes: with all of them what was learnt by comparing is soon lost."""
    seed: int = 0
    save_every: int = 100
    precision: str = "float32"
    """bfloat16 pays where the processor has matrix units for it and the model is wider than this one."""

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16") or min(self.parts.values()) < 0 or self.steps < 1:
            raise UserMistake(
                f"judge plan: precision float32 or bfloat16, parts of no negative length, one step at least; got {self}"
            )

    @property
    def parts(self) -> dict[Part, int]:
        """The steps of each part, in order."""
        return {"seeing": self.seeing_steps, "comparing": self.comparing_steps, "rating": self.rating_steps}

    @property
    def steps(self) -> int:
        return sum(self.parts.values())

    def share(self, ranks: Ranks) -> Plan:
        """The part of one of several processes: fewer examples of each kind, and others."""
        sizes = {name: max(1, getattr(self, name) // ranks.count) for name in _SIZES if getattr(self, name)}
        return replace(self, seed=self.seed + 1_000_003 * ranks.rank, **sizes)

    def part_of(self, step: int) -> tuple[Part, int, int]:
        """The part that step 1, 2, ... belongs to, which of its steps it is, from 1 on, and how many it has."""
        within = step
        for part, length in self.parts.items():
            if within <= length:
                return part, within, length
            within -= length
        raise ValueError(f"step {step} is behind the last of {self.steps}")


class JudgeTrainer:
    """The model behind one loss; `ema` holds the averaged weights that ship.

    Steps go through `read_outs` in turn. `pointwise` is the loss of ratings, as in `RewardSetup`. Of several processes each
    has a plan of its own (`Plan.share`), and all take the mean of their gradients.
    """

    def __init__(
        self,
        vlm: VLM,
        examples: Examples,
        plan: Plan,
        *,
        read_outs: Sequence[ReadOut] = READ_OUTS,
        pointwise: Literal["regression", "soft_label"] = "soft_label",
        ranks: Ranks = ALONE,
    ):
        missing = [name for name in RUBRICS if getattr(plan, name) and not examples.get(name)]
        if missing:
            raise UserMistake(f"no ratings of {', '.join(missing)}; rate some, or set their examples of a step to 0")
        self.vlm, self.examples, self.plan, self.ranks = vlm, examples, plan, ranks
        vlm.folders = ()
        vlm.model.requires_grad_(True).train()
        self._naming = Naming(vlm, captioned, plan.seed)
        self._looking = Looking(vlm)
        rated = {name: [one for one in examples.get(name, ()) if isinstance(one, Rated)] for name in NEEDS_NO_WORDS}
        self._looked_at = by_picture(rated) if plan.looking or plan.glances else []
        matrices, rest = split(vlm.model, never=_BESIDE)
        rest = [*rest, *self._naming.sureness.parameters(), *self._looking.heads.parameters()]
        self.optimiser = Optimiser(matrices, rest, muon_lr=plan.muon_lr, adam_lr=plan.adam_lr, decay_from=0.6)
        self.ema = {name: value.detach().clone() for name, value in vlm.model.named_parameters()}
        self._setups = {
            name: [
                RewardSetup(
                    vlm,
                    RUBRICS[name],
                    read_out,
                    examples[name][:1],
                    pointwise=pointwise,
                    precision=getattr(torch, plan.precision),
                )
                for read_out in read_outs
            ]
            for name in RUBRICS
            if examples.get(name)
        }
        self._describing, self._matching = Describing(vlm, plan.seed), Matching(vlm, plan.seed)

    def step(self, step: int) -> dict[str, float]:
        """Gradients of step 1, 2, ... and the update; returns means over its examples."""
        plan = self.plan
        part, within, length = plan.part_of(step)
        if within == 1 and step > 1:
            self._take_averages()
        self._make_trainable(part)
        metrics = {"seeing": self._see, "comparing": self._compare, "rating": self._rate}[part](within)
        self._take_the_mean_gradient()
        share = plan.rating_rate if part == "rating" else 1.0
        self.optimiser.rates = [share * plan.muon_lr, share * plan.adam_lr]
        self.optimiser.step((within - 1) / length, within - 1, warmup=max(1, min(30, length // 20)))
        decay = min(EMA_DECAY, (within + 1) / (within + 10))
        with torch.no_grad():
            for key, value in self.vlm.model.named_parameters():
                self.ema[key].lerp_(value, 1 - decay)
        return metrics

    def _take_the_mean_gradient(self) -> None:
        if self.ranks.count > 1:
            self.ranks.add_up(self.optimiser.parameters)
            for parameter in self.optimiser.parameters:
                if parameter.grad is not None:
                    parameter.grad /= self.ranks.count

    def _make_trainable(self, part: Part) -> None:
        """While it compares, an eye that has learnt to see rests, but for what hands over what it sees."""
        rests = part == "comparing" and self.plan.seeing_steps > 0
        for name, parameter in self.vlm.core.named_parameters():
            in_eye, hands_over = name.startswith("model.visual"), "merger" in name
            parameter.requires_grad_((in_eye or part != "seeing") and not (rests and in_eye and not hands_over))

    def _see(self, step: int) -> dict[str, float]:
        metrics = {}
        if self.plan.naming:
            loss = self._naming.loss(self.plan.naming, step).mean()
            (_NAMING_WEIGHT * loss).backward()
            metrics["naming_loss"] = float(loss.detach())
        return metrics | self._looks(self.plan.looking, step, self.plan.looking)

    def _looks(self, size: int, step: int, total: int) -> dict[str, float]:
        """The eye's own scores, as shares of `total` examples."""
        if not size or not self._looked_at:
            return {}
        chosen = seeds.random(self.plan.seed, "looking", step).choice(len(self._looked_at), size)
        found = self._looking.losses([self._looked_at[place] for place in chosen])
        (torch.cat([*found.values()]).sum() / total).backward()
        return {f"{name}_looks": float(loss.detach().mean()) for name, loss in found.items()}

    def _compare(self, step: int) -> dict[str, float]:
        return self._words(self.plan.describing, self.plan.comparing, step, self.plan.describing + self.plan.comparing)

    def _rate(self, step: int) -> dict[str, float]:
        plan, metrics = self.plan, dict[str, float]()
        sizes = {name: getattr(plan, name) for name in RUBRICS if getattr(plan, name)}
        total = sum(sizes.values()) + plan.captions + plan.matching + plan.glances
        for place, (name, size) in enumerate(sizes.items()):
            setup = self._setups[name][(step + place) % len(self._setups[name])]
            found = losses(setup, examples_of_step(self.examples[name], step, size, plan.seed))
            (found["loss"].sum() / total).backward()
            metrics |= {f"{name}_{key}": float(value.detach().mean()) for key, value in found.items()}
        metrics |= self._looks(plan.glances, plan.seeing_steps + step, total)
        return metrics | self._words(plan.captions, plan.matching, plan.comparing_steps + step, total)

    def _words(self, captions: int, matching: int, step: int, total: int) -> dict[str, float]:
        """Captions written, and requests held against pictures, as shares of `total` examples."""
        metrics = {}
        if captions:
            loss = self._describing.loss(captions, step, getattr(torch, self.plan.precision))
            (loss.sum() / total).backward()
            metrics["caption_loss"] = float(loss.detach().mean())
        if matching:
            found = self._matching.losses(matching, step, getattr(torch, self.plan.precision))
            (sum(found.values()).sum() / total).backward()  # type: ignore[union-attr]
            metrics |= {f"matching_{key}": float(value.detach().mean()) for key, value in found.items()}
        return metrics

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything a checkpoint needs."""
        live = {name: value.detach() for name, value in self.vlm.model.named_parameters()}
        eye = {**self._naming.sureness.state_dict(), **self._looking.heads.state_dict()}
        return {"live": live, "ema": self.ema, "optimiser": self.optimiser.state(), "eye": eye}

    @torch.no_grad()
    def restore(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        for name, value in self.vlm.model.named_parameters():
            value.copy_(tensors["live"][name])
        for module in (self._naming.sureness, self._looking.heads):
            module.load_state_dict({name: tensors["eye"][name] for name in module.state_dict()})
        self.ema = {name: tensors["ema"][name].clone() for name in self.ema}
        self.optimiser.restore(tensors["optimiser"])

    @torch.no_grad()
    def _take_averages(self) -> None:
        for name, value in self.vlm.model.named_parameters():
            value.copy_(self.ema[name])

    def finish(self) -> VLM:
        """The model with its averaged weights, for judging."""
        self._take_averages()
        self.vlm.model.requires_grad_(True).eval()
        return self.vlm


def train(trainer: JudgeTrainer, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
    """All steps of the plan, from the last checkpoint of `folder` on; log.jsonl has a line a step. One process writes."""
    steps, plan = folder / "steps", trainer.plan
    start = 0
    if checkpoint.steps(steps):
        saved = checkpoint.load(steps)
        trainer.restore(saved.tensors)
        start = saved.step
    if not trainer.ranks.first:
        for step in range(start + 1, plan.steps + 1):
            trainer.step(step)
        return
    disk.make_folder(folder)
    log = StepLog(folder / "log.jsonl", contiguous=True)
    log.cut(start)
    for step in range(start + 1, plan.steps + 1):
        metrics = trainer.step(step)
        log.append(step, metrics)
        if step % 20 == 0:
            shown = ", ".join(f"{key} {value:.3f}" for key, value in metrics.items() if key.endswith(_SHOWN))
            say(f"judge step {step} of {plan.steps}, {plan.part_of(step)[0]}: {shown}")
        if step % plan.save_every == 0 or step == plan.steps:
            checkpoint.save(steps, step, trainer.tensors(), {})
            checkpoint.prune(steps, 1)


def by_dimension(ratings: Sequence[Rating]) -> dict[str, list[Rated]]:
    """The ratings of each dimension that the judge has a rubric for, and of those that its eye learns beside them."""
    names = dict.fromkeys((*RUBRICS, *NEEDS_NO_WORDS))
    return {name: [rated(rating) for rating in ratings if rating.dimension == name] for name in names}


def rated(rating: Rating) -> Rated:
    """Its pictures are opened when a step looks at them. The question is called by its picture, which many ratings share."""
    question = StoredQuestion(rating.picture, rating.prompt, rating.picture, rating.sources)
    return Rated.of(question, [*rating.scores.values()], rating.rationale)
