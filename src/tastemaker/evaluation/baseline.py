"""What the base does on the monitor's fixed prompts, measured once before training and kept: a resumed run has the same.

run/monitor/baseline.json        each statistic's mean and variance by prompt, and what it was measured with; written last
            probe.safetensors    the latents at which velocities are compared, and the base's velocities there
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from tastemaker.errors import UserMistake
from tastemaker.evaluation.alarm import PROMPT_EFFECT, REWARD, SWAPPED, TRUTH
from tastemaker.evaluation.band import Band
from tastemaker.evaluation.picture_statistics import RESOLUTION
from tastemaker.evaluation.watched import Values, Watched, rms, spread_within
from tastemaker.rewards.reward import fingerprints
from tastemaker.runtime import folder as disk


@dataclass(frozen=True, eq=False)
class Baseline:
    """Bands by statistic; `scale_R` is the base's standard deviation of each reward within a prompt."""

    bands: Mapping[str, Band]
    scale_R: np.ndarray
    latents_PX: Tensor
    velocities_PKX: Tensor

    @property
    def start(self) -> Values:
        """The first set of the base."""
        return {name: band.first_P for name, band in self.bands.items()}

    def distance(self, velocities_PKX: Tensor) -> float:
        """Of the velocities from the base's at the same states: root mean square, as a share of that of the base's."""
        return float(rms(velocities_PKX - self.velocities_PKX) / rms(self.velocities_PKX))


def take(watched: Watched, num_seeds: int, show: Callable[[Tensor], object] = lambda images: None) -> Baseline:
    """Draws and measures `num_seeds` sets with the weights as they are; `show` is given the pictures of the first."""
    scores, effects, pictured, probe = [], [], [], []
    for noise in range(num_seeds):
        images = watched.draw(noise)
        latents_PX = watched.latents(images)
        velocities_PKX, effect_P = watched.velocities(latents_PX, noise)
        scores.append(watched.judged(images))
        effects.append(effect_P)
        pictured.append({**watched.pictured(images), **watched.true(images)})
        if noise == 0:
            probe = [latents_PX, velocities_PKX]
            show(images)
    scale_R = spread_within([own.scores_BR for own, _ in scores], watched.samples, watched.setup.judges)
    sets = [
        {**some, PROMPT_EFFECT: effect, **watched.rewarded(score, scale_R)}
        for some, effect, score in zip(pictured, effects, scores, strict=True)
    ]
    return Baseline(_bands(watched, sets), scale_R, *probe)


def _bands(watched: Watched, sets: list[Values]) -> dict[str, Band]:
    num_pictures = len(watched.prompts) * watched.samples
    judges = {f"{kind}/{one.name}": one.floor for one in watched.setup.judges.rewards for kind in ("reward", "swapped")}
    judges |= {f"{TRUTH}{one.name}": one.floor for one in watched.truths}
    floors = {**RESOLUTION, PROMPT_EFFECT: 0.005, REWARD: 0.01}
    floors |= {name: max(floor, 1e-6) / math.sqrt(num_pictures) for name, floor in judges.items()}
    own = Band.of(np.stack([one[REWARD] for one in sets]), floors[REWARD])
    # What another prompt's reward gains is weighed against the noise of the reward itself: less decides nothing.
    floors[SWAPPED] = own.spread if not own.empty else floors[REWARD]
    return {name: Band.of(np.stack([one[name] for one in sets]), floors[name]) for name in sets[0]}


def key(watched: Watched, num_seeds: int) -> dict[str, Any]:
    """What two baselines must share to be one; plain JSON."""
    setup = watched.setup
    return {
        "prompts": [prompt.id for prompt in watched.prompts],
        "samples": watched.samples,
        "seeds": num_seeds,
        "seed": setup.seed,
        "picture": [setup.height, setup.width],
        "steps": len(setup.sampler.sigmas) - 1,
        "guidance": setup.sampler.guidance,
        "rescale": setup.sampler.rescale,
        "negative prompt": setup.negative_prompt,
        "weights": setup.judges.weights_BR(watched.prompts).tolist(),
        "rewards": list(setup.judges.names),
        "truths": [one.name for one in watched.truths],
        "judges": fingerprints([*setup.judges.rewards, *watched.truths]),
    }


def save(folder: Path, baseline: Baseline, measured_with: Mapping[str, Any]) -> None:
    """Whole or not at all: without the JSON file there is no baseline."""
    disk.make_folder(folder)
    tensors = {"latents": baseline.latents_PX.contiguous(), "velocities": baseline.velocities_PKX.contiguous()}
    temporary = folder / f"probe.safetensors{disk.TEMPORARY}"
    with disk.room_for(temporary, sum(t.numel() * t.element_size() for t in tensors.values())):
        disk.write_file(temporary, partial(save_file, tensors))
        temporary.replace(folder / "probe.safetensors")
    content = {
        "measured_with": dict(measured_with),
        "bands": {name: band.to_json() for name, band in baseline.bands.items()},
        "scale": baseline.scale_R.tolist(),
    }
    disk.write_text_atomic(folder / "baseline.json", json.dumps(content, allow_nan=False) + "\n")


def load(folder: Path, measured_with: Mapping[str, Any]) -> Baseline | None:
    """None where there is none yet. Raises UserMistake where it was measured in another way than is asked for now."""
    path = folder / "baseline.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name, value in measured_with.items() if content["measured_with"].get(name) != value]
    if changed:
        raise UserMistake(
            f"{path}: the base was measured with other {', '.join(changed)}, so that what follows could not be compared with "
            "what came before; set them back, switch the monitor off (monitor.every: 0), or use another folder"
        )
    probe = load_file(folder / "probe.safetensors")
    bands = {name: Band.from_json(stored) for name, stored in content["bands"].items()}
    return Baseline(bands, np.array(content["scale"]), probe["latents"], probe["velocities"])
