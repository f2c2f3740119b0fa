"""Distillation through the one loop: loss and gradient by hand, a Gaussian toy with a known optimum, resuming."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mixed import prompts as mixed_prompts
from safetensors.torch import save_file
from test_training import SIDE, assert_same, fresh, weights
from test_training_killed import Killed
from torch import Tensor, nn

import tastemaker.training.distill_start as distill_start
import tastemaker.training.policy as policy
from tastemaker.algorithms.distill import Distill
from tastemaker.config.distillation import DistillConfig
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.errors import Stopped, UserMistake
from tastemaker.models.lora import policy_parameters, save_lora
from tastemaker.runtime.checkpoint import load_safetensors
from tastemaker.runtime.metrics import read_lines
from tastemaker.training.batch import prepare
from tastemaker.training.distill_start import all_loras, check_routes, make_distillation, run_distillation
from tastemaker.training.policy import at_step, collect, pipeline
from tastemaker.training.seats import CopySeat, LoraSeat
from tastemaker.training.start import make_state
from tastemaker.training.update import accumulate, taught
from tastemaker.types import Condition, Prompt

TEACHERS = (
    {"name": "drawing", "weights": "a", "teaches": ["t2i"], "guidance": 2.0, "negative_prompt": "blue"},
    {"name": "editing", "weights": "b", "teaches": ["edit"], "guidance": 3.0, "guidance_rescale": True},
)


def config(**changes) -> DistillConfig:
    values = {
        "name": "student",
        "model": "tiny",
        "teachers": TEACHERS,
        "data": {"prompts": "tiny"},
        "optimiser": {"learning_rate": 2e-3},
        "checkpoint": {"every": 2},
        "budget": {"max_steps": 4},
    }
    rollout = {"prompts": 8, "steps": 4, "picture_side": SIDE, **changes.pop("rollout", {})}
    return DistillConfig.model_validate_json(json.dumps({**values, "rollout": rollout, **changes}))


def save_teachers(where: Path) -> dict[str, Path]:
    """Two teachers some way from the base."""
    for number, name in enumerate(("drawing", "editing")):
        transformer = fresh().transformer
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for value in transformer.parameters():
                value.add_(0.03 * torch.randn(value.shape, generator=generator))
        transformer.save_pretrained(where / name)
    return {name: where / name for name in ("drawing", "editing")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return save_teachers(tmp_path_factory.mktemp("teachers"))


def made(config, prompts, folders):
    adapter = fresh()
    setup = make_distillation(config, adapter, prompts, EmbeddingCache(adapter, height=SIDE, width=SIDE), folders)
    return setup, make_state(config, adapter)


def step_of(setup):
    """Batch, trajectory with the teachers' velocities, and signal of the first step."""
    now = at_step(setup, 1)
    batch = prepare(now, 1)
    with pipeline(now) as scoring, torch.no_grad():
        trajectory, images, signal = collect(now, batch, batch, 1, scoring)
    assert len(images) == 0  # nothing is decoded for nobody
    return now, batch, taught(now, now.teachers, batch, trajectory, signal), signal


@pytest.mark.parametrize("weighting", ["uniform", "delta_t"])
def test_loss_and_gradient_equal_a_plain_reference(tmp_path, folders, weighting):
    some = mixed_prompts(tmp_path)
    setup, state = made(config(weighting=weighting), some, folders)
    now, batch, trajectory, signal = step_of(setup)
    metrics = accumulate(now, batch, trajectory, signal, torch.arange(len(batch.prompts)))
    ours = {name: value.grad.clone() for name, value in state.named() if value.grad is not None}

    # By hand: each prompt alone, each state alone, plain arithmetic of guidance, loss and weights.
    adapter = fresh()
    adapter.transformer.load_state_dict(setup.adapter.transformer.state_dict())
    cards = {card["name"]: card for card in TEACHERS}
    teachers = {}
    for name, folder in folders.items():
        teachers[name] = fresh()
        teachers[name].transformer.load_state_dict(type(adapter.transformer).from_pretrained(folder).state_dict())
    sigmas = adapter.sigmas(4, SIDE, SIDE).tolist()
    lengths = [sigmas[n] - sigmas[n + 1] for n in range(4)] if weighting == "delta_t" else [1.0] * 4
    cache = EmbeddingCache(adapter, height=SIDE, width=SIDE)
    total = torch.zeros(())
    for row, prompt in enumerate(batch.prompts):
        name = {"t2i": "drawing", "edit": "editing"}[prompt.task]
        teacher, card = teachers[name], cards[name]
        for n in range(4):
            x, sigma = trajectory.states_BSX[row, n][None], torch.tensor([sigmas[n]])
            with torch.no_grad():
                v_c = teacher.velocity(x, sigma, teacher.prefix(cache.condition([prompt])))
                v_u = teacher.velocity(x, sigma, teacher.prefix(cache.negative(card.get("negative_prompt", ""), [prompt])))
                target = v_u + card["guidance"] * (v_c - v_u)
                if card.get("guidance_rescale"):
                    target = target * v_c.norm(dim=-1, keepdim=True) / target.norm(dim=-1, keepdim=True)
            v = adapter.velocity(x, sigma, adapter.prefix(cache.condition([prompt])))
            total = total + (v - target).square().mean() * lengths[n] / sum(lengths) / len(batch.prompts)
    total.backward()
    assert float(metrics["loss"]) == pytest.approx(float(total.detach()), rel=1e-5)
    assert float(total.detach()) > 1e-4
    scale = max(float(value.grad.abs().max()) for value in adapter.transformer.parameters() if value.grad is not None)
    for name, value in adapter.transformer.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(ours[name], value.grad, rtol=1e-4, atol=1e-5 * scale, msg=name)


def test_a_step_brings_each_teacher_once_and_reads_each_prompt_once(tmp_path, folders, monkeypatch):
    """States and samples of a prompt share a teacher's pass over it, and one over the negative prompt where it is guided."""
    some = mixed_prompts(tmp_path)
    setup, _ = made(config(rollout={**config().rollout.model_dump(), "group_size": 2}), some, folders)
    now = at_step(setup, 1)
    batch = prepare(now, 1)
    with pipeline(now) as scoring, torch.no_grad():
        trajectory, _, signal = collect(now, batch, batch, 1, scoring)
    brought, read = [], []
    bring, prefix = CopySeat.bring, type(setup.adapter).prefix
    monkeypatch.setattr(CopySeat, "bring", lambda seat, name: (brought.append(name), bring(seat, name))[1])

    def counted(adapter, condition):
        read.append(len(condition))
        return prefix(adapter, condition)

    monkeypatch.setattr(type(setup.adapter), "prefix", counted)
    for _ in range(3):  # of three steps: whose turn was the last is the first of the next, and need not be brought
        taught(now, now.teachers, batch, trajectory, signal)
    guided = {card["name"] for card in TEACHERS if card["guidance"] != 1}
    names = [{"t2i": "drawing", "edit": "editing"}[prompt.task] for prompt in batch.prompts]
    assert sorted(brought[:2]) == ["drawing", "editing"] and len(brought) == 4
    own = len(names) + sum(name in guided for name in names)
    assert sum(read) <= 3 * own and sum(read) >= 3 * len(names)
    assert len(trajectory.states_BSX) == 2 * len(names)


def test_a_student_that_is_its_teacher_learns_nothing(tmp_path):
    some = [Prompt("a", "a red circle"), Prompt("b", "three squares")]
    fresh().transformer.save_pretrained(tmp_path / "base")
    card = {"name": "base", "weights": "base", "teaches": ["t2i"], "guidance": 1.0}
    setup, state = made(config(teachers=[card]), some, {"base": tmp_path / "base"})
    now, batch, trajectory, signal = step_of(setup)
    assert float(accumulate(now, batch, trajectory, signal, torch.arange(len(batch.prompts)))["loss"]) < 1e-10
    assert max(float(value.grad.abs().max()) for _, value in state.named() if value.grad is not None) < 1e-5


def test_some_of_the_states_are_drawn_anew_each_step(folders, tmp_path):
    setup, _ = made(config(rollout={"prompts": 8, "steps": 6, "states": 2}), mixed_prompts(tmp_path), folders)
    chosen = [at_step(setup, step).sampler.steps for step in range(1, 40)]
    assert all(len(steps) == 2 and list(steps) == sorted(set(steps)) for steps in chosen)
    assert {n for steps in chosen for n in steps} == set(range(6))
    assert chosen == [at_step(setup, step).sampler.steps for step in range(1, 40)]


@pytest.mark.parametrize("policy_kind", ["full", "lora"])
def test_the_student_comes_nearer_to_both_teachers(tmp_path, folders, policy_kind):
    lora = {"policy": {"kind": "lora", "rank": 4, "alpha": 8}, "optimiser": {"learning_rate": 1e-2}}
    chosen = config(budget={"max_steps": 16}, **(lora if policy_kind == "lora" else {}))
    run_distillation(chosen, fresh(), mixed_prompts(tmp_path / "p"), folders, tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    losses = [line["loss"] for line in lines]
    assert sum(losses[-5:]) < 0.88 * sum(losses[:5])
    assert {"distance_first", "distance_last", "grad_norm", "grad_clipped", "images"} <= lines[0].keys()
    files = json.loads((tmp_path / "run" / "environment.json").read_text())["data_files"]
    assert {"teachers.drawing", "teachers.editing"} <= files.keys()


def save_loras(where: Path) -> dict[str, Path]:
    for number, name in enumerate(("drawing", "editing")):
        adapter = fresh()
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for value in policy_parameters(adapter, "lora", rank=2 + number):
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        save_lora(adapter, where / name)
    return {name: where / name for name in ("drawing", "editing")}


def test_a_lora_learns_from_loras_in_one_transformer_what_it_learns_beside_a_second(tmp_path, monkeypatch):
    """And a run that was cut goes on at the same weights; what it leaves is the student alone."""
    some, loras = mixed_prompts(tmp_path / "p"), save_loras(tmp_path / "teachers")
    lora = {"kind": "lora", "rank": 4, "alpha": 8}
    chosen = config(policy=lora, rollout={"prompts": 4, "steps": 3}, budget={"max_steps": 2}, checkpoint={"every": 1})
    found = []
    for seat in (LoraSeat, CopySeat):
        with monkeypatch.context() as patch:
            patch.setattr(distill_start, "all_loras", lambda *args, one=seat is LoraSeat, real=all_loras: one and real(*args))
            setup, state = made(chosen, some, loras)
        with torch.no_grad():
            for number, (_, value) in enumerate(state.named()):
                value.copy_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number)))
        now, batch, trajectory, signal = step_of(setup)
        metrics = accumulate(now, batch, trajectory, signal, torch.arange(len(batch.prompts)))
        found.append((float(metrics["loss"]), {name: value.grad for name, value in state.named()}))
    (loss, ours), (other_loss, other) = found
    assert loss == pytest.approx(other_loss, rel=1e-5) and loss > 1e-3 and ours.keys() == other.keys()
    scale = max(float(value.abs().max()) for value in other.values())
    for name, value in other.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5 * scale, msg=name)

    whole = run_distillation(chosen, fresh(), some, loras, tmp_path / "whole")
    cut = chosen.model_copy(update={"budget": chosen.budget.model_copy(update={"max_steps": 1})})
    run_distillation(cut, fresh(), some, loras, tmp_path / "cut")
    adapter = fresh()
    assert_same(weights(whole), weights(run_distillation(chosen, adapter, some, loras, tmp_path / "cut")))
    save_lora(adapter, tmp_path / "student")
    saved = load_safetensors(tmp_path / "student" / "pytorch_lora_weights.safetensors")
    assert len(saved) == len(weights(whole)) and all(value.any() for value in saved.values())


def test_killed_and_resumed_equals_uninterrupted(tmp_path, folders, monkeypatch):
    some = mixed_prompts(tmp_path / "p")
    chosen = config(
        rollout={"prompts": 5, "steps": 4, "states": 3},
        optimiser={"learning_rate": 2e-3, "ema_decay": 0.9},
        budget={"max_steps": 5},
    )
    whole = run_distillation(chosen, fresh(), some, folders, tmp_path / "whole")
    plain = policy.update

    def dies(setup, state, *rest):
        if state.step == 3:
            raise Killed
        return plain(setup, state, *rest)

    monkeypatch.setattr(policy, "update", dies)
    with pytest.raises(Killed):
        run_distillation(chosen, fresh(), some, folders, tmp_path / "cut")
    monkeypatch.setattr(policy, "update", plain)
    resumed = run_distillation(chosen, fresh(), some, folders, tmp_path / "cut")
    assert_same(weights(whole), weights(resumed))
    assert_same(whole.ema, resumed.ema)


def test_a_time_budget_ends_it_saved_and_resumable(tmp_path, folders):
    some = mixed_prompts(tmp_path / "p")
    whole = run_distillation(config(budget={"max_steps": 2}), fresh(), some, folders, tmp_path / "whole")
    with pytest.raises(Stopped, match="step 1 of 2 is saved"):
        brief = config(budget={"max_steps": 2, "max_minutes": 1e-9})
        run_distillation(brief, fresh(), some, folders, tmp_path / "parts")
    resumed = run_distillation(config(budget={"max_steps": 2}), fresh(), some, folders, tmp_path / "parts")
    assert_same(weights(whole), weights(resumed))


def test_every_prompt_needs_a_teacher_and_every_teacher_a_prompt():
    teachers = config().teachers
    check_routes(teachers, [Prompt("a", "x"), Prompt("b", "x", task="edit")])
    with pytest.raises(UserMistake) as caught:
        check_routes(
            teachers[:1], [Prompt("a", "x", task="edit"), Prompt("b", "x", "portrait", "edit"), Prompt("c", "y", task="edit")]
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 3  # two kinds of prompts, and a teacher of none
    assert "nobody teaches edit/general, as prompt a" in str(caught.value) and "teachers.0.teaches" in str(caught.value)


def test_a_teacher_whose_prompts_all_go_to_others_is_told_of():
    """A category of one task wins over the task: the teacher of the task would never be asked."""
    first, second = config().teachers
    close = second.model_copy(update={"name": "close", "teaches": ("edit/portrait",)})
    only = [Prompt("a", "x"), Prompt("b", "x", "portrait", "edit")]
    check_routes([first, second, close], [*only, Prompt("c", "x", task="edit")])
    with pytest.raises(UserMistake, match=r"^teachers\.1\.teaches: no prompt is taught by this teacher; each such prompt has"):
        check_routes([first, second, close], only)


# ---- a Gaussian flow, whose optimum is known -----------------------------------------------------


SPREAD = 0.5
MEANS = {"left": -1.0, "right": 2.0, "": 0.5}


class Means(nn.Module):
    """Of what each prompt draws; the velocity of a Gaussian flow is linear in it."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor(list(MEANS.values())))


@dataclass
class GaussianAdapter:
    """Data are N(m_c, SPREAD^2), so E[noise - data | x] = k (x - (1 - s) m_c) - m_c, k = (s - (1 - s) SPREAD^2) / variance."""

    transformer: Means
    pipeline = SimpleNamespace()
    family, dtype, tasks = "gaussian", torch.float32, ("t2i",)
    rescales_guidance = False

    def encode(self, texts, sources=None, *, height, width):
        return Condition({"which": torch.tensor([[list(MEANS).index(text)] for text in texts])})

    def latent_shape(self, height, width):
        return (1,)

    def sigmas(self, num_steps, height, width):
        return torch.linspace(1, 0, num_steps + 1)

    def prefix(self, condition):
        return Chosen(self.transformer.means[condition.tensors["which"]])

    def velocity(self, x_BX: Tensor, sigma_B: Tensor, prefix) -> Tensor:
        s, m = sigma_B[:, None], prefix.means
        k = (s - (1 - s) * SPREAD**2) / ((1 - s) ** 2 * SPREAD**2 + s**2)
        return k * (x_BX - (1 - s) * m) - m


@dataclass
class Chosen:
    means: Tensor

    def select(self, rows):
        return Chosen(self.means[rows])


def test_the_known_optimum_of_a_gaussian_flow_is_reached(tmp_path):
    """Guidance w moves a Gaussian's mean to m_u + w (m_c - m_u): that is what an unguided student has to come to."""
    student, teacher = GaussianAdapter(Means()), Means()
    with torch.no_grad():
        teacher.means.copy_(torch.tensor([-0.6, 1.4, 0.25]))
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text("{}")
    save_file({"means": teacher.means.detach()}, tmp_path / "teacher" / "weights.safetensors")
    some = [Prompt("l", "left"), Prompt("r", "right")]
    chosen = config(
        teachers=[{"name": "t", "weights": "teacher", "teaches": ["t2i"], "guidance": 2.0}],
        rollout={"prompts": 2, "group_size": 4, "steps": 6},
        optimiser={"learning_rate": 1e-2, "betas": [0.8, 0.9]},
        checkpoint={"every": 1000},
        budget={"max_steps": 120},
    )
    run_distillation(chosen, student, some, {"t": tmp_path / "teacher"}, tmp_path / "run")
    expected = [0.25 + 2 * (-0.6 - 0.25), 0.25 + 2 * (1.4 - 0.25)]  # the student starts between these and the unguided means
    assert student.transformer.means.tolist()[:2] == pytest.approx(expected, abs=0.02)
    assert student.transformer.means.tolist()[2] == 0.5  # no prompt of the student's is unconditional
    assert float((teacher.means.detach() - torch.tensor([-0.6, 1.4, 0.25])).abs().max()) == 0
    losses = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert losses[-1] < 1e-4 < 0.1 < losses[0]


def test_weights_of_states_are_step_lengths():
    sigmas = torch.tensor([1.0, 0.9, 0.5, 0.0])
    every = SimpleNamespace(sigmas=sigmas, steps=(0, 1, 2))
    assert Distill(weighting="delta_t").weights_S(every).tolist() == pytest.approx([0.1, 0.4, 0.5])
    assert Distill().weights_S(SimpleNamespace(sigmas=sigmas, steps=(0, 2))).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("weighting", ["uniform", "delta_t"])
def test_random_states_expect_the_loss_of_all_of_them(weighting, count):
    """Over every subset of so many states, each as likely, the mean loss is the weighted loss over the whole trajectory."""
    sigmas, distances = [1.0, 0.9, 0.5, 0.0], [3.0, 5.0, 11.0]
    subsets = list(combinations(range(3), count))
    losses = []
    for steps in subsets:
        teacher = torch.zeros(1, count, 1)
        student = torch.tensor([distances[n] for n in steps]).sqrt().view(1, count, 1)
        trajectory = SimpleNamespace(sigmas=torch.tensor(sigmas), steps=steps, velocities_BSX=teacher)
        losses.append(float(Distill(weighting=weighting).loss(trajectory, torch.zeros(1), None, student)[0]))
    whole = sum(distances) / 3 if weighting == "uniform" else 0.1 * 3 + 0.4 * 5 + 0.5 * 11
    assert sum(losses) / len(subsets) == pytest.approx(whole, rel=1e-5)
