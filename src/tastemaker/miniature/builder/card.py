"""Measures a built miniature on the held-out sets and writes its model card: what it can do, and which bars it misses.

A base should be good enough to be a model and bad enough to need this software; the bars say so in numbers.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.evaluation.benchmark import Drawing, draw
from tastemaker.evaluation.statistics import Estimate, paired_difference, proportion
from tastemaker.miniature import task
from tastemaker.miniature.builder import vae
from tastemaker.miniature.builder.parts import SIDE
from tastemaker.miniature.world.layout import sample_layout
from tastemaker.miniature.world.renderer import render
from tastemaker.models.adapter import Adapter
from tastemaker.types import Prompt

STEPS = 20
GUIDANCE = 3.0
EDIT_GUIDANCE = 1.5
"""The scale at which edits are trained."""
SEED = 0
ABOUT = """A Qwen-Image-2.1 of 2.3 M parameters that draws a small world of 64x64 pictures and edits them. It was trained from
nothing, by the parts of `tastemaker miniature build`, on drawings of that world alone, so that reinforcement learning can be
tried, and checked, on a CPU. It is good for nothing else. Verdicts are those of the world's own oracle.

"""
FRONT_MATTER = "---\nlicense: apache-2.0\nlibrary_name: diffusers\npipeline_tag: text-to-image\n---\n"


@dataclass(frozen=True)
class Measure:
    """One line of the card. `held` is None where a number has no bar."""

    what: str
    estimate: Estimate
    bar: str = ""
    held: bool | None = None
    percent: bool = True

    def line(self) -> str:
        e = self.estimate
        percent = f"{100 * e.value:.1f}% ({100 * e.low:.1f} to {100 * e.high:.1f})"
        numbers = percent if self.percent else f"{e.value:.1f} dB"
        verdict = "" if self.held is None else ("met" if self.held else "**not met**")
        return f"| {self.what} | {e.n} | {numbers} | {self.bar} | {verdict} |"


@torch.no_grad()
def measure(
    adapter: Adapter,
    *,
    count: int | None = None,
    pool: Executor | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Measure]:
    """Every number of the card, on the first `count` held-out prompts of each task, or all."""
    say("VAE round trip")
    measures = round_trip(adapter, count or 600, pool)
    embeddings = EmbeddingCache(adapter, height=SIDE, width=SIDE)
    prompts = task.held_out_prompts(count)
    verdicts = {}
    for scale in (1.0, GUIDANCE):
        say(f"{len(prompts)} pictures, guidance {scale:g}")
        verdicts[scale] = task.verdicts(draw(adapter, embeddings, prompts, _drawing(scale)), prompts, pool)
    measures += text_to_image(verdicts, prompts)
    say("edits")
    with tempfile.TemporaryDirectory() as folder:
        edits = task.held_out_edits(Path(folder), count)
        outputs = {scale: draw(adapter, embeddings, edits, _drawing(scale)) for scale in (1.0, EDIT_GUIDANCE)}
        return measures + editing(outputs, edits, pool)


def _drawing(scale: float) -> Drawing:
    return Drawing(STEPS, scale, SEED, SIDE, SIDE)


def round_trip(adapter: Adapter, count: int, pool: Executor | None) -> list[Measure]:
    """PSNR over all pixels, and how many of the facts, and of the verdicts on whole pictures, are the same before and after."""
    prompts = task.held_out_prompts(count)
    rng = np.random.default_rng(SEED)
    descriptions = [task.described(prompt.truth) for prompt in prompts]
    drawn = np.stack([render(description, sample_layout(description, rng)) for description in descriptions])
    model = adapter.pipeline.vae.float()
    rebuilt = np.concatenate([through_vae(model, drawn[start : start + 64]) for start in range(0, len(drawn), 64)])
    decibels = vae.psnr(model, drawn)
    before, after = (task.readings(pictures, prompts, pool) for pictures in (drawn, rebuilt))
    same = [
        left.verdict == right.verdict
        for a, b in zip(before, after, strict=True)
        for left, right in zip(a.facts, b.facts, strict=True)
    ]
    kept = proportion(np.array(same))
    whole = proportion(np.array([a.exact == b.exact for a, b in zip(before, after, strict=True)]))
    return [
        Measure(
            "VAE round trip",
            Estimate(len(drawn), decibels, decibels, decibels),
            "at least 30 dB",
            decibels >= 30,
            percent=False,
        ),
        Measure("facts read the same after it", kept, "at least 97%", kept.value >= 0.97),
        Measure("verdicts on whole pictures the same after it", whole),
    ]


def through_vae(model, pictures: np.ndarray) -> np.ndarray:
    decoded = vae.decode(model, vae.encode(model, vae.to_model(pictures))[0])[:, :3, 0].clamp(-1, 1)
    return ((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def text_to_image(verdicts: dict[float, np.ndarray], prompts: Sequence[Prompt]) -> list[Measure]:
    guided, plain = verdicts[GUIDANCE], verdicts[1.0]
    overall, gain = proportion(guided), paired_difference(guided, plain)
    measures = [
        Measure(f"text to image, guidance {GUIDANCE:g}", overall, "35% to 75%", 0.35 <= overall.value <= 0.75),
        Measure("text to image, no guidance", proportion(plain)),
        Measure("guidance over none", gain, "at least 8 points", gain.value >= 0.08),
    ]
    categories = np.array([prompt.category for prompt in prompts])
    for category in dict.fromkeys(categories.tolist()):
        some = proportion(guided[categories == category])
        measures.append(Measure(f"text to image, {category}", some, "above 0", some.value > 0))
    return measures


def editing(outputs: dict[float, np.ndarray], edits: Sequence[Prompt], pool: Executor | None) -> list[Measure]:
    found, plain = (task.edit_verdicts(outputs[scale], edits, pool) for scale in (EDIT_GUIDANCE, 1.0))
    success, overall = found.success, proportion(found.success)
    measures = [
        Measure(f"edits, guidance {EDIT_GUIDANCE:g}", overall, "35% to 75%", 0.35 <= overall.value <= 0.75),
        Measure("edits, no guidance", proportion(plain.success)),
        Measure("edits: the target's facts hold", proportion(found.facts)),
        Measure("edits: the rest is preserved", proportion(found.preserved)),
        Measure("edits: identity kept", proportion(found.identity[~np.isnan(found.identity)] == 1)),
    ]
    kinds = np.array([(edit.truth or {})["kind"] for edit in edits])
    return measures + [Measure(f"edits, {kind}", proportion(success[kinds == kind])) for kind in sorted(set(kinds.tolist()))]


def render_card(measures: Sequence[Measure], built: str) -> str:
    """The card as Markdown."""
    card = io.StringIO()
    card.write(FRONT_MATTER)
    card.write("# tastemaker's miniature\n\n")
    card.write(ABOUT)
    card.write(f"Held-out prompts, {STEPS} steps, seed {SEED}; 95% intervals in brackets. {built}\n\n")
    card.write("| what | n | value | bar | |\n|---|---|---|---|---|\n")
    card.writelines(measure.line() + "\n" for measure in measures)
    return card.getvalue()
