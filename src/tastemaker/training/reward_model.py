"""Trains a vision-language model to score as people do: on ratings (Eq. 2, 3) or on pairs (Eq. 1).

    examples -> the judge's own encoding, rationale and lead included -> score tokens -> loss -> update

The model is trained on exactly the tokens it will be read at (`rewards/readout.py`), with a chain of thought or without. Which
examples a step takes is keyed by seed and epoch, so a step can be repeated and resumed without changing its result. Not here:
reading rating files; rationales that the model samples itself (those that are learnt are given); several processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tastemaker.errors import UserMistake
from tastemaker.rewards.judge import Question
from tastemaker.rewards.readout import SCORES, QuestionEncoder, ReadOut, expected_score, score_log_probabilities
from tastemaker.rewards.rubrics import Rubric
from tastemaker.rewards.vlm import judge_file
from tastemaker.rewards.vlm_folder import JUDGE_FILE, VLM
from tastemaker.runtime import folder as disk
from tastemaker.runtime import seeds
from tastemaker.runtime.guard import NanGuard
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.reward_loss import IGNORED, bradley_terry, rationale_loss, soft_label_loss, squared_error
from tastemaker.training.state import Metrics, PolicyState, RunLike, steps

MAX_MISTAKES = 20


@dataclass(frozen=True, eq=False)
class Rated:
    """A question and what people gave it: the mean in [1, 5], and the share of raters behind each score 1 to 5 if known."""

    question: Question
    score: float
    shares: tuple[float, ...] | None = None
    rationale: str = ""

    @classmethod
    def of(cls, question: Question, scores: Sequence[float], rationale: str = "") -> Rated:
        """From every rater's own score; a half counts half for each neighbour. Raises ValueError for any other, and for none.

        >>> Rated.of(question, [4, 5, 5, 4.5]).shares
        (0.0, 0.0, 0.0, 0.375, 0.625)
        """
        if not scores or any(2 * score % 1 or not SCORES[0] <= score <= SCORES[-1] for score in scores):
            raise ValueError(
                f"question {question.id}: scores {list(scores)}, give one or more from {SCORES[0]} to {SCORES[-1]}, or halves"
            )
        shares = tuple(sum(max(0.0, 1 - abs(given - score)) for given in scores) / len(scores) for score in SCORES)
        return cls(question, sum(scores) / len(scores), shares, rationale)


@dataclass(frozen=True, eq=False)
class Compared:
    """Two questions, of one text as a rule: `choice` is 1 where people preferred the first, 0 the second, 0.5 for a tie."""

    first: Question
    second: Question
    choice: float
    rationales: tuple[str, str] = ("", "")


Example = Rated | Compared


@dataclass(frozen=True)
class RewardSetup:
    """What one training run of a reward model is made of. Raises UserMistake, one line for each example that cannot be used."""

    vlm: VLM
    rubric: Rubric
    read_out: ReadOut
    examples: Sequence[Example]
    seed: int = 0
    pointwise: Literal["regression", "soft_label"] = "regression"
    """Loss of ratings: on their mean (Eq. 2), or on the raters' distribution. Pairs have the loss of Eq. 1."""
    batch_size: int = 32
    """Examples of one update; a pair is one."""
    micro_batch: int | None = None
    """Examples of one forward; the result does not depend on it beyond rounding."""
    max_grad_norm: float = 1.0
    score_weight: float = 1.0
    mass_weight: float = 0.1
    """Weight of -log(mass of the five tokens): Eq. 3 renormalises, so Eq. 1 and 2 alone would not keep the judge readable."""
    rationale_weight: float = 1.0
    """Weight of the given rationale's cross-entropy, with a chain of thought."""
    precision: torch.dtype = torch.float32
    """Of the forward, by autocast; weights keep theirs."""

    def __post_init__(self) -> None:
        if found := list(_mistakes(self)):
            more = [f"... and {len(found) - MAX_MISTAKES} more"] if len(found) > MAX_MISTAKES else []
            raise UserMistake("\n".join(found[:MAX_MISTAKES] + more))

    @cached_property
    def encoder(self) -> QuestionEncoder:
        return QuestionEncoder(self.vlm.processor, self.rubric, self.read_out)


def reward_parameters(
    vlm: VLM,
    kind: Literal["full", "lora"],
    *,
    rank: int = 32,
    alpha: float | None = None,
    targets: str | Sequence[str] = "all-linear",
    checkpointing: bool = False,
    seed: int = 0,
) -> list[nn.Parameter]:
    """Make exactly these weights of `vlm` trainable and return them: all, or a LoRA, added unless the model has one.

    A new LoRA changes nothing yet (B = 0), is float32 and on every linear layer but the output, or on `targets` (peft's names);
    `alpha` is `rank` when None, a scale of 1, and `seed` draws its A. `checkpointing` trades time for memory. From here on
    `vlm` has no fingerprint. Raises UserMistake for targets that are in no place of the model.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    vlm.folders = ()
    if kind == "full":
        if isinstance(vlm.model, PeftModel):
            raise UserMistake("this model is a LoRA; train it as one, or merge it into its base and open the result")
        vlm.model.requires_grad_(True)
    elif isinstance(vlm.model, PeftModel):
        for name, parameter in vlm.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    else:
        which = targets if isinstance(targets, str) else list(targets)
        config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=which)
        with seeds.keyed(vlm.device, seed, "lora"):
            try:
                vlm.model = get_peft_model(vlm.model, config)
            except ValueError as error:
                raise UserMistake(f"policy.targets: {' '.join(str(error).split())}") from None
    if checkpointing:
        vlm.core.gradient_checkpointing_enable({"use_reentrant": False})
    return [parameter for parameter in vlm.model.parameters() if parameter.requires_grad]


def train_reward(
    setup: RewardSetup,
    state: PolicyState,
    run: RunLike,
    *,
    max_steps: int,
    checkpoint_every: int,
    guard: NanGuard,
    stop: StopRequest,
    deadline: Callable[[], bool] = lambda: False,
) -> None:
    """Steps `state.step + 1` to `max_steps`. Raises Stopped, after saving, when a stop is requested or `deadline` past."""
    setup.vlm.model.train()
    for step in steps(state, run, max_steps, checkpoint_every, guard, stop, deadline):
        began = time.perf_counter()
        metrics = update(setup, state, step, guard)
        run.log(step, {**metrics, "seconds": time.perf_counter() - began})


def update(setup: RewardSetup, state: PolicyState, step: int, guard: NanGuard) -> Metrics:
    """One optimiser step on the examples of `step`; skipped, and counted, when loss or gradient is not finite."""
    examples = examples_of_step(setup.examples, step, setup.batch_size, setup.seed)
    with seeds.keyed(setup.vlm.device, setup.seed, "dropout", step):
        metrics = accumulate(setup, examples, state.take_gradients)
    norm = torch.nn.utils.clip_grad_norm_(state.parameters, setup.max_grad_norm)
    state.attempts += 1
    fine = guard.check(state.attempts, {"loss": metrics["loss"], "grad_norm": norm}, [_id(example) for example in examples]).ok
    if fine:
        state.update()
    else:
        state.drop_gradients()
    means = torch.stack([*(value.float().mean() for value in metrics.values()), norm.detach().float()]).tolist()
    images = sum(len(_asked(example)) for example in examples)
    return {**dict(zip([*metrics, "grad_norm"], means, strict=True)), "images": images, "updates_skipped": float(not fine)}


def examples_of_step(examples: Sequence[Example], step: int, batch_size: int, seed: int) -> list[Example]:
    """The examples of step 1, 2, ...: each epoch is one shuffle of all, and a step may span the end of one."""
    places = [divmod(at, len(examples)) for at in range((step - 1) * batch_size, step * batch_size)]
    orders = {epoch: seeds.random(seed, "examples", epoch).permutation(len(examples)) for epoch in {e for e, _ in places}}
    return [examples[orders[epoch][place]] for epoch, place in places]


def accumulate(
    setup: RewardSetup, examples: Sequence[Example], after_backward: Callable[[], None] = lambda: None
) -> dict[str, Tensor]:
    """Gradients of the mean loss over the examples, a micro-batch at a time; returns each metric as (B,), in order."""
    size = setup.micro_batch or len(examples)
    collected: list[dict[str, Tensor]] = []
    for start in range(0, len(examples), size):
        metrics = losses(setup, examples[start : start + size])
        (metrics["loss"].sum() / len(examples)).backward()
        after_backward()
        collected.append({name: value.detach() for name, value in metrics.items()})
    return {name: torch.cat([metrics[name] for metrics in collected]) for name in collected[0]}


def losses(setup: RewardSetup, examples: Sequence[Example]) -> dict[str, Tensor]:
    """(B,) each: "loss", which carries the gradient, and what it is made of."""
    asked = [pair for example in examples for pair in _asked(example)]
    log_p_Q5, log_mass_Q, rationale_Q = _forward(setup, asked)
    num_questions = len(asked) // len(examples)  # 2 for pairs, whose questions stand side by side

    def per_example(value_Q: Tensor) -> Tensor:
        return value_Q.unflatten(0, (-1, num_questions)).mean(1)

    fit_B, metrics = _fit(setup, examples, log_p_Q5)
    mass_B, rationale_B = per_example(-log_mass_Q), per_example(rationale_Q)
    loss_B = setup.score_weight * fit_B + setup.mass_weight * mass_B
    if setup.read_out.chain_of_thought:
        loss_B = loss_B + setup.rationale_weight * rationale_B
        metrics["rationale_loss"] = rationale_B
    return {"loss": loss_B, "score_loss": fit_B, "digit_mass": per_example(log_mass_Q.exp()), **metrics}


def _fit(setup: RewardSetup, examples: Sequence[Example], log_p_Q5: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """(B,) loss of the scores, and what a person would look at: the error in points, or how often the pair is put right."""

    def tensor(values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, dtype=log_p_Q5.dtype, device=log_p_Q5.device)

    score_Q = expected_score(log_p_Q5)
    pairs = [example for example in examples if isinstance(example, Compared)]
    if pairs:
        first_B, second_B = score_Q.unflatten(0, (-1, 2)).unbind(1)
        choice_B = tensor([pair.choice for pair in pairs])
        right_B = torch.where(choice_B == 0.5, 0.5, ((first_B > second_B) == (choice_B > 0.5)).to(choice_B.dtype))
        return bradley_terry(first_B, second_B, choice_B), {"pairs_right": right_B.detach()}
    rated = [example for example in examples if isinstance(example, Rated)]
    target_B = tensor([example.score for example in rated])
    error = {"abs_error": (score_Q.detach() - target_B).abs()}
    if setup.pointwise == "soft_label":
        return soft_label_loss(log_p_Q5, tensor([example.shares for example in rated])), error
    return squared_error(score_Q, target_B), error


def _forward(setup: RewardSetup, asked: Sequence[tuple[Question, str]]) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, 5) log probabilities of the scores, (Q,) log of their mass, (Q,) loss of the rationale, for Q questions."""
    encoder, thinks = setup.encoder, setup.read_out.chain_of_thought
    rows = [encoder.asked(encoder.row(question), text if thinks else None) for question, text in asked]
    reasons = [encoder.reason(text) if thinks and setup.rationale_weight else [] for _, text in asked]
    lead = len(encoder.tokens.lead)
    keep = max(map(len, reasons)) + lead + 1  # logits of the answer alone: padding is on the left, all rows end together
    batch = setup.vlm.placed(encoder.collate(rows))
    with torch.autocast(setup.vlm.device.type, setup.precision, enabled=setup.precision != torch.float32):
        logits_QKV = setup.vlm.core(**batch, logits_to_keep=keep, use_cache=False).logits
    log_p_Q5, log_mass_Q = score_log_probabilities(logits_QKV[:, -1], encoder.tokens.scores)
    labels_QK = torch.full((len(asked), keep), IGNORED, device=logits_QKV.device)
    for row, reason in enumerate(reasons):
        end = keep - 1 - lead
        labels_QK[row, end - len(reason) : end] = torch.tensor(reason, dtype=torch.long, device=logits_QKV.device)
    return log_p_Q5, log_mass_Q, rationale_loss(logits_QKV, labels_QK)


def save_judge(folder: Path | str, vlm: VLM, rubric: Rubric, read_out: ReadOut) -> Path:
    """Write the model as a plain transformers folder, or a peft folder for a LoRA, with processor and `judge.json`.

    It is there whole or not at all; `VLMJudge.load(folder)` needs no more, transformers and peft load it without us. Raises
    UserMistake when there is something at `folder` already.
    """
    target = Path(folder).absolute()
    if target.exists():
        raise UserMistake(f"{target} exists already; give a new folder, so that no judge is ever overwritten")
    disk.make_folder(target.parent)
    temporary = target.with_name(f"{target.name}{disk.TEMPORARY}{os.getpid()}")
    need = sum(value.numel() * value.element_size() for value in vlm.model.state_dict().values() if value is not None)
    disk.require_space(target.parent, need)
    with disk.room_for(temporary, need):
        is_lora = vlm.model is not vlm.core
        vlm.model.save_pretrained(temporary, **({"save_embedding_layers": False} if is_lora else {}))
        vlm.processor.save_pretrained(temporary)
        (temporary / JUDGE_FILE).write_text(judge_file(rubric, read_out), encoding="utf-8")
        for path in sorted(temporary.rglob("*")):
            disk.write_file(path, lambda _: None)
        disk.sync_folder(temporary)
        disk.rename_folder(temporary, target)
    return target


def _asked(example: Example) -> list[tuple[Question, str]]:
    """The questions of an example, each with its rationale."""
    if isinstance(example, Rated):
        return [(example.question, example.rationale)]
    return list(zip((example.first, example.second), example.rationales, strict=True))


def _id(example: Example) -> str:
    return " / ".join(question.id for question, _ in _asked(example))


def _mistakes(setup: RewardSetup) -> Iterator[str]:
    if not setup.examples:
        yield "there are no examples to train on"
    if len({type(example) for example in setup.examples}) > 1:
        yield "ratings and pairs are mixed; train on one kind, their losses have different units"
    for name in ("batch_size", "micro_batch"):
        if getattr(setup, name) is not None and getattr(setup, name) < 1:
            yield f"{name} {getattr(setup, name)}: at least 1"
    for number, example in enumerate(setup.examples, start=1):
        for mistake in _mistakes_of(example, setup):
            yield f"example {number} ({_id(example)}): {mistake}"


def _mistakes_of(example: Example, setup: RewardSetup) -> Iterator[str]:
    if isinstance(example, Rated):
        if not SCORES[0] <= example.score <= SCORES[-1]:
            yield f"score {example.score:g}: must be from {SCORES[0]} to {SCORES[-1]}"
        if setup.pointwise == "soft_label" and not _is_distribution(example.shares):
            yield f"shares {example.shares}: soft labels want one share for each of the scores 1 to 5, summing to 1"
    elif example.choice not in (0, 0.5, 1):
        yield f"choice {example.choice:g}: must be 1 (the first is better), 0 (the second) or 0.5 (a tie)"
    for question, rationale in _asked(example):
        if reason := setup.rubric.lack(question):
            yield reason
        if setup.read_out.chain_of_thought and not rationale.strip():
            yield "has no rationale; give one, or train without chain of thought"
        if setup.read_out.chain_of_thought and setup.read_out.stop in rationale:
            yield f"its rationale contains {setup.read_out.stop!r}, which ends one; take it out"
        elif setup.read_out.chain_of_thought and (wrong := setup.encoder.overlong(rationale)):
            yield wrong


def _is_distribution(shares: Sequence[float] | None) -> bool:
    return shares is not None and len(shares) == len(SCORES) and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6
