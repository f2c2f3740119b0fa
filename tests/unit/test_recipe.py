"""The graph of a recipe, with stages that write plain files: what runs, what does not, and what is said of mistakes."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import Field
from rich.console import Console

from tastemaker import recipe as engine
from tastemaker.config import Settings
from tastemaker.config.recipe import merged, parse_recipe
from tastemaker.config.settings import FREE
from tastemaker.errors import Corrupt, Stopped, UserMistake
from tastemaker.recipe import Job, Kind, Recipe, open_recipe, outlook, run
from tastemaker.runtime.estimate import num_parameters


class Budget(Settings):
    max_steps: int = Field(default=1, json_schema_extra=FREE)
    max_minutes: float | None = Field(default=None, json_schema_extra=FREE)


class WriteConfig(Settings):
    name: str
    text: str = "a"
    source: str | None = None
    checkpoint: dict[str, int] = Field(default={}, json_schema_extra=FREE)
    budget: Budget = Budget()


CALLS: list[str] = []
STOP_AT: list[str] = []


def write(job: Job) -> None:
    CALLS.append(job.name)
    half = job.folder / "half.txt"
    half.write_text("half")
    if job.name in STOP_AT:
        raise Stopped("stopped")
    before = Path(job.config.source).read_text() if job.config.source else ""
    (job.folder / "out.txt").write_text(before + job.config.text)


def outside(job: Job) -> dict[str, Path]:
    given = job.config.source
    return {"source": Path(given)} if given and not str(given).startswith(str(job.folder.parent)) else {}


KINDS = {"write": Kind(WriteConfig, write, lambda config: ("out.txt",), outside)}
CHAIN = """\
name: chain
stages:
  first: {kind: write, text: one}
  second: {kind: write, text: two, source: "stage:first/out.txt"}
  aside: {kind: write, text: apart}
  third: {like: second, text: three, source: "stage:second/out.txt"}
"""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()
    STOP_AT.clear()


def opened(tmp_path: Path, text: str = CHAIN, kinds: dict[str, Kind] = KINDS, allow: tuple[str, ...] = ()) -> Recipe:
    return open_recipe(parse_recipe(text, kinds, "r.yaml"), kinds, tmp_path / "runs", tmp_path, Console(quiet=True), allow)


def left(tmp_path: Path, stage: str) -> str:
    return (tmp_path / "runs" / stage / "out.txt").read_text()


def test_runs_each_stage_once_in_order(tmp_path: Path) -> None:
    run(opened(tmp_path))
    assert CALLS == ["first", "second", "aside", "third"]
    assert left(tmp_path, "third") == "onetwothree"
    run(opened(tmp_path))
    assert len(CALLS) == 4
    assert [look.why for look in outlook(opened(tmp_path))] == [""] * 4


def test_a_changed_setting_reruns_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    run(opened(tmp_path))
    CALLS.clear()
    changed = opened(tmp_path, CHAIN.replace("text: two", "text: TWO"))
    why = {look.stage.name: look.why for look in outlook(changed)}
    assert why["first"] == why["aside"] == ""
    assert "two -> TWO" in why["second"] and "second" in why["third"]
    run(changed)
    assert CALLS == ["second", "third"]
    assert left(tmp_path, "third") == "oneTWOthree"
    assert (tmp_path / "runs" / "second.1" / "out.txt").read_text() == "onetwo"  # kept


def test_what_is_named_by_all_that_decides_it_is_carried_on(tmp_path: Path) -> None:
    """Once finished and once interrupted; the rest of what was made before stays with it."""

    def keep(job: Job) -> None:
        pictures = job.folder / "out" / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        found.append(sorted(path.name for path in pictures.iterdir()))
        (pictures / job.config.text).write_text("")
        write(job)

    found: list[list[str]] = []
    kinds = {"keep": replace(KINDS["write"], run=keep, carries=("out/pictures",))}
    for text in ("one", "two", "three"):
        STOP_AT[:] = ["only"] if text == "two" else []
        recipe = opened(tmp_path, f"name: r\nstages:\n  only: {{kind: keep, text: {text}}}\n", kinds)
        with nullcontext() if text != "two" else pytest.raises(Stopped):
            run(recipe)
    assert found == [[], ["one"], ["one", "two"]]
    aside = tmp_path / "runs" / "only.1"
    assert (aside / "out.txt").read_text() == "one" and not (aside / "out" / "pictures").exists()


def test_a_rerun_that_leaves_the_same_bytes_reruns_nothing_after_it(tmp_path: Path) -> None:
    run(opened(tmp_path))
    CALLS.clear()
    (tmp_path / "runs" / "first" / "out.txt").unlink()
    run(opened(tmp_path))
    assert CALLS == ["first"]


def test_settings_that_change_no_output_rerun_nothing(tmp_path: Path) -> None:
    run(opened(tmp_path))
    idle = CHAIN.replace("text: one}", "text: one, checkpoint: {every: 3}}")
    assert {look.why for look in outlook(opened(tmp_path, idle))} == {""}


def test_what_may_change_on_resuming_lets_a_stage_go_on(tmp_path: Path) -> None:
    STOP_AT.append("first")
    with pytest.raises(Stopped):
        run(opened(tmp_path))
    STOP_AT.clear()
    longer = CHAIN.replace("text: one}", "text: one, budget: {max_steps: 9}}")
    for text, steps in ((longer, "1 -> 9"), (longer.replace("9", "12"), "9 -> 12")):  # interrupted, then finished
        look = outlook(opened(tmp_path, text))[0]
        assert look.goes_on and steps in look.why and "goes on" in look.why
        run(opened(tmp_path, text))
        assert outlook(opened(tmp_path, text))[0].why == ""
    assert CALLS.count("first") == 3 and not (tmp_path / "runs" / "first.1").exists()
    assert CALLS.count("second") == 1  # it left the same bytes
    minutes = longer.replace("{max_steps: 9}", "{max_steps: 12, max_minutes: 5}")
    assert outlook(opened(tmp_path, minutes))[0].why == ""
    both = longer.replace("text: one", "text: 1st")
    assert not outlook(opened(tmp_path, both))[0].goes_on


def test_a_budget_that_what_is_there_does_not_fit_begins_anew(tmp_path: Path) -> None:
    asked: list[str] = []
    kinds = {"write": replace(KINDS["write"], extends=lambda job: bool(asked.append(job.name)))}
    run(opened(tmp_path, kinds=kinds))
    shorter = CHAIN.replace("text: one}", "text: one, budget: {max_steps: 9}}")
    run(opened(tmp_path, shorter, kinds))
    assert set(asked) == {"first"} and (tmp_path / "runs" / "first.1").exists()


def test_what_is_allowed_by_name_lets_a_stage_go_on(tmp_path: Path) -> None:
    given = tmp_path / "given.txt"
    given.write_text("x")
    text = f'name: r\nstages:\n  a: {{kind: write, source: "{given}"}}\n'
    run(opened(tmp_path, text))
    given.write_text("y")
    other = text.replace("source", "text: b, source")
    assert not outlook(opened(tmp_path, other, allow=("text",)))[0].goes_on
    allowed = opened(tmp_path, other, allow=("text", "source"))
    assert outlook(allowed)[0].goes_on and allowed.job(allowed.stages[0]).allow == ("text", "source")
    run(allowed)
    assert left(tmp_path, "a") == "yb" and not (tmp_path / "runs" / "a.1").exists()
    assert outlook(opened(tmp_path, other))[0].why == ""  # said once


def test_what_is_added_to_a_finished_stage_reruns_nothing(tmp_path: Path) -> None:
    def fill(job: Job) -> None:
        CALLS.append(job.name)
        (job.folder / "run" / "weights").mkdir(parents=True)
        (job.folder / "run" / "weights" / "one").write_text("1")
        (job.folder / "run" / "lock").write_text("me")
        (job.folder / "run" / "log").write_text("a line")

    kinds = {
        **KINDS,
        "fill": Kind(WriteConfig, fill, lambda config: ("run",), results=lambda job: ["run/weights"]),
    }
    text = (
        "name: r\nstages:\n  a: {kind: fill}\n"
        '  b: {kind: fill, source: "stage:a/run"}\n  c: {kind: fill, source: "stage:a/run/log"}\n'
    )
    run(opened(tmp_path, text, kinds))
    folder = tmp_path / "runs" / "a" / "run"
    for name in ("lock", "new", "weights/.hidden", "weights/new"):
        (folder / name).write_text("another")
    assert [look.why for look in outlook(opened(tmp_path, text, kinds))] == [""] * 3
    (folder / "log").write_text("no part of the result, but what c reads")
    assert [bool(look.why) for look in outlook(opened(tmp_path, text, kinds))] == [False, False, True]
    (folder / "weights" / "one").write_text("2")
    assert "run/weights/one" in outlook(opened(tmp_path, text, kinds))[0].why
    (folder / "weights" / "one").unlink()
    assert "run/weights/one" in outlook(opened(tmp_path, text, kinds))[0].why


def test_the_mistakes_of_all_stages_are_told_before_the_first_one_runs(tmp_path: Path) -> None:
    def given(job: Job) -> None:
        if job.config.source and not job.awaits(Path(job.config.source)) and not Path(job.config.source).exists():
            raise UserMistake(f"source: {job.config.source} is not there\nsource: neither is another")

    kinds = {"write": replace(KINDS["write"], check=given)}
    text = CHAIN.replace("kind: write, text: apart", "kind: write, source: nowhere.txt") + (
        "  fourth: {kind: write, source: missing.txt}\n"
    )
    with pytest.raises(UserMistake) as caught:
        run(opened(tmp_path, text, kinds))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["stages.aside"] * 2 + ["stages.fourth"] * 2
    assert CALLS == [] and not (tmp_path / "runs" / "first").exists()
    run(opened(tmp_path, text, kinds), "first")  # alone it has none
    assert CALLS == ["first"]


def test_an_input_outside_of_the_recipe_counts_by_its_bytes(tmp_path: Path) -> None:
    given = tmp_path / "given.txt"
    given.write_text("x")
    text = f'name: r\nstages:\n  a: {{kind: write, source: "{given}"}}\n'
    run(opened(tmp_path, text))
    given.write_text("x")  # another time, the same bytes
    assert outlook(opened(tmp_path, text))[0].why == ""
    given.write_text("y")
    assert outlook(opened(tmp_path, text))[0].why == "changed: source has other content"
    run(opened(tmp_path, text))
    assert left(tmp_path, "a") == "ya"


def test_stopped_and_run_again_equals_uninterrupted(tmp_path: Path) -> None:
    run(opened(tmp_path / "whole"))
    CALLS.clear()
    STOP_AT.append("second")
    with pytest.raises(Stopped):
        run(opened(tmp_path))
    look = outlook(opened(tmp_path))[1]
    assert look.goes_on and "interrupted" in look.why
    STOP_AT.clear()
    run(opened(tmp_path))
    assert CALLS == ["first", "second", "second", "aside", "third"]
    assert not (tmp_path / "runs" / "second.1").exists()  # it went on in its own folder
    for stage in ("first", "second", "aside", "third"):
        whole = tmp_path / "whole" / "runs" / stage
        ours, theirs = (json.loads((f / "stage.json").read_text()) for f in (tmp_path / "runs" / stage, whole))
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
        assert left(tmp_path, stage) == (whole / "out.txt").read_text()


def test_an_interrupted_stage_with_other_settings_begins_anew(tmp_path: Path) -> None:
    STOP_AT.append("first")
    with pytest.raises(Stopped):
        run(opened(tmp_path))
    STOP_AT.clear()
    run(opened(tmp_path, CHAIN.replace("text: one", "text: 1st")))
    assert left(tmp_path, "first") == "1st"
    assert (tmp_path / "runs" / "first.1" / "half.txt").exists()


def test_one_stage_alone_wants_what_it_needs_to_be_finished(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="first: not run yet"):
        run(opened(tmp_path), "second")
    run(opened(tmp_path), "first")
    run(opened(tmp_path), "second")
    assert CALLS == ["first", "second"]
    with pytest.raises(UserMistake, match="did you mean `third`"):
        run(opened(tmp_path), "thrid")


def test_a_recipe_may_move(tmp_path: Path) -> None:
    run(opened(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert {look.why for look in outlook(opened(tmp_path / "there"))} == {""}


def test_a_stage_without_its_outputs_is_not_finished(tmp_path: Path) -> None:
    kinds = {"write": Kind(WriteConfig, lambda job: None, lambda config: ("out.txt",))}
    text = parse_recipe("name: r\nstages: {a: {kind: write}}", kinds)
    with pytest.raises(Corrupt, match=r"ended without out\.txt"):
        run(open_recipe(text, kinds, tmp_path, tmp_path, Console(quiet=True)))
    assert json.loads((tmp_path / "a" / "stage.json").read_text())["state"] == "begun"


def test_a_spoilt_record_is_named(tmp_path: Path) -> None:
    run(opened(tmp_path))
    (tmp_path / "runs" / "first" / "stage.json").write_text("{")
    with pytest.raises(Corrupt, match=r"stage\.json"):
        run(opened(tmp_path))


def test_two_do_not_run_one_recipe(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    lock = engine.Lock(tmp_path / "runs" / "lock")
    with pytest.raises(UserMistake):
        run(opened(tmp_path))
    lock.release()


def test_all_mistakes_of_all_stages_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """\
name: r
stages:
  a: {kind: write, txt: 1}
  b:
    kind: write
    text: 5
  c: {like: a, source: "stage:a/other.txt"}
"""
    with pytest.raises(UserMistake) as caught:
        opened(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert any(line.startswith("r.yaml:3 stages.a.txt: 1, unknown key, did you mean `text`?") for line in lines)
    assert any(line.startswith("r.yaml:6 stages.b.text: 5, must be text") for line in lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: r", "stages: missing"),
        ("name: two words\nstages: {a: {kind: write}}", "name: missing or not one word"),
        ("name: r\nstage: {}\nstages: {a: {kind: write}}", "did you mean `stages`?"),
        ("name: r\nstages: {a: {kind: wriet}}", "did you mean `write`?"),
        ("name: r\nstages: {a: {text: x}}", "kind: missing"),
        ("name: r\nstages: {a: 5}", "must be a group"),
        ("name: r\nstages: {a/b: {kind: write}}", "a stage's name is its folder's"),
        ("name: r\nstages: {embeddings: {kind: write}}", "choose another name"),
        ('name: r\nstages: {a: {kind: write, source: "stage:b/out.txt"}, b: {kind: write}}', "names no stage above"),
        ('name: r\nstages: {a: {kind: write}, b: {kind: write, source: "stage:a/../x"}}', "leaves the stage's folder"),
        ("name: r\nstages: {a: {like: b}, b: {kind: write}}", "no stage above"),
        ("name: r\nstages: {a: {kind: write}, a: {kind: write}}", "set twice"),
        (
            "name: r\nstages: {a: {kind: write, checkpoint: {}}, b: {kind: write, like: a/chekpoint}}",
            "did you mean `checkpoint`",
        ),
        ("name: r\nstages: {a: {kind: write, checkpoint: {}}, b: {like: a/checkpoint}}", "kind: missing"),
        ("name: r\nstages: {a: {kind: write, text: x}, b: {kind: write, text: {like: aa}}}", "'aa' is no stage above"),
        ("name: r\nstages: {a: {kind: write, text: x}, b: {kind: write, txt: {like: a}}}", "a states no txt"),
        ("name: r\nstages: {a: {kind: write, text: x}, b: {kind: write, text: {like: a, y: 1}}}", "write nothing beside"),
    ],
)
def test_mistakes_of_the_file(text: str, told: str) -> None:
    with pytest.raises(UserMistake) as caught:
        parse_recipe(text, KINDS)
    assert told in str(caught.value)


def test_a_reference_to_what_a_stage_does_not_leave(tmp_path: Path) -> None:
    text = 'name: r\nstages:\n  a: {kind: write}\n  b:\n    kind: write\n    source: "stage:a/nothing.txt"\n'
    with pytest.raises(UserMistake, match=r"r\.yaml:6 stages\.b\.source: .* is not what a leaves, which is stage:a/out\.txt"):
        opened(tmp_path, text)


def test_like_merges_groups_and_replaces_variants_and_lists() -> None:
    base = {"a": {"x": 1, "y": 2}, "algorithm": {"name": "nft", "points": 2}, "rows": [1, 2]}
    changes = {"a": {"y": 3}, "algorithm": {"name": "grpo"}, "rows": [5]}
    assert merged(base, changes) == {"a": {"x": 1, "y": 3}, "algorithm": {"name": "grpo"}, "rows": [5]}
    assert merged(base, {"algorithm": {"points": 4}})["algorithm"] == {"name": "nft", "points": 4}
    assert merged(base, {"a": None}) == {name: value for name, value in base.items() if name != "a"}


def test_like_takes_a_group_of_a_stage_of_another_kind() -> None:
    text = "name: r\nstages:\n  a: {kind: one, inner: {x: 1, y: 2}}\n  b: {kind: two, like: a/inner, y: 3}\n"
    found = parse_recipe(text, {"one": 0, "two": 0}).stages[1]
    assert (found.kind, found.settings, found.like) == ("two", {"x": 1, "y": 3}, "a/inner")


def test_one_setting_is_taken_from_a_stage_of_another_kind() -> None:
    text = """
name: r
stages:
  a: {kind: one, rows: [{n: 1}, {n: 2}], inner: {x: 1, y: 2}}
  b: {kind: two, rows: {like: a}, inner: {like: a, y: 3}}
  c: {like: b, inner: {like: a}}
"""
    _, second, third = parse_recipe(text, {"one": 0, "two": 0}).stages
    assert second.settings == {"rows": [{"n": 1}, {"n": 2}], "inner": {"x": 1, "y": 3}} and second.kind == "two"
    assert third.settings["inner"] == {"x": 1, "y": 2}


def test_parameters_are_counted_without_opening_a_model(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "one.safetensors", metadata={"format": "pt"})
    save_file({"c": torch.zeros(2, 2, 2)}, tmp_path / "two.safetensors")
    assert num_parameters(tmp_path) == 12 + 5 + 8
    (tmp_path / "three.safetensors").write_bytes(b"no")
    with pytest.raises(Corrupt, match=r"three\.safetensors"):
        num_parameters(tmp_path)


class Shared(Settings):
    seed: int = 0
    threads: int | None = None
    inner: WriteConfig | None = None


class Grouped(Settings):
    training: Shared = Shared()


def test_a_recipes_seed_is_that_of_every_stage_that_has_one_and_states_none(tmp_path: Path) -> None:
    kinds = {
        "seeded": Kind(Shared, write, lambda config: ()),
        "grouped": Kind(Grouped, write, lambda config: ()),
        "write": KINDS["write"],
    }
    text = (
        "name: r\nseed: 5\nthreads: 2\nstages:\n  a: {kind: seeded}\n  b: {kind: seeded, seed: 1}\n"
        "  c: {kind: grouped, training: {seed: 3}}\n  d: {kind: write}\n  e: {like: a}\n"
    )
    recipe = open_recipe(parse_recipe(text, kinds), kinds, tmp_path, tmp_path, Console(quiet=True))
    found = {stage.name: stage.config for stage in recipe.stages}
    assert [(found[name].seed, found[name].threads) for name in "abe"] == [(5, 2), (1, 2), (5, 2)]
    assert (found["c"].training.seed, found["c"].training.threads) == (3, 2)
    assert not hasattr(found["d"], "seed")


def test_overrides_win_over_the_file_and_reach_those_that_are_like_it() -> None:
    text = parse_recipe(CHAIN, KINDS, overrides=["stages.second.text=2", "seed=4"])
    assert [stage.settings["text"] for stage in text.stages] == ["one", 2, "apart", "three"]
    assert text.shared == {"seed": 4}
    liked = parse_recipe(CHAIN.replace(", text: three", ""), KINDS, overrides=["stages.second.text=2"])
    assert liked.stages[3].settings["text"] == 2
    with pytest.raises(UserMistake, match="not of the form key=value"):
        parse_recipe(CHAIN, KINDS, overrides=["stages.second"])


def test_a_job_knows_the_stages_above_it(tmp_path: Path) -> None:
    recipe = opened(tmp_path)
    assert [recipe.job(stage).above for stage in recipe.stages] == [
        (),
        ("first",),
        ("first", "second"),
        ("first", "second", "aside"),
    ]
