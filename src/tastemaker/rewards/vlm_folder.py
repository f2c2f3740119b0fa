"""Opens vision-language models from local folders: without network, without their own code and without pickles.

Whatever transformers would mend silently (weights that are missing, a folder without a tokenizer) is refused here.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from tastemaker.errors import Corrupt, UserMistake
from tastemaker.models.processor_shim import allow_processors_without_torchvision
from tastemaker.rewards.readout import Row

JUDGE_FILE = "judge.json"
CARD_FILE = "card.json"
"""How well a trained judge agrees with people; says nothing of what it computes, as little as README.md."""
_ADAPTER = "adapter_config.json"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model", "vocab.txt")
_WEIGHING = {".safetensors", ".json", ".jinja", ".txt", ".model"}
"""Kinds of files that decide what a model folder computes."""


@dataclass
class VLM:
    """An open model with its processor. `folders` are what it was read from: with a LoRA that one first, then its base."""

    model: nn.Module
    processor: Any
    folders: tuple[Path, ...] = ()

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def core(self) -> Any:
        """The transformers model, with a LoRA's layers in it but without peft's wrapping."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.core.dtype

    def placed(self, batch: Row) -> Row:
        """Inputs on the model's device; pictures in its precision."""
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in batch.items()
        }

    @property
    def sha256(self) -> str:
        """Of names and bytes of all files that decide what it computes; each call reads them all.

        Raises ValueError for a model that has no files, because it was built or trained in this process.
        """
        if not self.folders:
            raise ValueError("a model in training has no fingerprint: save it, and load what was saved")
        whole = hashlib.sha256()
        for folder in self.folders:
            for path in sorted(p for p in folder.iterdir() if p.suffix in _WEIGHING and p.name not in {JUDGE_FILE, CARD_FILE}):
                with path.open("rb") as stream:
                    whole.update(f"{path.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return whole.hexdigest()


def load_vlm(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    base: str | Path | None = None,
) -> VLM:
    """Open a transformers folder, or a peft folder together with its base (the one it names, or `base`).

    Raises UserMistake for a folder that is no such model, holds pickles in place of safetensors, wants to run its own code or
    whose weights do not fit (the first five differences are listed); Corrupt for weights that cannot be read.
    """
    folder = Path(folder).absolute()
    if not (folder / _ADAPTER).is_file():
        return VLM(_open_model(folder, dtype).to(device).eval(), _open_processor(folder), (folder,))
    _refuse_pickles(folder, "adapter_model.safetensors")
    root = _root(folder, base)
    model = _with_lora(_open_model(root, dtype), folder)
    return VLM(model.to(device).eval(), load_processor(folder, base=base), (folder, root))


def load_processor(folder: str | Path, *, base: str | Path | None = None) -> Any:
    """That of `load_vlm`, without the weights: a LoRA's own, or its base's. Raises UserMistake where there is none."""
    folder = Path(folder).absolute()
    alone = not (folder / _ADAPTER).is_file() or (folder / "tokenizer_config.json").is_file()
    return _open_processor(folder if alone else _root(folder, base))


def _root(folder: Path, base: str | Path | None) -> Path:
    """Of a LoRA's folder: that of its base."""
    root = Path(base or base_of(folder) or "-")
    if not root.is_dir() or (root / _ADAPTER).is_file():
        raise UserMistake(
            f"{folder} is a LoRA of {str(root)!r}, which is no folder of a whole model: give that folder as `base`"
        )
    return root


def base_of(folder: Path) -> Path | None:
    """Where a LoRA's folder says that its base is; None where it says nothing, and of a whole model."""
    named = read_json(folder / _ADAPTER).get("base_model_name_or_path") if (folder / _ADAPTER).is_file() else None
    return Path(named) if named else None


def _open_model(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageTextToText

    _refuse_pickles(folder, "*.safetensors")
    if not (folder / "config.json").is_file():
        raise UserMistake(f"{folder} is not a transformers model: it has no config.json")
    try:
        with _whole_files(folder):
            model, report = AutoModelForImageTextToText.from_pretrained(
                str(folder),
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        raise UserMistake(
            f"{folder} cannot be opened as an image-text-to-text model of transformers: {one_line(error)}"
        ) from error
    # transformers fills what is missing or of another shape with random numbers, leaves out what has no place, and goes on.
    differences = [f"{name}: shape {tuple(n)}, expected {tuple(own)}" for name, n, own in sorted(report["mismatched_keys"])]
    differences += [f"{name}: missing" for name in sorted(report["missing_keys"])]
    differences += [f"{name}: unexpected" for name in sorted(report["unexpected_keys"])]
    if differences:
        what = f"{folder} does not fit {type(model).__name__} of its config.json, use a complete folder"
        raise UserMistake(f"{what}:{_first_five(differences)}")
    return model


def _with_lora(model: Any, folder: Path) -> Any:
    """The model with a peft folder's additions, all of which have their place in it, and it in them."""
    from peft import PeftModel

    does_not_fit = f"{folder} is no LoRA of this base ({type(model).__name__}), give the base that it was trained on"
    try:
        with _whole_files(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of what is refused below
            added = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
            # Once more, since only this call returns what did not fit.
            report = added.load_adapter(str(folder), "default", is_trainable=False)
    except RuntimeError as error:  # of shapes: torch tells them all, a line each
        differences = [line.strip() for line in str(error).splitlines()[1:]] or [one_line(error)]
        raise UserMistake(f"{does_not_fit}:{_first_five(differences)}") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserMistake(f"{does_not_fit}: {one_line(error)}") from error
    differences = [f"{name}: missing" for name in report.missing_keys]
    differences += [f"{name}: unexpected" for name in report.unexpected_keys]
    if differences:
        raise UserMistake(f"{does_not_fit}:{_first_five(differences)}")
    return added


@contextmanager
def _whole_files(folder: Path) -> Iterator[None]:
    """A safetensors file that is cut or garbled is Corrupt."""
    try:
        yield
    except SafetensorError as error:
        raise Corrupt(f"{folder}: not whole safetensors files ({error})") from error


def _first_five(differences: Sequence[str]) -> str:
    """A line each, the rest counted."""
    more = [f"and {len(differences) - 5} more"] if len(differences) > 5 else []
    return "".join(f"\n  {line}" for line in (*differences[:5], *more))


def _open_processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    # Without these files transformers would go on with an empty vocabulary.
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise UserMistake(f"{folder} holds no tokenizer, so no processor: it has none of {', '.join(_VOCABULARIES)}")
    allow_processors_without_torchvision()
    try:
        processor = AutoProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise UserMistake(f"{folder} holds no processor that can be opened: {one_line(error)}") from error
    if getattr(processor, "image_processor", None) is None or not getattr(processor, "chat_template", None):
        raise UserMistake(f"{folder}: its processor has no image processor or no chat template, a judge needs both")
    return processor


def _refuse_pickles(folder: Path, wanted: str) -> None:
    if not folder.is_dir():
        raise UserMistake(f"{folder} is not a folder; models are opened from local folders only")
    if list(folder.glob(wanted)):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"})
    what = f"only {pickles[0]}, a pickle, which can run code" if pickles else "no weights"
    raise UserMistake(f"{folder} holds {what}; give a folder with {wanted}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserMistake for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserMistake(f"{path} is not a JSON file ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise UserMistake(f"{path}: a {type(content).__name__}, not an object")
    return content


def one_line(error: BaseException) -> str:
    """The start of a library's message, without its line breaks."""
    return " ".join(str(error).split())[:300]
