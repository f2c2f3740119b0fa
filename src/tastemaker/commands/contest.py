"""Who is compared on what: models and prompts that an evaluation's settings name, found and not opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tastemaker.config.evaluation import EvaluateConfig, ModelConfig
from tastemaker.data.prompts import read_prompts
from tastemaker.errors import UserMistake, together
from tastemaker.evaluation.benchmark import Drawing
from tastemaker.miniature import task as miniature
from tastemaker.named.inputs import MINIATURE, check_categories, small_pictures
from tastemaker.named.judges import check_rewards
from tastemaker.opening import Source, TrainedRun, find_model, fixed_levels, guided_on_top, is_run
from tastemaker.runtime import folder as disk
from tastemaker.types import Prompt


@dataclass(frozen=True, eq=False)
class Entrant:
    """One model of the comparison, found but not opened, and the scales it is sampled at."""

    name: str
    source: Source
    guidance: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Contest:
    """Everything that is compared; nothing in it has been opened."""

    config: EvaluateConfig
    beside: Path
    folder: Path
    prompts: tuple[Prompt, ...]
    entrants: tuple[Entrant, ...]
    warnings: tuple[str, ...]
    embeddings: Path
    """Where encoded prompts are kept."""

    def drawing(self, guidance: float) -> Drawing:
        config, side = self.config, self.config.picture_side
        return Drawing(config.steps, guidance, config.seed, side, side, config.negative_prompt, config.batch)

    @property
    def against(self) -> dict[str, tuple[str, ...]]:
        """By model, those that it is compared with."""
        everyone = self.config.against or (self.entrants[0].name,)
        return {model.name: model.against or everyone for model in self.config.models}


def prepare(config: EvaluateConfig, beside: Path, folder: Path, embeddings: Path | None = None) -> Contest:
    """Raises UserMistake with every mistake that can be told without opening a model or asking a server."""
    occupied = [f"{folder}: holds a run of training; choose another folder"] if is_run(folder) else []
    if not occupied:
        disk.make_folder(folder)
    prompts, entrants = named_by(config, beside, folder / "sources", mistakes=occupied)
    pipelines = dict.fromkeys(one.source.pipeline for one in entrants)
    warnings = [one.source.alarm for one in entrants if isinstance(one.source, TrainedRun) and one.source.alarm is not None]
    warnings += [line for one in entrants for line in guided_on_top(one.name, one.source.guidance, one.guidance)]
    warnings += [line for folder in pipelines for line in fixed_levels(f"the pipeline in {folder}", folder, config.steps)]
    warnings += [line for folder in pipelines for line in small_pictures(config, "picture_side", folder, folder)]
    shared = embeddings or folder / "embeddings"
    return Contest(config, beside, folder, tuple(prompts), tuple(entrants), tuple(warnings), shared)


def named_by(
    config: EvaluateConfig,
    beside: Path,
    sources: Path | None,
    awaits: Callable[[Path], bool] = lambda path: False,
    mistakes: Iterable[str] = (),
) -> tuple[list[Prompt], list[Entrant]]:
    """The prompts and models of the settings. Raises UserMistake with `mistakes` and all in them and in the rewards.

    Without `sources` it is a look alone: nothing is written and no picture opened. What is still to come is left out.
    """
    mistakes = list(mistakes)
    prompts: list[Prompt] = []
    entrants: list[Entrant] = []
    for key, model in ((f"models.{place}", model) for place, model in enumerate(config.models)):
        try:
            if not any(awaits(beside / path) for path in (model.path, model.base) if path is not None):
                entrants.append(_entrant(model, config, beside))
        except UserMistake as error:
            mistakes += [f"{key}: {line}" for line in str(error).splitlines()]
    try:
        together(
            lambda: None if awaits(beside / config.prompts) else prompts.extend(prompts_of(config, beside, sources)),
            lambda: check_rewards(config, beside, awaits),
            lambda: check_categories(config, prompts) if prompts else None,
        )
    except UserMistake as error:
        mistakes += str(error).splitlines()
    if mistakes:
        raise UserMistake("\n".join(mistakes))
    return prompts, entrants


def _entrant(model: ModelConfig, config: EvaluateConfig, beside: Path) -> Entrant:
    source = find_model(model.path, beside, base=model.base, step=model.step, live=model.live)
    stated = source.guidance
    return Entrant(model.name, source, model.guidance or (config.guidance if stated is None else (stated,)))


def prompts_of(config: EvaluateConfig, beside: Path, sources: Path | None) -> list[Prompt]:
    """The held-out prompts of the tasks asked for; the miniature's edits have their source pictures in `sources`, or none."""
    if config.prompts == MINIATURE:
        found = {
            "t2i": lambda: miniature.held_out_prompts(config.most),
            "edit": lambda: miniature.held_out_edits(sources, config.most),
        }
        return [prompt for task in config.tasks for prompt in found[task]()]
    if not (beside / config.prompts).exists():
        raise UserMistake(f"prompts: {beside / config.prompts}: there is no such file of prompts; name one in JSONL")
    read = read_prompts(beside / config.prompts, decode=sources is not None)
    chosen = [[prompt for prompt in read if prompt.task == task][: config.most] for task in config.tasks]
    if not any(chosen):
        raise UserMistake(f"prompts: {config.prompts} holds no prompt of {' or '.join(config.tasks)}; change tasks or the file")
    return [prompt for some in chosen for prompt in some]
