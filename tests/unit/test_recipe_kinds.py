"""What the kinds of stages read, by which one is known to be out of date, and what is told before any of them runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tastemaker.commands.run import run, shipped
from tastemaker.commands.stages import kinds
from tastemaker.commands.stages.files import RESULTS, results_of_judging
from tastemaker.commands.stages.kinds import KINDS
from tastemaker.config import TrainConfig, parse
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.config.recipe import load_recipe, parse_recipe
from tastemaker.config.reference import FILES, STAGES
from tastemaker.config.reward_training import RewardTrainConfig
from tastemaker.config.stages import CurateStage, ExportStage
from tastemaker.data.ratings import Rating
from tastemaker.data.splits import split
from tastemaker.errors import UserMistake
from tastemaker.miniature import task
from tastemaker.miniature.judge import model as judge_model
from tastemaker.recipe import Job, Recipe, check, open_recipe, outlook
from tastemaker.recipe import run as run_stages
from tastemaker.rewards.vlm_folder import CARD_FILE
from tastemaker.runtime.changes import free_settings
from tiny_run import tiny_base

PAGES = Path(__file__).parents[2] / "docs"
RECIPE = """\
name: mistaken
stages:
  judge:
    kind: train-reward
    base: nowhere
    rubric: aesthetic.v1
    data: {ratings: [ratings.jsonl]}
  curated:
    kind: curate
    training:
      name: t2i
      model: miniature
      data: {prompts: prompts.jsonl}
      rewards: [{name: taste, low: 1, high: 5, floor: 0.1, judge: {kind: folder, path: "stage:judge/run/judge"}}]
  t2i:
    kind: train
    like: curated/training
    data: {prompts: "stage:curated/curated.jsonl", held_out: held.jsonl}
  mixed:
    kind: train
    like: t2i
    data: {prompts: prompts.jsonl, held_out: null, edit_share: 0.5}
    categories: {portrit: {taste: 1}}
  student:
    kind: distill
    model: /no/such/model
    teachers:
    - {name: t2i, weights: "stage:t2i/run/transformer", teaches: [t2i]}
    - {name: other, weights: gone, teaches: [edit]}
    data: {prompts: prompts.jsonl}
  compared:
    kind: evaluate
    prompts: absent.jsonl
    rewards: {like: t2i}
    models: [{name: base, path: elsewhere}, {name: student, path: "stage:student/run"}]
  model: {kind: export, run: runs/other}
"""


def rows(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("dry_run", [True, False])
def test_mistakes_of_all_stages_are_told_at_once_and_before_any_runs(tmp_path: Path, dry_run: bool) -> None:
    rows(tmp_path / "prompts.jsonl", {"id": "1", "text": "a face", "category": "portrait"})
    (tmp_path / "r.yaml").write_text(RECIPE)
    with pytest.raises(UserMistake) as caught:
        run(tmp_path / "r.yaml", folder=tmp_path / "runs", dry_run=dry_run)
    told = [line.replace(str(tmp_path), "DIR") for line in str(caught.value).splitlines()]
    expected = [
        "stages.judge: base: DIR/nowhere is no model's folder",
        "stages.judge: DIR/ratings.jsonl: there is no such file",
        "stages.t2i: data.held_out: DIR/held.jsonl: there is no such file",
        "stages.mixed: categories.portrit: 'portrit' is the category of no prompt",
        "stages.mixed: data.edit_share: 0.5 of a step's prompts are to be edits",
        "stages.student: model: /no/such/model is not a folder",
        "stages.student: teachers.1.weights: DIR/gone is not a folder",
        "stages.student: teachers.1.teaches: no prompt is edit",
        "stages.compared: models.0: DIR/elsewhere: is not a folder with",
        "stages.compared: prompts: DIR/absent.jsonl: there is no such file",
        "stages.model: DIR/runs/other: holds no run",
    ]
    assert len(told) == len(expected)
    assert all(line.startswith(start) for line, start in zip(told, expected, strict=True))
    assert not list((tmp_path / "runs").glob("*/"))


# ---- what is shown to be copied ------------------------------------------------------------------


def yaml_of(page: str) -> str:
    return re.findall(r"```yaml\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)[0]


def opened(recipe: Any, folder: Path) -> Recipe:
    return open_recipe(recipe, KINDS, folder, folder, Console(quiet=True))


def test_the_recipe_on_the_page_holds_no_mistake_and_draws_at_the_models_size(tmp_path: Path) -> None:
    training = opened(parse_recipe(yaml_of("recipes.md"), KINDS), tmp_path).named("t2i").config
    assert training.rollout.picture_side == 512


@pytest.mark.parametrize("name", ["reward-models.md", "qwen-image-2.1", "qwen-image-and-edit-2511"])
def test_judges_can_be_trained_on_ratings_of_one_models_pictures(tmp_path: Path, name: str) -> None:
    if name in shipped():
        stages = opened(load_recipe(shipped()[name], KINDS), tmp_path).stages
        configs = [stage.config for stage in stages if stage.kind == "train-reward"]
    else:
        configs = [parse(yaml_of(name), RewardTrainConfig)]
    ratings = [Rating(f"{n}", f"{n}.png", f"prompt {n % 20}", "alignment", {"ann": 3}) for n in range(60)]
    for splits in (config.splits for config in configs):
        assert all(split(ratings, (splits.train, splits.calibration, splits.test), apart=splits.apart).sizes)


# ---- what they read ------------------------------------------------------------------------------


def read_by(kind: str, text: str, beside: Path) -> dict[str, Any]:
    config = parse(text, KINDS[kind].settings)
    return dict(KINDS[kind].inputs(Job("a", config, beside, beside / "runs" / "a", Console(quiet=True), above=("b",))))


TRAINING = """\
name: first
model: miniature
data: {prompts: miniature}
rewards:
- {name: facts, weight: 0.5}
- {name: taste, weight: 0.5, low: 1, high: 5, floor: 0.1, judge: {kind: miniature, dimension: alignment}}
"""


def test_of_a_training_the_packages_own_parts_are_inputs_too(tmp_path: Path) -> None:
    read = read_by("train", TRAINING, tmp_path)
    assert set(read) == {"data_files.model", "data_files.prompts", "judges.facts", "judges.taste"}
    assert read["data_files.model"] == task.WEIGHTS and judge_model.SHIPPED in read["judges.taste"]
    assert "prompts.py" in {path.name for path in read["data_files.prompts"]}


def test_of_an_evaluation_judges_bases_and_pictures_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "s.png").write_bytes(b"1")
    rows(tmp_path / "lists" / "e.jsonl", {"id": "1", "text": "x", "task": "edit", "sources": ["s.png"]})
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "one.safetensors").write_bytes(b"1")
    text = """\
name: compared
prompts: lists/e.jsonl
models: [{name: base, path: miniature}, {name: lora, path: lora, base: miniature}, {name: made, path: runs/b/run, base: other}]
rewards: [{name: own, low: 0, high: 1, floor: 0.1, judge: {kind: python, path: mine.py, call: f}}]
"""
    assert read_by("evaluate", text, tmp_path) == {
        "data_files.models.base": [task.WEIGHTS],
        "data_files.models.lora": [tmp_path / "lora", task.WEIGHTS],
        "data_files.models.made": [tmp_path / "other"],  # what a stage leaves is looked after by the reference to it
        "data_files.prompts": tmp_path / "lists" / "e.jsonl",
        "data_files.prompts.pictures": [tmp_path / "lists" / "s.png"],
        "judges.own": [tmp_path / "mine.py"],
    }


def test_of_a_judges_training_base_rubric_and_rated_pictures_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"1")
    rows(tmp_path / "r.jsonl", {"id": "1", "picture": "1.png"})
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/models/base"}))
    text = "name: a\nbase: lora\nrubric: texts/mine.v1.md\ndata: {ratings: [r.jsonl]}\n"
    assert read_by("train-reward", text, tmp_path) == {
        "data_files.base": [tmp_path / "lora", Path("/models/base")],
        "data_files.rubric": [tmp_path / "texts" / "mine.v1.md"],
        "data_files.r.jsonl": tmp_path / "r.jsonl",
        "data_files.r.jsonl.pictures": [tmp_path / "1.png"],
    }


def test_of_an_export_a_run_outside_of_the_recipe_is_an_input(tmp_path: Path) -> None:
    assert read_by("export", "run: other/run\n", tmp_path) == {"data_files.run": [tmp_path / "other" / "run"]}
    assert read_by("export", f"run: {tmp_path}/runs/b/run\n", tmp_path) == {}


def test_what_a_person_puts_into_the_recipes_folder_is_an_input(tmp_path: Path) -> None:
    """No stage leaves it, so no reference looks after it."""
    own = tmp_path / "runs" / "own.jsonl"
    own.parent.mkdir()
    rows(own, {"id": "1", "text": "x"})
    read = read_by("train", TRAINING.replace("prompts: miniature", f"prompts: {own}"), tmp_path)
    assert read["data_files.prompts"] == own


TO_COME = """\
name: r
stages:
  full: {kind: train, model: miniature, data: {prompts: miniature}, rewards: [{name: facts, weight: 1}]}
  low: {like: full, policy: {kind: lora}}
  other: {like: low, model: elsewhere}
  student:
    kind: distill
    model: miniature
    teachers:
    - {name: one, weights: "stage:full/run", teaches: [t2i]}
    - {name: two, weights: "stage:other/run/lora", teaches: [edit]}
    - {name: three, weights: "stage:low/run/lora", teaches: [t2i/portrait]}
    data: {prompts: miniature-mix, edit_share: 0.5}
  model: {kind: export, run: "stage:full/run", form: lora}
  fine: {kind: export, run: "stage:low/run", form: lora}
"""


def test_what_stages_to_come_will_not_leave_is_told_before_they_run(tmp_path: Path) -> None:
    tiny_base(tmp_path / "elsewhere")
    recipe = open_recipe(parse_recipe(TO_COME, KINDS), KINDS, tmp_path / "runs", tmp_path, Console(quiet=True))
    with pytest.raises(UserMistake) as caught:
        check(recipe, outlook(recipe))
    found = str(caught.value).replace(str(tmp_path), "DIR")
    for line in (
        "stages.student: teachers.0.weights: DIR/runs/full/run is a run; name the weights that it leaves, DIR/runs/full/run/t",
        "stages.student: teachers.1.weights: a LoRA on elsewhere; the student is miniature, and both need one base",
        "stages.model: form: DIR/runs/full/run trains all weights, so there is no LoRA",
    ):
        assert line in found, line
    assert "teachers.2" not in found and "stages.fine" not in found


@pytest.mark.parametrize("inside", ["lora", "transformer/lora", "checkpoints", "config.yaml"])
def test_below_a_run_its_policy_alone_can_be_named(tmp_path: Path, inside: str) -> None:
    text = TO_COME.replace("stage:full/run", f"stage:full/run/{inside}")
    if inside == "transformer/lora":  # below what it does leave: nobody can know
        open_recipe(parse_recipe(text, KINDS), KINDS, tmp_path / "runs", tmp_path, Console(quiet=True))
        return
    with pytest.raises(UserMistake, match=f"'stage:full/run/{inside}' is not what full leaves, which is stage:full/run/tran"):
        open_recipe(parse_recipe(text, KINDS), KINDS, tmp_path / "runs", tmp_path, Console(quiet=True))


def test_a_changed_picture_or_judge_makes_a_finished_stage_run_again(tmp_path: Path) -> None:
    """The stage itself does nothing."""

    def evaluate(job: Job) -> None:
        (job.folder / RESULTS).mkdir()
        (job.folder / RESULTS / "summary.json").write_text("{}")

    kinds = {"evaluate": replace(KINDS["evaluate"], run=evaluate)}
    (tmp_path / "s.png").write_bytes(b"1")
    (tmp_path / "mine.py").write_text("def f(images, prompts): ...\n")
    rows(tmp_path / "e.jsonl", {"id": "1", "text": "x", "task": "edit", "sources": ["s.png"]})
    text = """\
name: r
stages:
  compared:
    kind: evaluate
    prompts: e.jsonl
    models: [{name: base, path: miniature}]
    rewards: [{name: own, low: 0, high: 1, floor: 0.1, judge: {kind: python, path: mine.py, call: f}}]
"""
    recipe = open_recipe(parse_recipe(text, kinds), kinds, tmp_path / "runs", tmp_path, Console(quiet=True))
    run_stages(recipe)

    def why() -> str:
        return outlook(recipe)[0].why

    assert why() == ""
    (tmp_path / "s.png").write_bytes(b"2")
    assert why() == "changed: data_files.prompts.pictures has other content"
    (tmp_path / "s.png").write_bytes(b"1")
    (tmp_path / "mine.py").write_text("def f(images, prompts): return images\n")
    assert why() == "changed: judges.own has other content"


def test_the_length_of_a_training_inside_of_a_stage_is_free_as_its_own_settings_say() -> None:
    text = "training:\n  " + TRAINING.replace("\n", "\n  ").rstrip() + "\n"
    ends = "training.budget.max_steps"
    assert ends in free_settings(parse(text, CurateStage))
    assert ends not in free_settings(parse(text, CurateStage, ["training.optimiser.decay_from=0.5"]))


def test_of_a_judge_its_card_is_no_result(tmp_path: Path) -> None:
    """It may be measured anew, which changes no score."""
    judge = tmp_path / "run" / "judge"
    judge.mkdir(parents=True)
    for name in ("model.safetensors", "judge.json", CARD_FILE, "README.md"):
        (judge / name).write_text(name)
    (tmp_path / "run" / "lock").write_text("")
    job = Job("judge", None, tmp_path, tmp_path, Console())
    assert results_of_judging(job) == ["run/judge/judge.json", "run/judge/model.safetensors"]


@pytest.mark.parametrize("there", [False, True])
def test_an_export_that_runs_again_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """Or what is there would pass for one of the new run."""
    forced: list[bool] = []
    monkeypatch.setattr(kinds, "make_plan", lambda run, out, *, force, **rest: forced.append(force))
    monkeypatch.setattr(kinds, "export", lambda plan: None)
    if there:
        (tmp_path / "model").mkdir()
    KINDS["export"].run(Job("model", ExportStage(run="run"), tmp_path, tmp_path, Console()))
    assert forced == [there]


def test_deadlines_caches_and_missing_scores_change_no_result() -> None:
    training = {"name": "t", "model": "miniature", "data": {"prompts": "miniature"}, "rewards": ({"name": "facts"},)}
    models = ({"name": "base", "path": "miniature"},)
    for config in (TrainConfig(**training), EvaluateConfig(name="e", prompts="miniature", models=models)):
        assert {"deadlines", "cache", "missing_budget"} <= {*free_settings(config)}


def test_the_page_of_settings_has_those_of_every_kind():
    written = {file.name: file.settings for file in FILES if file.name in STAGES}
    assert written == {name: kind.settings for name, kind in KINDS.items()}
