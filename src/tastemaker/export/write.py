"""`tastemaker export`: a run's policy as a diffusers pipeline, a transformer or a LoRA; whole or absent."""

from __future__ import annotations

import json
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from tastemaker.config import LoraPolicy
from tastemaker.errors import UserMistake
from tastemaker.export.card import render_card
from tastemaker.export.plan import STORED, Plan, stored, transformer_files
from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import merge_lora, save_lora
from tastemaker.opening import RECORD, said
from tastemaker.runtime import folder as disk


def export(plan: Plan) -> Path:
    """Writes what the plan says and returns its folder. Everything but the trained weights is the base's, byte for byte."""
    if plan.run.alarm is not None:
        warnings.warn(plan.run.alarm, stacklevel=2)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with disk.whole_folder(plan.out, plan.num_bytes, replace=plan.replace) as folder:
        adapter = _opened(plan)
        for name in plan.copied:
            disk.make_folder((folder / name).parent)
            shutil.copyfile(plan.run.base.folder / name, folder / name)
        if plan.form == "lora":
            save_lora(adapter, folder)
        else:
            adapter.transformer.save_pretrained(folder / "transformer" if plan.form == "pipeline" else folder)
        (folder / RECORD).write_text(json.dumps(record(plan), indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(render_card(plan, adapter), encoding="utf-8")
    return plan.out


def _opened(plan: Plan) -> Adapter:
    """The policy on the CPU, merged where the form asks for it, in the dtype it is written in."""
    if plan.form == "lora":
        _, kind = stored(transformer_files(plan.run.base.folder)[0])
        adapter = plan.run.open("cpu", STORED.get(kind, torch.bfloat16))
        for name, parameter in adapter.transformer.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(plan.dtype)
    else:
        adapter = plan.run.open("cpu", plan.dtype)
        if isinstance(plan.run.config.policy, LoraPolicy):
            kept = merge_lora(adapter)
            if (lost := kept.told(plan.dtype)) is not None:
                warnings.warn(f"{plan.out}: {lost}; choose --form lora, or --dtype fp32", stacklevel=2)
    lost = [name for name, value in adapter.transformer.named_parameters() if not value.isfinite().all()]
    if lost:
        raise UserMistake(f"{lost[0]} and {len(lost) - 1} more: not finite as {plan.dtype}; choose --dtype bf16 or fp32")
    return adapter


def record(plan: Plan) -> dict[str, Any]:
    """Where the folder comes from, for programs; the card says the same to people."""
    run = plan.run
    return {
        **said(run.config, plan.form),
        "tastemaker": version("tastemaker"),
        "step": run.step,
        "weights": "average" if run.group == "ema" else "last",
        "base": {"name": run.base.folder.name, "sha256": run.base.key},
        "data_files": run.environment.get("data_files", {}),
        "judges": run.environment.get("judges", {}),
        "teachers": {
            one.name: {"sha256": one.key, **{what: one.environment.get(what, {}) for what in ("data_files", "judges")}}
            for one in plan.teachers
        },
    }
