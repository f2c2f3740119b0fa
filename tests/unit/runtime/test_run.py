"""The run folder: one holder, same settings, metrics without gap or double. Rows 2, 7, 20 and 21 of what must hold."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tastemaker.config import TrainConfig, load, parse
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.errors import Corrupt, DiskFull, Diverged, UserMistake
from tastemaker.runtime import checkpoint
from tastemaker.runtime import folder as disk
from tastemaker.runtime.changes import free_settings
from tastemaker.runtime.device import resolved
from tastemaker.runtime.guard import NanGuard
from tastemaker.runtime.run import Run

GOOD = "name: first\nmodel: miniature\ndata: {prompts: p.jsonl}\nrewards: [{name: exact}]\n"


def config(*overrides: str) -> TrainConfig:
    return parse(GOOD, TrainConfig, overrides)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((3,), value)}}


def advance(run: Run, first: int, last: int, every: int = 2) -> None:
    for step in range(first, last + 1):
        run.log(step, {"loss": 1 / step})
        if step % every == 0:
            run.checkpoint(step, weights(step), {"step": step})


# ---- settings, versions, data ------------------------------------------------------------------------


def test_new_run_writes_its_settings(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a" / "run", config("rollout.steps=20")) as run:
        assert run.is_new and run.restore() is None
    assert load(tmp_path / "a" / "run" / "config.yaml", TrainConfig) == config("rollout.steps=20")
    environment = json.loads((tmp_path / "a" / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__ and environment["processes"] == 1


def test_resume_with_the_same_settings(tmp_path: Path) -> None:
    for is_new in (True, False, False):
        with Run.open(tmp_path, config()) as run:
            assert run.is_new is is_new
    assert not (tmp_path / "changes.jsonl").exists()


def test_settings_unknown_when_the_run_began_had_their_default(tmp_path: Path) -> None:
    Run.open(tmp_path, config()).close()
    path = tmp_path / "config.yaml"
    older = [line for line in path.read_text().splitlines(keepends=True) if "chunks:" not in line]
    path.write_text("".join(older))
    Run.open(tmp_path, config()).close()
    path.write_text("".join(older))
    with pytest.raises(UserMistake, match=r"rollout.chunks: 1 -> 2"):
        Run.open(tmp_path, config("rollout.chunks=2"))


def test_other_settings_are_listed_and_refused(tmp_path: Path) -> None:
    Run.open(tmp_path, config()).close()
    other = config("optimiser.learning_rate=1e-5", "seed=4", "policy.kind=lora", "rollout.steps=12")
    with pytest.raises(UserMistake) as caught:
        Run.open(tmp_path, other)
    text = str(caught.value)
    for line in (
        "optimiser.learning_rate: 8e-05 -> 1e-05",
        "seed: 0 -> 4",
        "policy.kind: full -> lora",
        "rollout.steps: 10 -> 12",
    ):
        assert f"  {line}\n" in text
    assert "policy.rank: (absent) -> 32" in text
    assert "allow the changes by name: seed, rollout.steps, optimiser.learning_rate, policy.kind" in text
    with pytest.raises(UserMistake) as caught:
        Run.open(tmp_path, other, allow_changes=["optimiser", "policy", "rollout.step"])
    assert str(caught.value).count("->") == 2, "a group allows what is in it, half a name allows nothing"
    assert load(tmp_path / "config.yaml", TrainConfig) == config(), "a refused change leaves everything as it was"


def test_allowed_change_is_written_down_and_stays(tmp_path: Path) -> None:
    Run.open(tmp_path, config()).close()
    Run.open(tmp_path, config("seed=4"), allow_changes=["seed"]).close()
    Run.open(tmp_path, config("seed=4")).close()
    (record,) = records(tmp_path / "changes.jsonl")
    assert record["changes"] == [{"key": "seed", "before": 0, "after": 4}]
    with pytest.raises(UserMistake, match="seed: 4 -> 0"):
        Run.open(tmp_path, config())


def test_settings_that_change_no_weight_are_free(tmp_path: Path) -> None:
    Run.open(tmp_path, config()).close()
    Run.open(tmp_path, config("budget.max_steps=900", "checkpoint.every=5", "checkpoint.keep=9")).close()
    assert len(records(tmp_path / "changes.jsonl")[0]["changes"]) == 3


def test_another_length_is_free_unless_the_learning_rate_depends_on_it(tmp_path: Path) -> None:
    for is_new, steps in ((True, 4), (False, 8)):
        with Run.open(tmp_path / "steady", config(f"budget.max_steps={steps}", "checkpoint.every=3")) as run:
            assert run.is_new == is_new
    falling, folder = ("optimiser.decay_from=0.6",), tmp_path / "falling"
    Run.open(folder, config(*falling, "budget.max_steps=4")).close()
    Run.open(folder, config(*falling, "budget.max_steps=4", "budget.max_minutes=5", "checkpoint.every=3")).close()
    with pytest.raises(UserMistake, match=r"allow the changes by name: budget\.max_steps$"):
        Run.open(folder, config(*falling, "budget.max_steps=8"))
    Run.open(folder, config(*falling, "budget.max_steps=8"), allow_changes=["budget.max_steps"]).close()


def test_another_length_of_a_judges_training_is_free_unless_the_learning_rate_depends_on_it() -> None:
    text = "name: judge\nbase: b\nrubric: aesthetic.v1\ndata: {ratings: [r.jsonl]}\n"
    free = {"checkpoint", "evaluation", "budget.max_minutes"}
    assert {*free_settings(parse(text, RewardTrainConfig))} == {*free, "budget.epochs", "budget.max_steps"}
    assert {*free_settings(parse(text, RewardTrainConfig, ("optimiser.decay_from=0.6",)))} == free


def test_other_data_and_versions_are_refused_but_not_another_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "p.jsonl"
    data.write_text("{}\n")
    folder = tmp_path / "run"
    Run.open(folder, config(), data_files={"prompts": data}).close()
    data.write_text("{}\n\n")
    environment = json.loads((folder / "environment.json").read_text())
    environment["packages"]["torch"] = "1.0"
    (folder / "environment.json").write_text(json.dumps(environment))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserMistake) as caught:
        Run.open(folder, config(), data_files={"prompts": data})
    text = str(caught.value)
    assert f"packages.torch: 1.0 -> {torch.__version__}" in text
    assert "data_files.prompts:" in text
    Run.open(folder, config(), data_files={"prompts": data}, allow_changes=["packages", "data_files"]).close()
    written = [change["key"] for change in records(folder / "changes.jsonl")[-1]["changes"]]
    assert written == ["packages.torch", "processes", "data_files.prompts"]
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    with pytest.raises(UserMistake, match=r"nowhere.jsonl: cannot be read"):
        Run.open(folder, config(), data_files={"prompts": tmp_path / "nowhere.jsonl"})


def test_a_data_file_that_was_not_written_down_is_taken_as_it_is(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "part").mkdir(parents=True)
    (model / "part" / "weights").write_bytes(b"1")
    folder = tmp_path / "run"
    Run.open(folder, config()).close()
    Run.open(folder, config(), data_files={"model": model}).close()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["places"] == {"model": str(model)}
    (model / "README.md").write_text("a page about it")
    Run.open(folder, config(), data_files={"model": model}).close()
    (model / "part" / "weights").rename(model / "part" / "other")
    with pytest.raises(UserMistake, match=r"data_files\.model: "):
        Run.open(folder, config(), data_files={"model": model})
    with pytest.raises(UserMistake, match=r"data_files\.model: .* -> \(absent\)"):
        Run.open(folder, config())


def test_another_picture_behind_the_same_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    files = {"prompts": tmp_path / "p.jsonl", "prompts.pictures": [tmp_path / "a.png"]}
    files["prompts"].write_text("{}\n")
    folder = tmp_path / "run"
    Run.open(folder, config(), data_files=files).close()
    Run.open(folder, config(), data_files=files).close()
    (tmp_path / "a.png").write_bytes(b"2")
    with pytest.raises(UserMistake, match=r"data_files\.prompts\.pictures: "):
        Run.open(folder, config(), data_files=files)
    Run.open(folder, config(), data_files=files, allow_changes=["data_files.prompts"]).close()


def test_another_judge_behind_a_reward_is_refused(tmp_path: Path) -> None:
    Run.open(tmp_path, config(), judges={"taste": "a1", "v1.5": "b1"}).close()
    Run.open(tmp_path, config(), judges={"taste": "a1", "v1.5": "b1"}).close()
    with pytest.raises(UserMistake) as caught:
        Run.open(tmp_path, config(), judges={"taste": "a2", "v1.5": "b1", "new": "c1"})
    text = str(caught.value)
    assert "judges.taste: a1 -> a2" in text and "judges.new: (absent) -> c1" in text and "v1.5" not in text
    with pytest.raises(UserMistake, match=r"judges.taste: a1 -> a2"):
        Run.open(tmp_path, config(), judges={"taste": "a2", "v1.5": "b2"}, allow_changes=["judges.v1.5"])
    Run.open(tmp_path, config(), judges={"taste": "a2", "v1.5": "b1"}, allow_changes=["judges.taste"]).close()
    assert [c["key"] for c in records(tmp_path / "changes.jsonl")[0]["changes"]] == ["judges.taste"]
    with pytest.raises(UserMistake, match=r"judges.taste: a2 -> a1"):
        Run.open(tmp_path, config(), judges={"taste": "a1", "v1.5": "b1"})


def test_a_run_from_before_judges_were_written_down_takes_those_of_its_resumption(tmp_path: Path) -> None:
    Run.open(tmp_path, config()).close()
    path = tmp_path / "environment.json"
    environment = json.loads(path.read_text())
    assert environment.pop("judges") == {}
    path.write_text(json.dumps(environment))
    Run.open(tmp_path, config(), judges={"taste": "a1"}).close()
    assert not (tmp_path / "changes.jsonl").exists()
    with pytest.raises(UserMistake, match=r"judges.taste: a1 -> a2"):
        Run.open(tmp_path, config(), judges={"taste": "a2"})


def test_another_device_or_dtype_is_refused(tmp_path: Path) -> None:
    """`precision: auto` means another one on another machine: bf16 with AMX, float32 without."""
    here, there = ({"hardware": resolved("cuda:1", torch.bfloat16)}, {"hardware": resolved("cpu", torch.float32)})
    Run.open(tmp_path, config(), **here).close()
    assert json.loads((tmp_path / "environment.json").read_text())["hardware"] == {"device": "cuda", "dtype": "bfloat16"}
    Run.open(tmp_path, config(), hardware=resolved("cuda:0", torch.bfloat16)).close()
    with pytest.raises(UserMistake) as caught:
        Run.open(tmp_path, config(), **there)
    assert "hardware.device: cuda -> cpu" in str(caught.value) and "hardware.dtype: bfloat16 -> float32" in str(caught.value)
    Run.open(tmp_path, config(), **there, allow_changes=["hardware"]).close()
    assert [c["key"] for c in records(tmp_path / "changes.jsonl")[0]["changes"]] == ["hardware.device", "hardware.dtype"]
    Run.open(tmp_path, config(), **there).close()
    older = json.loads((tmp_path / "environment.json").read_text())
    del older["hardware"]
    (tmp_path / "environment.json").write_text(json.dumps(older))
    Run.open(tmp_path, config(), **here).close()
    with pytest.raises(UserMistake, match=r"hardware.device: cuda -> cpu"):
        Run.open(tmp_path, config(), **there)


def test_resume_never_and_must(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="holds no run to resume"):
        Run.open(tmp_path / "a", config(), resume="must")
    Run.open(tmp_path / "a", config(), resume="never").close()
    Run.open(tmp_path / "a", config(), resume="must").close()
    with pytest.raises(UserMistake, match="already holds a run"):
        Run.open(tmp_path / "a", config(), resume="never")


def test_broken_settings_files_are_named(tmp_path: Path) -> None:
    Run.open(tmp_path, config()).close()
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(Corrupt, match=r"environment.json cannot be read"):
        Run.open(tmp_path, config())
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserMistake, match=r"holds steps but no config.yaml"):
        Run.open(tmp_path, config())


# ---- the folder itself -------------------------------------------------------------------------------


def test_second_run_is_refused_naming_the_holder(tmp_path: Path) -> None:
    with Run.open(tmp_path, config()):
        code = (
            "from tastemaker.runtime.lock import Lock; from pathlib import Path\n"
            f"try: Lock(Path({str(tmp_path / 'lock')!r}))\nexcept Exception as error: print(error)"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        assert f"in use by process {os.getpid()} on {os.uname().nodename} since 20" in said
        with pytest.raises(UserMistake, match="choose another folder"):
            Run.open(tmp_path, config())
    Run.open(tmp_path, config()).close()


def test_lock_ends_with_a_refused_opening(tmp_path: Path) -> None:
    Run.open(tmp_path, config()).close()
    for _ in range(2):
        with pytest.raises(UserMistake, match="seed: 0 -> 1"):
            Run.open(tmp_path, config("seed=1"))


def test_unwritable_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserMistake, match=r"file/run: cannot be written to \(Not a directory\)"):
        Run.open(tmp_path / "file" / "run", config())
    with pytest.raises(UserMistake, match="cannot be written to"):
        Run.open(tmp_path / ("x" * 300), config())

    def read_only(path: Path, text: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(disk, "write_text_atomic", read_only)
    with pytest.raises(UserMistake, match=r"cannot be written to \(Read-only file system\), choose a folder"):
        Run.open(tmp_path / "run", config())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserMistake, match=r"cannot be written to \(Permission denied\)"):
        Run.open(tmp_path / "run", config())
    tmp_path.chmod(0o700)


def test_room_for_all_checkpoints_is_asked_for_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Run.open(tmp_path, config(), keep=3) as run:
        need = 4 * checkpoint.size(weights(1))
        monkeypatch.setattr(disk, "free_bytes", lambda path: need)
        run.require_space(weights(1))
        monkeypatch.setattr(disk, "free_bytes", lambda path: need - 1)
        with pytest.raises(DiskFull, match="disk full: need"):
            run.require_space(weights(1))


def test_images_stay_in_their_folder_and_leftovers_go(tmp_path: Path) -> None:
    with Run.open(tmp_path, config()) as run:
        path = run.write_image("step-2/a.png", b"png")
        assert path == run.images / "step-2" / "a.png" and path.read_bytes() == b"png"
        for name in ("../a.png", "/tmp/a.png", "a/../../b.png", ""):
            with pytest.raises(ValueError):
                run.write_image(name, b"")
        (run.images / "step-2" / f".b.png{disk.TEMPORARY}9").touch()
        (tmp_path / f".config.yaml{disk.TEMPORARY}9").touch()
    Run.open(tmp_path, config()).close()
    assert not [path for path in tmp_path.rglob("*") if disk.TEMPORARY in path.name]


# ---- metrics -----------------------------------------------------------------------------------------


def test_metrics_after_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    with Run.open(tmp_path, config()) as run:
        advance(run, 1, 5)
        run.log(2, {"gold": 0.5}, stream="evaluation")
        run.log(5, {"gold": 0.6}, stream="evaluation")
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')
    with Run.open(tmp_path, config()) as run:
        with pytest.raises(ValueError, match="call restore"):
            run.log(5, {})
        found = run.restore()
        assert found is not None and found.step == 4 and found.state == {"step": 4}
        assert [record["step"] for record in records(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
        assert [record["step"] for record in records(tmp_path / "evaluation.jsonl")] == [2]
        advance(run, 5, 6)
        run.log(5, {"gold": 0.7}, stream="evaluation")
    assert [record["step"] for record in records(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_metrics_are_on_the_disk_before_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power cut could leave a checkpoint whose metrics are lost."""
    with Run.open(tmp_path, config()) as run:
        run.log(1, {})
        run.log(1, {}, stream="evaluation")
        passed: list[str] = []
        monkeypatch.setattr(disk, "barrier", passed.append)
        run.checkpoint(1, weights(1), {})
    saved = passed.index("renamed step-00000001")
    for file in ("metrics.jsonl", "evaluation.jsonl"):
        assert passed.index(f"synced {file}") < saved


def test_crash_before_the_first_checkpoint_starts_over(tmp_path: Path) -> None:
    with Run.open(tmp_path, config()) as run:
        run.log(1, {})
    with Run.open(tmp_path, config()) as run:
        assert run.restore() is None
        run.log(1, {})
    assert len(records(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.parametrize("step", [1, 2, 4, -1])
def test_gap_and_double_are_refused(tmp_path: Path, step: int) -> None:
    with Run.open(tmp_path, config()) as run:
        run.log(1, {})
        run.log(2, {})
        with pytest.raises(ValueError, match="cannot follow step 2"):
            run.log(step, {})
        with pytest.raises(ValueError, match="log a step before saving it"):
            run.checkpoint(3, weights(3), {})
        run.log(3, {})
        with pytest.raises(ValueError, match="log a step before saving it"):
            run.checkpoint(2, weights(2), {})


def test_values_that_are_not_finite_become_null_with_a_note(tmp_path: Path) -> None:
    with Run.open(tmp_path, config()) as run:
        values = {"a": float("nan"), "b": torch.tensor(math.inf), "c": {"d": [1.0, -math.inf]}, "e": np.float32(2), "f": True}
        run.log(1, values)
        with pytest.raises(TypeError, match="g: object cannot be logged"):
            run.log(2, {"g": object()})
        run.log(2, {})
    line = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    record = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert (record["a"], record["b"], record["c"], record["e"], record["f"]) == (None, None, {"d": [1.0, None]}, 2.0, True)
    assert record["not_finite"] == {"a": "nan", "b": "inf", "c.d.1": "-inf"}


def test_changed_metrics_file_is_noticed(tmp_path: Path) -> None:
    with Run.open(tmp_path, config()) as run:
        advance(run, 1, 2)
    (tmp_path / "metrics.jsonl").write_text("")
    with Run.open(tmp_path, config()) as run, pytest.warns(UserWarning, match="lines before step 2 are missing"):
        run.restore()


def test_damaged_checkpoint_is_an_incident(tmp_path: Path) -> None:
    with Run.open(tmp_path, config()) as run:
        advance(run, 1, 4)
    (tmp_path / "checkpoints" / "step-00000004" / "state.json").unlink()
    with Run.open(tmp_path, config(), keep=1) as run:
        with pytest.warns(RuntimeWarning, match="Falling back to step 2"):
            assert run.restore().step == 2  # type: ignore[union-attr]
        assert checkpoint.steps(run.checkpoints) == [2, 4], "the only whole one is not pruned"
        advance(run, 3, 4)
        assert checkpoint.load(run.checkpoints).state == {"step": 4}
    assert records(tmp_path / "incidents.jsonl")[0]["kind"] == "checkpoint damaged"


def test_going_back_moves_newer_steps_aside(tmp_path: Path) -> None:
    with Run.open(tmp_path, config()) as run:
        advance(run, 1, 6)
    with Run.open(tmp_path, config()) as run:
        assert run.restore(step=2).step == 2  # type: ignore[union-attr]
        assert checkpoint.steps(run.checkpoints) == [2]
        run.log(3, {})
        run.log(4, {})
        run.checkpoint(4, weights(40), {"step": 40})
        assert checkpoint.load(run.checkpoints).state == {"step": 40}
    assert (tmp_path / "checkpoints" / "step-00000006.abandoned-1").is_dir()


class Recorder:
    def __init__(self, fails: bool = False) -> None:
        self.seen: list[int] = []
        self.closed = False
        self.fails = fails

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.seen.append(step)
        if self.fails:
            raise ConnectionError("no network")

    def close(self) -> None:
        self.closed = True


def test_failing_tracker_does_not_stop_the_run(tmp_path: Path) -> None:
    good, bad = Recorder(), Recorder(fails=True)
    with Run.open(tmp_path, config(), trackers=[bad, good]) as run:
        with pytest.warns(UserWarning, match="Recorder failed and is left out from here on: no network"):
            run.log(1, {})
        run.log(2, {})
    assert good.seen == [1, 2] and bad.seen == [1] and good.closed
    assert len(records(tmp_path / "metrics.jsonl")) == 2


# ---- NaN ---------------------------------------------------------------------------------------------


def test_culprits_are_written_down_and_the_third_in_a_row_ends_the_run(tmp_path: Path) -> None:
    with Run.open(tmp_path, config()) as run:
        guard = NanGuard(run.incident)
        scores = torch.tensor([[1.0], [math.nan], [2.0]])
        assert guard.check(1, {"loss": 0.5, "scores": torch.ones(3)}, ["a", "b", "c"]).ok
        verdict = guard.check(2, {"loss": math.nan, "scores": scores, "fine": 1.0}, ["a", "b", "c"])
        assert not verdict.ok and verdict.culprits == {"loss": (), "scores": ("b",)}
        assert not guard.check(2, {"gradient": math.inf}).ok, "a second finding of the same update"
        assert not guard.check(3, {"loss": -math.inf}).ok
        with pytest.raises(Diverged, match=r"update 4: NaN or inf 3 times in a row, last in loss of the whole batch"):
            guard.check(4, {"loss": math.nan})
        assert guard.skipped == 3
    found = records(tmp_path / "incidents.jsonl")
    assert [(record["update"], record["in_a_row"]) for record in found] == [(2, 1), (2, 1), (3, 2), (4, 3)]
    assert found[0]["culprits"] == {"loss": [], "scores": ["b"]}


def test_a_good_update_between_resets_the_count() -> None:
    guard = NanGuard(lambda record: None)
    for update in (1, 2, 4, 5, 7, 8):
        assert not guard.check(update, {"loss": math.nan}).ok
    again = NanGuard(lambda record: None)
    again.load_state(json.loads(json.dumps(guard.state())))
    assert again.skipped == 6
    with pytest.raises(Diverged):
        again.check(9, {"loss": math.nan})


def test_weights_and_average_never_hold_a_nan() -> None:
    """A loop that obeys the verdict ends where one without the bad batches ends."""

    def train(factors: list[float]) -> tuple[torch.Tensor, torch.Tensor, int]:
        weight, average = torch.zeros(2, requires_grad=True), torch.zeros(2)
        guard = NanGuard(lambda record: None)
        for update, factor in enumerate(factors):
            loss = (weight - 1).square().sum() * factor
            (gradient,) = torch.autograd.grad(loss, weight)
            if guard.check(update, {"loss": loss.detach(), "gradient": gradient}).ok:
                weight = (weight - 0.01 * gradient).detach().requires_grad_()
                average = 0.9 * average + 0.1 * weight.detach()
        return weight.detach(), average, guard.skipped

    weight, average, skipped = train([1.0, math.nan, 2.0, math.inf, -math.inf, 3.0])
    assert skipped == 3
    expected, expected_average, _ = train([1.0, 2.0, 3.0])
    assert torch.equal(weight, expected) and torch.equal(average, expected_average)
