"""From settings to a running distillation: seats the teachers, makes the student, and hands both to the one loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tastemaker.algorithms.distill import Distill
from tastemaker.config import LoraPolicy, PolicyConfig
from tastemaker.config.distillation import DistillConfig, TeacherConfig
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.errors import UserMistake
from tastemaker.models.adapter import Adapter
from tastemaker.rewards.composite import called
from tastemaker.rollout import Sampler
from tastemaker.runtime.changes import Place
from tastemaker.training.seats import CopySeat, LoraSeat
from tastemaker.training.setup import Setup
from tastemaker.training.start import Around, check_tasks, make_state, run_loop
from tastemaker.training.state import PolicyState
from tastemaker.training.teacher_weights import is_lora
from tastemaker.training.teachers import Route, Teachers
from tastemaker.types import Prompt


def route_of(teachers: Sequence[TeacherConfig]) -> Route:
    """From a prompt to its teacher: the one that names its task and category, else its task, else its category."""
    by_key = {key: teacher.name for teacher in teachers for key in teacher.teaches}

    def route(prompt: Prompt) -> str:
        found = [by_key[key] for key in called(prompt) if key in by_key]
        if not found:
            raise UserMistake(f"prompt {prompt.id} ({prompt.task}, {prompt.category}) has no teacher; {_remedy(prompt)}")
        return found[0]

    return route


def check_routes(teachers: Sequence[TeacherConfig], prompts: Sequence[Prompt]) -> None:
    """Raises UserMistake for each kind of prompt that no teacher teaches, and each teacher that teaches none."""
    keys = {key for teacher in teachers for key in teacher.teaches}
    untaught = {called(prompt)[0]: prompt for prompt in reversed(prompts) if not keys.intersection(called(prompt))}
    wrong = [f"teachers: nobody teaches {kind}, as prompt {first.id}; {_remedy(first)}" for kind, first in untaught.items()]
    present, route = {key for prompt in prompts for key in called(prompt)}, route_of(teachers)
    taught = {route(prompt) for prompt in prompts if keys.intersection(called(prompt))}
    for row, teacher in enumerate(teachers):
        if teacher.name not in taught:
            others = present.intersection(teacher.teaches)
            why = "each such prompt has a teacher who names it closer" if others else "correct it or remove the teacher"
            nobody = "is taught by this teacher" if others else f"is {' or '.join(teacher.teaches)}"
            wrong.append(f"teachers.{row}.teaches: no prompt {nobody}; {why}")
    if wrong:
        raise UserMistake("\n".join(wrong))


def all_loras(policy: PolicyConfig, teachers: Iterable[Path]) -> bool:
    """Whether student and teachers are LoRAs, all on the student's base, so that one transformer holds them."""
    return isinstance(policy, LoraPolicy) and all(map(is_lora, teachers))


def make_distillation(
    config: DistillConfig,
    adapter: Adapter,
    prompts: Sequence[Prompt],
    embeddings: EmbeddingCache,
    weights: Mapping[str, Path],
) -> Setup:
    """The loop's view. `weights` has each teacher's folder by name; the adapter is still the base."""
    check_tasks(adapter.family, adapter.tasks, prompts)
    seat = LoraSeat(adapter) if all_loras(config.policy, weights.values()) else CopySeat(adapter)
    teachers = Teachers(seat, route_of(config.teachers))
    for row, teacher in enumerate(config.teachers):
        rescale = adapter.rescales_guidance if teacher.guidance_rescale is None else teacher.guidance_rescale
        try:
            teachers.add(
                teacher.name,
                weights[teacher.name],
                guidance=teacher.guidance,
                rescale=rescale,
                negative_prompt=teacher.negative_prompt,
                on_disk=teacher.on_disk,
            )
        except UserMistake as error:
            raise UserMistake(f"teachers.{row}.weights: {error}") from None
    rollout, side = config.rollout, config.rollout.picture_side
    sigmas = adapter.sigmas(rollout.steps, side, side)
    return Setup(
        adapter=adapter,
        sampler=Sampler(sigmas, steps=tuple(range(rollout.steps))),
        algorithm=Distill(weighting=config.weighting),
        teachers=teachers,
        states=rollout.states,
        prompts=prompts,
        embeddings=embeddings,
        seed=config.seed,
        height=side,
        width=side,
        prompts_per_step=rollout.prompts,
        group_size=rollout.group_size,
        max_batch=rollout.max_batch,
        updates_per_rollout=config.updates_per_rollout,
        micro_batch=config.optimiser.micro_batch,
        max_grad_norm=config.optimiser.max_grad_norm,
        edit_share=config.data.edit_share,
    )


def run_distillation(
    config: DistillConfig,
    adapter: Adapter,
    prompts: Sequence[Prompt],
    weights: Mapping[str, Path],
    folder: Path,
    *,
    embeddings: EmbeddingCache | None = None,
    around: Around | None = None,
    data_files: Mapping[str, Place] | None = None,
) -> PolicyState:
    """Distils, or goes on, in `folder`; see `run_training`. The run keeps fingerprints of `data_files` and of the teachers."""
    side = config.rollout.picture_side
    embeddings = embeddings or EmbeddingCache(adapter, height=side, width=side)
    setup = make_distillation(config, adapter, prompts, embeddings, weights)
    state = make_state(config, adapter)
    files = {f"teachers.{name}": where for name, where in weights.items()}
    run_loop(config, setup, state, folder, around or Around(), data_files={**(data_files or {}), **files})
    return state


def _remedy(prompt: Prompt) -> str:
    return f"add {prompt.task} or {prompt.category} to what a teacher `teaches`"
