"""`tastemaker miniature build`: the miniature from nothing. Drawings, VAE, latents, base, pipeline folder and card, judges.

Every part is resumable: drawings and latents are files that are there or not, the trainings save checkpoints. On a CPU every
core takes part, drawings and trainings in processes of their own; the seconds of each part, added up over the calls that it
took, are in `build.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from tastemaker.miniature.builder import drawings, vae
from tastemaker.miniature.builder.assembly import assemble, save_pipeline
from tastemaker.miniature.builder.card import measure, render_card
from tastemaker.miniature.builder.fit import fit_base, fit_decoder, fit_vae
from tastemaker.miniature.builder.parts import build_vae
from tastemaker.miniature.builder.plan import Plan
from tastemaker.miniature.identity.train import build_identity
from tastemaker.miniature.judge.build import build_judge
from tastemaker.miniature.task import reading_processes
from tastemaker.models.adapter import load
from tastemaker.runtime import folder as disk
from tastemaker.runtime.device import pick_device
from tastemaker.runtime.together import how_many, spread

_SECONDS = "seconds.json"


def build(
    folder: Path,
    plan: Plan | None = None,
    console: Console | None = None,
    measured: int | None = None,
    device: torch.device | str | None = None,
) -> Path:
    """Builds everything that `folder` does not hold yet; returns the pipeline folder inside it.

    `measured` limits the card to so many held-out prompts of each task. The models are trained on `device`, by default the
    best there is; drawings, noise and the card's measurements are the CPU's, so that a seed means the same everywhere.
    """
    plan, console, device = plan or Plan(), console or Console(), torch.device(device or pick_device())
    torch.manual_seed(plan.seed)
    for name, work in (
        ("drawings", lambda: _draw(folder, plan)),
        ("vae", lambda: _fit(fit_vae, folder, "vae", plan, device, console)),
        ("decoder", lambda: _fit(fit_decoder, folder, "decoder", plan, device, console)),
        ("latents", lambda: _encode(folder, device)),
        ("base", lambda: _fit(fit_base, folder, "base", plan, device, console)),
    ):
        console.print(f"{name} ...")
        with _timed(folder, name):
            work()
    out = folder / "pipeline"
    save_pipeline(assemble(folder, load_file(folder / "base.safetensors")).pipeline, out)
    disk.write_text_atomic(out / "build.json", json.dumps({"plan": asdict(plan), "seconds": _seconds(folder)}, indent=1) + "\n")
    write_card(out, console, measured)
    _build_judges(folder, out, console, device)
    return out


@contextmanager
def _timed(folder: Path, name: str) -> Iterator[None]:
    """Adds the seconds inside to those of earlier calls. Only a call that was killed leaves its own out."""
    began = time.monotonic()
    try:
        yield
    finally:
        disk.make_folder(folder)
        spent = _seconds(folder)
        spent[name] = round(spent.get(name, 0.0) + time.monotonic() - began, 1)
        disk.write_text_atomic(folder / _SECONDS, json.dumps(spent) + "\n")


def _seconds(folder: Path) -> dict[str, float]:
    path = folder / _SECONDS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _build_judges(folder: Path, pipeline: Path, console: Console, device: torch.device) -> None:
    """`identity/` and `judging/`: the embedder of faces, and the judge, which is shown pictures that the new base draws."""
    build_identity(folder / "identity", say=console.print)
    adapter = load(pipeline, device="cpu", dtype=torch.float32)
    with reading_processes(torch.get_num_threads()) as pool:
        build_judge(folder / "judging", adapter=adapter, pool=pool, device=device, say=console.print)


def write_card(pipeline: Path, console: Console, count: int | None = None) -> None:
    """Measures the pipeline folder as it is opened by anyone, and writes its README.md.

    `history` in build.json, if there is one, tells what the plan does not: how a model came about that no single run made.
    """
    adapter = load(pipeline, device="cpu", dtype=torch.float32)
    with reading_processes(torch.get_num_threads()) as pool:
        measures = measure(adapter, count=count, pool=pool, say=lambda text: console.print(f"measuring: {text}"))
    built = json.loads((pipeline / "build.json").read_text(encoding="utf-8"))
    plan = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in built["plan"].items())
    told = f"Built with {plan}. {built.get('history', '')}".strip()
    (pipeline / "README.md").write_text(render_card(measures, told), encoding="utf-8")


def _draw(folder: Path, plan: Plan) -> None:
    with reading_processes(torch.get_num_threads()) as pool:
        if not (folder / "t2i" / "texts.json").exists():
            drawings.draw(folder / "t2i", drawings.draw_t2i, plan.t2i_drawings, plan.seed, pool)
        if not (folder / "edit" / "texts.json").exists():
            drawings.draw(folder / "edit", drawings.draw_edits, plan.edit_drawings, plan.seed + 1, pool)


def _fit(work: Callable[..., None], folder: Path, name: str, plan: Plan, device: torch.device, console: Console) -> None:
    """Leaves `name`.safetensors, unless it is there: by one process with a GPU, by one for each core without."""
    if not (folder / f"{name}.safetensors").exists():
        spread(how_many("auto", device=device), work, folder, plan, str(device), console=console)


def _encode(folder: Path, device: torch.device) -> None:
    """Latents of every drawing, normalised per channel by statistics that go into the VAE's config."""
    if (folder / "latents.safetensors").exists():
        return
    model = build_vae().to(device)
    model.load_state_dict(load_file(folder / "vae.safetensors"))
    arrays = {task: drawings.load_drawings(folder / task)[1] for task in ("t2i", "edit")}
    mean, std = vae.latent_statistics(model, arrays["t2i"]["targets"][:4096])
    latents = {"mean": torch.tensor(mean), "std": torch.tensor(std)}
    for task, by_name in arrays.items():
        for name, pictures in by_name.items():
            latents[f"{task}.{name}"] = vae.normalised_latents(model, pictures, latents["mean"], latents["std"])
    save_file(latents, folder / "latents.safetensors")
