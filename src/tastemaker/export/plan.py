"""What an export will write, and every mistake in what was asked for, before a model is opened."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import safe_open

from tastemaker.config import LoraPolicy
from tastemaker.errors import Corrupt, UserMistake
from tastemaker.evaluation.summary import Summary
from tastemaker.evaluation.summary_file import read_summary
from tastemaker.export.teachers import Specialist, specialists
from tastemaker.opening import RECORD, TrainedRun, read_run

Form = Literal["pipeline", "transformer", "lora"]
"""A whole pipeline, its transformer alone, or a LoRA for the base; a LoRA policy is merged into the first two."""
DtypeName = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""As safetensors names them."""
COPIED = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja"})
"""Kinds of files that a pipeline needs; pickles, code and pages about the base stay where they are."""


@dataclass(frozen=True)
class Plan:
    run: TrainedRun
    out: Path
    form: Form
    dtype: torch.dtype
    copied: tuple[Path, ...]
    """Files of the base, relative to its folder."""
    num_bytes: int
    """That have to fit on the disk."""
    replace: bool
    evaluation: Summary | None
    called: str | None
    """This model's name in the evaluation; None where that does not say whose weights it measured."""
    teachers: tuple[Specialist, ...] = ()
    """Of a distilled student."""


def make_plan(
    run_folder: Path,
    out: Path,
    *,
    form: Form | None = None,
    step: int | None = None,
    live: bool = False,
    dtype: DtypeName = "auto",
    base: Path | None = None,
    evaluation: Path | None = None,
    force: bool = False,
) -> Plan:
    """`form` is lora for a LoRA policy and pipeline for any other unless given. Raises UserMistake, one line a mistake."""
    mistakes = [*_unknown(form, dtype), *_occupied(out, force)]
    summary = run = None
    try:
        summary = _summary(evaluation)
    except UserMistake as error:
        mistakes += str(error).splitlines()
    try:
        run = read_run(run_folder, step=step, live=live, base=base)
    except UserMistake as error:
        mistakes += str(error).splitlines()
    is_lora = run is not None and isinstance(run.config.policy, LoraPolicy)
    if run is not None and form == "lora" and not is_lora:
        mistakes.append(f"{run_folder}: trained all weights, so there is no LoRA; export it as pipeline or transformer")
    called = None
    if run is not None and summary is not None and summary.models:
        called = next((name for name, key in summary.models.items() if key == run.key), None)
        if called is None:
            mistakes.append(
                f"{evaluation}: is of other weights ({', '.join(summary.models)}) than step {run.step} of {run_folder}; "
                "evaluate these, or export without it"
            )
    if mistakes or run is None:
        raise UserMistake("\n".join(mistakes))
    chosen: Form = form or ("lora" if is_lora else "pipeline")
    target = _dtype(run, chosen, dtype, is_lora)
    copied = tuple(_copied(run.base.folder)) if chosen == "pipeline" else ()
    size = _num_bytes(run, chosen, target, copied)
    return Plan(run, out, chosen, target, copied, size, force, summary, called, specialists(run))


def stored(path: Path) -> tuple[int, str]:
    """Elements in a safetensors file, and the dtype most of them have; reads the header alone."""
    counts: dict[str, int] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                counts[part.get_dtype()] = counts.get(part.get_dtype(), 0) + math.prod(part.get_shape())
    except Exception as error:
        raise Corrupt(f"{path}: not a whole safetensors file ({error})") from None
    return sum(counts.values()), max(counts, key=lambda kind: counts[kind], default="F32")


def transformer_files(pipeline: Path) -> list[Path]:
    files = sorted((pipeline / "transformer").glob("*.safetensors"))
    if not files:
        raise UserMistake(f"{pipeline / 'transformer'}: holds no safetensors, so the base cannot be opened")
    return files


def _dtype(run: TrainedRun, form: Form, name: DtypeName, is_lora: bool) -> torch.dtype:
    """`auto`: trained weights as they were trained; a LoRA that is merged as its base is stored."""
    if name != "auto":
        return DTYPES[name]
    merged = is_lora and form != "lora"
    _, kind = stored(transformer_files(run.base.folder)[0] if merged else run.weights)
    if kind not in STORED:
        raise UserMistake(
            f"{run.base.folder}: its transformer is stored as {kind}; say which dtype to write: fp32, bf16 or fp16"
        )
    return STORED[kind]


def _num_bytes(run: TrainedRun, form: Form, dtype: torch.dtype, copied: tuple[Path, ...]) -> int:
    weights = [run.weights] if form == "lora" else transformer_files(run.base.folder)
    numbers = sum(stored(path)[0] for path in weights)
    return numbers * dtype.itemsize + sum((run.base.folder / path).stat().st_size for path in copied) + 1_000_000


def _copied(pipeline: Path) -> Iterator[Path]:
    """All of the pipeline but its transformer and what is no part of it."""
    yield Path("model_index.json")
    for folder in sorted(path for path in pipeline.iterdir() if path.is_dir() and path.name != "transformer"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in COPIED and not path.name.startswith("."):
                yield path.relative_to(pipeline)


def _unknown(form: str | None, dtype: str) -> Iterator[str]:
    if form not in (None, *get_args(Form)):
        yield f"form: {form!r} is none of {', '.join(get_args(Form))}"
    if dtype not in get_args(DtypeName):
        yield f"dtype: {dtype!r} is none of {', '.join(get_args(DtypeName))}"


def _occupied(out: Path, force: bool) -> Iterator[str]:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        yield f"{out}: exists and is not a folder; choose another name"
    elif out.is_dir() and any(out.iterdir()):
        if not force:
            yield f"{out}: exists; choose another folder, or replace an earlier export with --force"
        elif not (out / RECORD).is_file():
            yield f"{out}: was not written by export (no {RECORD}), so --force does not replace it; choose another folder"


def _summary(given: Path | None) -> Summary | None:
    """The evaluation to quote: the given summary.json, or that of the given folder."""
    return None if given is None else read_summary(given / "summary.json" if given.is_dir() else given)
