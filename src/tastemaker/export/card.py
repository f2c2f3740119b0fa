"""The model card of an export: how to load and sample it, from what and how it was made, and how good it was measured to be."""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from tastemaker import config as settings
from tastemaker.evaluation.conclusions import headline, told_of
from tastemaker.evaluation.summary import Summary
from tastemaker.evaluation.tables import tables
from tastemaker.export.plan import Plan
from tastemaker.models.adapter import Adapter, base_sigmas
from tastemaker.types import Task

FRONT_MATTER = "---\nlibrary_name: diffusers\npipeline_tag: {tag}\ntags: [{tags}]\n---\n"
PIPELINE_TAGS = {"t2i": "text-to-image", "edit": "image-to-image"}
CONTENT = {
    "pipeline": "a whole diffusers pipeline",
    "transformer": "a transformer for its base's pipeline",
    "lora": "a LoRA for its base",
}


def render_card(plan: Plan, adapter: Adapter) -> str:
    """The card as Markdown; `adapter` is the one that was exported."""
    run = plan.run
    after = f"step {run.step} of {run.config.budget.max_steps}"
    weights = "the running average of the weights" if run.group == "ema" else "the last weights"
    parts = [
        _front_matter(plan, adapter),
        f"# {run.config.name}\n",
        f"This is {CONTENT[plan.form]}, trained by tastemaker: {weights} after {after}.\n",
        *([f"**{run.alarm}.**\n"] if run.alarm else []),
        "## How to use it\n",
        f"```python\n{_example(plan, adapter)}```\n",
        _sampling(plan),
        *_pipelines_own(plan, adapter),
        "## What it was made from\n",
        *_origins(plan),
        "## How good it is\n",
        *(_numbers(plan.evaluation, plan.called) if plan.evaluation else ["No evaluation came with this export.\n"]),
        "## Recipe\n",
        "Every setting of the run, defaults written out:\n",
        f"~~~~yaml\n{settings.dump(run.config)}~~~~\n",
        *(_folded(one.name, one.config) for one in plan.teachers if one.config),
    ]
    return "\n".join(parts)


def _front_matter(plan: Plan, adapter: Adapter) -> str:
    """A page has one tag of its task; of a model that has two the second is a plain tag."""
    first, *others = (PIPELINE_TAGS[task] for task in adapter.tasks)
    lora = ["lora"] if plan.form == "lora" else []
    return FRONT_MATTER.format(tag=first, tags=", ".join(["tastemaker", *lora, *others]))


def _example(plan: Plan, adapter: Adapter) -> str:
    """A program that draws as training did, for each task of the pipeline."""
    name = type(adapter.pipeline.transformer).__name__
    base = 'DiffusionPipeline.from_pretrained("the base\'s folder"'
    imports, opened = {
        "pipeline": ("DiffusionPipeline", 'pipe = DiffusionPipeline.from_pretrained("this folder")\n'),
        "lora": ("DiffusionPipeline", f'pipe = {base})\npipe.load_lora_weights("this folder")\n'),
        "transformer": (
            f"DiffusionPipeline, {name}",
            f'transformer = {name}.from_pretrained("this folder")\npipe = {base}, transformer=transformer)\n',
        ),
    }[plan.form]
    pictures = "from PIL import Image\n" if "edit" in adapter.tasks else ""
    calls = "".join(f"{_call(plan, adapter.pipeline, task)}\n" for task in adapter.tasks)
    return f"from diffusers import {imports}\n{pictures}\n{opened}{calls}"


def _call(plan: Plan, pipeline: Any, task: Task) -> str:
    rollout, takes = plan.run.config.rollout, inspect.signature(pipeline.__call__).parameters
    side = rollout.picture_side
    what = ['prompt="..."']
    if task == "edit":
        what.append('image=[Image.open("source.png").convert("RGB")]')
    if task == "edit" and "output_resolution" in takes:
        what.append(f"output_resolution={side}")
    scale = "true_cfg_scale" if "true_cfg_scale" in takes else "guidance_scale"
    how = [f"{scale}={rollout.guidance:g}"]
    if rollout.guidance != 1:
        how.append(f"negative_prompt={rollout.negative_prompt!r}")
    steps = f"num_inference_steps={rollout.steps}"
    if pipeline.config.get("sample_sigmas"):
        steps = f"sigmas={base_sigmas(pipeline, rollout.steps)}"
    lines = (what, [*how, steps], [f"height={side}", f"width={side}"])
    arguments = "".join(f"    {', '.join(line)},\n" for line in lines)
    return f"{'edited' if task == 'edit' else 'drawn'} = pipe(\n{arguments}).images[0]"


def _pipelines_own(plan: Plan, adapter: Adapter) -> Iterator[str]:
    """What a plain call would do otherwise than training did."""
    rollout, takes = plan.run.config.rollout, inspect.signature(adapter.pipeline.__call__).parameters
    if "edit" in adapter.tasks and "output_resolution" in takes:
        trained, plain = (f"{side} x {side} pixels" for side in (rollout.picture_side, takes["output_resolution"].default))
        yield f"Training took source pictures at about {trained}, as `output_resolution` says; the default is {plain}.\n"
    if fixed := adapter.pipeline.config.get("sample_sigmas"):
        same = "which training sampled at too" if len(fixed) == rollout.steps else "and training sampled at even ones"
        yield (
            f"The checkpoint fixes {len(fixed)} noise levels, {same}. Without `sigmas` the pipeline takes the fixed ones, "
            "whatever `num_inference_steps` says.\n"
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
    rows += _inputs(run.environment, "", {"model", *(f"teachers.{one.name}" for one in plan.teachers)})
    for one in plan.teachers:
        rows.append((f"teacher: {one.name}", one.config.name if one.config else "", one.key))
        rows += _inputs(one.environment, f"{one.name}: ", {"model"})
    yield from _table(("what", "name", "SHA-256 or fingerprint"), rows)
    packages: Mapping[str, str] = run.environment.get("packages", {})
    if packages:
        yield f"Trained with {', '.join(f'{name} {number}' for name, number in packages.items())}.\n"


def _inputs(environment: Mapping[str, Any], whose: str, known: Container[str]) -> Iterator[tuple[str, str, str]]:
    """Data and judges of a run, but for what the table has already."""
    for what, group in (("data", "data_files"), ("judge", "judges")):
        for name, value in environment.get(group, {}).items():
            if name not in known:
                yield f"{whose}{what}: {name}", "", value


def _folded(name: str, config: BaseModel) -> str:
    """Closed until it is asked for: what taught is as long as what was taught."""
    told = f"Every setting of the training of the teacher {name}"
    return f"<details><summary>{told}</summary>\n\n~~~~yaml\n{settings.dump(config)}~~~~\n\n</details>\n"


def _numbers(summary: Summary, called: str | None) -> Iterator[str]:
    """Over all prompts, with n and 95% intervals; categories are in the evaluation's own report."""
    if summary.warning:
        yield f"**{summary.warning}**\n"
    if called is None:
        yield "The evaluation does not say whose weights it measured; whether this model is among them is not known.\n"
        yield f"{headline(summary)}\n"
    else:
        yield f"In these numbers this model is called {called}.\n"
        yield f"{headline(told_of(summary, called))}\n"
    for table in tables(summary):
        yield f"{table.title}:\n"
        yield from _table(table.columns, table.rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    lines = [" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    if lines:
        rule = "|" + "---|" * len(head)
        yield "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {line} |" for line in lines)]) + "\n"
