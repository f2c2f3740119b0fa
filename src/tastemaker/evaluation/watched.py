"""What a monitor looks at: one set of pictures for fixed prompts and seeds, and every number about it as one value per prompt.

statistics of the pictures            saturation, contrast, ...; diversity and duplicates within a prompt
prompt_effect                         how much the velocity changes when the prompt is swapped
reward/NAME, swapped/NAME             each reward for the prompt of the picture, and for another prompt
reward, swapped_reward                the same, weighted, in units of the base's standard deviation within a prompt
truth/NAME                            what training is not rewarded by and is known to be right, where there is such a thing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tastemaker.evaluation.alarm import REWARD, SWAPPED, TRUTH
from tastemaker.evaluation.picture_statistics import measure_prompts, prompt_means
from tastemaker.models.adapter import decode_all
from tastemaker.rewards.composite import Composite
from tastemaker.rewards.reward import Reward, score_all, to_uint8
from tastemaker.rollout import denoise
from tastemaker.runtime import seeds
from tastemaker.training.policy import Setup, keyed_noise
from tastemaker.types import Prompt

PROBE_SIGMAS = (0.8, 0.4)
"""Noise levels at which velocities are compared: where the layout is settled, and where details are."""
Values = dict[str, np.ndarray]
"""One value per prompt of each statistic, NaN where it has none."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """Scores (B, R) under their gates, NaN where one was not asked for or did not arrive, and how much each counts."""

    scores_BR: np.ndarray
    weights_BR: np.ndarray


@dataclass(frozen=True)
class Watched:
    """The fixed prompts, `samples` pictures of each in a set, and truths: rewards that nothing is trained on."""

    setup: Setup
    prompts: Sequence[Prompt]
    samples: int
    truths: Sequence[Reward] = ()

    @cached_property
    def swapped(self) -> tuple[Prompt | None, ...]:
        """What is asked of each prompt's pictures instead: what its partner asks for, of its own sources; None without one.

        A partner is judged by the same rewards with the same weights and has as many sources. Were the sources swapped too, a
        policy that returns its source and ignores the instruction would look as if it had followed it.
        """
        weights = self.setup.judges.weights_BR(self.prompts).tolist()
        kinds = [(one.task, len(one.sources), *row) for one, row in zip(self.prompts, weights, strict=True)]
        pairs = zip(self.prompts, partners(kinds, [one.text for one in self.prompts]), strict=True)
        return tuple(None if other is None else replace(self.prompts[other], sources=one.sources) for one, other in pairs)

    @property
    def repeated(self) -> list[Prompt]:
        """The prompt of each picture, group-major."""
        return [prompt for prompt in self.prompts for _ in range(self.samples)]

    def draw(self, noise: int) -> Tensor:
        """(P * samples, 3, H, W) float32 of 256 levels, as in a PNG: deterministic sampling from set `noise` of the noise."""
        setup = self.setup
        images_PG = torch.empty(len(self.prompts), self.samples, 3, setup.height, setup.width)
        for places in setup.embeddings.by_layout(self.prompts):
            images_PG[places] = self._drawn(places, noise).unflatten(0, (len(places), self.samples))
        return images_PG.flatten(0, 1)

    def _drawn(self, places: Sequence[int], noise: int) -> Tensor:
        """The pictures of some prompts, whose layout is one; a prompt's noise does not depend on which others these are."""
        setup, some = self.setup, [self.prompts[place] for place in places]
        sampler = replace(setup.sampler, kind="ode", steps=())
        device = next(setup.adapter.transformer.parameters()).device
        negative = setup.embeddings.negative(setup.negative_prompt, some).to(device) if sampler.guided else None
        trajectory = denoise(
            setup.adapter,
            setup.embeddings.condition(some).to(device),
            negative,
            group_size=self.samples,
            sampler=sampler,
            noise=keyed_noise(setup, some, self.samples, "monitor", noise, places=places),
            max_batch=setup.max_batch,
        )
        images = decode_all(setup.adapter, trajectory.final_BX, setup.height, setup.width, setup.max_batch)
        return to_uint8(images).permute(0, 3, 1, 2).float() / 255

    def pictured(self, images: Tensor) -> Values:
        """Statistics of the pictures of a set."""
        return measure_prompts(images.numpy(), self._places())

    def judged(self, images: Tensor) -> tuple[Judgement, Judgement]:
        """For the prompt of each picture, and for the swapped one; all scores are NaN where there is none."""
        composite, own = self.setup.judges, self.repeated
        others = [other for other in self.swapped for _ in range(self.samples)]
        rows = [row for row, other in enumerate(others) if other is not None]
        swapped = Judgement(np.full((len(own), len(composite.rewards)), np.nan), composite.weights_BR(own).numpy())
        if rows:
            found = _judgement(composite, images[rows], [other for other in others if other is not None])
            swapped.scores_BR[rows], swapped.weights_BR[rows] = found.scores_BR, found.weights_BR
        return _judgement(composite, images, own), swapped

    def true(self, images: Tensor) -> Values:
        """Truths of a set; a prompt that states none has none."""
        if not self.truths:
            return {}
        values_BR = score_all(self.truths, images, self.repeated).values_BR.double().numpy()
        return {f"{TRUTH}{one.name}": self._by_prompt(values_BR[:, column]) for column, one in enumerate(self.truths)}

    def _by_prompt(self, values_B: np.ndarray) -> np.ndarray:
        """(P,) means over each prompt's pictures."""
        return prompt_means(values_B, self._places())

    def _places(self) -> list[str]:
        return [str(row) for row in range(len(self.prompts)) for _ in range(self.samples)]

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """(P, *X) of the first picture of each prompt."""
        device = next(self.setup.adapter.transformer.parameters()).device
        return torch.cat([self.setup.adapter.encode_images(one[None].to(device)).cpu() for one in images[:: self.samples]])

    @torch.no_grad()
    def velocities(self, latents_PX: Tensor, noise: int) -> tuple[Tensor, np.ndarray]:
        """Conditional velocities (P, K, *X) at the noised latents, and how much the swapped prompt changes them, (P,).

        The latter is the root mean square of the difference over that of the velocity. Prompt by prompt, so that a prompt's
        number does not depend on the others.
        """
        setup, device = self.setup, next(self.setup.adapter.transformer.parameters()).device
        sigma_K = torch.tensor(PROBE_SIGMAS, device=device)
        along = sigma_K.view(-1, *[1] * (latents_PX.ndim - 1))
        found, effect_P = [], np.full(len(self.prompts), np.nan)
        for row, prompt in enumerate(self.prompts):
            keys = [(setup.seed, "monitor probe", noise, prompt.id, place) for place in range(len(PROBE_SIGMAS))]
            fresh_KX = seeds.noise_rows(latents_PX.shape[1:], keys).to(device)
            states_KX = (1 - along) * latents_PX[row].to(device) + along * fresh_KX
            found.append(self._velocity(states_KX, sigma_K, prompt))
            if (other := self.swapped[row]) is not None:
                change = self._velocity(states_KX, sigma_K, other) - found[-1]
                effect_P[row] = float(rms(change) / rms(found[-1]))
        return torch.stack(found), effect_P

    def _velocity(self, states_KX: Tensor, sigma_K: Tensor, prompt: Prompt) -> Tensor:
        adapter = self.setup.adapter
        prefix = adapter.prefix(self.setup.embeddings.condition([prompt]).to(states_KX.device))
        rows = torch.zeros(len(states_KX), dtype=torch.long, device=states_KX.device)
        return adapter.velocity(states_KX, sigma_K, prefix.select(rows)).float().cpu()

    def rewarded(self, found: tuple[Judgement, Judgement], scale_R: np.ndarray) -> Values:
        """Each reward and their weighted sum, for the own and for the other prompt; `scale_R` is the unit of each."""
        values: Values = {}
        for kind, total, one in (("reward", REWARD, found[0]), ("swapped", SWAPPED, found[1])):
            for column, name in enumerate(self.setup.judges.names):
                values[f"{kind}/{name}"] = self._by_prompt(one.scores_BR[:, column])
            weighted_BR = np.where(one.weights_BR > 0, one.weights_BR * one.scores_BR / scale_R, 0.0)
            values[total] = self._by_prompt(weighted_BR.sum(1))
        return values


def partners(kinds: Sequence[object], texts: Sequence[str]) -> tuple[int | None, ...]:
    """For each place the next one of the same kind and another text, after the last the first; None where there is none."""
    groups: dict[object, list[int]] = {}
    for row, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(row)
    found: list[int | None] = [None] * len(kinds)
    for rows in groups.values():
        for place, row in enumerate(rows):
            found[row] = next((other for other in rows[place + 1 :] + rows[:place] if texts[other] != texts[row]), None)
    return tuple(found)


def chosen(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """`count` different prompts, or all there are, as evenly over categories of each task as these allow; the same for a seed.

    The tasks come first, so that one which has fewer categories, or fewer prompts, has as many places.
    """
    different = list({(prompt.text, prompt.sources): prompt for prompt in prompts}.values())
    shuffled = [different[row] for row in seeds.random(seed, "monitor prompts").permutation(len(different))]
    tasks = [
        _in_turn([one for one in shuffled if one.task == task], "category")
        for task in dict.fromkeys(one.task for one in shuffled)
    ]
    taken = _in_turn([prompt for queue in tasks for prompt in queue], "task")[:count]
    return sorted(taken, key=lambda one: (one.task, one.category))


def _in_turn(prompts: Sequence[Prompt], by: str) -> list[Prompt]:
    """One of each kind after the other, as long as there are any; of a kind in the order given."""
    queues: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        queues.setdefault(getattr(prompt, by), []).append(prompt)
    rounds = [(place, name, prompt) for name, queue in queues.items() for place, prompt in enumerate(queue)]
    return [prompt for *_, prompt in sorted(rounds, key=lambda one: one[:2])]


def _judgement(composite: Composite, images: Tensor, prompts: Sequence[Prompt]) -> Judgement:
    gated = composite.gated(composite.score(images, prompts), prompts)
    return Judgement(gated.values_BR.double().numpy(), composite.counting_BR(gated, prompts).numpy())


def rms(values: Tensor) -> Tensor:
    """Root mean square."""
    return values.double().square().mean().sqrt()


def spread_within(scores: Sequence[np.ndarray], samples: int, composite: Composite) -> np.ndarray:
    """(R,) standard deviation of the base's scores within a prompt, over all its sets; at least the reward's floor."""
    values_PNR = np.concatenate([one.reshape(-1, samples, one.shape[1]) for one in scores], axis=1)
    floors_R = np.array([max(reward.floor, 1e-6) for reward in composite.rewards])
    count_PR = (~np.isnan(values_PNR)).sum(1)
    centred = np.nan_to_num(values_PNR - np.nansum(values_PNR, 1, keepdims=True) / np.maximum(count_PR, 1)[:, None])
    freedom_R = np.maximum((np.maximum(count_PR, 1) - 1).sum(0), 1)
    return np.maximum(np.sqrt((centred**2).sum((0, 1)) / freedom_R), floors_R)
