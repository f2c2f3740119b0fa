"""A whole recipe on the miniature, far too short to learn: every kind of stage runs, and only what changed runs again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from rich.console import Console

from tastemaker.commands.run import as_table, run, shipped
from tastemaker.commands.stages.kinds import KINDS
from tastemaker.config.recipe import load_recipe
from tastemaker.data.prompts import read_prompts, write_prompts
from tastemaker.errors import UserMistake
from tastemaker.miniature import task
from tastemaker.models.stated_guidance import stated_guidance
from tastemaker.named.prompts import first_of_each_task
from tastemaker.recipe import Stage, open_recipe, outlook
from tastemaker.recipe import run as run_stages
from tastemaker.runtime.metrics import read_lines
from tastemaker.types import Prompt

RECIPE = """\
name: short
stages:
  curated:
    kind: curate
    keep: 0.5
    training:
      name: t2i
      model: miniature
      threads: 1
      data: {prompts: prompts.jsonl}
      rollout: {prompts: 4, group_size: 2, steps: 4, guidance: 1.5}
      algorithm: {name: nft, points: 1, velocity_kl: 0.0}
      rewards: [{name: facts, floor: 0.05}]
      budget: {max_steps: 1}
  t2i: {kind: train, like: curated/training, data: {prompts: "stage:curated/curated.jsonl"}}
  student:
    kind: distill
    model: miniature
    threads: 1
    teachers: [{name: t2i, weights: "stage:t2i/run/transformer", teaches: [t2i], guidance: 1.5}]
    data: {prompts: prompts.jsonl, most: 4}
    rollout: {prompts: 2, steps: 2}
    budget: {max_steps: 1}
  compared:
    kind: evaluate
    threads: 1
    prompts: miniature
    tasks: [t2i]
    most: 4
    steps: 2
    models: [{name: base, path: miniature}, {name: student, path: "stage:student/run"}]
  model: {kind: export, run: "stage:student/run", evaluation: "stage:compared/evaluation/summary.json"}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_prompts(tmp_path / "prompts.jsonl", task.training_prompts(8, 0))
    (tmp_path / "short.yaml").write_text(RECIPE)
    return tmp_path / "short.yaml"


def test_every_kind_of_stage_runs_and_only_what_changed_runs_again(recipe: Path, capsys) -> None:
    folder = recipe.parent / "runs"
    run(recipe, folder=folder, dry_run=True)
    assert not folder.exists()  # a dry run writes nothing
    run(recipe, folder=folder)
    pipeline = DiffusionPipeline.from_pretrained(folder / "model" / "model")
    assert stated_guidance(pipeline.transformer) == 1
    card = (folder / "model" / "model" / "README.md").read_text()
    assert "| student | t2i | off | 2 | 4 |" in card and "No evaluation came" not in card
    assert "training of the teacher t2i" in card and "t2i: data: prompts" in card
    encoded = list((folder / "embeddings").glob("*.safetensors"))
    assert len(encoded) == 8 + 1 + 4 and not list(folder.glob("*/**/embeddings")), "by all stages, each once"
    summary = json.loads((folder / "compared" / "evaluation" / "summary.json").read_text())
    assert {row["model"] for row in summary["rows"]} == {"base", "student"}
    capsys.readouterr()
    left = json.loads((folder / "t2i" / "stage.json").read_text())["outputs"]
    assert {name.split("/")[1] for name in left} == {"transformer", "config.yaml", "checkpoints"}
    (folder / "t2i" / "run" / "lock").write_text("opened once more")
    (folder / "t2i" / "run" / "notes.txt").write_text("looks fine")
    (folder / "student" / "run" / "transformer" / ".DS_Store").write_bytes(b"1")
    run(recipe, folder=folder)
    assert capsys.readouterr().out.count("finished, unchanged") == 5
    recipe.write_text(
        RECIPE.replace("most: 4\n    steps: 2", "most: 4\n    steps: 3").replace("{prompts: 2, steps", "{prompts: 3, steps")
    )
    text = load_recipe(recipe, KINDS)
    found = open_recipe(text, KINDS, folder, recipe.parent, Console(quiet=True))
    assert [bool(look.why) for look in outlook(found)] == [False, False, True, True, True]
    assert as_table(found, outlook(found)).row_count == 5
    (recipe.parent / "prompts.jsonl").write_text((recipe.parent / "prompts.jsonl").read_text().replace("circle", "square"))
    looks = {look.stage.name: look.why for look in outlook(found)}
    assert looks["curated"] == "changed: data_files.prompts has other content" and looks["t2i"] == "needs curated"


def test_a_curation_is_drawn_again_for_what_it_draws_alone(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = recipe.parent / "runs"
    run(recipe, folder=folder, stage="curated")
    kept = (folder / "curated" / "curated.jsonl").read_text().splitlines()
    text = load_recipe(
        recipe,
        KINDS,
        ["stages.curated.training.optimiser.learning_rate=1e-6", "stages.curated.training.algorithm.velocity_kl=0.5"],
    )
    assert not outlook(open_recipe(text, KINDS, folder, recipe.parent, Console(quiet=True)))[0].why
    monkeypatch.setattr("tastemaker.training.curate.draw_and_judge", lambda *args, **rest: pytest.fail("drew again"))
    wider = ["stages.curated.keep=1", "stages.curated.training.optimiser.learning_rate=1e-6"]
    run(recipe, folder=folder, stage="curated", overrides=wider)
    assert {*kept} < {*(folder / "curated" / "curated.jsonl").read_text().splitlines()}
    assert not (folder / "curated.1").exists()
    text = load_recipe(recipe, KINDS, ["stages.curated.training.rollout.steps=5"])
    assert "rollout.steps: " in outlook(open_recipe(text, KINDS, folder, recipe.parent, Console(quiet=True)))[0].why


def test_a_longer_budget_and_what_is_allowed_go_on_from_the_last_checkpoint(recipe: Path) -> None:
    """As one that was to be so long from the start, bit for bit."""
    text = RECIPE[: RECIPE.index("  student:")].replace("stage:curated/curated.jsonl", "prompts.jsonl")
    recipe.write_text(text)
    end = "stages.t2i.budget.max_steps="
    longer, whole = recipe.parent / "longer", recipe.parent / "whole"
    run(recipe, folder=longer, stage="t2i")
    run(recipe, folder=longer, stage="t2i", overrides=[f"{end}2"])
    run(recipe, folder=whole, stage="t2i", overrides=[f"{end}2"])
    assert [row["step"] for row in read_lines(longer / "t2i" / "run" / "metrics.jsonl")] == [1, 2]
    for folder in (longer, whole):
        assert not (folder / "t2i.1").exists()
    weights = Path("t2i", "run", "transformer", "diffusion_pytorch_model.safetensors")
    assert (longer / weights).read_bytes() == (whole / weights).read_bytes()
    slower = ["stages.t2i.optimiser.learning_rate=1e-6", f"{end}3"]
    run(recipe, folder=longer, stage="t2i", overrides=slower, allow=["optimiser.learning_rate"])
    assert len(read_lines(longer / "t2i" / "run" / "metrics.jsonl")) == 3 and not (longer / "t2i.1").exists()
    run(recipe, folder=longer, stage="t2i", overrides=[slower[0], f"{end}1"])  # what was trained for longer is not that
    assert len(read_lines(longer / "t2i" / "run" / "metrics.jsonl")) == 1 and (longer / "t2i.1").exists()


def test_a_curated_list_of_edits_has_its_source_pictures_beside_it(tmp_path: Path) -> None:
    """Two sources of one name in two folders, and one that two prompts share."""
    edits = task.training_edits(4, tmp_path / "drawn")
    prompts = []
    for row, edit in enumerate(edits):
        place = tmp_path / "lists" / f"set-{row}" / "source.png"
        place.parent.mkdir(parents=True)
        place.write_bytes(Path(edits[min(row, 2)].sources[0]).read_bytes())
        prompts.append(replace(edit, sources=(str(place),)))
    write_prompts(tmp_path / "lists" / "edits.jsonl", prompts)
    text = RECIPE[: RECIPE.index("  student:")].replace("prompts.jsonl", "lists/edits.jsonl").replace("facts", "edit_facts")
    (tmp_path / "edits.yaml").write_text(text.replace("keep: 0.5", "keep: 1"))
    folder = tmp_path / "runs"
    run(tmp_path / "edits.yaml", folder=folder)
    assert (folder / "t2i" / "run" / "transformer").is_dir()  # trained on the list
    kept = read_prompts(folder / "curated" / "curated.jsonl", decode=True)
    given = {prompt.id: Path(prompt.sources[0]).read_bytes() for prompt in prompts}
    assert kept and all(Path(prompt.sources[0]).read_bytes() == given[prompt.id] for prompt in kept)
    assert {Path(prompt.sources[0]).parent for prompt in kept} == {folder / "curated" / "sources"}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_recipes_hold_no_mistake(name: str, tmp_path: Path) -> None:
    text = load_recipe(shipped()[name], KINDS)
    recipe = open_recipe(text, KINDS, tmp_path, tmp_path, Console(quiet=True))
    assert text.name == name and len(recipe.stages) >= 2


def stages_of(name: str, folder: Path) -> dict[str, Stage]:
    recipe = open_recipe(load_recipe(shipped()[name], KINDS), KINDS, folder, folder, Console(quiet=True))
    return {stage.name: stage for stage in recipe.stages}


@pytest.mark.parametrize("name", ["demo", "miniature", "qwen-image-2.1"])
def test_one_run_over_both_tasks_has_the_budget_and_the_prompts_of_both_specialists(name: str, tmp_path: Path) -> None:
    """It is what the student has to beat: with less, or with other prompts, it would be no rival."""
    stages = stages_of(name, tmp_path)
    t2i, edit, mixed = (stages[one].config for one in ("t2i", "edit", "mixed"))
    assert mixed.budget.max_steps == t2i.budget.max_steps + edit.budget.max_steps
    assert mixed.rollout == t2i.rollout == edit.rollout
    assert mixed.data.edit_share == pytest.approx(edit.budget.max_steps / mixed.budget.max_steps, abs=1e-3)
    weights = {reward.name for reward in (*t2i.rewards, *edit.rewards)}
    assert {reward.name for reward in mixed.rewards} == weights
    if name != "demo":  # whose run over both takes all prompts, since its numbers were measured so
        assert set(mixed.data.lists) == {*t2i.data.lists, *edit.data.lists}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_the_cards_of_a_shipped_recipe_have_the_numbers_of_an_evaluation(name: str, tmp_path: Path) -> None:
    stages = stages_of(name, tmp_path)
    evaluated = {stage.name for stage in stages.values() if stage.kind == "evaluate"}
    assert all(evaluated & set(stage.needs) for stage in stages.values() if stage.kind == "export")


def test_a_full_size_recipe_for_one_model_has_the_shape_of_the_miniatures(tmp_path: Path) -> None:
    """Its judges are trained besides. Both tasks have one student there; two models have one each."""
    large, small = (stages_of(name, tmp_path) for name in ("qwen-image-2.1", "miniature"))
    kinds = [[(stage.name, stage.kind) for stage in stages.values()] for stages in (large, small)]
    assert [one for one in kinds[0] if one[1] != "train-reward"] == kinds[1]
    parts = {"curate", "train", "distill", "evaluate", "export"}
    assert parts <= {stage.kind for stage in stages_of("qwen-image-and-edit-2511", tmp_path).values()}


@pytest.mark.parametrize("name", ["qwen-image-2.1", "qwen-image-and-edit-2511"])
def test_edited_portraits_of_full_size_models_are_rewarded_for_likeness(name: str, tmp_path: Path) -> None:
    edit = stages_of(name, tmp_path)["edit"].config
    assert edit.data.held_out == "held-out.jsonl"  # as of the comparison, so that what is compared on is not trained on
    (identity,) = (reward.judge for reward in edit.rewards if reward.name == "identity")
    assert identity.kind == "face_identity" and identity.lost == 0
    assert edit.categories == {"edit/portrait": {"instruction": 0.5, "aesthetic": 0.2, "identity": 0.3}}


def test_what_is_sampled_without_guidance_is_not_guided_in_its_recipe(tmp_path: Path) -> None:
    stages = stages_of("qwen-image-2.1", tmp_path)
    trained = [stages[name].config.rollout.guidance for name in ("t2i", "edit", "mixed", "student")]
    taught = [teacher.guidance for teacher in stages["student"].config.teachers]
    assert {*trained, *taught, *stages["compared"].config.guidance} == {1.0}


def test_a_stage_whose_files_are_not_there_says_so_before_anything_runs(tmp_path: Path) -> None:
    text = load_recipe(shipped()["qwen-image-2.1"], KINDS)
    recipe = open_recipe(text, KINDS, tmp_path / "runs", tmp_path, Console(quiet=True))
    with pytest.raises(UserMistake, match=r"base: .* is no model's folder"):
        run_stages(recipe)
    assert not (tmp_path / "runs" / "alignment").exists()


def test_the_first_prompts_of_each_task() -> None:
    prompts = [Prompt("a", "x"), Prompt("b", "x", task="edit"), Prompt("c", "x"), Prompt("d", "x", task="edit")]
    assert [prompt.id for prompt in first_of_each_task(prompts, 1)] == ["a", "b"]
    assert first_of_each_task(prompts, None) == prompts
