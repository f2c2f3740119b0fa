"""What a person names as a model, found and opened: a pipeline, a run of training, or a LoRA or transformer on a pipeline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from tastemaker import config as settings
from tastemaker.config import TrainConfig, strict_yaml
from tastemaker.config.distillation import DistillConfig
from tastemaker.errors import Corrupt, UserMistake
from tastemaker.miniature.task import WEIGHTS
from tastemaker.models import stated_guidance
from tastemaker.models.adapter import Adapter, load
from tastemaker.models.lora import load_lora
from tastemaker.named.inputs import MINIATURE
from tastemaker.runtime import checkpoint
from tastemaker.runtime.changes import fingerprint
from tastemaker.runtime.metrics import read_lines
from tastemaker.training.start import trained_parameters
from tastemaker.training.state import put_trained

RECORD = "tastemaker.json"
"""In every exported folder, and that of a run's LoRA: where it comes from, and how it is meant to be sampled."""


def said(config: TrainConfig | DistillConfig, form: str) -> dict[str, Any]:
    """What RECORD says of any weights that were trained so; an export adds which these are, and what they were made from."""
    return {"format": 1, "form": form, "run": config.name, "guidance": config.rollout.guidance}


class Source(Protocol):
    """A model on the disk."""

    @property
    def key(self) -> str:
        """Hex; another model, or other weights of this one, has another."""
        ...

    @property
    def pipeline(self) -> Path:
        """The folder of the pipeline whose encoder it uses."""
        ...

    @property
    def guidance(self) -> float | None:
        """The scale that the model says it is meant to be sampled at, 1 where guidance is inside; None if it says nothing."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Files and folders that decide what it draws."""
        ...

    def open(self, device: torch.device | str, dtype: torch.dtype) -> Adapter: ...


@dataclass(frozen=True)
class Pipeline:
    """A diffusers pipeline's folder."""

    folder: Path

    @cached_property
    def key(self) -> str:
        return fingerprint(self.folder)

    @property
    def pipeline(self) -> Path:
        return self.folder

    @property
    def guidance(self) -> float | None:
        return stated(self.folder)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.folder,)

    def open(self, device: torch.device | str, dtype: torch.dtype) -> Adapter:
        return load(self.folder, device=device, dtype=dtype)


@dataclass(frozen=True)
class OnPipeline:
    """A folder with a LoRA, or with a whole transformer, for the pipeline of `base`."""

    folder: Path
    base: Pipeline
    is_lora: bool

    @cached_property
    def key(self) -> str:
        return _digest(self.base.key, fingerprint(self.folder))

    @property
    def pipeline(self) -> Path:
        return self.base.folder

    @property
    def guidance(self) -> float | None:
        return stated(self.folder)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.folder, self.base.folder)

    def open(self, device: torch.device | str, dtype: torch.dtype) -> Adapter:
        adapter = self.base.open(device, dtype)
        if self.is_lora:
            load_lora(adapter, self.folder)
            return adapter
        files = sorted(self.folder.glob("*.safetensors"))
        weights = {name: value for file in files for name, value in checkpoint.load_safetensors(file).items()}
        checkpoint.load_matching(adapter.transformer, weights, source=str(self.folder))
        return adapter


@dataclass(frozen=True)
class TrainedRun:
    """A saved step of a run of `tastemaker train` or `distill`; `live` chooses the last weights, averaged or not."""

    folder: Path
    config: TrainConfig | DistillConfig
    environment: Mapping[str, Any]
    base: Pipeline
    step: int
    live: bool = False

    @property
    def group(self) -> str:
        """Which of a checkpoint's groups holds the weights."""
        return "policy" if self.live or self.config.optimiser.ema_decay is None else "ema"

    @property
    def weights(self) -> Path:
        return checkpoint.step_folder(self.folder / "checkpoints", self.step) / f"{self.group}.safetensors"

    @cached_property
    def key(self) -> str:
        return _digest(self.base.key, fingerprint(self.weights))

    @property
    def pipeline(self) -> Path:
        return self.base.folder

    @property
    def guidance(self) -> float | None:
        """Also where it was trained guided on a base that says of itself that it is not: it would be said of this model too."""
        scale = self.config.rollout.guidance
        return scale if scale == 1 or self.base.guidance is not None else None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.weights, self.folder / "config.yaml", self.base.folder)

    @property
    def alarm(self) -> str | None:
        """In words, where the monitor's first check at this step or after it (else the last one) had alarms."""
        records = read_lines(self.folder / "monitor.jsonl")
        if not records:
            return None
        check = next((one for one in records if one["step"] >= self.step), records[-1])
        if not check["alarms"]:
            return None
        good = next((one["last_good"] for one in reversed(records) if one.get("last_good")), None)
        number = "" if good is None else f"; the last good one is {int(good.rpartition('-')[2])}, choose it as step"
        kinds = " and ".join(check["alarms"])
        return f"{self.folder}: step {self.step} is one of which the monitor raised an alarm ({kinds}){number}"

    def open(self, device: torch.device | str, dtype: torch.dtype) -> Adapter:
        """The base with the run's weights, a LoRA as one named policy; it says of itself whether guidance is inside."""
        saved = checkpoint.load(self.folder / "checkpoints", self.step, only=(self.group,))
        if self.group not in saved.tensors:
            raise Corrupt(f"{self.weights}: missing, though config.yaml has an average of the weights")
        adapter = self.base.open(device, dtype)
        trained_parameters(self.config.policy, adapter)
        put_trained(adapter.transformer, saved.tensors[self.group], source=str(self.weights))
        adapter.transformer.requires_grad_(False)
        if self.guidance is not None:
            stated_guidance.state_guidance(adapter.transformer, self.guidance)
        return adapter


def find_model(
    path: str | Path, beside: Path = Path(), *, base: str | None = None, step: int | None = None, live: bool = False
) -> Source:
    """What `path` names; relative paths start at `beside`. Raises UserMistake with one line for each mistake."""
    folder = _folder(path, beside)
    if is_run(folder):
        return read_run(folder, step=step, live=live, base=None if base is None else _folder(base, beside))
    mistakes = [f"{folder}: is no run of training, so {word} means nothing" for word in _of_runs(step, live)]
    has_weights, is_pipeline = any(folder.glob("*.safetensors")), (folder / "model_index.json").is_file()
    if is_pipeline and base is not None:
        mistakes.append(f"{folder}: is a whole pipeline and needs no base; leave it out")
    if not is_pipeline and not has_weights:
        kinds = "a diffusers pipeline (model_index.json), a run (config.yaml and checkpoints/) or *.safetensors of a LoRA"
        mistakes.append(f"{folder}: is not a folder with {kinds}")
    if has_weights and not is_pipeline and base is None:
        mistakes.append(f"{folder}: holds weights for a pipeline; name its folder as base")
    if mistakes:
        raise UserMistake("\n".join(mistakes))
    if is_pipeline:
        return Pipeline(folder)
    found = OnPipeline(folder, _pipeline(_folder(str(base), beside)), is_lora=not (folder / "config.json").is_file())
    if found.is_lora:
        check_base(folder, found.base)
    return found


def check_base(folder: Path, base: Pipeline) -> None:
    """Raises UserMistake where the weights, of a LoRA for example, say that they were trained on another base than this one.

    An export says it itself, of what a run left in its own folder the run does.
    """
    known = read_json(folder / RECORD).get("base", {}).get("sha256")
    known = known or read_json(folder.parent / "environment.json").get("data_files", {}).get("model")
    if known not in (None, base.key):
        raise UserMistake(
            f"{folder}: was trained on another base than {base.folder} (SHA-256 {known[:12]}, not {base.key[:12]}), and means "
            "nothing on this one"
        )


def stated(folder: Path) -> float | None:
    """What a pipeline, a transformer or a LoRA says of the scale it is meant to be sampled at; see `Source.guidance`."""
    for path in (folder / "transformer" / "config.json", folder / "config.json"):
        if path.is_file():
            return read_json(path).get(stated_guidance.KEY)
    return 1.0 if read_json(folder / RECORD).get("guidance") == 1 else None


def guided_on_top(name: str, own: float | None, scales: Iterable[float]) -> Iterator[str]:
    """A warning where a model whose own scale is 1, so that guidance is inside, is to be guided."""
    on_top = [scale for scale in scales if scale != 1]
    if own == 1 and on_top:
        told = " and ".join(f"{scale:g}" for scale in on_top)
        yield (
            f"{name} has guidance inside its weights and says that it is sampled without; guidance {told} on top "
            "costs twice the forwards and is not what it was made for"
        )


def fixed_levels(name: str, pipeline: Path, steps: int) -> Iterator[str]:
    """A warning where a pipeline has noise levels of its own, but for another number of steps (`adapter.base_sigmas`)."""
    index = pipeline / "model_index.json"
    fixed = read_json(index).get("sample_sigmas") if index.is_file() else None
    if fixed and len(fixed) != steps:
        yield (
            f"{name} fixes the noise levels of {len(fixed)} steps (sample_sigmas), which its pipeline takes whatever the "
            f"number of steps; {steps} steps are sampled at even ones"
        )


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir()


def read_run(folder: Path, *, step: int | None = None, live: bool = False, base: Path | None = None) -> TrainedRun:
    """The run's newest saved step, or `step`; `base` is where its base is now, if not where it was."""
    if not is_run(folder):
        raise UserMistake(
            f"{folder}: holds no run of `tastemaker train` or `distill` (config.yaml and checkpoints/), check the path"
        )
    config = read_settings(folder / "config.yaml")
    environment = read_json(folder / "environment.json")
    saved, mistakes = checkpoint.steps(folder / "checkpoints"), []
    if not saved:
        mistakes.append(f"{folder}: has no saved step yet; train it first")
    elif step is not None and step not in saved:
        mistakes.append(f"{folder}: has no step {step}, there are {', '.join(map(str, saved))}")
    try:
        pipeline = _base_of(config, environment, base)
    except UserMistake as error:
        mistakes.append(f"{folder}: {error}")
    if mistakes:
        raise UserMistake("\n".join(mistakes))
    return TrainedRun(folder, config, environment, pipeline, saved[-1] if step is None else step, live)


def read_settings(path: Path) -> TrainConfig | DistillConfig:
    """Of a run's config.yaml; only a distillation has teachers."""
    written = strict_yaml.read(path.read_text(encoding="utf-8")).data
    is_distillation = isinstance(written, dict) and "teachers" in written
    return settings.load(path, DistillConfig) if is_distillation else settings.load(path, TrainConfig)


def _base_of(config: TrainConfig | DistillConfig, environment: Mapping[str, Any], given: Path | None) -> Pipeline:
    """Where the base is; it must be the one that was trained, where the run wrote that down."""
    place = environment.get("places", {}).get("model", config.model)
    folder = given or (WEIGHTS if config.model == MINIATURE else Path(place))
    if not (folder / "model_index.json").is_file():
        raise UserMistake(f"its base is not at {folder}, or is no pipeline; name the folder as base")
    pipeline, known = Pipeline(folder), environment.get("data_files", {}).get("model")
    if known not in (None, pipeline.key):
        raise UserMistake(f"{folder} is not the base it was trained from (SHA-256 {pipeline.key[:12]}, was {known[:12]})")
    return pipeline


def _folder(path: str | Path, beside: Path) -> Path:
    return WEIGHTS if str(path) == MINIATURE else beside / path


def _pipeline(folder: Path) -> Pipeline:
    if not (folder / "model_index.json").is_file():
        raise UserMistake(f"{folder}: is not a diffusers pipeline, it has no model_index.json")
    return Pipeline(folder)


def _of_runs(step: int | None, live: bool) -> list[str]:
    return [*(["step"] if step is not None else []), *(["live"] if live else [])]


def _digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path}: cannot be read ({error})") from None
    return found if isinstance(found, dict) else {}
