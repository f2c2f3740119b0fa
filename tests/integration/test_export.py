"""What `tastemaker export` writes: plain diffusers, which cannot import tastemaker, opens it and draws the same pictures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from families import small_sources
from tastemaker import cli
from tastemaker.commands.checks import check_distillation
from tastemaker.commands.contest import prepare
from tastemaker.config.distillation import DistillConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.errors import DiskFull, UserMistake
from tastemaker.evaluation.summary import Summary, differences_by_category, rows_by_category
from tastemaker.evaluation.summary_file import write_summary
from tastemaker.export.plan import make_plan
from tastemaker.export.write import export
from tastemaker.models import processor_shim, stated_guidance
from tastemaker.opening import find_model, read_run
from tastemaker.rollout import Sampler, denoise
from tastemaker.runtime import checkpoint
from tastemaker.runtime import folder as disk
from tiny import picture, tiny_qwen_image, tiny_qwen_image21, tiny_qwen_image_edit_plus
from tiny_run import tiny_base, tiny_run, tiny_student

SIDE, STEPS = 32, 3
TEXT = "three squares left of one triangle"
LORA = {"kind": "lora", "rank": 4, "alpha": 20.0}

PLAIN = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tastemaker":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
try:
    import tastemaker
except ImportError:
    pass
else:
    raise SystemExit("tastemaker can be imported")
# transformers cannot make Qwen's processors without torchvision, whoever wrote the folder; with it this does nothing.
runpy.run_path(sys.argv[1])["allow_processors_without_torchvision"]()
import torch
from diffusers import DiffusionPipeline, QwenImage21Transformer2DModel
from safetensors.torch import load_file, save_file
given, base, out = load_file(sys.argv[2]), sys.argv[3], {}
for form, folder in (item.split("=") for item in sys.argv[5:]):
    if form == "pipeline":
        pipe = DiffusionPipeline.from_pretrained(folder)
    elif form == "lora":
        pipe = DiffusionPipeline.from_pretrained(base)
        pipe.load_lora_weights(folder)
    else:
        transformer = QwenImage21Transformer2DModel.from_pretrained(folder)
        pipe = DiffusionPipeline.from_pretrained(base, transformer=transformer)
    pipe.set_progress_bar_config(disable=True)
    options = dict(height=32, width=32, output_resolution=32, num_inference_steps=3, output_type="pt", latents=given["noise"])
    out[folder] = pipe(prompt="TEXT", negative_prompt="", true_cfg_scale=2.0, **options).images[0][:3]
    if form == "pipeline":
        pipe.save_pretrained(folder + "-again")
save_file({name: value.contiguous() for name, value in out.items()}, sys.argv[4])
""".replace("TEXT", TEXT)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("base") / "pipeline")


@pytest.fixture(scope="module")
def full(tmp_path_factory, base):
    return tiny_run(tmp_path_factory.mktemp("full") / "run", base, steps=2)


@pytest.fixture(scope="module")
def lora(tmp_path_factory, base):
    return tiny_run(tmp_path_factory.mktemp("lora") / "run", base, policy=LORA, rollout={"guidance": 1.0})


def given_noise():
    return torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def ours(source):
    """The picture that the training code draws with the run's own weights."""
    adapter = source.open("cpu", torch.float32)
    condition, negative = (adapter.encode([text], height=SIDE, width=SIDE) for text in (TEXT, ""))
    sampler = Sampler(adapter.sigmas(STEPS, SIDE, SIDE), guidance=2.0)
    drawn = denoise(adapter, condition, negative, group_size=1, sampler=sampler, noise=lambda step: given_noise())
    return adapter.decode(drawn.final_BX, SIDE, SIDE)[0]


def theirs(tmp_path, base, *exports):
    from safetensors.torch import load_file, save_file

    save_file({"noise": given_noise()}, tmp_path / "noise.safetensors")
    command = [sys.executable, "-c", PLAIN, processor_shim.__file__, tmp_path / "noise.safetensors", base, tmp_path / "drawn"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [*map(str, command), *(f"{form}={folder}" for form, folder in exports)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not expected" not in done.stderr
    return load_file(tmp_path / "drawn")


def test_plain_diffusers_draws_the_same_pictures(tmp_path, base, full, lora):
    forms = {
        "whole": (full, {}),
        "last": (full, {"live": True, "form": "transformer"}),
        "first": (full, {"step": 1}),
        "lora": (lora, {}),
        "merged": (lora, {"form": "pipeline", "dtype": "fp32"}),
    }
    made = {name: export(make_plan(run, tmp_path / name, **options)) for name, (run, options) in forms.items()}
    drawn = theirs(
        tmp_path,
        base,
        *(("pipeline", made[name]) for name in ("whole", "first", "merged")),
        ("transformer", made["last"]),
        ("lora", made["lora"]),
    )
    expected = {
        "whole": ours(read_run(full)),
        "last": ours(read_run(full, live=True)),
        "first": ours(read_run(full, step=1)),
        "lora": ours(read_run(lora)),
        "merged": ours(read_run(lora)),
    }
    pictures = {name: drawn[str(folder)] for name, folder in made.items()}
    for name, wanted in expected.items():
        torch.testing.assert_close(pictures[name], wanted, atol=2e-5, rtol=0)
    apart = [ours(find_model(base)), *(expected[name] for name in ("whole", "last", "first", "lora"))]
    assert min((a - b).abs().max() for i, a in enumerate(apart) for b in apart[:i]) > 1e-2
    # What a transformer says of its sampling outlives plain diffusers loading and saving it; others say nothing.
    for name, scale in (("merged", 1.0), ("whole", None)):
        for folder in (made[name], Path(f"{made[name]}-again")):
            assert find_model(folder).guidance == scale
            assert json.loads((folder / "transformer/config.json").read_text()).get(stated_guidance.KEY) == scale


def test_a_pipeline_is_the_base_byte_for_byte_but_for_the_transformer(tmp_path):
    """And neither pickles nor code of the base come along."""
    base = tiny_base(tmp_path / "base")
    (base / "vae" / "extra.bin").write_bytes(b"pickle")
    (base / "processor" / "code.py").write_text("raise SystemExit")
    out = export(make_plan(tiny_run(tmp_path / "run", base), tmp_path / "out"))
    written, former = ({p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file()} for top in (out, base))
    assert written == former - {"vae/extra.bin", "processor/code.py"} | {"README.md", "tastemaker.json"}
    changed = {name for name in written & former if (base / name).read_bytes() != (out / name).read_bytes()}
    assert "transformer/diffusion_pytorch_model.safetensors" in changed
    assert changed <= {"transformer/diffusion_pytorch_model.safetensors", "transformer/config.json"}


def test_the_lora_alone_says_its_scale_and_its_guidance(tmp_path, base, lora):
    out = export(make_plan(lora, tmp_path / "out"))
    (path,) = out.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        stored = json.loads(file.metadata()["lora_adapter_metadata"])
        assert all("lora_" in name and file.get_slice(name).get_dtype() == "F32" for name in file.keys())  # noqa: SIM118
    assert (stored["transformer.lora_alpha"], stored["transformer.r"]) == (20.0, 4)
    assert find_model(out, base=str(base)).guidance == 1.0
    assert "without guidance" in (out / "README.md").read_text()


@pytest.mark.parametrize(("form", "dtype", "kind"), [("transformer", "bf16", "BF16"), ("lora", "fp16", "F16")])
def test_the_dtype_is_the_one_asked_for(tmp_path, lora, form, dtype, kind):
    out = export(make_plan(lora, tmp_path / "out", form=form, dtype=dtype))
    (path,) = out.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {kind}  # noqa: SIM118


def test_weights_that_a_dtype_cannot_hold_are_refused(tmp_path, base):
    run = tiny_run(tmp_path / "run", base)
    saved = checkpoint.load(run / "checkpoints")
    name = next(iter(saved.tensors["ema"]))
    saved.tensors["ema"][name].flatten()[0] = 1e6
    checkpoint.save(run / "checkpoints", 2, saved.tensors, saved.state)
    with pytest.raises(UserMistake, match=r"not finite as torch\.float16; choose --dtype"):
        export(make_plan(run, tmp_path / "out", dtype="fp16"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_card_holds_recipe_hashes_and_numbers(tmp_path, base, full):
    verdicts = {"base": [0, 1, 0, 0, 1, 0, 0, 0], "tiny": [1, 1, 0, 1, 1, 0, 1, 0]}
    rows = [
        row
        for model, found in verdicts.items()
        for row in rows_by_category(found, ["a"] * 8, model=model, task="t2i", guidance=2, forwards_per_image=8)
    ]
    difference = differences_by_category(
        verdicts["tiny"], verdicts["base"], ["a"] * 8, pair=("tiny", "base"), task="t2i", guidance=2
    )
    write_summary(tmp_path / "summary.json", Summary(tuple(rows), difference, 1.0, 0))
    card = (export(make_plan(full, tmp_path / "out", evaluation=tmp_path)) / "README.md").read_text()
    for text in (
        "step 2 of 5",
        "guidance 2",
        "| tiny | t2i | 2 | 8 | 8 | 62.5%",
        "| tiny − base |",
        "+37.5",
        "f1",
        "ema_decay: 0.9",
    ):
        assert text in card, text
    record = json.loads((tmp_path / "out" / "tastemaker.json").read_text())
    environment = json.loads((full / "environment.json").read_text())
    assert record["base"]["sha256"] == environment["data_files"]["model"] and record["base"]["sha256"] in card
    assert record["guidance"] == 2.0 and record["weights"] == "average"


def measured(path, **keys):
    """Of two models, each of which has something said of it against the other."""
    rows = [
        row
        for model, found in (("first", [0, 1, 0, 0]), ("second", [1, 1, 1, 0]))
        for row in rows_by_category(found, ["a"] * 4, model=model, task="t2i", guidance=2, forwards_per_image=8)
    ]
    differences = [
        one
        for pair in (("first", "second"), ("second", "first"))
        for one in differences_by_category([0, 1, 0, 0], [1, 1, 1, 0], ["a"] * 4, pair=pair, task="t2i", guidance=2)
    ]
    return write_summary(path, Summary(tuple(rows), tuple(differences), 1.0, 0, models=keys))


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_numbers_on_a_card_are_those_of_its_own_model(tmp_path, full, name):
    keys = {"first": "0" * 64, "second": "1" * 64, name: read_run(full).key}
    path = measured(tmp_path / "summary.json", **keys)
    card = (export(make_plan(full, tmp_path / "out", evaluation=path)) / "README.md").read_text()
    assert f"In these numbers this model is called {name}." in card
    assert f"prompts with guidance 2, {name} gets" in card  # the headline is about it, wherever it stands


def test_an_evaluation_of_other_weights_is_refused(tmp_path, full):
    path = measured(tmp_path / "summary.json", first="0" * 64, second="1" * 64)
    with pytest.raises(UserMistake, match=r"summary\.json: is of other weights \(first, second\) than step 2 of .*run; ev"):
        make_plan(full, tmp_path / "out", evaluation=path)
    card = (export(make_plan(full, tmp_path / "out", evaluation=measured(tmp_path / "old.json"))) / "README.md").read_text()
    assert "does not say whose weights it measured" in card


def test_a_merge_that_rounding_eats_is_warned_of(tmp_path):
    pipeline = tiny_qwen_image21()
    with torch.no_grad():
        for value in pipeline.transformer.parameters():
            value.copy_((1000 * value).bfloat16())
    pipeline.save_pretrained(tmp_path / "base")
    lora = tiny_run(tmp_path / "run", tmp_path / "base", policy=LORA)
    with pytest.warns(UserWarning, match=r"rounding to bfloat16 leaves \d+% of what was learnt.*--form lora, or --dtype fp32"):
        export(make_plan(lora, tmp_path / "low", form="transformer", dtype="bf16"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        export(make_plan(lora, tmp_path / "wide", form="transformer", dtype="fp32"))


def test_a_lora_on_another_base_is_no_teacher_and_no_model(tmp_path, base, lora):
    """An export says which base it is for, of a run's own folder the run does."""
    other = tiny_base(tmp_path / "other")
    weights = next((other / "transformer").glob("*.safetensors"))
    moved = {name: value + 1 for name, value in load_file(weights).items()}
    save_file(moved, weights, metadata={"format": "pt"})
    exported = export(make_plan(lora, tmp_path / "lora"))
    own = lora / "lora"
    own.mkdir(exist_ok=True)
    for file in exported.glob("*.safetensors"):
        (own / file.name).write_bytes(file.read_bytes())
    for folder in (exported, own):
        values = {
            "name": "s",
            "model": str(other),
            "teachers": [{"name": "a", "weights": str(folder), "teaches": ["t2i"]}],
            "data": {"prompts": "miniature"},
        }
        told = f"{folder}: was trained on another base than {other}"
        with pytest.raises(UserMistake, match=re.escape(f"teachers.0.weights: {told}")):
            check_distillation(DistillConfig.model_validate_json(json.dumps(values)), tmp_path)
        fits = DistillConfig.model_validate_json(json.dumps({**values, "model": str(base)}))
        assert check_distillation(fits, tmp_path)
        with pytest.raises(UserMistake, match=re.escape(told)):
            find_model(folder, base=str(other))
        find_model(folder, base=str(base))


def test_a_step_that_the_monitor_accused_is_told_of_wherever_it_is_taken(tmp_path, base):
    run = tiny_run(tmp_path / "run", base, steps=4)

    def checked(*records):
        lines = [json.dumps({"step": step, "alarms": alarms, **more}) + "\n" for step, alarms, more in records]
        (run / "monitor.jsonl").write_text("".join(lines))

    accused = {"prompt-free reward": ["swapped_reward"]}
    checked((0, {}, {}), (2, {}, {}), (4, accused, {"last_good": "step-00000002"}))
    told = "step 4 is one of which the monitor raised an alarm (prompt-free reward); the last good one is 2, choose it as step"
    with pytest.warns(UserWarning, match=re.escape(told)):
        out = export(make_plan(run, tmp_path / "out"))
    assert told in (out / "README.md").read_text()
    models = [{"name": "base", "path": str(base)}, {"name": "mine", "path": str(run)}]
    config = EvaluateConfig.model_validate_json(json.dumps({"name": "x", "prompts": "miniature", "models": models}))
    assert any(told in line for line in prepare(config, tmp_path, tmp_path / "compared").warnings)
    assert read_run(run, step=3).alarm and not read_run(run, step=2).alarm  # 3 was not looked at, and the next check accused
    checked((0, {}, {}), (2, accused, {"last_good": None}), (3, {}, {}))
    assert not read_run(run).alarm and "raised" in str(read_run(run, step=2).alarm)
    assert "the last good" not in str(read_run(run, step=2).alarm)


def test_a_card_has_no_numbers_but_those_it_is_given(tmp_path, base):
    run = tiny_run(tmp_path / "run", base)
    (run / "summary.json").write_text("{}")
    assert make_plan(run, tmp_path / "out").evaluation is None


def test_the_card_of_a_student_names_what_its_specialists_were_trained_with(tmp_path, base):
    teacher = tiny_run(tmp_path / "t2i" / "run", base, judges={"facts": "f-of-t2i"})
    read_run(teacher).open("cpu", torch.float32).transformer.save_pretrained(teacher / "transformer")
    lora = tiny_run(tmp_path / "edit", base, policy=LORA, judges={"facts": "f-of-edit"})
    exported = export(make_plan(lora, tmp_path / "edit-lora"))
    student = tiny_student(tmp_path / "student", base, {"t2i": teacher / "transformer", "edit": exported})
    out = export(make_plan(student, tmp_path / "out"))
    card, record = (out / "README.md").read_text(), json.loads((out / "tastemaker.json").read_text())
    taught = json.loads((student / "environment.json").read_text())["data_files"]
    for name in ("t2i", "edit"):
        assert card.count(taught[f"teachers.{name}"]) == 1 and record["teachers"][name]["sha256"] == taught[f"teachers.{name}"]
        assert record["teachers"][name]["judges"] == {"facts": f"f-of-{name}"}
        assert f"| {name}: judge: facts |  | f-of-{name} |" in card
    assert "training of the teacher t2i" in card and "window_size: 2" in card  # an export has no settings beside it
    assert "training of the teacher edit" not in card
    save_pretrained = read_run(teacher, live=True).open("cpu", torch.float32).transformer.save_pretrained
    save_pretrained(teacher / "transformer")  # other weights than those that taught
    card = (export(make_plan(student, tmp_path / "again")) / "README.md").read_text()
    assert taught["teachers.t2i"] in card and "f-of-t2i" not in card and "window_size" not in card


def executed(out, base, monkeypatch, tmp_path, **given):
    """What the example of the card draws when it is run as it stands, with `given` to the pipeline's calls; and the calls."""
    picture(3, 40, 30).save(tmp_path / "source.png")
    program = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = program.replace('"this folder"', repr(str(out))).replace('"the base\'s folder"', repr(str(base)))
    program = program.replace('"..."', repr(TEXT))
    plain = type(read_run(out.parent / "run", base=base).open("cpu", torch.float32).pipeline)
    calls = []

    def called(pipeline, *args, **kwargs):
        calls.append(kwargs)
        return original(pipeline, *args, **kwargs, **given)

    original = plain.__call__
    monkeypatch.setattr(plain, "__call__", called)
    monkeypatch.chdir(tmp_path)
    drawn: dict = {}
    exec(program, drawn)
    monkeypatch.undo()
    return drawn, calls


@torch.no_grad()
def trained_on(source, config, noise, sources=None):
    """The picture that the rollout of training would draw, all of it deterministic."""
    adapter, rollout = source.open("cpu", torch.float32), config.rollout
    pictures = None if sources is None else [sources]
    words = ((TEXT, pictures), (rollout.negative_prompt, pictures))
    condition, negative = (adapter.encode([text], some, height=SIDE, width=SIDE) for text, some in words)
    sampler = Sampler(adapter.sigmas(rollout.steps, SIDE, SIDE), guidance=rollout.guidance, rescale=adapter.rescales_guidance)
    drawn = denoise(adapter, condition, negative, group_size=1, sampler=sampler, noise=lambda step: noise)
    return adapter.decode(drawn.final_BX, SIDE, SIDE)[0]


@pytest.mark.parametrize("fixed", [None, [1.0, 0.9, 0.6, 0.3], [1.0, 0.5]])
@pytest.mark.parametrize("form", ["pipeline", "transformer", "lora"])
def test_the_cards_example_draws_what_training_drew(tmp_path, monkeypatch, form, fixed):
    """For text and for edits, sources at the size of training, and at its noise levels where the checkpoint fixes others."""

    def build():
        pipeline = tiny_qwen_image21()
        pipeline.register_to_config(sample_sigmas=fixed)
        return pipeline

    base = tiny_base(tmp_path / "base", build)
    run = tiny_run(tmp_path / "run", base, policy=LORA, rollout={"negative_prompt": "blue"})
    out = export(make_plan(run, tmp_path / "out", form=form, dtype="fp32"))
    drawn, calls = executed(out, base, monkeypatch, tmp_path, latents=given_noise(), output_type="pt")
    source = read_run(run)
    picture_of = trained_on(source, source.config, given_noise())
    edit_of = trained_on(source, source.config, given_noise(), [Image.open(tmp_path / "source.png")])
    torch.testing.assert_close(drawn["drawn"][:3], picture_of, atol=2e-5, rtol=0)
    torch.testing.assert_close(drawn["edited"][:3], edit_of, atol=2e-5, rtol=0)
    assert (picture_of - edit_of).abs().max() > 1e-2 and [call.get("output_resolution") for call in calls] == [None, SIDE]
    card = (out / "README.md").read_text()
    assert "pipeline_tag: text-to-image\n" in card and "image-to-image]" in card
    assert "the default is 1024 x 1024 pixels" in card
    assert ("Without `sigmas`" in card) == (fixed is not None)


@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_the_cards_example_is_that_of_the_family(tmp_path, monkeypatch, task):
    base = tiny_base(tmp_path / "base", tiny_qwen_image if task == "t2i" else tiny_qwen_image_edit_plus)
    run = tiny_run(tmp_path / "run", base)
    out = export(make_plan(run, tmp_path / "out"))
    with small_sources():
        drawn, (call,) = executed(out, base, monkeypatch, tmp_path)
    assert drawn["drawn" if task == "t2i" else "edited"].size == (SIDE, SIDE)
    assert call["prompt"] == TEXT and call["true_cfg_scale"] == 2 and call["negative_prompt"] == ""
    assert ("image" in call) == (task == "edit") and "output_resolution" not in call
    tag = "text-to-image" if task == "t2i" else "image-to-image"
    assert f"pipeline_tag: {tag}\ntags: [tastemaker]\n" in (out / "README.md").read_text()


def test_all_mistakes_are_listed_at_once(tmp_path, full):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    nowhere = tmp_path / "nowhere"
    with pytest.raises(UserMistake) as caught:
        make_plan(full, out, form="onnx", dtype="int4", step=7, evaluation=nowhere, base=nowhere)
    lines = str(caught.value).splitlines()
    for words in ("'onnx' is none of", "'int4'", "--force", "not a summary", "no step 7, there are 1, 2", "its base is not at"):
        assert sum(words in line for line in lines) == 1, words
    with pytest.raises(UserMistake, match="--force does not replace it"):
        make_plan(full, out, force=True)
    with pytest.raises(UserMistake, match="holds no run"):
        make_plan(out, nowhere)
    with pytest.raises(UserMistake, match="there is no LoRA"):
        make_plan(full, nowhere, form="lora")
    assert (out / "thesis.txt").read_text() == "mine" and not nowhere.exists()


def test_another_base_is_refused(tmp_path, full, base):
    other = tmp_path / "other"
    tiny_base(other)
    config = json.loads((other / "scheduler/scheduler_config.json").read_text())
    (other / "scheduler/scheduler_config.json").write_text(json.dumps({**config, "shift": 2.0}))
    with pytest.raises(UserMistake, match="is not the base it was trained from"):
        make_plan(full, tmp_path / "out", base=other)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("point", ["written config.json", "synced folder transformer", "renamed out"])
def test_killed_anywhere_it_leaves_nothing_or_all(tmp_path, lora, monkeypatch, force, point):
    """A kill runs no clean-up, so what is removed on the way out is kept here."""
    out = tmp_path / "out"
    if force:
        export(make_plan(lora, out))

    def barrier(name):
        if name == point:
            monkeypatch.setattr(disk, "remove", lambda path: None)
            raise Killed

    monkeypatch.setattr(disk, "barrier", barrier)
    with pytest.raises(Killed):
        export(make_plan(lora, out, form="pipeline", force=force))
    if point == "renamed out":
        assert (out / "model_index.json").is_file() and (out / "README.md").is_file()
    elif force:
        assert (out / "pytorch_lora_weights.safetensors").is_file()
    else:
        assert not out.exists()
    monkeypatch.undo()
    export(make_plan(lora, out, force=True))
    assert (out / "pytorch_lora_weights.safetensors").is_file() and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_room_is_told_before_anything_is_written(tmp_path, full, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1000)
    with pytest.raises(DiskFull, match="disk full: need"):
        export(make_plan(full, tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, lora):
    words = ["export", str(lora), str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0 and f"exported to {tmp_path / 'out'}" in done.output.replace("\n", "")
    assert CliRunner().invoke(cli.app, words).exit_code == 2
    assert CliRunner().invoke(cli.app, [*words, "--force"]).exit_code == 0
