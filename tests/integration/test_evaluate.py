"""`tastemaker evaluate` on tiny models: the right pairs, the same noise, resumed without paying twice, honest about gaps."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tastemaker import cli
from tastemaker.commands import evaluate as evaluating
from tastemaker.commands.contest import prepare
from tastemaker.commands.evaluate import evaluate, wall_of
from tastemaker.commands.train import export as export_policy
from tastemaker.config import parse
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.errors import ServiceFailed, UserMistake
from tastemaker.evaluation import drawn as drawn_module
from tastemaker.evaluation import judged as judged_module
from tastemaker.evaluation.comparison import Side
from tastemaker.evaluation.summary_file import read_summary
from tastemaker.evaluation.wall import draw_wall
from tastemaker.export.plan import make_plan
from tastemaker.export.write import export
from tastemaker.miniature import task
from tastemaker.models.adapter import load
from tastemaker.models.lora import policy_parameters
from tastemaker.opening import RECORD
from tastemaker.rewards.composite import Composite
from tastemaker.types import Prompt
from tiny_run import tiny_base, tiny_config, tiny_run

COMPARE = """
name: tiny
prompts: miniature
most: 4
steps: 2
batch: 3
threads: 1
guidance: [2.0, 1.0]
models:
- {{name: base, path: {0}/base}}
- {{name: same, path: {0}/base}}
- {{name: run, path: {0}/run, guidance: [2.0]}}
- {{name: student, path: {0}/student, base: {0}/base}}
rewards:
- {{name: quality, floor: 0.02}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, a run of it, and an exported LoRA that was trained without guidance."""
    top = tmp_path_factory.mktemp("models")
    base = tiny_base(top / "base")
    tiny_run(top / "run", base)
    lora = tiny_run(top / "lora", base, policy={"kind": "lora", "rank": 2, "alpha": 8.0}, rollout={"guidance": 1.0})
    export(make_plan(lora, top / "student"))
    return top


@pytest.fixture(scope="module")
def config(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "compare.yaml"
    path.write_text(COMPARE.format(made))
    return path


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The uninterrupted evaluation: its folder and summary."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    return folder, evaluate(config, folder=folder)


def overall(rows):
    return [row for row in rows if row.category == "all"]


def test_who_is_compared_and_at_what_cost(whole):
    folder, summary = whole
    rows = [(r.task, r.model, r.guidance, r.forwards_per_image, r.n) for r in overall(summary.rows)]
    expected = [("base", 2.0, 4), ("base", 1.0, 2), ("same", 2.0, 4), ("same", 1.0, 2), ("run", 2.0, 4), ("student", 1.0, 2)]
    assert rows == [(task, model, scale, cost, 4) for task in ("t2i", "edit") for model, scale, cost in expected]
    pairs = [(e.pair[0], e.guidance, e.against_guidance) for e in overall(summary.elo) if (e.task, e.by) == ("edit", "judges")]
    assert pairs == [
        ("same", 2.0, None),
        ("same", 1.0, None),
        ("same", 1.0, 2.0),
        ("run", 2.0, None),
        ("student", 1.0, None),
        ("student", 1.0, 2.0),
    ]
    assert not summary.warning and not any("on top" in note for note in summary.notes)
    assert repr(read_summary(folder / "summary.json")) == repr(summary)
    assert {"report.html", "wall-t2i.png", "wall-edit.png", "evaluation.yaml"} <= {path.name for path in folder.iterdir()}
    assert "Elo from paired verdicts" in (folder / "report.html").read_text()


def test_the_same_weights_draw_the_same_pictures_and_others_do_not(whole):
    folder, summary = whole
    files = {path.name: sorted(path.glob("*.npy")) for path in (folder / "pictures").iterdir()}
    read = {name: np.concatenate([np.load(file) for file in found]) for name, found in files.items()}
    assert read["base-guidance-2"].shape == (8, 64, 64, 3)
    np.testing.assert_array_equal(read["base-guidance-2"], read["same-guidance-2"])
    different = [read[name] for name in ("base-guidance-2", "base-guidance-1", "run-guidance-2", "student-guidance-1")]
    for place, pictures in enumerate(different):
        assert all((pictures != other).any((1, 2, 3)).all() for other in different[:place])
    same = [d for d in summary.score_differences if d.pair == ("same", "base") and d.against_guidance is None]
    assert same and all(d.difference == 0 for d in same)


def test_interrupted_it_goes_on_and_ends_at_the_same_numbers(config, whole, tmp_path, monkeypatch):
    done, draw = [], drawn_module.draw

    def counted(adapter, embeddings, prompts, drawing, dies_after=None):
        if dies_after is not None and len(done) == dies_after:
            raise KeyboardInterrupt
        done.append([prompt.id for prompt in prompts])
        return draw(adapter, embeddings, prompts, drawing)

    monkeypatch.setattr(drawn_module, "draw", lambda *given: counted(*given, dies_after=7))
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, folder=tmp_path)
    assert len(done) == 7 and not (tmp_path / "summary.json").exists()
    monkeypatch.setattr(drawn_module, "draw", counted)
    summary = evaluate(config, folder=tmp_path)
    assert len(done) == 6 * 3  # six sides of three batches, each drawn once
    assert repr(replace(summary, wall_seconds=0)) == repr(replace(whole[1], wall_seconds=0))


@pytest.mark.parametrize("death", [KeyboardInterrupt(), ServiceFailed("the judge is gone")])
def test_interrupted_among_the_answers_it_tells_what_it_has_and_pays_for_none_twice(
    config, whole, tmp_path, monkeypatch, death
):
    asked, score = [], Composite.score

    def dies(composite, images, prompts):
        if len(asked) >= 11:
            raise death
        asked.extend(prompt.id for prompt in prompts)
        return score(composite, images, prompts)

    monkeypatch.setattr(judged_module, "AT_ONCE", 1)
    monkeypatch.setattr(Composite, "score", dies)
    with pytest.raises(type(death)):
        evaluate(config, folder=tmp_path)
    partial = read_summary(tmp_path / "summary.json")
    assert partial.warning.startswith("incomplete, n=11: ") and "11 of 48 pictures" in partial.warning
    assert sum(row.n for row in overall(partial.scores) if row.reward == "quality") == 11
    assert "incomplete, n=11" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(Composite, "score", lambda *given: asked.extend(p.id for p in given[2]) or score(*given))
    summary = evaluate(config, folder=tmp_path)
    assert len(asked) == 48, "each picture once"
    assert repr(replace(summary, wall_seconds=0)) == repr(replace(whole[1], wall_seconds=0))


def test_a_partial_report_that_fails_does_not_hide_what_ended_the_evaluation(config, tmp_path, monkeypatch):
    def dies(*given):
        raise ServiceFailed("the judge is gone")

    def fails(*given):
        raise OSError("no space left")

    monkeypatch.setattr(Composite, "score", dies)
    monkeypatch.setattr(evaluating, "_tell", fails)
    with pytest.raises(ServiceFailed, match="the judge is gone"):
        evaluate(config, folder=tmp_path)


def test_a_model_that_is_added_draws_only_its_own(config, whole, made, monkeypatch):
    folder, before = whole
    opened = []
    original = evaluating._opened
    monkeypatch.setattr(
        evaluating, "_opened", lambda contest, one, *rest: opened.append(one.name) or original(contest, one, *rest)
    )
    models = [model.model_dump(mode="json") for model in parse(config.read_text(), EvaluateConfig).models]
    models[3] |= {"name": "forced", "guidance": [1.5]}
    result = CliRunner().invoke(
        cli.app, ["evaluate", str(config), "-o", f"models={json.dumps(models)}", "--folder", str(folder)]
    )
    assert result.exit_code == 0, result.output
    assert opened == ["forced"]
    lines = [line for line in result.output.splitlines() if line.startswith("warning:")]
    assert len(lines) == 1 and "forced has guidance inside" in lines[0] and "guidance 1.5 on top" in lines[0]
    after = read_summary(folder / "summary.json")
    assert any("on top" in note for note in after.notes)
    kept = [row for row in before.rows if row.model != "student"]
    assert repr([row for row in after.rows if row.model != "forced"]) == repr(kept)
    assert [r.forwards_per_image for r in overall(after.rows) if r.model == "forced"] == [4, 4]


def test_the_lora_that_a_run_leaves_says_that_guidance_is_inside(made, tmp_path):
    """As its export does: neither is guided unless asked for, and guidance on top is warned of."""
    config = tiny_config(made / "base", policy={"kind": "lora", "rank": 2}, rollout={"guidance": 1.0})
    adapter = load(made / "base", device="cpu", dtype=torch.float32)
    policy_parameters(adapter, "lora", rank=2)
    lora = export_policy(config, adapter, tmp_path / "run")
    assert {path.name for path in lora.iterdir()} == {"pytorch_lora_weights.safetensors", RECORD}
    models = [
        {"name": "base", "path": str(made / "base")},
        {"name": "lora", "path": str(lora), "base": str(made / "base")},
        {"name": "forced", "path": str(lora), "base": str(made / "base"), "guidance": [2.0]},
    ]
    values = {"name": "x", "prompts": "miniature", "most": 4, "guidance": [2.0, 1.0], "models": models}
    contest = prepare(parse(json.dumps(values), EvaluateConfig), tmp_path, tmp_path / "out")
    assert [one.guidance for one in contest.entrants] == [(2.0, 1.0), (1.0,), (2.0,)]
    (warning,) = contest.warnings
    assert "forced has guidance inside" in warning


def test_in_another_precision_all_is_drawn_anew(made, tmp_path, monkeypatch):
    drawn, draw = [], drawn_module.draw
    monkeypatch.setattr(drawn_module, "draw", lambda adapter, *rest: drawn.append(adapter.dtype) or draw(adapter, *rest))
    path = tmp_path / "one.yaml"
    text = COMPARE.format(made)
    path.write_text(text[: text.index("- {name: same")] + text[text.index("rewards:") :])
    for precision in ("bf16", "fp32", "bf16"):
        evaluate(path, overrides=["most=1", "tasks=[t2i]", f"precision={precision}"], folder=tmp_path / "out")
    assert drawn == [torch.bfloat16] * 2 + [torch.float32] * 2  # two guidance scales each


def test_missing_scores_are_counted_and_said(config, tmp_path, monkeypatch):
    """The built-in judge reads the prompt's truth; without it there is no score."""
    held_out = task.held_out_prompts
    monkeypatch.setattr(
        task, "held_out_prompts", lambda count: [replace(p, truth=None) if n == 1 else p for n, p in enumerate(held_out(count))]
    )
    monkeypatch.setattr(evaluating, "truths", lambda pictures, prompts, pool: {"verdict": np.full(len(prompts), np.nan)})
    few = ["tasks=[t2i]", "guidance=[1.0]"]
    summary = evaluate(config, overrides=[*few, "missing_budget=0.25"], folder=tmp_path)
    scores = [(row.model, row.n, row.missing) for row in overall(summary.scores)]
    assert scores == [(name, 3, 1) for name in ("base", "same", "run", "student")]
    assert summary.warning.startswith("incomplete: 4 scores are missing")
    assert all(row.n == 0 and row.missing == 4 for row in overall(summary.rows))
    assert all((e.n, e.missing) == (3, 1) for e in overall(summary.elo) if e.by == "judges")
    with pytest.raises(ServiceFailed, match=r"4 of 16 scores are missing, more than the 5% allowed \(missing_budget\)"):
        evaluate(config, overrides=few, folder=tmp_path)
    assert overall(read_summary(tmp_path / "summary.json").scores) == overall(summary.scores), "what there is, is told"


def test_all_mistakes_are_listed_at_once(made, tmp_path):
    def config(**changes):
        models = [
            {"name": "base", "path": str(made / "nowhere")},
            {"name": "lora", "path": str(made / "student")},
            {"name": "run", "path": str(made / "run"), "step": 9},
            {"name": "pipe", "path": str(made / "base"), "base": "miniature", "live": True},
        ]
        values = {"name": "bad", "prompts": "none.jsonl", "models": models, "rewards": [{"name": "beauty"}], **changes}
        return parse(json.dumps(values), EvaluateConfig)

    with pytest.raises(UserMistake) as caught:
        prepare(config(), tmp_path, made / "run")
    lines = str(caught.value).splitlines()
    for words in (
        "holds a run of training",
        "models.0: ",
        "models.1: ",
        "models.2: ",
        "live means nothing",
        "needs no base",
        "no such file",
        "'beauty' is not built in",
    ):
        assert sum(words in line for line in lines) == 1, (words, lines)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rewards": []}, "no reward is listed"),
        ({"against": ["bse"]}, "did you mean `base`"),
        ({"guidance": [2.0, 2.0]}, "listed twice"),
        ({"models": [{"name": "base", "path": "a"}, {"name": "base", "path": "b"}]}, "names 2 models"),
        ({"rewards": [{"name": "quality", "weight": 0.5}]}, "add up to 1"),
    ],
)
def test_rules_between_settings(changes, says):
    values = {"name": "x", "prompts": "p.jsonl", "models": [{"name": "base", "path": "a"}], "rewards": [{"name": "quality"}]}
    with pytest.raises(UserMistake, match=says):
        parse(json.dumps(values | changes), EvaluateConfig)


def test_the_wall_shows_every_source_of_an_edit(tmp_path):
    """Of prompts with one and with two: the second column has a gap where there is no second one."""
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), 80 * number, np.uint8)).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    prompts = (Prompt("a", "as one", "x", "edit", (paths[0],)), Prompt("b", "as two", "x", "edit", (paths[1], paths[2])))
    drawn = SimpleNamespace(pictures=lambda places: [np.zeros((8, 8, 3), np.uint8) for _ in places])
    contest = SimpleNamespace(prompts=prompts)
    wall = wall_of(contest, [Side("base", 1.0, 2)], {("base", 1.0): drawn}, "edit")
    assert wall.titles == ("source 1", "source 2", Side("base", 1.0, 2).title)
    assert [[p.image is None for p in case.pictures] for case in wall.cases] == [[False, True, False], [False, False, False]]
    assert [int(np.asarray(p.image).max()) for p in wall.cases[1].pictures] == [80, 160, 0]
    draw_wall(wall)
    single = wall_of(SimpleNamespace(prompts=prompts[:1]), [Side("base", 1.0, 2)], {("base", 1.0): drawn}, "edit")
    assert single.titles[0] == "source"


def test_the_shift_of_pictures_is_measured_over_all_kinds():
    """The first so many prompts alone would be of one task."""
    prompts = [Prompt(f"t{n}", "x", "a") for n in range(50)] + [Prompt(f"e{n}", "x", "b", "edit", ("s",)) for n in range(50)]
    chosen = evaluating._of_all_kinds(range(100), prompts, 10)
    assert sorted(prompts[place].task for place in chosen) == ["edit"] * 5 + ["t2i"] * 5
