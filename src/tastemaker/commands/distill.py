"""`tastemaker distill`: from a file that names teachers to one student that needs no guidance.

settings -> prompts, each with its teacher -> student and teachers opened -> training -> the student as plain diffusers files
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from rich.console import Console

from tastemaker import config as settings
from tastemaker.commands.checks import check_distillation
from tastemaker.commands.train import encoding, export, in_processes, tell_shapes, tell_unsteady, unsuited, warn
from tastemaker.config.distillation import DistillConfig
from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.models.adapter import load
from tastemaker.models.stated_guidance import state_guidance
from tastemaker.named.files import data_files
from tastemaker.named.inputs import model_folder, teacher_folders
from tastemaker.opening import guided_on_top, stated
from tastemaker.runtime.distributed import connected
from tastemaker.runtime.progress import Progress
from tastemaker.training.distill_start import run_distillation
from tastemaker.training.start import Around, prepare_hardware
from tastemaker.training.teacher_weights import DELTA


def distill(path: Path, *, overrides: Iterable[str] = (), folder: Path | None = None, allow: Iterable[str] = ()) -> Path:
    """Distils what the file says in `folder` (runs/NAME by default), or goes on; returns the exported student."""
    config = settings.load(path, DistillConfig, tuple(overrides))
    return run_distill(config, path.parent, folder or Path("runs") / config.name, Console(), allow)


def run_distill(
    config: DistillConfig,
    beside: Path,
    folder: Path,
    console: Console,
    allow: Iterable[str] = (),
    embeddings: Path | None = None,
) -> Path:
    """As `distill`; relative paths in the settings start at `beside`. All mistakes are told before a model is loaded.

    Encoded prompts are kept in `embeddings`, as `run_train` does.
    """
    run = partial(_run_distill, embeddings=embeddings or folder / "embeddings")
    return in_processes(run, config, beside, folder, console, tuple(allow))


def _run_distill(
    config: DistillConfig, beside: Path, folder: Path, console: Console, allow: Iterable[str], *, embeddings: Path
) -> Path:
    prompts = check_distillation(config, beside, folder)
    tell_shapes(prompts, config, console)
    model, weights = model_folder(config, beside), teacher_folders(config, beside)
    for line in warnings_of(config, model, weights):
        warn(line, console)
    device, dtype = prepare_hardware(config)
    side, files = config.rollout.picture_side, data_files(config, beside)
    with connected(device) as ranks:
        adapter = load(model, device=device, dtype=dtype)
        cache = EmbeddingCache(adapter, height=side, width=side, folder=embeddings, encoder_key=encoder_key(model))
        around = Around(
            allow,
            lambda start, total: [Progress(total, start=start, console=console)],
            ranks=ranks,
            encoded=encoding(console),
        )
        state = run_distillation(config, adapter, prompts, weights, folder, embeddings=cache, around=around, data_files=files)
    if not ranks.first:  # which exports for all
        return folder
    tell_unsteady(folder, config, console)
    state_guidance(adapter.transformer, 1.0)
    with state.averaged():
        exported = export(config, adapter, folder)
    console.print(f"distilled {state.step} steps; the student is in {exported}: sample it without guidance (scale 1)")
    return exported


def warnings_of(config: DistillConfig, model: Path, weights: Mapping[str, Path]) -> Iterator[str]:
    """Lines on settings that suit other models."""
    yield from guided_teachers(config, model, weights)
    yield from unsuited(config, model)


def guided_teachers(config: DistillConfig, model: Path, weights: Mapping[str, Path]) -> Iterator[str]:
    """A line for each teacher that is guided and says that it is sampled without; for a difference its base speaks."""
    for row, teacher in enumerate(config.teachers):
        folder = weights[teacher.name]
        on_base = (folder / DELTA).is_file()
        for line in guided_on_top(f"teachers.{row}: {teacher.name}", stated(model if on_base else folder), [teacher.guidance]):
            yield f"{line}; set its guidance to 1"
