"""Saved steps: verified, never overwritten, never unpickled. Rows 3, 4 and 18 of what must hold."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tastemaker.errors import Corrupt, UserMistake
from tastemaker.runtime import checkpoint
from tastemaker.runtime.checkpoint import (
    finish,
    held,
    hold,
    load,
    load_matching,
    load_safetensors,
    protect,
    prune,
    save,
    step_folder,
    steps,
)
from tastemaker.runtime.state import flatten, unflatten


def tensors(value: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((4, 3), value), "b": torch.arange(5)}, "optimiser": {"0.m": torch.full((2,), -value)}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path, 4, tensors(4), {"n": 4})
    save(tmp_path, 8, tensors(8), {"n": 8})
    return tmp_path


def test_round_trip_is_exact(tmp_path: Path) -> None:
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    groups = {
        "model": {
            "float": weight, "half": weight.half(), "bf16": weight.bfloat16(), "double": weight.double(), "bool": weight > 0,
            "scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "transposed": weight.T, "tied": weight, "view": weight[1:],
            "long": torch.tensor([2**62]), "nan": torch.tensor([float("nan")]), "rng": torch.get_rng_state(),
        },
        "nothing": {},
    }  # fmt: skip
    state = {"a": [1, 2.5, None, True, "ü"], "b": {"c": 1e-300}, "pi": 3.141592653589793}
    path = save(tmp_path, 0, groups, state)
    step, read, read_state = load(tmp_path)
    assert (step, read_state, path.name) == (0, state, "step-00000000")
    assert read["nothing"] == {}
    for name, tensor in groups["model"].items():
        assert read["model"][name].dtype == tensor.dtype
        assert torch.equal(read["model"][name], tensor) or name == "nan"


def test_newest_or_the_one_asked_for(saved: Path) -> None:
    assert load(saved).step == 8 and load(saved, 4).state == {"n": 4}
    assert (saved / "latest").read_text() == "step-00000008\n"
    with pytest.raises(UserMistake, match=r"no step 5 here, there are \[4, 8\]"):
        load(saved, 5)
    with pytest.raises(UserMistake, match="no checkpoint here"):
        load(saved / "nowhere")


def test_existing_step_that_verifies_is_kept(saved: Path) -> None:
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in step_folder(saved, 8).iterdir()}
    save(saved, 8, tensors(99), {"n": 99})
    assert {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in step_folder(saved, 8).iterdir()} == before
    assert load(saved).state == {"n": 8}


def test_existing_step_that_does_not_verify_is_moved_aside(saved: Path) -> None:
    (step_folder(saved, 8) / "state.json").write_text("{}")
    save(saved, 8, tensors(99), {"n": 99})
    assert load(saved).state == {"n": 99}
    assert (saved / "step-00000008.corrupt-1" / "state.json").read_text() == "{}"
    (step_folder(saved, 8) / "state.json").unlink()
    save(saved, 8, tensors(100), {"n": 100})
    assert load(saved).state == {"n": 100} and (saved / "step-00000008.corrupt-2").is_dir()
    assert steps(saved) == [4, 8]


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


FILES = ["model.safetensors", "optimiser.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_found(saved: Path, name: str) -> None:
    """All over the file, also where a parser would not mind."""
    file = step_folder(saved, 8) / name
    original = file.read_bytes()
    for position in range(0, len(original), 3):
        flip(file, position, bit=position % 8)
        with pytest.raises(Corrupt, match=f"{name}: checksum mismatch|manifest.json"):
            checkpoint.verify(file.parent)
        file.write_bytes(original)
    checkpoint.verify(file.parent)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "longer", "delete", "directory", "link"])
def test_damage_falls_back_with_a_loud_warning(saved: Path, name: str, damage: str) -> None:
    file = step_folder(saved, 8) / name
    if damage == "flip":
        flip(file, file.stat().st_size // 2)
    elif damage in ("truncate", "empty"):
        os.truncate(file, file.stat().st_size - 1 if damage == "truncate" else 0)
    elif damage == "longer":
        file.write_bytes(file.read_bytes() + b"\n")
    else:
        file.unlink()
    if damage == "directory":
        file.mkdir()
    if damage == "link":
        file.symlink_to(step_folder(saved, 4) / name)
    with pytest.warns(RuntimeWarning, match=rf"CHECKPOINT DAMAGED: .*{name}.*Falling back to step 4"):
        assert load(saved).state == {"n": 4}
    with pytest.raises(Corrupt, match=name):
        load(saved, 8)


def test_flipped_and_truncated_say_checksum_mismatch(saved: Path) -> None:
    flip(step_folder(saved, 8) / "model.safetensors", 200)
    os.truncate(step_folder(saved, 4) / "model.safetensors", 100)
    with pytest.raises(Corrupt) as caught:
        load(saved)
    text = str(caught.value)
    assert "no checkpoint can be used" in text and text.count("model.safetensors: checksum mismatch") == 2
    assert "100 bytes instead of" in text and "SHA-256" in text


def test_deleted_step_is_noticed(saved: Path) -> None:
    shutil.rmtree(step_folder(saved, 8))
    with pytest.warns(RuntimeWarning, match="step-00000008 is missing though latest names it"):
        assert load(saved).step == 4
    shutil.rmtree(step_folder(saved, 4))
    with pytest.raises(Corrupt, match="no checkpoint can be used"):
        load(saved)


def test_added_file_and_renamed_folder_are_noticed(saved: Path) -> None:
    (step_folder(saved, 8) / "extra.safetensors").touch()
    with pytest.raises(Corrupt, match=r"extra.safetensors: was not saved with this step"):
        load(saved, 8)
    step_folder(saved, 4).rename(step_folder(saved, 12))
    with pytest.raises(Corrupt, match="says step 4, the folder was renamed"):
        load(saved, 12)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".PT", ".safetensors", ""])
def test_pickles_are_never_opened(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises((UserMistake, Corrupt), match=r"pickles, which can run code|not a whole safetensors file"):
        load_safetensors(file)
    assert not (tmp_path / "boom").exists()


def test_pickle_inside_a_step_is_refused(saved: Path) -> None:
    shutil.copy(step_folder(saved, 8) / "model.safetensors", step_folder(saved, 8) / "model.bin")
    with pytest.raises(Corrupt, match=r"model.bin: was not saved with this step"):
        load(saved, 8)


def test_manifest_cannot_point_outside(saved: Path) -> None:
    manifest = step_folder(saved, 8) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["../step-00000004/state.json"] = content["files"]["state.json"]
    del content["sha256"]
    manifest.write_text(checkpoint._manifest_text(content))
    with pytest.raises(Corrupt, match="names a file outside its folder"):
        load(saved, 8)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", "[" * 100_000, '{"format": 1, "step": 8, "files": 3}', "\xff"])
def test_nonsense_manifests(saved: Path, content: str) -> None:
    (step_folder(saved, 8) / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(Corrupt, match=r"manifest.json: checksum mismatch"):
        load(saved, 8)


def test_a_protected_step_is_never_pruned(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, tensors(step), {})
    assert protect(tmp_path, 2) == step_folder(tmp_path, 2)
    protect(tmp_path, 2)
    protect(tmp_path, 3)
    assert prune(tmp_path, keep=1) == [1, 4] and steps(tmp_path) == [2, 3, 5]
    finish(tmp_path, keep=1)
    assert steps(tmp_path) == [2, 3, 5] and load(tmp_path).step == 5


def test_what_is_held_stays_until_another_is(tmp_path: Path) -> None:
    """Up to a step that need not be saved yet: the one that is saved there takes the place of the one before."""
    for step in (2, 4, 6):
        save(tmp_path, step, tensors(step), {})
    assert held(tmp_path) is None
    hold(tmp_path, 5)
    assert held(tmp_path) == 4 and prune(tmp_path, keep=1) == [2] and steps(tmp_path) == [4, 6]
    hold(tmp_path, 8)
    assert held(tmp_path) == 6
    save(tmp_path, 8, tensors(8), {})
    assert held(tmp_path) == 8 and prune(tmp_path, keep=1) == [4, 6]
    hold(tmp_path, 1)
    assert held(tmp_path) is None


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, tensors(step), {})
    assert prune(tmp_path, keep=2) == [1, 2] and steps(tmp_path) == [3, 4]
    assert prune(tmp_path, keep=0) == [3], "one is always kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000004"]


def test_state_must_be_plain_data(tmp_path: Path) -> None:
    for state in ({"n": float("nan")}, {"n": {1: 2}}, {"n": object()}, {"n": [{(1, 2): 3}]}):
        with pytest.raises((ValueError, TypeError)):
            save(tmp_path, 1, {}, state)
    with pytest.raises(ValueError, match="cannot be a file name"):
        save(tmp_path, 1, {"../model": {}}, {})
    with pytest.raises(ValueError, match="negative"):
        save(tmp_path, -1, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_size_is_an_upper_estimate(tmp_path: Path) -> None:
    groups = {"model": {f"layer.{i}.weight": torch.zeros(7) for i in range(300)}}
    path = save(tmp_path, 1, groups, {"a": "x" * 1000})
    actual = sum(file.stat().st_size for file in path.iterdir())
    assert actual <= checkpoint.size(groups, {"a": "x" * 1000}) < actual + 80 * 1024


def test_foreign_weights_are_refused_with_the_first_five_differences() -> None:
    module = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(4)))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    foreign = dict(before) | {"0.weight": torch.zeros(2, 3), "head.weight": torch.zeros(1), "1.bias": torch.zeros(9)}
    for name in ("2.weight", "2.bias", "3.bias"):
        del foreign[name]
    with pytest.raises(UserMistake) as caught:
        load_matching(module, foreign, source="their.safetensors")
    text = str(caught.value).splitlines()
    assert text[0] == "their.safetensors does not fit Sequential, use one saved from the same model:"
    assert text[1:3] == ["  0.weight: shape (2, 3), expected (3, 3)", "  1.bias: shape (9,), expected (3,)"]
    assert text[3:] == ["  2.weight: missing", "  2.bias: missing", "  3.bias: missing", "  and 1 more"]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    load_matching(module, {name: value + 1 for name, value in before.items()})
    assert torch.equal(module[0].weight, before["0.weight"] + 1)


def test_optimiser_state_survives_without_pickle(tmp_path: Path) -> None:
    tree = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(4)}, 1: {"step": torch.tensor(3.0)}},
        "param_groups": [{"lr": 8e-5, "betas": (0.9, 0.999), "fused": None, "params": [0, 1]}],
        "empty": {}, "flag": True,
    }  # fmt: skip
    flat, plain = flatten(tree)
    save(tmp_path, 1, {"optimiser": flat}, {"optimiser": plain})
    found = load(tmp_path)
    back = unflatten(found.tensors["optimiser"], found.state["optimiser"])
    assert list(back["state"]) == [0, 1] and back["param_groups"] == tree["param_groups"]
    assert isinstance(back["param_groups"][0]["betas"], tuple) and back["empty"] == {} and back["flag"] is True
    assert torch.equal(back["state"][0]["exp_avg"], flat["state.0.exp_avg"])
    for bad in ({"a": object()}, {(1,): 2}, {None: 1}, {"a": {1, 2}}, {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}):
        with pytest.raises(ValueError):
            flatten(bad)
