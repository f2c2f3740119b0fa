"""From the names in a config to what they stand for."""

import inspect
import io
import json
import re
import sys
import tomllib
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from tastemaker.commands.checks import check_distillation, check_training
from tastemaker.commands.curate import curate
from tastemaker.commands.distill import distill
from tastemaker.commands.stages.kinds import KINDS
from tastemaker.commands.train import monitor_plan, tell_shapes, train
from tastemaker.config import (
    ArcFaceIdentityConfig,
    FaceIdentityConfig,
    ReadOutChanges,
    ReadOutConfig,
    ServerJudgeConfig,
    TextRenderingConfig,
    TrainConfig,
    check_judges,
    load,
    parse,
)
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.config.judges import shipped_rubrics
from tastemaker.config.stages import CurateStage
from tastemaker.data.prompts import write_prompts
from tastemaker.errors import UserMistake
from tastemaker.named import judges
from tastemaker.named import prompts as named_prompts
from tastemaker.named.inputs import check_categories, check_edit_share, check_held_out, not_square
from tastemaker.named.judges import check_rewards, opened_rewards, remote_judge
from tastemaker.named.prompts import MINIATURE_PROMPTS, prompts_of
from tastemaker.recipe import Job
from tastemaker.rewards import extras, schema
from tastemaker.rewards.faces_arcface import ArcFaceEmbedder
from tastemaker.rewards.faces_dlib import DlibFaces
from tastemaker.rewards.identity import FaceIdentityReward
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.reward import fingerprints
from tastemaker.rewards.rubrics import shipped
from tastemaker.rewards.service import Limits
from tastemaker.rewards.text_rendering import RapidOcrReader, TextRenderingReward
from tastemaker.training.distill_start import check_routes
from tastemaker.types import Prompt

ROOT = Path(__file__).parents[2]

CONFIG = """\
name: first
model: miniature
data: {prompts: miniature}
rewards:
- {name: facts, weight: 1, gates: [{reward: quality, below: 0.5, cap: 0.5, categories: [landscapes, general]}]}
- {name: quality, weight: 0}
categories:
  portrait: {facts: 1}
  typografy: {facts: 0.5, quality: 0.5}
  cats: {quality: 1}
"""


def prompts(*categories):
    return [Prompt(str(n), "x", category) for n, category in enumerate(categories)]


def test_categories_that_look_misspelt_are_all_refused_at_once():
    config = parse(CONFIG, TrainConfig)
    with pytest.raises(UserMistake) as caught:
        check_categories(config, prompts("portrait", "typography", "landscape", "general"))
    assert str(caught.value).splitlines() == [
        "categories.typografy: 'typografy' is the category of no prompt, did you mean `typography`?",
        "rewards.0.gates.0.categories.0: 'landscapes' is the category of no prompt, did you mean `landscape`?",
    ]


def test_the_monitor_watches_what_the_config_says(tmp_path):
    """Held-out prompts where there are some; off by default; the truth of the miniature's own prompts."""
    console = Console()
    known = prompts("portrait", "typography", "landscape", "general")
    assert monitor_plan(parse(CONFIG, TrainConfig), tmp_path, known, console) is None
    text = CONFIG + "monitor: {every: 5, prompts: 4, samples: 3, seeds: 6, threshold: 3.5, stop: true}\n"
    plan = monitor_plan(parse(text, TrainConfig), tmp_path, known, console)
    assert not plan.truths  # these prompts state none
    known = [replace(prompt, truth={"description": {}}) for prompt in known]
    plan = monitor_plan(parse(text, TrainConfig), tmp_path, known, console)
    assert (plan.every, plan.samples, plan.seeds, plan.threshold, plan.stop) == (5, 3, 6, 3.5, True)
    assert [prompt.text for prompt in plan.prompts] == ["x"]  # the four say the same
    assert [truth.name for truth in plan.truths] == ["exact"]

    (tmp_path / "held-out.jsonl").write_text('{"id": "h1", "text": "a fox"}\n{"id": "h2", "text": "a hen"}\n')
    (tmp_path / "own.jsonl").write_text('{"id": "p1", "text": "a cat"}\n')
    text = text.replace("{prompts: miniature}", "{prompts: own.jsonl, held_out: held-out.jsonl}")
    plan = monitor_plan(parse(text, TrainConfig), tmp_path, known, console)
    assert sorted(prompt.text for prompt in plan.prompts) == ["a fox", "a hen"] and not plan.truths
    edits = [Prompt("e", "make it red", None, "edit", ("a.png",))]  # a list of both tasks, and a policy of one that it lacks
    assert [prompt.text for prompt in monitor_plan(parse(text, TrainConfig), tmp_path, edits, console).prompts] == [
        "make it red"
    ]


def rows(path, *prompts):
    write_prompts(path, prompts)
    return path


@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        ("QwenImagePipeline", "prompt 'e': qwen-image takes no source pictures"),
        ("QwenImageEditPlusPipeline", "prompt 'a' and 1 more: qwen-image-edit-plus needs source pictures"),
        ("QwenImage21Pipeline", None),
    ],
)
@pytest.mark.parametrize("command", ["train", "distill"])
def test_prompts_that_a_model_cannot_draw_are_told_before_it_is_loaded(tmp_path, pipeline, told, command):
    """Its index alone says which family it is; there is nothing else in the folder."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    source = (str(tmp_path / "a.png"),)
    rows(tmp_path / "p.jsonl", Prompt("a", "x"), Prompt("e", "make it red", "general", "edit", source), Prompt("b", "y"))
    text = "name: a\nmodel: model\ndata: {prompts: p.jsonl}\n"
    if command == "train":
        (tmp_path / "mine.py").write_text("def f(question):\n    return 0.5\n")
        text += "rewards: [{name: own, low: 0, high: 1, floor: 0.1, judge: {kind: python, path: mine.py, call: f}}]\n"
        look = partial(check_training, parse(text, TrainConfig), tmp_path)
    else:
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "pytorch_lora_weights.safetensors").touch()
        text += "teachers: [{name: t, weights: t, teaches: [t2i, edit]}]\n"
        look = partial(check_distillation, parse(text, DistillConfig), tmp_path)
    if told is None:
        assert [prompt.id for prompt in look()] == ["a", "e", "b"]
        return
    with pytest.raises(UserMistake) as mistake:
        look()
    assert str(mistake.value) == f"data.prompts: {told}; change the prompts or the model"


def test_what_is_held_out_is_not_trained_on(tmp_path):
    """By id, by text however it is written, and of edits by text and source: many pictures get the same instruction."""
    for name, pixels in (("a", b"1"), ("copy", b"1"), ("b", b"2")):
        (tmp_path / f"{name}.png").write_bytes(pixels)
    first, copy, second = (str(tmp_path / f"{name}.png") for name in ("a", "copy", "b"))

    def edit(name, source):
        return Prompt(name, "make it blue", "general", "edit", (source,))

    held_out = Prompt("h1", "A red  fox"), Prompt("h2", "a hen"), edit("h3", first)
    rows(tmp_path / "held-out.jsonl", *held_out)
    config = parse(CONFIG.replace("{prompts: miniature}", "{prompts: own.jsonl, held_out: held-out.jsonl}"), TrainConfig)
    check_held_out(config, tmp_path, [Prompt("p1", "a red cat"), edit("p2", second), Prompt("p3", "make it blue")])
    with pytest.raises(UserMistake) as caught:
        own = [Prompt("p0", "a dog"), Prompt("p1", "a red fox"), Prompt("h2", "a cow"), edit("p2", copy), edit("p3", first)]
        check_held_out(config, tmp_path, own)
    assert str(caught.value) == (
        "data.held_out: 4 of the prompts to train on are in held-out.jsonl too: 'h2' (id), 'p1' (text), 'p2' (text) and 1 "
        "more; what is held out is not trained on, remove or rename them in one of the files"
    )


@pytest.mark.parametrize("command", ["train", "distill", "curate"])
def test_what_is_held_out_is_refused_before_a_model_is_looked_for(tmp_path, command):
    for name in ("own", "held-out"):
        rows(tmp_path / f"{name}.jsonl", Prompt("p1", "a cat"))
    text = "name: first\nmodel: absent\ndata: {prompts: own.jsonl, held_out: held-out.jsonl}\n"
    if command == "distill":
        text += f"teachers: [{{name: t, weights: {tmp_path}, teaches: [t2i]}}]\n"
    else:
        text += "rewards: [{name: facts}]\n"
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserMistake, match=r"data\.held_out: 1 of the prompts .* 'p1' \(id\);"):
        {"train": train, "distill": distill, "curate": curate}[command](tmp_path / "run.yaml", folder=tmp_path / "run")


def test_a_category_that_only_these_prompts_lack_is_fine():
    check_categories(parse(CONFIG, TrainConfig), prompts("portrait", "general"))


def test_a_category_of_one_task_is_no_misspelling_of_the_others():
    text = CONFIG.replace("typografy", "edit/portrait").replace("landscapes, general", "edit, t2i")
    check_categories(parse(text, TrainConfig), prompts("portrait"))


def test_tasks_are_categories_too():
    mixed = [*prompts("portrait", "general"), Prompt("e", "x", "portrait", "edit", ("a.png",))]
    text = CONFIG.replace("typografy", "edit/portrat").replace("landscapes, general", "edits, edit/portrait, t2i")
    with pytest.raises(UserMistake) as caught:
        check_categories(parse(text, TrainConfig), mixed)
    assert str(caught.value).splitlines() == [
        "categories.edit/portrat: 'edit/portrat' is the category of no prompt, did you mean `edit/portrait`?",
        "rewards.0.gates.0.categories.0: 'edits' is the category of no prompt, did you mean `edit`?",
    ]


def test_a_share_of_edits_needs_both_tasks():
    config = parse(CONFIG, TrainConfig, ["data.edit_share=0.25"])
    edit = Prompt("e", "x", "portrait", "edit", ("a.png",))
    check_edit_share(config, [*prompts("general"), edit])
    with pytest.raises(UserMistake, match=r"data\.edit_share: 0\.25 .* all of miniature are text to image"):
        check_edit_share(config, prompts("general"))
    with pytest.raises(UserMistake, match=r"are edits"):
        check_edit_share(config, [edit])


def test_sources_that_are_clearly_not_square_are_told_in_one_line(tmp_path):
    for name, size in {"square": (64, 60), "wide": (96, 54), "tall": (60, 120)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")

    def edit(*names):
        return Prompt("-".join(names), "make it red", task="edit", sources=tuple(str(tmp_path / f"{n}.png") for n in names))

    assert not_square([Prompt("t", "a circle"), edit("square")], 64) is None
    line = not_square([edit("square"), edit("wide"), edit("square", "tall")], 512)
    assert line.startswith("2 of 3 edits have a source that is clearly not square ('square-tall': 2.00 to 1)")
    assert "512 x 512" in line and "\n" not in line
    out = io.StringIO()
    config = parse(CONFIG, TrainConfig)
    tell_shapes([edit("wide")], config, Console(file=out, width=60))
    assert out.getvalue().startswith("warning: 1 of 1 edits") and out.getvalue().count("\n") == 1


def test_the_words_for_the_miniatures_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr(
        named_prompts, "MINIATURE_PROMPTS", {name: (min(t, 3), min(e, 2)) for name, (t, e) in MINIATURE_PROMPTS.items()}
    )
    for name, tasks in (("miniature", "ttt"), ("miniature-edits", "ee"), ("miniature-mix", "tttee")):
        some = prompts_of(parse(CONFIG, TrainConfig, [f"data.prompts={name}"]), tmp_path, tmp_path / name)
        assert "".join(prompt.task[0] for prompt in some) == tasks
        assert all(Path(source).parent == tmp_path / name / "sources" for prompt in some for source in prompt.sources)
        assert len({prompt.id for prompt in some}) == len(some) and (tmp_path / name).exists() == ("e" in tasks)


def several(folder: Path, *names: str) -> TrainConfig:
    return parse(CONFIG, TrainConfig, [f"data.prompts=[{', '.join(names)}]"])


def test_several_lists_are_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setitem(named_prompts.MINIATURE_PROMPTS, "miniature-edits", (0, 3))
    (tmp_path / "b").mkdir()
    write_prompts(tmp_path / "a.jsonl", [Prompt("2", "x"), Prompt("1", "y")])
    write_prompts(tmp_path / "b" / "c.jsonl", [Prompt("3", "x"), Prompt("4", "z")])
    config = several(tmp_path, "b/c.jsonl", "a.jsonl", "miniature-edits")
    found = prompts_of(config, tmp_path, tmp_path / "run")
    assert [prompt.id for prompt in found[:4]] == ["3", "4", "2", "1"] and [p.task for p in found[4:]] == ["edit"] * 3
    first = config.model_copy(update={"data": config.data.model_copy(update={"most": 1})})
    assert [prompt.id for prompt in prompts_of(first, tmp_path, tmp_path / "run")] == ["3", found[4].id]  # of each task


def test_mistakes_of_several_lists_are_told_at_once(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "1"}\n')
    with pytest.raises(UserMistake) as told:
        prompts_of(several(tmp_path, "a.jsonl", "nowhere.jsonl"), tmp_path, None)
    first, second = str(told.value).splitlines()
    assert "a.jsonl:1: text: missing" in first and "nowhere.jsonl: there is no such file" in second


def test_one_id_in_two_lists_is_refused(tmp_path):
    write_prompts(tmp_path / "a.jsonl", [Prompt("1", "x"), Prompt("2", "y")])
    write_prompts(tmp_path / "b.jsonl", [Prompt("2", "z"), Prompt("1", "x")])
    with pytest.raises(UserMistake, match=r"^data\.prompts: id '2' and 1 more is in a\.jsonl and in b\.jsonl; "):
        prompts_of(several(tmp_path, "a.jsonl", "b.jsonl"), tmp_path, None)


def test_while_a_list_is_awaited_nothing_is_said_but_of_the_others(tmp_path):
    write_prompts(tmp_path / "a.jsonl", [Prompt("1", "x")])
    later = tmp_path / "later.jsonl"
    assert prompts_of(several(tmp_path, "a.jsonl", "later.jsonl"), tmp_path, None, awaits=lambda path: path == later) == []
    with pytest.raises(UserMistake, match=r"nowhere\.jsonl"):
        prompts_of(several(tmp_path, "nowhere.jsonl", "later.jsonl"), tmp_path, None, awaits=lambda path: path == later)


def test_a_list_named_twice_and_no_list_are_refused(tmp_path):
    with pytest.raises(UserMistake, match=r"data\.prompts: .*, 'a\.jsonl' is named 2 times"):
        several(tmp_path, "a.jsonl", "b.jsonl", "a.jsonl")
    with pytest.raises(UserMistake, match=r"data\.prompts"):
        several(tmp_path)
    with pytest.raises(UserMistake, match=r"data\.prompts"):
        several(tmp_path, "a.jsonl", "5")


def test_a_broken_source_is_told_with_its_line_before_a_model_is_loaded(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "p.jsonl").write_text('{"id": "1", "text": "x", "task": "edit", "sources": ["a.png"]}\n')
    with pytest.raises(UserMistake, match=r"p\.jsonl:1: sources: "):
        prompts_of(parse(CONFIG, TrainConfig, ["data.prompts=p.jsonl"]), tmp_path, tmp_path / "run")


CHAT = """\
name: first
model: miniature
data: {prompts: miniature}
rewards:
- {name: fakts, weight: 0.5}
- name: taste
  weight: 0.5
  low: 1
  high: 5
  judge: {kind: chat, url: "http://gpu:8000/v1", model: m, rubric: mine.v1.md, token_variable: TASTEMAKER_NO_SUCH_TOKEN}
"""


def test_all_mistakes_of_rewards_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("TASTEMAKER_NO_SUCH_TOKEN", raising=False)
    (tmp_path / "mine.v1.md").write_text("[[picture]]\n[[request]]\n")
    with pytest.raises(UserMistake) as caught:
        check_rewards(parse(CHAT, TrainConfig), tmp_path)
    assert str(caught.value).splitlines() == [
        "rewards.0.name: 'fakts' is not built in (there are edit_facts, facts, quality); give it a judge",
        "rewards.1.judge: the environment variable TASTEMAKER_NO_SUCH_TOKEN holds no token for http://gpu:8000/v1; set it",
        "rewards.1.judge.rubric: rubric mine.v1: [[answer]] is missing; see the shipped ones",
    ]


def test_a_chat_judge_is_what_its_settings_say(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_NO_SUCH_TOKEN", "a-token-of-the-tests")
    (tmp_path / "mine.v1.md").write_text("[[picture]]\n[[request]]\n[[answer]]\n")
    config = parse(CHAT, TrainConfig, ["rewards.1.judge.read_out={chain_of_thought: false}", "rewards.0.name=facts"])
    check_rewards(config, tmp_path)
    judge = remote_judge(config.rewards[1].judge, "taste", tmp_path, Limits(item=1, batch=2))
    assert (judge.name, judge.low, judge.high, judge.rubric.label) == ("taste", 1.0, 5.0, "mine.v1")
    assert judge.read_out == ReadOut(chain_of_thought=False) and judge.limits.batch == 2
    assert "a-token-of-the-tests" not in repr(judge)


SCORED = """\
name: first
model: miniature
data: {prompts: miniature}
rewards:
- {name: likeness, weight: 0.5, floor: 0.05, judge: {kind: face_identity, backend: dlib, lost: 0, detector_side: 512}}
- {name: portrait, weight: 0.25, floor: 0.06, judge: {kind: face_identity, backend: arcface, path: face.onnx, bgr: true}}
- {name: lettering, weight: 0.25, floor: 0.02, judge: {kind: text_rendering, field: words, extra_counts: false, threads: 2}}
"""


def test_a_scorer_without_its_extra_is_a_line_that_says_what_to_install(tmp_path, monkeypatch):
    for module in ("dlib", "onnxruntime", "rapidocr"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserMistake) as caught:
        check_rewards(parse(SCORED, TrainConfig), tmp_path)
    path, *absent = str(caught.value).splitlines()
    assert path.startswith("rewards.1.judge.path: there is no file")
    for line, key, extra in zip(absent, range(3), ("identity", "identity-onnx", "ocr"), strict=True):
        assert line.startswith(f"rewards.{key}.judge: ") and line.endswith(f"pip install 'tastemaker[{extra}]'")


def test_an_extra_that_is_installed_but_broken_is_blamed_on_its_reward(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise UserMistake("finding faces needs the package dlib (libX11.so.6: no such file)")

    monkeypatch.setattr(judges, "DlibFaces", broken)
    config = parse(SCORED, TrainConfig)
    with (
        pytest.raises(UserMistake, match=r"^rewards\.0\.judge: finding faces needs the package dlib"),
        opened_rewards(config, tmp_path, torch.device("cpu")),
    ):
        pass


class Recorded:
    """Stands for a class that needs an extra; keeps what it is made with."""

    def __init__(self, *arguments, **options):
        self.arguments, self.options = arguments, options


def test_scorers_are_what_their_settings_say(tmp_path, monkeypatch):
    for name in ("DlibFaces", "DlibEmbedder", "ArcFaceEmbedder", "RapidOcrReader"):
        monkeypatch.setattr(judges, name, type(name, (Recorded,), {}))
    with opened_rewards(parse(SCORED, TrainConfig), tmp_path, torch.device("cpu")) as rewards:
        likeness, portrait, lettering = rewards["likeness"], rewards["portrait"], rewards["lettering"]
    assert isinstance(likeness, FaceIdentityReward) and (likeness.name, likeness.floor, likeness.lost) == ("likeness", 0.05, 0)
    assert likeness.embedder.arguments[0].arguments == (512, 0.3)
    assert (portrait.floor, portrait.lost) == (0.06, 0)
    assert portrait.embedder.arguments[0] == tmp_path / "face.onnx"
    assert portrait.embedder.arguments[1].options == {"extra": "identity-onnx"}
    assert portrait.embedder.options == {"mean": 127.5, "std": 127.5, "bgr": True, "threads": 1}
    assert isinstance(lettering, TextRenderingReward) and (lettering.name, lettering.field) == ("lettering", "words")
    assert not lettering.extra_counts and lettering.ignore_case and lettering.reader.arguments == (0.5, 2)


def defaults(function):
    return {name: one.default for name, one in inspect.signature(function).parameters.items() if one.default is not one.empty}


def test_settings_of_scorers_have_their_defaults():
    faces = FaceIdentityConfig()
    assert {"side": faces.detector_side, "confidence": faces.detector_confidence, "extra": "identity"} == defaults(DlibFaces)
    assert faces.lost == defaults(FaceIdentityReward)["lost"]
    network = ArcFaceIdentityConfig(path="x").model_dump(include={"mean", "std", "bgr", "threads"})
    assert {"detector": None, **network} == defaults(ArcFaceEmbedder)
    text = TextRenderingConfig().model_dump(exclude={"kind"})
    assert {name: text.pop(name) for name in ("confidence", "threads")} == defaults(RapidOcrReader)
    assert text.items() <= defaults(TextRenderingReward).items()


def test_extras_are_those_of_the_package():
    with (ROOT / "pyproject.toml").open("rb") as file:
        offered = tomllib.load(file)["project"]["optional-dependencies"]
    assert extras.MODULES.keys() <= offered.keys() and {extra for extra, _ in judges.EXTRAS.values()} == extras.MODULES.keys()


def test_another_rubric_or_read_out_shows_in_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_NO_SUCH_TOKEN", "a-token-of-the-tests")

    def found(*overrides):
        config = parse(CHAT, TrainConfig, ["rewards.0.name=facts", *overrides])
        with opened_rewards(config, tmp_path, torch.device("cpu")) as rewards:
            return fingerprints(list(rewards.values()))

    rubric = tmp_path / "mine.v1.md"
    rubric.write_text("[[picture]]\n[[request]]\n[[answer]]\n")
    before = found()
    assert before.keys() == {"taste"} and found("rewards.0.floor=0.2", "rewards.1.judge.concurrency=1") == before
    assert found("rewards.1.judge.read_out={chain_of_thought: false}") != before
    rubric.write_text("Be strict.\n[[picture]]\n[[request]]\n[[answer]]\n")
    assert found() != before


def test_settings_of_the_read_out_have_its_defaults():
    """And the settings, which do not import what they are for, know the same rubrics."""
    assert ReadOut(**ReadOutConfig().model_dump()) == ReadOut()
    assert (
        not ReadOutChanges().model_dump(exclude_none=True)
        and ReadOutChanges.model_fields.keys() == ReadOutConfig.model_fields.keys()
    )
    assert set(ReadOutConfig.model_fields) <= {field.name for field in fields(ReadOut)}
    assert shipped_rubrics() == shipped()


def test_a_request_holds_what_the_wire_takes():
    """The settings do not import the schema, which needs torch."""
    (bound,) = (found.le for found in ServerJudgeConfig.model_fields["per_request"].metadata if hasattr(found, "le"))
    assert bound == schema.MAX_QUESTIONS


def test_the_config_in_the_page_on_editing_is_accepted(tmp_path):
    page = (ROOT / "docs" / "editing.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    check_rewards(parse(text, TrainConfig), tmp_path)


def test_the_files_in_the_page_on_distillation_are_accepted():
    page = (ROOT / "docs" / "distill.md").read_text(encoding="utf-8")
    student, comparison = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    prompts = [Prompt("t1", "a cat"), Prompt("e1", "a hat", "portrait", "edit", ("1.png",))]
    check_routes(parse(student, DistillConfig).teachers, prompts)
    assert [model.name for model in parse(comparison, EvaluateConfig).models] == ["base", "t2i", "edit", "student"]


def test_the_configs_in_the_page_on_judges_are_accepted(tmp_path):
    """With the folders that they name in place."""
    configs = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "judges.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(configs) >= 3
    (tmp_path / "judges" / "alignment").mkdir(parents=True)
    for name in ("judges/alignment/config.json", "judges/alignment/judge.json", "face.onnx"):
        (tmp_path / name).write_text("{}")
    page = (ROOT / "docs" / "judges.md").read_text(encoding="utf-8")
    (tmp_path / "my_rewards.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    for text in configs:
        (tmp_path / "run.yaml").write_text(text)
        config = load(tmp_path / "run.yaml", TrainConfig)
        check_judges(config.judges, tmp_path)


def test_the_estimate_of_a_curation_counts_the_prompts_it_is_to_take(tmp_path):
    """Pictures on disk: prompts x samples x 3 bytes a pixel, of the first `most` prompts of each task."""
    for prompts, most, count in (("miniature", 16, 16), ("miniature", None, 4000), ("miniature-mix", 16, 32)):
        data = {"prompts": prompts, "most": most}
        training = TrainConfig(name="t", model="miniature", data=data, rewards=({"name": "facts"},))
        job = Job("curated", CurateStage(training=training), tmp_path, tmp_path, Console())
        assert KINDS["curate"].estimate(job).disk == count * training.rollout.group_size * 3 * 64**2
