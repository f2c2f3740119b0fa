"""`tastemaker miniature build`: the miniature from nothing. Drawings -> VAE -> latents -> base -> pipeline folder and card.

Every part is resumable: drawings and latents are files that are there or not, the two trainings save checkpoints. On two CPU
cores without matrix units the whole takes some hours; the parts and their measured times are in the card.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage21, QwenImage21Pipeline
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from tastemaker.miniature.builder import base, drawings, vae
from tastemaker.miniature.builder.card import measure, render_card
from tastemaker.miniature.builder.parts import build_scheduler, build_text_encoder, build_transformer, build_vae
from tastemaker.miniature.builder.tokenizer import build_processor, build_tokenizer, special_ids
from tastemaker.miniature.identity.train import build_identity
from tastemaker.miniature.judge.build import build_judge
from tastemaker.miniature.task import reading_processes
from tastemaker.miniature.world.wording import vocabulary
from tastemaker.models.adapter import load
from tastemaker.models.qwen_image21 import QwenImage21Adapter, adapt
from tastemaker.runtime import checkpoint
from tastemaker.runtime.device import pick_device

SAVE_EVERY = 100


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are about what made the weights that ship."""

    t2i_drawings: int = 100_000
    edit_drawings: int = 50_000
    vae_samples: int = 250_000
    decoder_samples: int = 0
    """Pictures for the decoder alone, after encoder and decoder were trained together; 0 leaves it as it is."""
    base_steps: int = 4000
    t2i_prompts: int = 80
    edit_prompts: int = 48
    draws: int = 4
    seed: int = 0


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
    timings: dict[str, float] = {}
    for name, work in (
        ("drawings", lambda: _draw(folder, plan)),
        ("vae", lambda: _train_vae(folder, plan, console, device)),
        ("decoder", lambda: _polish_decoder(folder, plan, console, device)),
        ("latents", lambda: _encode(folder, device)),
        ("base", lambda: _train_base(folder, plan, console, device)),
    ):
        began = time.monotonic()
        console.print(f"{name} ...")
        work()
        timings[name] = time.monotonic() - began
    out = folder / "pipeline"
    save_pipeline(assemble(folder, load_file(folder / "base.safetensors")).pipeline, out)
    (out / "build.json").write_text(json.dumps({"plan": asdict(plan), "seconds": timings}, indent=1) + "\n")
    write_card(out, console, measured)
    _build_judges(folder, out, console, device)
    return out


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
    if not (folder / "t2i" / "texts.json").exists():
        drawings.draw_t2i(folder / "t2i", plan.t2i_drawings, plan.seed)
    if not (folder / "edit" / "texts.json").exists():
        drawings.draw_edits(folder / "edit", plan.edit_drawings, plan.seed + 1)


def _train_vae(folder: Path, plan: Plan, console: Console, device: torch.device) -> None:
    if not (folder / "vae.safetensors").exists():
        model = build_vae().to(device)
        _fit_vae(model, folder, "vae", plan.vae_samples, plan.seed, console, decoder_only=False)
        save_file(_plain(model.state_dict()), folder / "vae.safetensors")


def _polish_decoder(folder: Path, plan: Plan, console: Console, device: torch.device) -> None:
    if not (folder / "decoder.safetensors").exists():
        model = build_vae().to(device)
        model.load_state_dict(load_file(folder / "vae.safetensors"))
        _fit_vae(model, folder, "decoder", plan.decoder_samples, plan.seed + 1, console, decoder_only=True)
        save_file(_plain(model.state_dict()), folder / "decoder.safetensors")


def _fit_vae(
    model: AutoencoderKLQwenImage21, folder: Path, name: str, samples: int, seed: int, console: Console, *, decoder_only: bool
) -> None:
    """Trains in place, from the last checkpoint under `name` if there is one."""
    _, arrays = drawings.load_drawings(folder / "t2i")
    pictures, check = arrays["targets"][:-512], np.asarray(arrays["targets"][-512:])
    steps = folder / f"{name}-steps"
    saved = _restored(steps)
    if saved:
        checkpoint.load_matching(model, saved.tensors["model"])

    def report(step: int, loss: float, optimiser: vae.Optimiser) -> None:
        if step % 50 == 0:
            console.print(f"{name} step {step}: loss {loss:.4f}, {vae.psnr(model, check):.2f} dB")
        if step % SAVE_EVERY == 0:
            checkpoint.save(steps, step, {"model": model.state_dict(), "optimiser": optimiser.state()}, {})
            checkpoint.prune(steps, 1)

    vae.train(
        model,
        pictures,
        samples=samples,
        seed=seed,
        decoder_only=decoder_only,
        start=saved.step if saved else 0,
        restored=saved.tensors["optimiser"] if saved else None,
        report=report,
    )


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


def assemble(folder: Path, weights: dict[str, Tensor] | None = None) -> QwenImage21Adapter:
    """The pipeline around the folder's VAE, with new transformer and text encoder, or with trained `weights`."""
    latents = load_file(folder / "latents.safetensors")
    decoder = build_vae(latents["mean"].tolist(), latents["std"].tolist())
    decoder.load_state_dict(load_file(folder / "decoder.safetensors"))
    adapter = empty_pipeline(decoder)
    if weights is not None:
        transformer, text = adapter.pipeline.transformer, adapter.pipeline.text_encoder.model
        for module, prefix in ((transformer, "transformer."), (text, "text.")):
            own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            module.load_state_dict(own, strict=True)
    return adapter


def save_pipeline(pipeline: QwenImage21Pipeline, out: Path) -> None:
    """Half the bytes (bfloat16 weights), opened in float32 unless asked otherwise.

    diffusers opens a folder in float32 but transformers in the dtype that the text encoder's config names; left at bfloat16
    there, a plain `from_pretrained` would give a pipeline of two dtypes that cannot run.
    """
    pipeline.to(torch.bfloat16).save_pretrained(out)
    path = out / "text_encoder" / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"bfloat16"', '"float32"'), encoding="utf-8")


def empty_pipeline(decoder: AutoencoderKLQwenImage21) -> QwenImage21Adapter:
    tokenizer = build_tokenizer(vocabulary())
    encoder = build_text_encoder(len(tokenizer), special_ids(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    return adapt(
        QwenImage21Pipeline(
            scheduler=build_scheduler(),
            vae=decoder,
            text_encoder=encoder,
            processor=build_processor(tokenizer),
            transformer=build_transformer(),
        )
    )


def examples(folder: Path, pipeline: QwenImage21Pipeline) -> tuple[base.Examples, base.Examples]:
    """What the base learns from: text-to-image and edits, tokenised in the pipeline's own templates."""
    latents = load_file(folder / "latents.safetensors")
    tokenizer = pipeline.processor.tokenizer
    edit_template = pipeline.prompt_template_ti2i.replace("<|image_pad|>", "<|image_pad|>" * 4)

    def ids(template: str, texts: list[str]) -> list[list[int]]:
        return tokenizer([template.format(text) for text in texts]).input_ids

    t2i_texts, _ = drawings.load_drawings(folder / "t2i")
    edit_texts, arrays = drawings.load_drawings(folder / "edit")
    return (
        base.Examples(
            ids(pipeline.prompt_template_t2i, t2i_texts), ids(pipeline.prompt_template_t2i, [" "])[0], latents["t2i.targets"]
        ),
        base.Examples(
            ids(edit_template, edit_texts),
            ids(edit_template, [" "])[0],
            latents["edit.targets"],
            latents["edit.sources"],
            arrays["sources"],
        ),
    )


def _train_base(folder: Path, plan: Plan, console: Console, device: torch.device) -> None:
    if (folder / "base.safetensors").exists():
        return
    adapter = assemble(folder)
    adapter.pipeline.to(device)
    trainer = base.BaseTrainer(adapter, draws=plan.draws, muon_lr=0.015, adam_lr=2e-3)
    saved = _restored(folder / "base-steps")
    if saved:
        trainer.restore(saved.tensors)
    t2i, edits = examples(folder, adapter.pipeline)
    _compile(adapter.pipeline.transformer, console)

    def report(step: int, losses: list[float]) -> None:
        if step % 10 == 0:
            console.print(f"base step {step} of {plan.base_steps}: loss {losses[0]:.4f} (t2i) {losses[1]:.4f} (edits)")
        if step % SAVE_EVERY == 0:
            checkpoint.save(folder / "base-steps", step, trainer.tensors(), {})
            checkpoint.prune(folder / "base-steps", 1)

    tasks = ((t2i, plan.t2i_prompts), (edits, plan.edit_prompts))
    base.train(trainer, tasks, steps=plan.base_steps, seed=plan.seed, start=saved.step if saved else 0, report=report)
    save_file(_plain(trainer.ema), folder / "base.safetensors")


def _compile(transformer: Any, console: Console) -> None:
    """Compiled blocks train about twice as fast on a CPU; without a C++ compiler the build goes on without."""
    if shutil.which("g++") is None and not torch.cuda.is_available():
        console.print("no C++ compiler: the transformer is trained uncompiled, about half as fast")
        return
    torch._dynamo.config.recompile_limit = 64  # prefix and target passes of both tasks, each of one shape
    transformer.compile_repeated_blocks(dynamic=False)


def _restored(folder: Path) -> checkpoint.Checkpoint | None:
    return checkpoint.load(folder) if checkpoint.steps(folder) else None


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in tensors.items()}
