"""From the words of settings to rewards: built-in ones, judges in folders and behind servers, scorers, your own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from tastemaker import config as settings
from tastemaker.config import (
    AnyJudgeConfig,
    ArcFaceIdentityConfig,
    ChatJudgeConfig,
    DlibIdentityConfig,
    FaceIdentityConfig,
    FolderJudgeConfig,
    Judged,
    MiniatureIdentityConfig,
    MiniatureJudgeConfig,
    PythonJudgeConfig,
    RewardConfig,
    ServerJudgeConfig,
    TextRenderingConfig,
)
from tastemaker.errors import UserMistake
from tastemaker.miniature import task as miniature
from tastemaker.miniature.identity.network import CartoonFaces
from tastemaker.miniature.judge.language import DIRECT, THINKING
from tastemaker.miniature.judge.model import SHIPPED, open_judges
from tastemaker.named.files import judge_files
from tastemaker.rewards.cache import CachedJudge
from tastemaker.rewards.chat import ChatJudge
from tastemaker.rewards.endpoint import ServedJudge
from tastemaker.rewards.extras import check_extra
from tastemaker.rewards.faces_arcface import ArcFaceEmbedder
from tastemaker.rewards.faces_dlib import DlibEmbedder, DlibFaces
from tastemaker.rewards.identity import FaceEmbedder, FaceIdentityReward
from tastemaker.rewards.judge import Judge, JudgeReward
from tastemaker.rewards.own import OwnReward, open_own
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.reward import Reward
from tastemaker.rewards.rubrics import load_rubric, shipped
from tastemaker.rewards.service import Address, Limits
from tastemaker.rewards.text_rendering import RapidOcrReader, TextRenderingReward
from tastemaker.rewards.vlm import VLMJudge, read_judge_file
from tastemaker.rewards.vlm_folder import JUDGE_FILE
from tastemaker.runtime.device import named_device, pick_precision
from tastemaker.training.start import make_composite

EXTRAS = {
    DlibIdentityConfig: ("identity", "face identity with dlib"),
    ArcFaceIdentityConfig: ("identity-onnx", "face identity with an ONNX file"),
    TextRenderingConfig: ("ocr", "reading text"),
}
"""What the judges need that are no part of a plain installation, and what for."""


def check_rewards(config: Judged, beside: Path, awaits: Callable[[Path], bool] = lambda path: False) -> None:
    """All that can be told of rewards before a model is opened or a server asked: names, files, rubrics, tokens, extras.

    Nothing is said of a judge of which a file is still to come.
    """
    known = sorted(miniature.rewards())
    wrong = [
        f"{key}.name: {reward.name!r} is not built in (there are {', '.join(known)}); give it a judge"
        for key, reward in zip(config.judges, config.rewards, strict=True)
        if reward.judge is None and reward.name not in known
    ]
    judges = {key: judge for key, judge in config.judges.items() if not any(map(awaits, judge_files(judge, beside)))}
    wrong += _mistake_of(settings.check_judges, judges, beside)
    for key, judge in judges.items():
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
    if isinstance(judge, FolderJudgeConfig):
        yield from (f".read_out: {line}" for line in _mistake_of(_read_out, judge, beside))
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
        return JudgeReward(_cached(folder_judge(judge, reward.name, beside, device), config, beside), reward.floor)
    if isinstance(judge, MiniatureJudgeConfig):
        found = _miniature_judges(judge.chain_of_thought, device)[judge.dimension]
        return JudgeReward(replace(found, label=reward.name), reward.floor)
    if isinstance(judge, MiniatureIdentityConfig):
        return FaceIdentityReward(CartoonFaces(), None, reward.name, reward.floor)
    if isinstance(judge, FaceIdentityConfig):
        return FaceIdentityReward(face_embedder(judge, beside), judge.lost, reward.name, reward.floor)
    if isinstance(judge, TextRenderingConfig):
        return text_rendering(judge, reward)
    if isinstance(judge, PythonJudgeConfig):
        call, fingerprint = open_own(beside / judge.path, judge.call, judge.options, device)
        return OwnReward(reward.name, reward.low, reward.high, reward.floor, call, beside / judge.path, fingerprint)
    deadlines = config.deadlines
    limits = Limits(item=deadlines.item, batch=deadlines.batch, concurrency=judge.concurrency)
    return JudgeReward(_cached(remote_judge(judge, reward.name, beside, limits), config, beside), reward.floor)


def _cached(judge: Judge, config: Judged, beside: Path) -> Judge:
    """Asks only what the run's cache does not know, if it has one."""
    if config.cache is None:
        return judge
    try:
        return CachedJudge(judge, beside / config.cache.folder, max_bytes=config.cache.max_bytes)
    except OSError as error:
        raise UserMistake(f"no score can be kept in cache.folder = {config.cache.folder} ({error}); name another") from None


@cache
def _miniature_judges(chain_of_thought: bool, device: torch.device) -> dict[str, VLMJudge]:
    """By dimension, over one model; opened once."""
    return open_judges(SHIPPED, read_out=THINKING if chain_of_thought else DIRECT, device=device)


def folder_judge(judge: FolderJudgeConfig, name: str, beside: Path, device: torch.device) -> Judge:
    """Opens the model. Raises UserMistake for a folder that is no judge."""
    where = named_device(judge.device) if judge.device else device
    return VLMJudge.load(
        beside / judge.path,
        rubric=load_rubric(_rubric(judge.rubric, beside)) if judge.rubric else None,
        read_out=_read_out(judge, beside),
        device=where,
        dtype=pick_precision(judge.precision, where),
        base=beside / judge.base if judge.base else None,
        label=name,
        max_pictures=judge.max_pictures,
    )


def _read_out(judge: FolderJudgeConfig, beside: Path) -> ReadOut:
    """As the folder was trained to be read, but for what the settings say. Raises UserMistake for what it never learnt."""
    file = beside / judge.path / JUDGE_FILE
    trained = read_judge_file(file)[1] if file.is_file() else None
    changes = judge.read_out.model_dump(exclude_none=True) if judge.read_out else {}
    if trained and changes.get("chain_of_thought") and not trained.chain_of_thought:
        raise UserMistake(f"chain_of_thought: true, but {file.parent} was trained without (see its {JUDGE_FILE}); leave it out")
    return replace(trained or ReadOut(), **changes)


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
