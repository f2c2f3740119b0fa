"""The model card of an export: how to load and sample it, from what and how it was made, and how good it was measured to be."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tastemaker import config as settings
from tastemaker.evaluation.conclusions import headline
from tastemaker.evaluation.summary import Summary
from tastemaker.evaluation.tables import tables
from tastemaker.export.plan import Plan

FRONT_MATTER = "---\nlibrary_name: diffusers\npipeline_tag: text-to-image\ntags: [tastemaker{lora}]\n---\n"
CONTENT = {
    "pipeline": "a whole diffusers pipeline",
    "transformer": "a transformer for its base's pipeline",
    "lora": "a LoRA for its base",
}


def render_card(plan: Plan, pipeline: Any) -> str:
    """The card as Markdown; `pipeline` is the one that was exported."""
    run = plan.run
    after = f"step {run.step} of {run.config.budget.max_steps}"
    weights = "the running average of the weights" if run.group == "ema" else "the last weights"
    parts = [
        FRONT_MATTER.format(lora=", lora" if plan.form == "lora" else ""),
        f"# {run.config.name}\n",
        f"This is {CONTENT[plan.form]}, trained by tastemaker: {weights} after {after}.\n",
        "## How to use it\n",
        f"```python\n{_example(plan, pipeline)}```\n",
        _sampling(plan),
        "## What it was made from\n",
        *_origins(plan),
        "## How good it is\n",
        *(_numbers(plan.evaluation) if plan.evaluation else ["No evaluation came with this export.\n"]),
        "## Recipe\n",
        "Every setting of the run, defaults written out:\n",
        f"~~~~yaml\n{settings.dump(run.config)}~~~~\n",
    ]
    return "\n".join(parts)


def _example(plan: Plan, pipeline: Any) -> str:
    rollout = plan.run.config.rollout
    scale = "true_cfg_scale" if "true_cfg_scale" in inspect.signature(pipeline.__call__).parameters else "guidance_scale"
    words = f", negative_prompt={rollout.negative_prompt or ' '!r}" if rollout.guidance != 1 else ""
    side = rollout.picture_side
    call = (
        f'pipe("...", {scale}={rollout.guidance:g}{words}, num_inference_steps={rollout.steps}, height={side}, width={side})\n'
    )
    if plan.form == "pipeline":
        return f'from diffusers import DiffusionPipeline\n\npipe = DiffusionPipeline.from_pretrained("this folder")\n{call}'
    base = 'DiffusionPipeline.from_pretrained("the base\'s folder"'
    if plan.form == "lora":
        return f'from diffusers import DiffusionPipeline\n\npipe = {base})\npipe.load_lora_weights("this folder")\n{call}'
    name = type(pipeline.transformer).__name__
    return (
        f'from diffusers import DiffusionPipeline, {name}\n\ntransformer = {name}.from_pretrained("this folder")\n'
        f"pipe = {base}, transformer=transformer)\n{call}"
    )


def _sampling(plan: Plan) -> str:
    rollout = plan.run.config.rollout
    steps = f"Training sampled {rollout.steps} steps"
    if rollout.guidance == 1:
        return (
            f"**Sample it without guidance (scale 1): guidance is inside the weights.** {steps} without guidance. More on top "
            "costs twice the forwards and draws pictures it was never trained for.\n"
        )
    if rollout.unguided_every:
        which = f"with guidance {rollout.guidance:g}, and every {rollout.unguided_every}th training step without"
        return f"{steps} {which}. Sample it either way.\n".replace("every 2th", "every second")
    return f"{steps} with guidance {rollout.guidance:g}. Sample it at that scale.\n"


def _origins(plan: Plan) -> Iterator[str]:
    run = plan.run
    rows = [("base", run.base.folder.name, run.base.key)]
    if "model" not in run.environment.get("data_files", {}):
        yield "The run did not write down which weights its base had. The hash is that of what lies in the base's place now.\n"
    rows += [(f"data: {name}", "", value) for name, value in run.environment.get("data_files", {}).items() if name != "model"]
    rows += [(f"judge: {name}", "", value) for name, value in run.environment.get("judges", {}).items()]
    yield from _table(("what", "name", "SHA-256 or fingerprint"), rows)
    packages: Mapping[str, str] = run.environment.get("packages", {})
    if packages:
        yield f"Trained with {', '.join(f'{name} {number}' for name, number in packages.items())}.\n"


def _numbers(summary: Summary) -> Iterator[str]:
    """Over all prompts, with n and 95% intervals; categories are in the evaluation's own report."""
    if summary.warning:
        yield f"**{summary.warning}**\n"
    yield f"{headline(summary)}\n"
    for table in tables(summary):
        yield f"{table.title}:\n"
        yield from _table(table.columns, table.rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    lines = [" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    if lines:
        rule = "|" + "---|" * len(head)
        yield "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {line} |" for line in lines)]) + "\n"
