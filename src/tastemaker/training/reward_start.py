"""From settings to a running training of a reward model, and to the folder that judges open."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tastemaker.config.reward_training import ChainOfThoughtObjective, JudgeLora, RewardTrainConfig
from tastemaker.errors import UserMistake
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.rubrics import Rubric
from tastemaker.rewards.vlm_folder import VLM
from tastemaker.runtime.guard import NanGuard
from tastemaker.runtime.progress import Tracker
from tastemaker.runtime.run import Run
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.reward_model import Example, RewardSetup, reward_parameters, save_judge, train_reward
from tastemaker.training.state import PolicyState, minutes_over


def make_read_out(config: RewardTrainConfig) -> ReadOut:
    """How the judge is read; chain of thought only where it is learnt."""
    objective, lead, mass = config.objective, config.read_out.lead, config.read_out.min_mass
    if not isinstance(objective, ChainOfThoughtObjective):
        return ReadOut(chain_of_thought=False, lead=lead, min_mass=mass)
    tokens = objective.max_rationale_tokens
    return ReadOut(max_rationale_tokens=tokens, start=objective.start, stop=objective.stop, lead=lead, min_mass=mass)


def make_reward_setup(
    config: RewardTrainConfig, vlm: VLM, rubric: Rubric, examples: Sequence[Example], precision: torch.dtype
) -> RewardSetup:
    """The loop's view of the settings, with exactly the policy's weights of `vlm` made trainable."""
    _make_trainable(config, vlm)
    objective, optimiser = config.objective, config.optimiser
    scores = objective.scores if isinstance(objective, ChainOfThoughtObjective) else objective.kind
    return RewardSetup(
        vlm=vlm,
        rubric=rubric,
        read_out=make_read_out(config),
        examples=examples,
        seed=config.seed,
        pointwise="soft_label" if scores == "soft_label" else "regression",
        batch_size=optimiser.batch_size,
        micro_batch=optimiser.micro_batch,
        max_grad_norm=optimiser.max_grad_norm,
        score_weight=objective.score_weight,
        mass_weight=objective.mass_weight,
        rationale_weight=objective.rationale_weight if isinstance(objective, ChainOfThoughtObjective) else 0.0,
        precision=precision,
    )


def _make_trainable(config: RewardTrainConfig, vlm: VLM) -> None:
    policy, checkpointing = config.policy, config.optimiser.gradient_checkpointing
    if isinstance(policy, JudgeLora):
        reward_parameters(
            vlm,
            "lora",
            rank=policy.rank,
            alpha=policy.alpha,
            targets=policy.targets or "all-linear",
            checkpointing=checkpointing,
            seed=config.seed,
        )
    else:
        reward_parameters(vlm, "full", checkpointing=checkpointing)


def num_steps(config: RewardTrainConfig, num_examples: int) -> int:
    """Of the whole training; the last epoch may be a part of one."""
    steps = math.ceil(config.budget.epochs * num_examples / config.optimiser.batch_size)
    return min(steps, config.budget.max_steps or steps)


def run_reward_training(
    config: RewardTrainConfig,
    setup: RewardSetup,
    run: Run,
    *,
    trackers: Callable[[int, int], Sequence[Tracker]] = lambda start, total: (),
    stop: StopRequest | None = None,
) -> PolicyState:
    """Trains to the last step, or goes on from the saved one.

    Raises UserMistake for a run past its budget; Stopped, after saving, when a signal or the time budget ended it early.
    """
    state, total = PolicyState.fresh(setup.vlm.model, config.optimiser), num_steps(config, len(setup.examples))
    guard = NanGuard(run.incident)
    saved = run.restore()
    if saved is not None:
        state.restore(saved.tensors, saved.state)
        guard.load_state(saved.state["guard"])
    if state.step > total:
        raise UserMistake(f"{run.folder}: is at step {state.step} already, past the {total} of the budget; raise budget.epochs")
    weights = sum(value.numel() * value.element_size() for value in setup.vlm.model.parameters())
    run.require_space(state.tensors_to_come(), extra=weights)
    for tracker in trackers(state.step, total):
        run.follow(tracker)
    deadline = minutes_over(config.budget.max_minutes)
    with stop or StopRequest() as stopping:
        train_reward(
            setup,
            state,
            run,
            max_steps=total,
            checkpoint_every=config.checkpoint.every,
            guard=guard,
            stop=stopping,
            deadline=deadline,
        )
    return state


def write_judge(config: RewardTrainConfig, setup: RewardSetup, state: PolicyState, folder: Path) -> Path:
    """The judge's folder, whole or not at all. A LoRA to be merged is one with its base afterwards, in memory too.

    Merged, the folder is a plain transformers model, which any server opens and which needs no base at a path of this machine.
    """
    with state.averaged():
        if isinstance(config.policy, JudgeLora) and config.policy.merge:
            setup.vlm.model = setup.vlm.model.merge_and_unload()
        return save_judge(folder, setup.vlm, setup.rubric, setup.read_out)
