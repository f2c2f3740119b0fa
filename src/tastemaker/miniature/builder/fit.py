"""The trainings of the builder, each by one process or by several at once: what every process does.

The one that is given a `console` reports, saves checkpoints and writes what comes out; all go on from the last checkpoint.
Passes are in bf16 where the device has arithmetic for it, weights in float32.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from tastemaker.miniature.builder import base, drawings, vae
from tastemaker.miniature.builder.assembly import assemble, examples
from tastemaker.miniature.builder.parts import build_vae
from tastemaker.miniature.builder.plan import Plan
from tastemaker.runtime import checkpoint
from tastemaker.runtime.device import pick_precision, set_threads
from tastemaker.runtime.distributed import connected

SAVE_EVERY = 100


def fit_vae(folder: Path, plan: Plan, device: str, console: Console | None = None) -> None:
    """Encoder and decoder together: `vae.safetensors`."""
    _fit_vae(folder, "vae", plan.vae_samples, plan.seed, device, console)


def fit_decoder(folder: Path, plan: Plan, device: str, console: Console | None = None) -> None:
    """The decoder alone, on from there: `decoder.safetensors`."""
    _fit_vae(folder, "decoder", plan.decoder_samples, plan.seed + 1, device, console)


def _fit_vae(folder: Path, name: str, samples: int, seed: int, device: str, console: Console | None) -> None:
    set_threads(None)
    torch.manual_seed(seed)
    with connected(torch.device(device)) as ranks:
        model = build_vae().to(device)
        if name == "decoder":
            model.load_state_dict(load_file(folder / "vae.safetensors"))
        _, arrays = drawings.load_drawings(folder / "t2i")
        pictures, check = arrays["targets"][:-512], np.asarray(arrays["targets"][-512:])
        steps = folder / f"{name}-steps"
        saved = _restored(steps)
        if saved:
            checkpoint.load_matching(model, saved.tensors["model"])

        def report(step: int, loss: float, optimiser: vae.Optimiser) -> None:
            if console is None:
                return
            if step % SAVE_EVERY == 0:
                console.print(f"{name} step {step}: loss {loss:.4f}, {vae.psnr(model, check):.2f} dB")
                checkpoint.save(steps, step, {"model": model.state_dict(), "optimiser": optimiser.state()}, {})
                checkpoint.prune(steps, 1)

        vae.train(
            model,
            pictures,
            samples=samples,
            seed=seed,
            decoder_only=name == "decoder",
            start=saved.step if saved else 0,
            restored=saved.tensors["optimiser"] if saved else None,
            dtype=pick_precision("auto", device),
            ranks=ranks,
            report=report,
        )
        if console is not None:
            save_file(plain(model.state_dict()), folder / f"{name}.safetensors")


def fit_base(folder: Path, plan: Plan, device: str, console: Console | None = None) -> None:
    """Transformer and text encoder: `base.safetensors`, the averaged weights."""
    set_threads(None)
    torch.manual_seed(plan.seed)
    with connected(torch.device(device)) as ranks:
        adapter = assemble(folder)
        adapter.pipeline.to(device)
        dtype = pick_precision("auto", device)
        trainer = base.BaseTrainer(adapter, draws=plan.draws, muon_lr=0.015, adam_lr=2e-3, dtype=dtype, ranks=ranks)
        saved = _restored(folder / "base-steps")
        if saved:
            trainer.restore(saved.tensors)
        t2i, edits = examples(folder, adapter.pipeline)
        _compile(adapter.pipeline.transformer, console)

        def report(step: int, losses: list[float]) -> None:
            if console is None:
                return
            if step % 10 == 0:
                console.print(f"base step {step} of {plan.base_steps}: loss {losses[0]:.4f} (t2i) {losses[1]:.4f} (edits)")
            if step % SAVE_EVERY == 0:
                checkpoint.save(folder / "base-steps", step, trainer.tensors(), {})
                checkpoint.prune(folder / "base-steps", 1)

        tasks = ((t2i, plan.t2i_prompts), (edits, plan.edit_prompts))
        base.train(trainer, tasks, steps=plan.base_steps, seed=plan.seed, start=saved.step if saved else 0, report=report)
        if console is not None:
            save_file(plain(trainer.ema), folder / "base.safetensors")


def _compile(transformer: Any, console: Console | None) -> None:
    """Compiled blocks train about 1.5 times as fast on a CPU with AMX; without a C++ compiler the build goes on without."""
    if shutil.which("g++") is None and not torch.cuda.is_available():
        if console is not None:
            console.print("no C++ compiler: the transformer is trained uncompiled, about two thirds as fast")
        return
    torch._dynamo.config.recompile_limit = 64  # prefix and target passes of both tasks, each of one shape
    transformer.compile_repeated_blocks(dynamic=False)


def _restored(folder: Path) -> checkpoint.Checkpoint | None:
    return checkpoint.load(folder) if checkpoint.steps(folder) else None


def plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in tensors.items()}
