"""Every file behind what settings name, and digests of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tastemaker.config import FolderJudgeConfig, MiniatureIdentityConfig, MiniatureJudgeConfig, TrainConfig, parse
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.miniature import task
from tastemaker.miniature.judge.model import SHIPPED
from tastemaker.named.files import data_files, judge_files, judges_files, said_files
from tastemaker.rewards.rubrics import FOLDER as RUBRICS
from tastemaker.runtime import changes
from tastemaker.runtime.changes import fingerprint

CONFIG = """\
name: first
model: miniature
data: {prompts: lists/p.jsonl, held_out: lists/h.jsonl}
rewards: [{name: facts}]
"""


def rows(path: Path, *rows: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_prompts_and_held_out_ones_with_their_source_pictures(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    files(lists, "a.png", "in/b.png", "c.png")
    (tmp_path / "secret.png").write_bytes(b"out of the folder")
    edit = {"text": "x", "task": "edit"}
    rows(
        lists / "p.jsonl",
        {"id": "1", **edit, "sources": ["in/b.png", "a.png"]},
        {"id": "2", **edit, "sources": ["a.png", "missing.png", "../secret.png", 5]},
    )
    rows(lists / "h.jsonl", {"id": "3", **edit, "sources": ["c.png"]})
    with (lists / "p.jsonl").open("a") as stream:
        stream.write("no JSON\n[1]\n" + json.dumps({"id": "4", "sources": "a.png"}))
    config = parse(CONFIG, TrainConfig)
    found = {
        "model": task.WEIGHTS,
        **{"prompts": lists / "p.jsonl", "prompts.pictures": [lists / "in/b.png", lists / "a.png"]},
        **{"held_out": lists / "h.jsonl", "held_out.pictures": [lists / "c.png"]},
    }
    assert data_files(config, tmp_path) == found
    several = parse(CONFIG, TrainConfig, ["data.prompts=[lists/p.jsonl, miniature, lists/h.jsonl]", "data.held_out=null"])
    assert data_files(several, tmp_path) == {
        "model": task.WEIGHTS,
        "prompts": [lists / "p.jsonl", lists / "h.jsonl"],
        "prompts.pictures": [lists / "in/b.png", lists / "a.png", lists / "c.png"],
    }
    one = parse(CONFIG, TrainConfig, ["data.prompts=[lists/p.jsonl, miniature]", "data.held_out=null"])
    assert data_files(one, tmp_path)["prompts"] == lists / "p.jsonl"
    words = parse(CONFIG, TrainConfig, ["data.prompts=miniature", "data.held_out=null"])
    assert data_files(words, tmp_path) == {"model": task.WEIGHTS}


def test_what_people_said_with_the_pictures_it_is_about(tmp_path: Path) -> None:
    files(tmp_path / "shots", "1.png", "2.png", "s.png")
    rows(tmp_path / "r.jsonl", {"id": "1", "picture": "1.png", "sources": ["s.png"]})
    rows(tmp_path / "v.jsonl", {"id": "1", "left": {"picture": "2.png"}, "right": {"picture": "1.png"}})
    text = "name: a\nbase: b\nrubric: alignment.v1\ndata: {ratings: [r.jsonl], votes: [v.jsonl], pictures: shots}\n"
    shots = tmp_path / "shots"
    assert said_files(parse(text, RewardTrainConfig), tmp_path) == {
        **{"r.jsonl": tmp_path / "r.jsonl", "r.jsonl.pictures": [shots / "1.png", shots / "s.png"]},
        **{"v.jsonl": tmp_path / "v.jsonl", "v.jsonl.pictures": [shots / "2.png", shots / "1.png"]},
    }


def test_a_judge_of_a_folder_with_its_base_and_its_rubric(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    mine = FolderJudgeConfig(path="lora", rubric="texts/mine.v1.md")
    assert judge_files(mine, tmp_path) == [tmp_path / "lora", base, tmp_path / "texts/mine.v1.md"]
    shipped = FolderJudgeConfig(path="lora", base="elsewhere", rubric="alignment.v1")
    assert judge_files(shipped, tmp_path) == [tmp_path / "lora", tmp_path / "elsewhere", RUBRICS / "alignment.v1.md"]
    (tmp_path / "lora" / "adapter_config.json").write_text("{")
    assert judge_files(FolderJudgeConfig(path="lora"), tmp_path) == [tmp_path / "lora"]


def test_the_packages_own_judges_are_files_too(tmp_path: Path) -> None:
    judge = judge_files(MiniatureJudgeConfig(dimension="alignment"), tmp_path)
    assert judge[0] == SHIPPED and {path.suffix for path in judge[1:]} == {".md"}
    assert [path.name for path in judge_files(MiniatureIdentityConfig(), tmp_path)] == ["identity.safetensors"]
    names = {path.name for path in judges_files(parse(CONFIG, TrainConfig), tmp_path)["facts"]}
    assert {"reading.py", "renderer.py"} <= names


def test_several_files_have_one_fingerprint_which_their_names_are_not_in(tmp_path: Path) -> None:
    files(tmp_path, "a", "b")
    both = fingerprint([tmp_path / "a", tmp_path / "b"])
    assert both != fingerprint([tmp_path / "b", tmp_path / "a"])
    (tmp_path / "b").rename(tmp_path / "c")
    assert fingerprint([tmp_path / "a", tmp_path / "c"]) == both
    (tmp_path / "c").write_bytes(b"d")
    assert fingerprint([tmp_path / "a", tmp_path / "c"]) != both
    assert changes.environment({"both": [tmp_path / "a", tmp_path / "c"]}, {}, {})["places"] == {}


def test_a_file_is_read_once_unless_it_was_written_just_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "a", []
    original = changes.hashlib.file_digest
    monkeypatch.setattr(changes.hashlib, "file_digest", lambda *given: read.append(1) or original(*given))
    path.write_bytes(b"1")
    fingerprint(path)
    fingerprint(path)
    assert len(read) == 2  # within one tick of the clock it could change and look the same
    os.utime(path, (1e9, 1e9))
    before = fingerprint(path)
    assert fingerprint(path) == before and len(read) == 3
    path.write_bytes(b"2")
    os.utime(path, (1e9 + 1, 1e9 + 1))
    assert fingerprint(path) != before
