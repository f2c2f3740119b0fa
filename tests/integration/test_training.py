"""The training loop on a tiny model: it learns, it resumes bit for bit, it survives NaN, and its groupings change no result."""

from __future__ import annotations

import math
import re
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import tastemaker.training.update as updating
from tastemaker.config import TrainConfig
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.errors import Diverged, ServiceFailed, Stopped, UserMistake
from tastemaker.models.lora import policy_parameters
from tastemaker.models.qwen_image21 import adapt
from tastemaker.rewards.reward import Missing
from tastemaker.rollout import take
from tastemaker.runtime import folder as disk
from tastemaker.runtime.metrics import read_lines
from tastemaker.runtime.signals import StopRequest
from tastemaker.training import policy as policy_module
from tastemaker.training.batch import chunks_of, prepare
from tastemaker.training.policy import draw_and_judge, pipeline, rollout, signal_of, within_budget
from tastemaker.training.start import Task, make_setup, make_state, run_training
from tastemaker.training.update import accumulate, forward_process
from tastemaker.types import Prompt, group_index
from tiny import tiny_qwen_image21

SIDE = 32
LORA = {"kind": "lora", "rank": 2, "alpha": 4}
PROMPTS = [
    Prompt(str(n), text) for n, text in enumerate(["a red circle", "three squares", "make it green", "one triangle left"])
]


class Brightness:
    """Mean brightness: easy to climb, differentiable by nobody."""

    name, low, high, floor = "brightness", 0.0, 1.0, 1e-4

    def score(self, images, prompts):
        return images.flatten(1).mean(1).tolist()


class Darkness(Brightness):
    """The opposite."""

    name = "darkness"

    def score(self, images, prompts):
        return (1 - images.flatten(1).mean(1)).tolist()


class Broken(Brightness):
    """Gives what it is told to instead of a score."""

    def __init__(self, answer):
        self.answer = answer

    def score(self, images, prompts):
        return [self.answer] * len(images)


def settings(**changes) -> TrainConfig:
    values = {
        "name": "tiny",
        "model": "tiny",
        "data": {"prompts": "tiny"},
        "rewards": ({"name": "brightness", "floor": 1e-4},),
        "rollout": {"prompts": 4, "group_size": 4, "steps": 4, "window_size": 2, "guidance": 2.0},
        "algorithm": {"clip_range": 1e-2},
        "optimiser": {"learning_rate": 1e-3, "ema_decay": 0.9},
        "checkpoint": {"every": 2},
        "budget": {"max_steps": 4},
    }
    for group, change in changes.items():
        values[group] = {**values.get(group, {}), **change} if isinstance(change, dict) else change
    return TrainConfig(**values)


def fresh():
    torch.manual_seed(0)
    return adapt(tiny_qwen_image21())


def go(config, folder, adapter=None, reward=None, **kwargs):
    task = Task(PROMPTS, {"brightness": reward or Brightness()}, SIDE, SIDE)
    return run_training(config, adapter or fresh(), task, folder, **kwargs)


def weights(state):
    return {name: value.detach().clone() for name, value in state.named()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("mode", ["hybrid", "both", "conditional"])
def test_reward_rises_in_every_guided_mode(tmp_path, mode):
    config = settings(algorithm={"guidance_mode": mode}, budget={"max_steps": 8}, optimiser={"learning_rate": 3e-3})
    go(config, tmp_path)
    lines = read_lines(tmp_path / "metrics.jsonl")
    rewards = [line["reward/brightness"] for line in lines]
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.07, rewards
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all(line["log_ratio_floor"] < 1e-6 for line in lines)


def test_what_the_steps_left_will_ask_for_is_encoded_first(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(EmbeddingCache, "encode_ahead", lambda cache, prompts, *rest: asked.append({p.id for p in prompts}))
    few = {"prompts": 1, "group_size": 2}
    go(settings(rollout=few, budget={"max_steps": 2}), tmp_path)
    go(settings(rollout=few), tmp_path)
    assert [len(prompts) for prompts in asked] == [2, 2] and not asked[0] & asked[1]


def test_another_precision_on_resumption_is_refused_unless_allowed(tmp_path):
    go(settings(budget={"max_steps": 1}), tmp_path)
    adapter = fresh()
    adapter.dtype = torch.bfloat16
    with pytest.raises(UserMistake, match=r"hardware.dtype: float32 -> bfloat16"):
        go(settings(), tmp_path, adapter)


def nft(**changes):
    rollout = {"prompts": 4, "group_size": 4, "steps": 4, "window_size": 3, **changes.pop("rollout", {})}
    values = {"rollout": rollout, "algorithm": {"name": "nft", "points": 2}, **changes}
    return TrainConfig(**{**settings().model_dump(), **values})


@pytest.mark.parametrize("mode", ["hybrid", "both", "conditional"])
def test_reward_rises_with_nft_also_where_some_steps_are_unguided(tmp_path, mode):
    algorithm = {"name": "nft", "points": 2, "guidance_mode": mode}
    rollout = {"guidance": 2.0, "unguided_every": 2}
    config = nft(algorithm=algorithm, rollout=rollout, budget={"max_steps": 10}, optimiser={"learning_rate": 2e-3})
    go(config, tmp_path)
    rewards = [line["reward/brightness"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert sum(rewards[-4:]) > sum(rewards[:4]) + 0.1, rewards


def test_nft_evaluates_the_old_policy_before_the_first_update_and_shares_noise_in_a_group():
    config = nft(algorithm={"name": "nft", "points": 2, "updates_per_rollout": 2})
    setup, state = made(config)
    batch = prepare(setup, 1)
    trajectory, _, scores = drawn(setup, batch)
    signal = signal_of(setup, batch, scores)
    points = forward_process(setup, setup.algorithm, batch, trajectory, signal, torch.arange(4), 1)
    sigma_S = points.sigmas[:2].view(1, 2, 1, 1)
    noise = (points.states_BSX - (1 - sigma_S) * trajectory.final_BX[:, None]) / sigma_S
    groups = noise.unflatten(0, (4, 4))
    assert torch.allclose(groups, groups[:, :1].expand_as(groups), atol=1e-4)
    assert not torch.allclose(groups[0], groups[1], atol=0.1)
    assert points.velocities_BSX.isfinite().all()
    metrics = accumulate(setup, batch, points, signal, torch.arange(4))
    assert float(metrics["kl_old"]) < 1e-10
    assert any(value.abs().max() > 0 for value in gradients(state).values())


@pytest.mark.parametrize(("guidance", "mode"), [(2.0, "hybrid"), (2.0, "both"), (2.0, "conditional"), (1.0, "hybrid")])
def test_gradient_of_nft_at_the_old_policy_is_that_of_its_definition(guidance, mode):
    config = nft(
        algorithm={"name": "nft", "points": 2, "guidance_mode": mode, "velocity_kl": 0.0}, rollout={"guidance": guidance}
    )
    setup, state = made(config)
    batch = prepare(setup, 1)
    (part,) = batch.parts
    trajectory, _, scores = drawn(setup, batch)
    signal = signal_of(setup, batch, scores)
    groups = torch.arange(4)
    points = forward_process(setup, setup.algorithm, batch, trajectory, signal, groups, 1)
    accumulate(setup, batch, points, signal, groups)
    found = gradients(state)
    state.optimiser.zero_grad()
    total = torch.zeros(())
    for row in range(16):
        for s in range(2):
            x, sigma = points.states_BSX[row, s][None], points.sigmas[s]
            target = (x - (1 - sigma) * trajectory.final_BX[row]) / sigma - trajectory.final_BX[row]
            v = setup.adapter.velocity(x, sigma[None], setup.adapter.prefix(part.condition.select(torch.tensor([row // 4]))))
            policy, differentiated = v, v
            if guidance != 1 and mode != "conditional":
                v_u = setup.adapter.velocity(x, sigma[None], setup.adapter.prefix(part.negative))
                policy = v_u + guidance * (v - v_u)
                differentiated = policy if mode == "both" else v
            towards = float(signal.advantages_B[row]) / setup.algorithm.advantage_clip
            total = total + 2 * towards * ((policy - target).detach() * differentiated).mean() / 32
    total.backward()
    expected = gradients(state)
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 0
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-4 * largest), name


def test_nft_resumes_bit_for_bit(tmp_path):
    config = nft(rollout={"unguided_every": 2}, algorithm={"name": "nft", "updates_per_rollout": 2})
    whole = go(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        stop = StopRequest()
        go(config, tmp_path / "part", stop=stop, after_step=lambda step, *_: setattr(stop, "requested", step == 2))
    assert_same(weights(whole), weights(go(config, tmp_path / "part")))


def test_stopping_and_resuming_gives_the_uninterrupted_weights(tmp_path):
    whole = go(settings(), tmp_path / "whole")
    stop = StopRequest()
    asked = []

    def ask_after_second(step, images, batch):
        asked.append(step)
        if step == 3:
            stop.request()

    with pytest.raises(Stopped):
        go(settings(), tmp_path / "parts", after_step=ask_after_second, stop=stop)
    resumed = go(settings(), tmp_path / "parts")
    assert asked == [1, 2, 3] and resumed.step == whole.step == 4
    assert_same(weights(whole), weights(resumed))
    assert_same(whole.ema, resumed.ema)
    drop = ("time", "seconds")
    lines = [
        [{k: v for k, v in line.items() if k not in drop} for line in read_lines(tmp_path / part / "metrics.jsonl")]
        for part in ("whole", "parts")
    ]
    assert lines[0] == lines[1]


def test_a_time_budget_ends_a_run_saved_and_resumable(tmp_path):
    whole = go(settings(), tmp_path / "whole")
    with pytest.raises(Stopped, match=r"budget\.max_minutes are over, step 1 of 4 is saved; the same command goes on") as over:
        go(settings(budget={"max_minutes": 1e-9}), tmp_path / "parts")
    assert over.value.exit_code == 75
    assert_same(weights(whole), weights(go(settings(), tmp_path / "parts")))


def test_a_time_budget_that_ends_with_the_last_step_ends_a_finished_run(tmp_path):
    assert go(settings(budget={"max_steps": 1, "max_minutes": 1e-9}), tmp_path).step == 1


def test_the_check_for_room_before_the_first_step_counts_what_is_saved_later(tmp_path, monkeypatch):
    needs = []
    monkeypatch.setattr(disk, "require_space", lambda path, need: needs.append(need))
    go(settings(budget={"max_steps": 2}, checkpoint={"every": 1, "keep": 3}), tmp_path)
    first, *saves = [need for need in needs if need > 2**18]
    assert len(saves) == 2 and first == pytest.approx(4 * saves[0], rel=0.01)
    written = sum(path.stat().st_size for path in (tmp_path / "checkpoints" / "step-00000002").iterdir())
    assert 0.9 * saves[0] < written < saves[0]


def test_another_judge_behind_the_same_settings_is_refused_on_resumption(tmp_path):
    judge = Brightness()
    judge.fingerprint = "one"
    go(settings(budget={"max_steps": 1}), tmp_path, reward=judge)
    judge.fingerprint = "another"
    with pytest.raises(UserMistake, match=r"judges\.brightness: one -> another"):
        go(settings(budget={"max_steps": 2}), tmp_path, reward=judge)
    go(settings(budget={"max_steps": 2}), tmp_path, reward=judge, allow_changes=["judges"])
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_lora_policy_resumes_and_leaves_the_base_alone(tmp_path):
    values = settings().model_dump()
    values["policy"] = LORA
    config = TrainConfig(**values)
    adapter = fresh()
    before = {n: p.detach().clone() for n, p in adapter.transformer.named_parameters()}
    state = go(config, tmp_path, adapter)
    after = {n.replace(".base_layer", ""): p for n, p in adapter.transformer.named_parameters() if "lora_" not in n}
    assert_same(before, {n: p.detach() for n, p in after.items()})
    assert all("lora_" in name for name, _ in state.named())
    again = go(config, tmp_path)
    assert_same(weights(state), weights(again))


def made(config=None, reward=None, prompts=PROMPTS):
    config = config or settings()
    adapter = fresh()
    embeddings = EmbeddingCache(adapter, height=SIDE, width=SIDE)
    judges = {"brightness": reward or Brightness(), "darkness": Darkness()}
    setup = make_setup(config, adapter, prompts, judges, embeddings, height=SIDE, width=SIDE)
    return setup, make_state(config, adapter)


def drawn(setup, batch, step=1):
    """Trajectory, pictures and scores of a step."""
    with pipeline(setup) as scoring:
        return draw_and_judge(setup, batch, step, scoring)


def gradients(state):
    return {name: value.grad.clone() for name, value in state.named() if value.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_micro_batches_give_the_gradient_of_the_whole(checkpointing):
    """Also those below a group, here of 4."""
    found = []
    for micro in (None, 8, 4, 2, 1):
        optimiser = {"micro_batch": micro, "gradient_checkpointing": checkpointing and micro is not None}
        setup, state = made(settings(optimiser=optimiser, algorithm={"velocity_kl": 0.1}))
        assert setup.adapter.transformer.is_gradient_checkpointing == optimiser["gradient_checkpointing"]
        batch = prepare(setup, 1)
        trajectory, _, scores = drawn(setup, batch)
        signal = setup.algorithm.signal(scores, group_index(4, 4))
        accumulate(setup, batch, trajectory, signal, torch.arange(4))
        found.append(gradients(state))
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.allclose(value, other[name], atol=1e-6 + 1e-4 * float(value.abs().max())), name


def test_a_sample_does_not_depend_on_the_rest_of_its_batch():
    setup, _ = made()
    (part,) = prepare(setup, 1).parts
    whole = rollout(setup, part, 1)
    split = rollout(replace(setup, max_batch=4), part, 1)
    assert torch.allclose(whole.final_BX, split.final_BX, atol=1e-5)
    assert torch.allclose(take(whole, torch.tensor([5])).final_BX[0], whole.final_BX[5])


@pytest.mark.parametrize("algorithm", [{"velocity_kl": 0.1}, {"velocity_kl": 0.1, "guidance_mode": "both"}])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_loras_reference_is_its_base_without_a_second_transformer(algorithm, checkpointing):
    """Bit for bit what a frozen copy of the base gives, over several passes, also where a backward repeats the forward."""
    config = TrainConfig(**{**settings(algorithm=algorithm, optimiser={"micro_batch": 4}).model_dump(), "policy": LORA})
    base = fresh().transformer
    found = []
    for copied in (False, True):
        setup, state = made(config)
        assert setup.reference is setup.adapter.transformer  # and no other is held
        if copied:
            setup = replace(setup, reference=base)
        if checkpointing:
            setup.adapter.transformer.enable_gradient_checkpointing()
        torch.manual_seed(1)
        with torch.no_grad():
            for _, value in state.named():
                value.add_(torch.randn_like(value), alpha=0.1)
        batch = prepare(setup, 1)
        trajectory, _, scores = drawn(setup, batch)
        signal = setup.algorithm.signal(scores, group_index(4, 4))
        guided = updating.guided_distance(setup, setup.reference, batch, trajectory, signal, torch.arange(4))
        metrics = {**accumulate(setup, batch, trajectory, signal, torch.arange(4)), "kl_guided": torch.tensor(guided)}
        found.append(({name: value.detach() for name, value in metrics.items()}, gradients(state)))
    assert min(float(found[0][0][name]) for name in ("kl_reference", "kl_guided")) > 1e-3
    assert len(found[0][1]) == len(list(state.named()))
    for one, other in zip(*found, strict=True):
        assert_same(one, other)


def test_the_start_of_a_lora_follows_from_the_seed_alone():
    def start(seed, drawn):
        adapter = fresh()
        torch.manual_seed(drawn)
        before = torch.get_rng_state()
        state = make_state(settings(policy=LORA, seed=seed), adapter)
        assert torch.equal(torch.get_rng_state(), before)
        return weights(state)

    assert_same(start(0, drawn=1), start(0, drawn=2))
    of_another_seed = start(1, drawn=1)
    assert all(torch.equal(value, of_another_seed[name]) == ("lora_B" in name) for name, value in start(0, drawn=1).items())


def test_the_reference_of_a_policy_on_an_earlier_lora_is_the_model_with_it():
    """Switched off with the policy's layers it would be another model than the one that training began with."""
    adapter = fresh()
    values = {**settings(algorithm={"velocity_kl": 0.1}).model_dump(), "policy": LORA}
    policy_parameters(adapter, "lora", rank=2)
    cache = EmbeddingCache(adapter, height=SIDE, width=SIDE)
    setup = make_setup(TrainConfig(**values), adapter, PROMPTS, {"brightness": Brightness()}, cache, height=SIDE, width=SIDE)
    assert setup.reference is not adapter.transformer
    assert_same(dict(adapter.transformer.named_parameters()), dict(setup.reference.named_parameters()))


def test_equal_scores_make_no_update(tmp_path):
    adapter = fresh()
    before = {n: p.detach().clone() for n, p in adapter.transformer.named_parameters()}
    go(settings(), tmp_path, adapter, Broken(0.5))
    assert_same(before, {n: p.detach() for n, p in adapter.transformer.named_parameters()})
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert all(line["groups_without_signal"] == 4 and line["updates"] == 0 for line in lines)


@pytest.mark.parametrize("answer", [math.nan, math.inf, 1.5, Missing("the judge did not answer")])
def test_scores_that_are_no_scores_stop_the_run_and_are_never_numbers(tmp_path, answer):
    with pytest.raises(ServiceFailed, match="missing"):
        go(settings(), tmp_path, reward=Broken(answer))


@pytest.mark.parametrize(("algorithm", "rescale"), [("grpo", False), ("grpo", True), ("nft", False)])
def test_the_guided_kl_is_that_of_its_definition(monkeypatch, algorithm, rescale):
    """A state at a time: each model by its own two branches, of the first picture that counts of each of two prompts."""
    monkeypatch.setattr(updating, "GUIDED_GROUPS", 2)
    config = settings(rollout={"guidance_rescale": rescale}) if algorithm == "grpo" else nft(rollout={"guidance": 2.0})
    setup, state = made(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, value in state.named():
            value.add_(0.02 * torch.randn(value.shape, generator=generator))
    batch = prepare(setup, 1)
    (part,) = batch.parts
    trajectory, _, scores = drawn(setup, batch)
    signal = signal_of(setup, batch, scores)
    signal = replace(signal, kept_B=signal.kept_B & (torch.arange(16) != 4) & (torch.arange(16) // 4 != 2))
    if algorithm == "nft":
        trajectory = forward_process(setup, setup.algorithm, batch, trajectory, signal, torch.tensor([0, 1, 3]), 1)
    found = updating.guided_distance(setup, setup.reference, batch, trajectory, signal, torch.tensor([1, 3]))

    distances = []
    for row, prompt in ((5, 1), (12, 3)):
        for s, n in enumerate(trajectory.steps):
            x, sigma = trajectory.states_BSX[row, s][None], trajectory.sigmas[n][None]
            both = []
            for transformer in (setup.adapter.transformer, setup.reference):
                adapter = fresh()
                adapter.transformer.load_state_dict(transformer.state_dict())
                with torch.no_grad():
                    v_c = adapter.velocity(x, sigma, adapter.prefix(part.condition.select(torch.tensor([prompt]))))
                    v_u = adapter.velocity(x, sigma, adapter.prefix(part.negative))
                v_g = v_u + 2 * (v_c - v_u)
                both.append(v_g * v_c.norm(dim=-1, keepdim=True) / v_g.norm(dim=-1, keepdim=True) if rescale else v_g)
            distances.append(float((both[0] - both[1]).square().mean()))
    assert found == pytest.approx(sum(distances) / len(distances), rel=1e-4) and found > 1e-6


def test_the_guided_kl_is_looked_at_now_and_then_and_changes_no_weight(tmp_path, monkeypatch):
    def where(name, **changes):
        state = go(settings(**changes), tmp_path / name)
        lines = read_lines(tmp_path / name / "metrics.jsonl")
        return state, {line["step"]: line["kl_guided"] for line in lines if "kl_guided" in line}

    plain, found = where("plain")
    assert found == {1: 0.0}, "the policy is the reference then"
    monkeypatch.setattr(updating, "GUIDED_EVERY", 2)
    often, found = where("often")
    assert list(found) == [1, 3] and found[3] > 1e-9
    assert_same(weights(plain), weights(often))
    assert list(where("partly", rollout={"unguided_every": 3})[1]) == [1]
    for name, changes in {"alone": {"velocity_kl": 0.0}, "both": {"guidance_mode": "both"}}.items():
        assert not where(name, algorithm=changes, budget={"max_steps": 1})[1]


def test_a_nan_gradient_is_skipped_written_down_and_ends_the_run_after_three(tmp_path, monkeypatch):
    import tastemaker.training.update as update

    original = update.accumulate

    def poisoned(setup, *args):
        metrics = original(setup, *args)
        next(setup.adapter.transformer.parameters()).grad.fill_(math.nan)
        return metrics

    monkeypatch.setattr(update, "accumulate", poisoned)
    adapter = fresh()
    before = {n: p.detach().clone() for n, p in adapter.transformer.named_parameters()}
    with pytest.raises(Diverged):
        go(settings(), tmp_path, adapter)
    assert_same(before, {n: p.detach() for n, p in adapter.transformer.named_parameters()})
    incidents = read_lines(tmp_path / "incidents.jsonl")
    assert len(incidents) == 3 and all("grad_norm" in incident["culprits"] for incident in incidents)


def test_a_nan_latent_skips_the_update_and_names_the_sample(tmp_path, monkeypatch):
    import tastemaker.training.policy as policy

    original = policy.rollout

    def poisoned(setup, batch, step):
        trajectory = original(setup, batch, step)
        if step == 2:
            trajectory.final_BX[9] = math.nan
        return trajectory

    monkeypatch.setattr(policy, "rollout", poisoned)
    state = go(settings(rollout={"group_size": 8}), tmp_path)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["updates"] for line in lines] == [1, 0, 1, 1] and lines[1]["updates_skipped"] == 1
    (incident,) = read_lines(tmp_path / "incidents.jsonl")
    (name,) = incident["culprits"]["final latents"]
    assert name.endswith("/1")  # the tenth picture is the second of the second prompt
    assert all(value.isfinite().all() for value in [*weights(state).values(), *state.ema.values()])


class Looks(Brightness):
    """Remembers whether it was ever shown what is no picture."""

    shown_nan = False

    def score(self, images, prompts):
        self.shown_nan |= not images.isfinite().all()
        return super().score(images, prompts)


def spoiling(adapter, spoil):
    """The adapter with a VAE that spoils what it decodes: `spoil` gets the number of the call and the pictures."""
    original, calls = adapter.decode, []

    def decode(*args):
        calls.append(1)
        images = original(*args)
        spoil(len(calls), images)
        return images

    adapter.decode = decode
    return adapter


def test_pictures_that_are_nan_end_the_run_as_diverged_after_three_steps_and_not_as_a_failed_judge(tmp_path):
    adapter, judge = spoiling(fresh(), lambda call, images: images.fill_(math.nan)), Looks()
    before = {n: p.detach().clone() for n, p in adapter.transformer.named_parameters()}
    with pytest.raises(Diverged, match=r"3 times in a row, last in pictures of \d/0, \d/1"):
        go(settings(rollout={"chunks": 2}), tmp_path, adapter, judge)
    incidents = read_lines(tmp_path / "incidents.jsonl")
    assert [incident["in_a_row"] for incident in incidents] == [1, 2, 3]
    assert all(set(incident["culprits"]) == {"pictures"} for incident in incidents), "latents were finite"
    assert all(len(incident["culprits"]["pictures"]) == 16 for incident in incidents)
    assert_same(before, {n: p.detach() for n, p in adapter.transformer.named_parameters()})
    assert not judge.shown_nan


def test_one_nan_picture_of_few_skips_the_update_and_names_it(tmp_path):
    """It is more of the step's scores than may be missing, but no judge failed."""

    def spoil(call, images):
        if call == 2:
            images[9, 0, 0, 0] = math.inf

    judge = Looks()
    state = go(settings(), tmp_path, spoiling(fresh(), spoil), judge)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["updates"] for line in lines] == [1, 0, 1, 1] and lines[1]["updates_skipped"] == 1
    assert lines[1]["scores_missing"] == 1 / 16 and 0 < lines[1]["reward/brightness"] < 1
    (incident,) = read_lines(tmp_path / "incidents.jsonl")
    setup, _ = made()
    assert incident["culprits"] == {"pictures": [f"{prepare(setup, 2).prompts[2].id}/1"]}
    assert not judge.shown_nan and all(value.isfinite().all() for value in weights(state).values())


def test_metrics_tell_the_share_of_updates_whose_gradient_was_cut(tmp_path):
    """The norm that is logged is the one before; a limit between the norms of two updates cuts one of them."""
    once = {"budget": {"max_steps": 1}, "algorithm": {"updates_per_rollout": 2, "clip_range": 1e-2}}
    norms, cut = {}, {}
    for limit in (1e-9, 1e9):
        go(settings(optimiser={"max_grad_norm": limit}, **once), tmp_path / f"{limit:g}")
        (line,) = read_lines(tmp_path / f"{limit:g}" / "metrics.jsonl")
        norms[limit], cut[limit] = line["grad_norm"], line["grad_clipped"]
    assert cut == {1e-9: 1.0, 1e9: 0.0} and norms[1e-9] > 1e-6
    go(settings(optimiser={"max_grad_norm": norms[1e9]}, **once), tmp_path / "between")  # the mean of the two
    (line,) = read_lines(tmp_path / "between" / "metrics.jsonl")
    assert line["grad_clipped"] == 0.5


def test_a_clip_range_under_the_rounding_floor_is_refused(tmp_path, monkeypatch):
    import tastemaker.training.update as update

    original = update.accumulate

    def noisy(*args):
        return {**original(*args), "mean_abs_log_ratio": torch.tensor(0.02)}

    monkeypatch.setattr(update, "accumulate", noisy)
    with pytest.raises(UserMistake, match="rounding"):
        go(settings(), tmp_path)


def judged(config, prompts=PROMPTS, reward=None):
    """The setup, and mean brightness, scores and signal of its first step's pictures."""
    setup, _ = made(config, reward, prompts)
    batch = prepare(setup, 1)
    _, images, scores = drawn(setup, batch)
    return batch, images.flatten(1).mean(1), scores, signal_of(setup, batch, scores)


def test_each_category_is_trained_towards_its_own_weights():
    prompts = [replace(prompt, category="portrait" if row < 2 else "general") for row, prompt in enumerate(PROMPTS)]
    rewards = ({"name": "brightness", "floor": 1e-4}, {"name": "darkness", "weight": 0.0, "floor": 1e-4})
    config = settings(rewards=rewards, categories={"portrait": {"darkness": 1.0}})
    batch, brightness, scores, signal = judged(config, prompts)
    portrait = torch.tensor([prompt.category == "portrait" for prompt in batch.prompts]).repeat_interleave(4)
    assert torch.equal(scores.values_BR.isnan(), torch.stack([portrait, ~portrait], 1)), "each reward is asked where it counts"
    assert not scores.missing and signal.metrics["scores_missing"] == 0 and signal.kept_B.all()
    for row, group in enumerate(signal.advantages_B.view(4, 4)):
        best = brightness.view(4, 4)[row].argmin() if portrait[4 * row] else brightness.view(4, 4)[row].argmax()
        assert group.argmax() == best


def test_a_gate_caps_the_score_that_is_trained_and_says_how_often():
    _, brightness, _, _ = judged(settings())
    middle = float(brightness.median())
    gate = {"reward": "darkness", "below": 1 - middle, "cap": 0.0}
    rewards = ({"name": "brightness", "floor": 1e-4, "gates": (gate,)}, {"name": "darkness", "weight": 0.0})
    _, brightness, scores, signal = judged(settings(rewards=rewards))
    assert torch.allclose(scores.values_BR[:, 0], brightness), "the judge's own score"
    capped = scores.values_BR[:, 1] < 1 - middle
    assert 0 < capped.sum() < 16 and signal.metrics["capped/brightness"] == pytest.approx(float(capped.float().mean()))
    for row in range(4):
        group, fails = signal.advantages_B.view(4, 4)[row], capped.view(4, 4)[row]
        if fails.any() and not fails.all():
            assert group[fails].max() < group[~fails].min()


def test_a_missing_gate_takes_the_gated_score_with_it_and_counts_once(tmp_path):
    gate = {"reward": "brightness", "below": 0.5, "cap": 0.2}
    rewards = ({"name": "brightness", "weight": 0.0}, {"name": "darkness", "gates": (gate,)})
    setup, _ = made(settings(rewards=rewards), Broken(Missing("timed out")))
    batch = prepare(setup, 1)
    with pytest.raises(ServiceFailed, match=r"50% of the scores .* brightness: timed out \(16 times\)"):
        drawn(setup, batch)
    _, _, scores = drawn(replace(setup, missing_budget=0.5), batch)
    signal = signal_of(setup, batch, scores)
    assert signal.metrics["scores_missing"] == 1 and not signal.kept_B.any() and "reward/darkness" not in signal.metrics


def test_a_judge_with_another_range_than_the_settings_is_refused():
    rewards = ({"name": "brightness", "low": 1.0, "high": 5.0},)
    with pytest.raises(UserMistake, match="brightness gives scores from 0 to 1, not from 1 to 5"):
        made(settings(rewards=rewards))


# ---- chunks ------------------------------------------------------------------------------------------


def test_a_chunk_has_the_noise_of_the_whole_step(monkeypatch):
    """Bit for bit, also where a step holds a prompt twice; pictures follow but for the rounding of smaller forwards."""
    import tastemaker.training.policy as policy

    setup, _ = made(settings(rollout={"prompts": 6}))
    batch = prepare(setup, 1)
    assert len({prompt.id for prompt in batch.prompts}) < 6
    noises = []
    original = policy.denoise

    def listening(*args, noise, **kwargs):
        noises.append([noise(where) for where in ("init", *setup.sampler.steps)])
        return original(*args, noise=noise, **kwargs)

    monkeypatch.setattr(policy, "denoise", listening)
    whole, images, scores = drawn(setup, batch)
    for count in (2, 4, 6):
        noises[1:] = []
        parts, some, judged = drawn(replace(setup, chunks=count), batch)
        assert len(noises) == 1 + count
        for place, noise in enumerate(noises[0]):
            assert torch.equal(noise, torch.cat([chunk[place] for chunk in noises[1:]]))
        for name in ("states_BSX", "next_states_BSX", "log_probs_BS", "offsets_BSX", "velocities_BSX", "final_BX"):
            assert torch.allclose(getattr(parts, name), getattr(whole, name), atol=1e-4), name
        assert torch.allclose(some, images, atol=1e-4) and torch.allclose(judged.values_BR, scores.values_BR, atol=1e-4)


def test_chunks_are_whole_groups_in_order():
    setup, _ = made(settings(rollout={"prompts": 4}))
    batch = prepare(setup, 1)
    assert list(chunks_of(batch, 1)) == list(batch.parts)
    for count, sizes in ((2, [2, 2]), (3, [2, 1, 1]), (9, [1, 1, 1, 1])):
        chunks = list(chunks_of(batch, count))
        assert [len(chunk.prompts) for chunk in chunks] == sizes == [len(chunk.condition) for chunk in chunks]
        assert [chunk.first for chunk in chunks] == [sum(sizes[:at]) for at in range(len(sizes))]
        assert [prompt for chunk in chunks for prompt in chunk.prompts] == batch.prompts


def test_what_a_step_drew_is_let_go_when_it_is_done_with(monkeypatch, tmp_path):
    """Pictures of a device before the update, and all else before the next step is drawn."""

    class OnDevice(torch.Tensor):
        def cpu(self):
            return self.as_subclass(torch.Tensor).clone()

    collect, update, drawn, pictures = policy_module.collect, policy_module.update, [], []

    def collects(*args):
        assert not any(reference() is not None for reference in drawn)
        trajectory, images, signal = collect(*args)
        drawn.extend(weakref.ref(one) for one in (trajectory, trajectory.final_BX, trajectory.states_BSX, signal))
        pictures.append(weakref.ref(images := images.as_subclass(OnDevice)))
        return trajectory, images, signal

    def updates(*args):
        assert pictures[-1]() is None
        return update(*args)

    def told(step, images, batch):
        assert type(images) is torch.Tensor and len(images) == 16

    monkeypatch.setattr(policy_module, "collect", collects)
    monkeypatch.setattr(policy_module, "update", updates)
    go(settings(budget={"max_steps": 2}), tmp_path, after_step=told)
    assert len(pictures) == 2


def test_a_chunk_is_judged_while_the_next_one_is_drawn(monkeypatch):
    """Drawing of the second chunk begins while the judge is still busy with the first."""
    import tastemaker.training.policy as policy

    judging, second = threading.Event(), threading.Event()

    class Waits(Brightness):
        def score(self, images, prompts):
            judging.set()
            assert second.wait(20), "the next chunk is not drawn meanwhile"
            return super().score(images, prompts)

    original = policy.rollout

    def tells(setup, chunk, step):
        if chunk.first:
            assert judging.wait(20), "the first chunk is not judged meanwhile"
            second.set()
        return original(setup, chunk, step)

    monkeypatch.setattr(policy, "rollout", tells)
    setup, _ = made(settings(rollout={"chunks": 2}), Waits())
    _, images, scores = drawn(setup, prepare(setup, 1))
    assert torch.allclose(scores.values_BR[:, 0], images.flatten(1).mean(1))


def test_in_chunks_training_learns_says_what_was_hidden_and_resumes(tmp_path):
    class Slow(Brightness):
        def score(self, images, prompts):
            time.sleep(0.02)
            return super().score(images, prompts)

    config = settings(rollout={"chunks": 2})
    whole = go(config, tmp_path / "whole", reward=Slow())
    lines = read_lines(tmp_path / "whole" / "metrics.jsonl")
    assert all(0 <= line["hidden_latency"] <= 1 and line["images"] == 16 for line in lines)
    go(settings(rollout={"chunks": 2}, budget={"max_steps": 2}), tmp_path / "parts")
    assert_same(weights(whole), weights(go(config, tmp_path / "parts")))


class FailsOnce(Brightness):
    """The service is lost at one of the calls, and back at the next."""

    def __init__(self, at):
        self.calls, self.at = 0, at

    def score(self, images, prompts):
        self.calls += 1
        if self.calls == self.at:
            raise ServiceFailed("no answer from http://127.0.0.1:9: see whether the server runs")
        return super().score(images, prompts)


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_a_failing_judge_ends_the_run_with_its_own_line_and_nothing_is_lost(tmp_path, chunks):
    config = settings(rollout={"chunks": chunks})
    whole = go(config, tmp_path / "whole")
    judge = FailsOnce(2 * chunks + 1)
    with pytest.raises(ServiceFailed) as failed:
        go(config, tmp_path / "parts", reward=judge)
    assert str(failed.value) == "no answer from http://127.0.0.1:9: see whether the server runs"
    assert [line["step"] for line in read_lines(tmp_path / "parts" / "metrics.jsonl")] == [1, 2]
    assert_same(weights(whole), weights(go(config, tmp_path / "parts", reward=judge)))


def test_the_budget_for_missing_scores_is_that_of_the_whole_step():
    """In a chunk of four pictures one missing score would be 25%."""

    class Loses(Brightness):
        lost = False

        def score(self, images, prompts):
            scores = super().score(images, prompts)
            return scores if self.lost else [Missing("timed out"), *scores[1:]]

    judge = Loses()
    setup, _ = made(settings(rollout={"chunks": 4}), judge)
    with pytest.raises(ServiceFailed, match=r"25% of the scores of this step .* timed out \(4 times\)"):
        drawn(setup, prepare(setup, 1))
    setup, _ = made(settings(rollout={"chunks": 4}, missing_budget=0.25), judge)
    _, _, scores = drawn(setup, prepare(setup, 1))
    assert sorted(scores.missing) == [(row, "brightness") for row in (0, 4, 8, 12)]
    assert within_budget(setup, scores) is scores


def test_scores_that_are_late_stop_the_run(tmp_path):
    """`deadlines.step` holds for any judge."""
    hangs = threading.Event()

    class Hangs(Brightness):
        def score(self, images, prompts):
            hangs.wait(20)
            return super().score(images, prompts)

    config = settings(deadlines={"item": 0.05, "batch": 0.1, "step": 0.2})
    with pytest.raises(ServiceFailed, match=r"deadlines\.step"):
        go(config, tmp_path, reward=Hangs())
    hangs.set()


def test_a_judge_in_the_background_meets_one_way_of_attention(monkeypatch):
    """Whatever is drawn meanwhile, and after the last chunk."""
    seen = []

    class Watching(Brightness):
        def score(self, images, prompts):
            seen.append(torch.backends.cuda.flash_sdp_enabled())
            return super().score(images, prompts)

    monkeypatch.setattr(policy_module, "attention_with_gradients", lambda weights: sdpa_kernel(SDPBackend.MATH))
    setup, _ = made(settings(rollout={"chunks": 4}), reward=Watching())
    drawn(setup, prepare(setup, 1))
    assert seen == [False] * 4 and torch.backends.cuda.flash_sdp_enabled()


def test_the_page_on_running_explains_the_keys_that_are_logged(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "running.md").read_text(encoding="utf-8")
    table = page.partition("### The keys of")[2].partition("\nOf a distillation")[0]
    told = {key for line in table.splitlines()[4:] for key in re.findall(r"`([\w/]+)`", line.split(" | ")[0])}
    gate = {"reward": "darkness", "below": 0.5, "cap": 0.2}
    rewards = ({"name": "brightness", "floor": 1e-4, "gates": (gate,)}, {"name": "darkness", "weight": 0.0})
    prompts = [replace(prompt, category="portrait" if row < 2 else "general") for row, prompt in enumerate(PROMPTS)]
    task = Task(prompts, {"brightness": Brightness(), "darkness": Darkness()}, SIDE, SIDE)
    rollout = {"chunks": 2, "prompts": 4, "group_size": 4, "steps": 4, "guidance": 2.0}
    logged = {"not_finite"}
    for algorithm, window in ({"name": "grpo", "clip_range": 1e-2}, {"window_size": 2}), ({"name": "nft"}, {}):
        config = settings(rewards=rewards, budget={"max_steps": 1}).model_dump() | {"algorithm": algorithm}
        config = TrainConfig(**config | {"rollout": rollout | window})
        run_training(config, fresh(), task, tmp_path / algorithm["name"])
        logged |= {key for line in read_lines(tmp_path / algorithm["name"] / "metrics.jsonl") for key in line}
    assert {re.sub("/(general|portrait)$", "/CATEGORY", re.sub("/(bright|dark)ness", "/NAME", key)) for key in logged} == told
