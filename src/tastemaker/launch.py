"""From a recipe's words to the things they name, and off: `tastemaker train`, `tastemaker serve-reward`.

The one place that knows both the names in settings (a model's folder, a file of prompts, a reward) and what they stand for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tastemaker import config as settings
from tastemaker.config import (
    AnyJudgeConfig,
    ArcFaceIdentityConfig,
    ChatJudgeConfig,
    DlibIdentityConfig,
    FaceIdentityConfig,
    FolderJudgeConfig,
    Judged,
    LoraPolicy,
    MiniatureIdentityConfig,
    MiniatureJudgeConfig,
    RewardConfig,
    ServerJudgeConfig,
    TextRenderingConfig,
    TrainConfig,
)
from tastemaker.config.distillation import DistillConfig
from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.data.prompts import read_prompts
from tastemaker.errors import UserMistake
from tastemaker.evaluation.monitor import Plan, watching
from tastemaker.evaluation.monitor_chart import write_monitor_chart
from tastemaker.evaluation.watched import chosen
from tastemaker.miniature import task as miniature
from tastemaker.miniature.identity.network import CartoonFaces
from tastemaker.miniature.judge.language import DIRECT, THINKING
from tastemaker.miniature.judge.model import SHIPPED, open_judges
from tastemaker.models.adapter import Adapter, load
from tastemaker.models.lora import save_lora
from tastemaker.models.stated_guidance import state_guidance
from tastemaker.rewards.batching import ServerLimits
from tastemaker.rewards.chat import ChatJudge
from tastemaker.rewards.composite import called
from tastemaker.rewards.endpoint import ServedJudge
from tastemaker.rewards.extras import check_extra
from tastemaker.rewards.faces_arcface import ArcFaceEmbedder
from tastemaker.rewards.faces_dlib import DlibEmbedder, DlibFaces
from tastemaker.rewards.identity import FaceEmbedder, FaceIdentityReward
from tastemaker.rewards.judge import Judge, JudgeReward
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.reward import Reward
from tastemaker.rewards.rubrics import load_rubric, shipped
from tastemaker.rewards.service import Address, Limits
from tastemaker.rewards.text_rendering import RapidOcrReader, TextRenderingReward
from tastemaker.rewards.vlm import VLMJudge
from tastemaker.runtime.device import Precision, pick_device, pick_precision
from tastemaker.runtime.distributed import connected, num_processes
from tastemaker.runtime.progress import Progress
from tastemaker.runtime.together import helped, how_many
from tastemaker.training.ranks import check_share
from tastemaker.training.start import Task, make_composite, prepare_hardware, run_training
from tastemaker.types import Prompt

MINIATURE = "miniature"
MINIATURE_PROMPTS = {"miniature": (4000, 0), "miniature-edits": (0, 2000), "miniature-mix": (2000, 2000)}
"""How many prompts and edits the words stand for that `data.prompts` knows."""
EXTRAS = {
    DlibIdentityConfig: ("identity", "face identity with dlib"),
    ArcFaceIdentityConfig: ("identity-onnx", "face identity with an ONNX file"),
    TextRenderingConfig: ("ocr", "reading text"),
}
"""What the judges need that are no part of a plain installation, and what for."""


def train(path: Path, *, overrides: Iterable[str] = (), folder: Path | None = None, allow: Iterable[str] = ()) -> Path:
    """Trains what the file says in `folder` (runs/NAME by default), or goes on where it stopped; returns the exported policy.

    All mistakes in settings, prompts and rewards are reported before the model is loaded.
    """
    config = settings.load(path, TrainConfig, tuple(overrides))
    return run_train(config, path.parent, folder or Path("runs") / config.name, Console(), allow)


def run_train(config: TrainConfig, beside: Path, folder: Path, console: Console, allow: Iterable[str] = ()) -> Path:
    """As `train`, of settings whose relative paths start at `beside`; in as many processes as the settings say."""
    return in_processes(_run_train, config, beside, folder, console, tuple(allow))


def in_processes(run: Callable[..., Path], config: Any, beside: Path, folder: Path, console: Console, allow: tuple) -> Path:
    """`run` of a training or a distillation, here and in as many more processes as its settings say; those print nothing."""
    count = how_many(config.processes, config.rollout.prompts)
    check_share(config.rollout.prompts, max(count, num_processes()))
    with helped(count, _quietly, run, config, beside, folder, allow):
        return run(config, beside, folder, console, allow)


def _quietly(run: Callable[..., Path], config: Any, beside: Path, folder: Path, allow: tuple) -> None:
    run(config, beside, folder, Console(quiet=True), allow)  # a console cannot be sent to another process


def _run_train(config: TrainConfig, beside: Path, folder: Path, console: Console, allow: Iterable[str]) -> Path:
    prompts = prompts_of(config, beside, folder)
    check_categories(config, prompts)
    check_edit_share(config, prompts)
    check_rewards(config, beside)
    plan = monitor_plan(config, beside, prompts, console)
    model = model_folder(config, beside)
    device, dtype = prepare_hardware(config)
    with connected(device, config.deadlines.step) as ranks, opened_rewards(config, beside, device) as rewards:
        adapter = load(model, device=device, dtype=dtype)
        side = config.rollout.picture_side
        cache = EmbeddingCache(adapter, height=side, width=side, folder=folder / "embeddings", encoder_key=encoder_key(model))
        try:
            state = run_training(
                config,
                adapter,
                Task(prompts, rewards, side, side),
                folder,
                embeddings=cache,
                allow_changes=allow,
                trackers=lambda start, total: [Progress(total, start=start, console=console)],
                watch=watching(plan) if plan else None,
                ranks=ranks,
                data_files=data_files(config, beside),
            )
        finally:
            if ranks.first:
                write_monitor_chart(folder)
    if not ranks.first:  # which exports for all
        return folder
    with state.averaged():
        exported = export(config, adapter, folder)
    console.print(f"trained {state.step} steps; the policy is in {exported}")
    return exported


def model_folder(config: TrainConfig | DistillConfig, beside: Path) -> Path:
    """The pipeline folder that `model` names: the shipped one, or a path, relative ones beside the recipe."""
    if config.model == MINIATURE:
        return miniature.WEIGHTS
    folder = beside / config.model
    if not folder.is_dir():
        raise UserMistake(f"model: {folder} is not a folder; name that of a diffusers pipeline, or write {MINIATURE}")
    return folder


def prompts_of(config: TrainConfig | DistillConfig, beside: Path, folder: Path) -> list[Prompt]:
    """What `data.prompts` names. The miniature's edits have their source pictures in the run's folder."""
    if config.data.prompts in MINIATURE_PROMPTS:
        texts, edits = (min(count, config.data.most or count) for count in MINIATURE_PROMPTS[config.data.prompts])
        sources = folder / "sources"
        return [*miniature.training_prompts(texts, config.seed), *miniature.training_edits(edits, sources, config.seed)]
    found = read_prompts(beside / config.data.prompts, skip_bad=config.data.skip_bad, decode=True)
    return first_of_each_task(found, config.data.most)


def first_of_each_task(prompts: Sequence[Prompt], most: int | None) -> list[Prompt]:
    """In their order; all of them where `most` is None."""
    seen: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        seen[prompt.task] += 1
        if most is None or seen[prompt.task] <= most:
            kept.append(prompt)
    return kept


def monitor_plan(config: TrainConfig, beside: Path, prompts: Sequence[Prompt], console: Console) -> Plan | None:
    """What the monitor watches, on held-out prompts where there are some; None where it is switched off."""
    watched = config.monitor
    if not watched.every:
        return None
    if config.data.held_out is not None:
        prompts = read_prompts(beside / config.data.held_out, skip_bad=config.data.skip_bad)
    return Plan(
        chosen(prompts, watched.prompts, config.seed),
        every=watched.every,
        samples=watched.samples,
        seeds=watched.seeds,
        threshold=watched.threshold,
        stop=watched.stop,
        truths=miniature.truths(prompts),
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )


def data_files(config: TrainConfig | DistillConfig, beside: Path) -> dict[str, Path]:
    """What of the run's inputs lies on the disk: the model, and the prompts where they come from a file."""
    files = {"model": model_folder(config, beside)}
    return files if config.data.prompts in MINIATURE_PROMPTS else {**files, "prompts": beside / config.data.prompts}


def check_rewards(config: Judged, beside: Path) -> None:
    """All that can be told of rewards before a model is opened or a server asked: names, files, rubrics, tokens, extras."""
    known = sorted(miniature.rewards())
    wrong = [
        f"{key}.name: {reward.name!r} is not built in (there are {', '.join(known)}); give it a judge"
        for key, reward in zip(config.judges, config.rewards, strict=True)
        if reward.judge is None and reward.name not in known
    ]
    wrong += _mistake_of(settings.check_judges, config.judges, beside)
    for key, judge in config.judges.items():
        wrong += [f"{key}.judge{line}" for line in _mistakes_of_judge(judge, beside)]
    if wrong:
        raise UserMistake("\n".join(wrong))


def _mistakes_of_judge(judge: AnyJudgeConfig | None, beside: Path) -> Iterator[str]:
    """Each as what follows the judge's own key."""
    if isinstance(judge, ServerJudgeConfig | ChatJudgeConfig):
        yield from (f": {line}" for line in _mistake_of(_address, judge))
    if isinstance(judge, FolderJudgeConfig | ChatJudgeConfig) and judge.rubric:
        path = _rubric(judge.rubric, beside)
        yield from (f".rubric: {line}" for line in (_mistake_of(load_rubric, path) if path.is_file() else ()))
    for kind, (extra, purpose) in EXTRAS.items():
        if isinstance(judge, kind):
            yield from (f": {line}" for line in _mistake_of(partial(check_extra, extra, purpose=purpose)))


def _mistake_of(check: Callable[..., Any], *arguments: Any) -> list[str]:
    try:
        check(*arguments)
    except UserMistake as error:
        return str(error).splitlines()
    return []


@contextmanager
def opened_rewards(config: Judged, beside: Path, device: torch.device) -> Iterator[dict[str, Reward]]:
    """The rewards by name, with servers found and folders opened; their own ranges agree with the settings'.

    Pictures for the built-in rewards, the verifiable ones of the miniature, are read in processes beside this one.
    """
    built_in = [reward.name for reward in config.rewards if reward.judge is None]
    with miniature.reading_processes(torch.get_num_threads() if built_in else 1) as pool:
        known = miniature.rewards(pool)
        # Servers and scorers first: they open at once or not at all, a folder takes long.
        order = sorted(enumerate(config.rewards), key=lambda numbered: isinstance(numbered[1].judge, FolderJudgeConfig))
        opened: dict[str, Reward] = {}
        for row, reward in order:
            try:
                opened[reward.name] = _opened(reward, config, beside, device) or known[reward.name]
            except UserMistake as error:
                raise UserMistake(f"rewards.{row}.judge: {error}") from None
        make_composite(config, opened)
        yield opened


def _opened(reward: RewardConfig, config: Judged, beside: Path, device: torch.device) -> Reward | None:
    """The reward of a named judge; None for a built-in one."""
    judge = reward.judge
    if judge is None:
        return None
    if isinstance(judge, FolderJudgeConfig):
        return JudgeReward(folder_judge(judge, reward.name, beside, device), reward.floor)
    if isinstance(judge, MiniatureJudgeConfig):
        found = _miniature_judges(judge.chain_of_thought, device)[judge.dimension]
        return JudgeReward(replace(found, label=reward.name), reward.floor)
    if isinstance(judge, MiniatureIdentityConfig):
        return FaceIdentityReward(CartoonFaces(), None, reward.name, reward.floor)
    if isinstance(judge, FaceIdentityConfig):
        return FaceIdentityReward(face_embedder(judge, beside), judge.lost, reward.name, reward.floor)
    if isinstance(judge, TextRenderingConfig):
        return text_rendering(judge, reward)
    deadlines = config.deadlines
    limits = Limits(item=deadlines.item, batch=deadlines.batch, concurrency=judge.concurrency)
    return JudgeReward(remote_judge(judge, reward.name, beside, limits), reward.floor)


@cache
def _miniature_judges(chain_of_thought: bool, device: torch.device) -> dict[str, VLMJudge]:
    """By dimension, over one model; opened once."""
    return open_judges(SHIPPED, read_out=THINKING if chain_of_thought else DIRECT, device=device)


def folder_judge(judge: FolderJudgeConfig, name: str, beside: Path, device: torch.device) -> Judge:
    """Opens the model. Raises UserMistake for a folder that is no judge."""
    where = torch.device(judge.device) if judge.device else device
    return VLMJudge.load(
        beside / judge.path,
        rubric=load_rubric(_rubric(judge.rubric, beside)) if judge.rubric else None,
        read_out=ReadOut(**judge.read_out.model_dump()) if judge.read_out else None,
        device=where,
        dtype=pick_precision(judge.precision, where),
        base=beside / judge.base if judge.base else None,
        label=name,
        max_pictures=judge.max_pictures,
    )


def face_embedder(judge: FaceIdentityConfig, beside: Path) -> FaceEmbedder:
    """Opens the network and the detector. Raises UserMistake for a missing extra and for a file that is no such network."""
    faces = partial(DlibFaces, judge.detector_side, judge.detector_confidence)
    if isinstance(judge, ArcFaceIdentityConfig):
        options = judge.model_dump(include={"mean", "std", "bgr", "threads"})
        return ArcFaceEmbedder(beside / judge.path, faces(extra="identity-onnx"), **options)
    return DlibEmbedder(faces())


def text_rendering(judge: TextRenderingConfig, reward: RewardConfig) -> TextRenderingReward:
    """Opens the OCR. Raises UserMistake without its extra."""
    options = judge.model_dump(include={"field", "ignore_case", "ignore_punctuation", "extra_counts"})
    return TextRenderingReward(RapidOcrReader(judge.confidence, judge.threads), **options, name=reward.name, floor=reward.floor)


def remote_judge(judge: ServerJudgeConfig | ChatJudgeConfig, name: str, beside: Path, limits: Limits) -> Judge:
    """Raises ServiceFailed when no server of ours is there; a chat server is first asked when it has to judge."""
    if isinstance(judge, ServerJudgeConfig):
        served = ServedJudge.connect(_address(judge), limits=limits, per_request=judge.per_request)
        return replace(served, name=name)
    return ChatJudge(
        name=name,
        address=_address(judge),
        model=judge.model,
        rubric=load_rubric(_rubric(judge.rubric, beside)),
        read_out=ReadOut(**judge.read_out.model_dump()),
        limits=limits,
        template_opens=judge.template_opens,
        revision=judge.revision,
    )


def _address(judge: ServerJudgeConfig | ChatJudgeConfig) -> Address:
    return Address(url=judge.url, token_variable=judge.token_variable)


def _rubric(name: str, beside: Path) -> Path:
    """What `load_rubric` takes: the label of a shipped one, or a path from the config's folder."""
    return Path(name) if name in shipped() else beside / name


def check_categories(config: Judged, prompts: Iterable[Prompt]) -> None:
    """Refuses a category or task that no prompt has where one of the prompts' is like it: its weights would never be used."""
    present = {name for prompt in prompts for name in called(prompt)}
    named = {f"categories.{category}": category for category in config.categories} | {
        f"rewards.{row}.gates.{place}.categories.{position}": category
        for row, reward in enumerate(config.rewards)
        for place, gate in enumerate(reward.gates)
        for position, category in enumerate(gate.categories or ())
    }
    wrong = [
        f"{key}: {category!r} is the category of no prompt, did you mean `{near[0]}`?"
        for key, category in named.items()
        if category not in present and (near := get_close_matches(category, present, n=1))
    ]
    if wrong:
        raise UserMistake("\n".join(wrong))


def check_edit_share(config: TrainConfig | DistillConfig, prompts: Iterable[Prompt]) -> None:
    """A stated share of edits needs prompts of both tasks."""
    share, present = config.data.edit_share, {prompt.task for prompt in prompts}
    if share is not None and len(present) < 2:
        raise UserMistake(
            f"data.edit_share: {share:g} of a step's prompts are to be edits, but all of {config.data.prompts} are "
            f"{'edits' if 'edit' in present else 'text to image'}; remove it, or give prompts of both tasks"
        )


def export(config: TrainConfig | DistillConfig, adapter: Adapter, folder: Path) -> Path:
    """Plain diffusers files: a LoRA for `load_lora_weights`, or the transformer's folder."""
    if isinstance(config.policy, LoraPolicy):
        save_lora(adapter, folder / "lora")
        return folder / "lora"
    if config.rollout.guidance == 1:
        state_guidance(adapter.transformer, 1.0)
    adapter.transformer.save_pretrained(folder / "transformer")
    return folder / "transformer"


def serve_reward(
    folder: Path,
    *,
    rubric: str | None = None,
    base: Path | None = None,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8100,
    device: str | None = None,
    precision: Precision = "auto",
    batch: int = 16,
) -> None:
    """Opens a vision-language model as a judge and answers over HTTP until it is told to stop; see `rewards.server.serve`."""
    try:
        from tastemaker.rewards.server import serve
    except ImportError as error:
        raise UserMistake(f"a server needs {error.name}: pip install 'tastemaker[serve]'") from None
    where = torch.device(device) if device else pick_device()
    judge = VLMJudge.load(
        folder,
        rubric=rubric,
        device=where,
        dtype=pick_precision(precision, where),
        base=base,
        label=name,
        max_pictures=batch,
    )
    Console().print(f"judge {judge.name} on {where}, listening on http://{host}:{port}; Ctrl-C stops it")
    serve(judge, host=host, port=port, limits=ServerLimits(batch=batch))
