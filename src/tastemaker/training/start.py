"""From settings to a running training: makes policy, optimiser and run folder, and hands them to the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tastemaker.algorithms.grpo import GRPO
from tastemaker.algorithms.nft import NFT
from tastemaker.config import Judged, LoraPolicy, NFTConfig, PolicyConfig, TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.errors import Stopped, UserMistake
from tastemaker.flow.schedule import high_noise_window
from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import has_lora, policy_parameters
from tastemaker.rewards.composite import Composite, Gate
from tastemaker.rewards.reward import Reward, fingerprints
from tastemaker.rollout import Sampler
from tastemaker.runtime import device as hardware
from tastemaker.runtime import seeds
from tastemaker.runtime.changes import Place
from tastemaker.runtime.distributed import ALONE, Ranks
from tastemaker.runtime.guard import NanGuard
from tastemaker.runtime.progress import Tracker
from tastemaker.runtime.run import Run
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.batch import Batch, encode_ahead
from tastemaker.training.policy import train
from tastemaker.training.ranks import Elsewhere, begin_alike, check_alike, check_share
from tastemaker.training.setup import Setup
from tastemaker.training.state import PolicyState, frozen_copy, minutes_over
from tastemaker.types import Prompt


def make_setup(
    config: TrainConfig,
    adapter: Adapter,
    prompts: Sequence[Prompt],
    rewards: Mapping[str, Reward],
    embeddings: EmbeddingCache,
    *,
    height: int,
    width: int,
) -> Setup:
    """The loop's view of the settings. `rewards` maps the names of the configuration to judges."""
    rollout, algorithm, optimiser = config.rollout, config.algorithm, config.optimiser
    check_tasks(adapter.family, adapter.tasks, prompts)
    sampler = make_sampler(config, adapter, adapter.sigmas(rollout.steps, height, width))
    return Setup(
        adapter=adapter,
        sampler=sampler,
        algorithm=make_algorithm(config),
        composite=make_composite(config, rewards),
        prompts=prompts,
        embeddings=embeddings,
        seed=config.seed,
        height=height,
        width=width,
        prompts_per_step=rollout.prompts,
        group_size=rollout.group_size,
        max_batch=rollout.max_batch,
        updates_per_rollout=algorithm.updates_per_rollout,
        micro_batch=optimiser.micro_batch,
        max_grad_norm=optimiser.max_grad_norm,
        negative_prompt=rollout.negative_prompt,
        reference=_reference(config.policy, adapter.transformer) if algorithm.velocity_kl > 0 else None,
        unguided_every=rollout.unguided_every,
        chunks=rollout.chunks,
        edit_share=config.data.edit_share,
        scoring_deadline=config.deadlines.step,
        missing_budget=config.missing_budget,
    )


def _reference(policy: PolicyConfig, transformer: nn.Module) -> nn.Module:
    """The model as it is now: a LoRA leaves it as it is, so that no second one is held for it.

    Layers of an earlier LoRA belong to the model that is now, and would be switched off with the policy's.
    """
    if isinstance(policy, LoraPolicy) and not has_lora(transformer):
        return transformer
    return frozen_copy(transformer)


def check_tasks(family: str, tasks: Sequence[str], prompts: Sequence[Prompt]) -> None:
    """Raises UserMistake where prompts ask for what the model cannot do, before it is found out in the middle of a run."""
    wrong = [prompt.id for prompt in prompts if ("edit" if prompt.sources else "t2i") not in tasks]
    if wrong:
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        rule = "needs source pictures" if tuple(tasks) == ("edit",) else "takes no source pictures"
        raise UserMistake(f"data.prompts: prompt {wrong[0]!r}{others}: {family} {rule}; change the prompts or the model")


def make_sampler(config: TrainConfig, adapter: Adapter, sigmas: Tensor) -> Sampler:
    """GRPO's steps in the window are stochastic and kept; NFT keeps the finished pictures alone."""
    rollout, algorithm = config.rollout, config.algorithm
    rescale = adapter.rescales_guidance if rollout.guidance_rescale is None else rollout.guidance_rescale
    plain = Sampler(sigmas=sigmas, guidance=rollout.guidance, rescale=rescale, mode=algorithm.guidance_mode)
    if isinstance(algorithm, NFTConfig):
        return plain
    steps = high_noise_window(rollout.steps, rollout.window_size, rollout.window_start)
    return replace(plain, kind=rollout.transition, eta=rollout.eta, steps=steps)


def make_algorithm(config: TrainConfig) -> GRPO | NFT:
    algorithm, rewards = config.algorithm, config.rewards
    shared: dict[str, Any] = {
        "velocity_kl": algorithm.velocity_kl,
        "advantage_clip": algorithm.advantage_clip,
        "min_range": algorithm.min_range,
        "weights": tuple(reward.weight for reward in rewards),
        "floors": tuple(reward.floor for reward in rewards),
        "ranges": tuple((reward.low, reward.high) for reward in rewards),
    }
    if isinstance(algorithm, NFTConfig):
        return NFT(
            strength=algorithm.strength,
            points=algorithm.points,
            sigma_low=algorithm.sigma_low,
            sigma_high=algorithm.sigma_high,
            **shared,
        )
    return GRPO(clip_range=algorithm.clip_range, ratio_norm=algorithm.ratio_norm, **shared)


def make_composite(config: Judged, rewards: Mapping[str, Reward]) -> Composite:
    """The settings' weights and gates over the judges. Raises UserMistake where a judge has another name or range."""
    judges = tuple(rewards[reward.name] for reward in config.rewards)
    wrong = [
        f"rewards.{row}: the judge given for {stated.name} is called {judge.name}; give both one name"
        for row, (stated, judge) in enumerate(zip(config.rewards, judges, strict=True))
        if stated.name != judge.name
    ]
    wrong += [
        f"rewards.{row}: {stated.name} gives scores from {judge.low:g} to {judge.high:g}, not from {stated.low:g} to "
        f"{stated.high:g}; set low and high to its range"
        for row, (stated, judge) in enumerate(zip(config.rewards, judges, strict=True))
        if (stated.low, stated.high) != (judge.low, judge.high)
    ]
    if wrong:
        raise UserMistake("\n".join(wrong))
    return Composite(
        judges,
        weights=tuple(reward.weight for reward in config.rewards),
        categories={
            category: tuple(weights.get(reward.name, 0.0) for reward in config.rewards)
            for category, weights in config.categories.items()
        },
        gates=tuple(
            Gate(reward.name, gate.reward, gate.below, gate.cap, frozenset(gate.categories) if gate.categories else None)
            for reward in config.rewards
            for gate in reward.gates
        ),
    )


def make_state(config: TrainConfig | DistillConfig, adapter: Adapter) -> PolicyState:
    """A fresh policy: makes exactly its parameters trainable. A LoRA's start follows from the seed."""
    algorithm = None if isinstance(config, DistillConfig) else config.algorithm
    old_policy = algorithm.old_policy if isinstance(algorithm, NFTConfig) else None
    with seeds.keyed(next(adapter.transformer.parameters()).device, config.seed, "lora"):
        trained_parameters(config.policy, adapter)
    if config.optimiser.gradient_checkpointing:
        adapter.transformer.enable_gradient_checkpointing()
    return PolicyState.fresh(adapter.transformer, config.optimiser, old_policy)


def trained_parameters(policy: PolicyConfig, adapter: Adapter) -> list[nn.Parameter]:
    """Makes exactly the policy's parameters trainable, adding its LoRA, and returns them."""
    if isinstance(policy, LoraPolicy):
        return policy_parameters(adapter, "lora", rank=policy.rank, alpha=policy.alpha, targets=policy.targets)
    return policy_parameters(adapter, "full")


@dataclass(frozen=True)
class Task:
    """What a run trains on and by what it is judged, already opened; the size of its pictures in pixels."""

    prompts: Sequence[Prompt]
    rewards: Mapping[str, Reward]
    height: int
    width: int


@dataclass(frozen=True)
class Running:
    """A run as those see it who watch it: made before its first step here, when the policy still is the base."""

    setup: Setup
    state: PolicyState
    run: Run
    stop: StopRequest


Observer = Callable[[int, Tensor, Batch], None]
"""Is called after each step, before it is saved, with its number, pictures (on the CPU) and prompts."""


@dataclass(frozen=True)
class Around:
    """What surrounds a training: how it is watched, stopped and resumed, and the processes that share it.

    `watch` is called once, before saved weights are put in place, and what it returns after each step. Of several processes the
    first alone is watched: what it draws is then its share of a step. `encoded` hears how many prompts are, where that is done
    before the first step.
    """

    allow_changes: Iterable[str] = ()
    trackers: Callable[[int, int], Sequence[Tracker]] = lambda start, total: ()
    after_step: Observer = lambda step, images, batch: None
    watch: Callable[[Running], Observer] | None = None
    stop: StopRequest | None = None
    ranks: Ranks = ALONE
    encoded: Callable[[int, int], None] = lambda done, total: None


def run_training(
    config: TrainConfig,
    adapter: Adapter,
    task: Task,
    folder: Path,
    *,
    embeddings: EmbeddingCache | None = None,
    allow_changes: Iterable[str] = (),
    trackers: Callable[[int, int], Sequence[Tracker]] = lambda start, total: (),
    after_step: Observer = lambda step, images, batch: None,
    watch: Callable[[Running], Observer] | None = None,
    stop: StopRequest | None = None,
    ranks: Ranks = ALONE,
    encoded: Callable[[int, int], None] = lambda done, total: None,
    data_files: Mapping[str, Place] | None = None,
) -> PolicyState:
    """Trains, or goes on training, in `folder`, which keeps the fingerprints of `data_files`; see `Around` for the others.

    Raises Stopped after saving when a signal or the time budget ended it early.
    """
    embeddings = embeddings or EmbeddingCache(adapter, height=task.height, width=task.width)
    setup = make_setup(config, adapter, task.prompts, task.rewards, embeddings, height=task.height, width=task.width)
    state = make_state(config, adapter)
    judges = fingerprints(setup.composite.rewards) if setup.composite else {}
    around = Around(allow_changes, trackers, after_step, watch, stop, ranks, encoded)
    run_loop(config, setup, state, folder, around, judges=judges, data_files=data_files)
    return state


def run_loop(
    config: TrainConfig | DistillConfig,
    setup: Setup,
    state: PolicyState,
    folder: Path,
    around: Around,
    *,
    judges: Mapping[str, str] | None = None,
    data_files: Mapping[str, Place] | None = None,
) -> None:
    """The loop in its run folder, from the last checkpoint on; `state` is what it ends with.

    Of several processes the first alone has the folder; the others begin with what it restored. Raises Stopped as `steps` does.
    """
    deadline = minutes_over(config.budget.max_minutes)
    ranks, stopping = around.ranks, around.stop or StopRequest()
    setup = replace(setup, ranks=ranks)
    check_share(setup.prompts_per_step, ranks.count)
    place = hardware.resolved(next(setup.adapter.transformer.parameters()).device, setup.adapter.dtype)
    check_alike(ranks, config, setup.prompts, judges or {}, place)
    opened = partial(Run.open, folder, config, allow_changes=around.allow_changes, keep=config.checkpoint.keep)
    with opened(judges=judges, data_files=data_files, hardware=place) if ranks.first else Elsewhere() as run:
        guard = NanGuard(run.incident, gather=ranks.gather)
        observers = _resumed(config, setup, state, run, guard, around, stopping) if isinstance(run, Run) else []
        begin_alike(ranks, state, guard)
        # After the monitor has measured the base, whose prompts are others: these were encoded where that is fast.
        with stopping:
            told = _heard(around, stopping, deadline)
            encode_ahead(setup, range(state.step + 1, config.budget.max_steps + 1), told)
            if isinstance(run, Run):  # from here on they count the time
                for tracker in around.trackers(state.step, config.budget.max_steps):
                    run.follow(tracker)
            train(
                setup,
                state,
                run,
                max_steps=config.budget.max_steps,
                checkpoint_every=config.checkpoint.every,
                stop=stopping,
                deadline=deadline,
                after_step=lambda step, images, batch: _tell(observers, step, images, batch),
                guard=guard,
            )


def _resumed(
    config: TrainConfig | DistillConfig,
    setup: Setup,
    state: PolicyState,
    run: Run,
    guard: NanGuard,
    around: Around,
    stopping: StopRequest,
) -> list[Observer]:
    """Puts the last checkpoint in place; returns whom to tell of each step."""
    saved = run.restore()
    watched = [around.watch(Running(setup, state, run, stopping))] if around.watch else []
    if saved is not None:
        state.restore(saved.tensors, saved.state)
        guard.load_state(saved.state["guard"])
    run.require_space(state.tensors_to_come())
    return [around.after_step, *watched]


def _heard(around: Around, stopping: StopRequest, deadline: Callable[[], bool]) -> Callable[[int, int], None]:
    """Tells of prompts that are encoded, and leaves between two where that is asked for: what is encoded is kept.

    Several processes leave together, at the end of their first step.
    """

    def encoded(done: int, total: int) -> None:
        around.encoded(done, total)
        if around.ranks.count == 1:
            stopping.leave(f"{done} of {total} prompts are encoded and kept")
            if deadline():
                over = "budget.max_minutes are over"
                raise Stopped(f"{over}, {done} of {total} prompts are encoded and kept; the same command goes on")

    return encoded


def _tell(observers: Iterable[Observer], step: int, images: Tensor, batch: Batch) -> None:
    for observer in observers:
        observer(step, images, batch)


def prepare_hardware(config: TrainConfig | DistillConfig) -> tuple[torch.device, torch.dtype]:
    """Sets the number of threads; returns where the model goes and in what precision it runs."""
    hardware.set_threads(config.threads)
    place = hardware.pick_device()
    return place, hardware.pick_precision(config.precision, place)
