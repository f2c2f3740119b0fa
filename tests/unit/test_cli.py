"""The command line: fast, worth reading, and one clear line with the right exit code for every mistake."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from tastemaker import cli
from tastemaker.config import TrainConfig, check_judges, parse
from tastemaker.errors import Corrupt, ServiceFailed, Stopped, UserMistake
from tastemaker.named import inputs

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "demo",
    "train",
    "distill",
    "run",
    "check",
    "curate",
    "categorise",
    "export",
    "evaluate",
    "calibrate",
    "train-reward",
    "serve-reward",
    "miniature build",
    "miniature card",
    "version",
]
GOOD = "name: first\nmodel: miniature\nrewards:\n- name: facts\ndata:\n  prompts: miniature\n"


def tastemaker(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def calls(monkeypatch):
    """What the commands call, replaced; `calls.error` is raised by each."""

    class Calls(list):
        error: BaseException | None = None

        def __call__(self, *args, **kwargs):
            self.append((args, kwargs))
            if self.error:
                raise self.error

    recorded = Calls()
    called = {
        "commands.train": ("train",),
        "commands.serve_reward": ("serve_reward",),
        "commands.train_reward": ("train_reward",),
        "commands.curate": ("curate",),
        "commands.categorise": ("categorise",),
        "export.plan": ("make_plan",),
        "export.write": ("export",),
        "commands.evaluate": ("evaluate",),
        "commands.demo": ("run",),
        "miniature.builder.build": ("build",),
        "commands.calibrate": ("calibrate",),
    }
    for module, functions in called.items():
        stand_in = ModuleType(f"tastemaker.{module}")
        for function in functions:
            setattr(stand_in, function, recorded)
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return recorded


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(GOOD)
    return path


def test_help_is_fast_and_imports_nothing_heavy():
    """Processor time, because wall time depends on what else the machine does."""
    script = (
        "import resource, sys\n"
        "from tastemaker.cli import main\n"
        "sys.argv = ['tastemaker', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print('heavy:', sorted({'torch', 'diffusers', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)))\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print('seconds:', used.ru_utime + used.ru_stime)\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in out
    assert float(out.rpartition("seconds: ")[2]) < 1


def test_check_tells_mistakes_of_settings_before_it_imports_torch(good):
    good.write_text(good.read_text() + "sede: 1\n")
    script = (
        "import sys\n"
        "from tastemaker.commands import check\n"
        "def tell(line):\n"
        "    assert 'torch' not in sys.modules and 'did you mean `seed`' in line\n"
        "    sys.exit(7)\n"
        f"check.check(check.Path({str(good)!r}), tell=tell)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_an_example_that_parses(command, calls, good, monkeypatch):
    result = tastemaker(*command.split(), "--help")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    example = re.search(r"Example: tastemaker (.*?) (╭|$)", text)
    assert example and example[1].startswith(command)
    words = example[1].partition(" > ")[0].replace("run.yaml", str(good)).split()
    assert "Usage" not in tastemaker(*words).output


def test_commands_pass_on_what_was_given(calls, good, tmp_path):
    assert tastemaker("demo", "--seed", "3", "--processes", "2", "--quick", "--folder", str(tmp_path)).exit_code == 0
    assert tastemaker("train", str(good), "-o", "seed=1", "-o", "budget.max_steps=2", "--allow", "packages").exit_code == 0
    assert tastemaker("train-reward", "taste.yaml", "-o", "seed=1", "--check").exit_code == 0
    assert tastemaker("miniature", "build").exit_code == 0
    assert calls == [
        ((), {"folder": tmp_path, "seed": 3, "threads": None, "processes": 2, "quick": True}),
        ((good,), {"overrides": ["seed=1", "budget.max_steps=2"], "folder": None, "allow": ["packages"]}),
        ((Path("taste.yaml"),), {"overrides": ["seed=1"], "folder": None, "allow": [], "check": True}),
        ((Path("build/miniature"),), {"device": None}),
    ]


def test_a_server_is_told_how_its_judge_is_read(calls):
    words = "serve-reward judges/a --rationales 3 --temperature 0.7 --max-rationale-tokens 64 --precision fp32 --deadline 20"
    assert tastemaker(*words.split()).exit_code == tastemaker("serve-reward", "judges/a", "--no-cot").exit_code == 0
    (_, first), (_, second) = calls
    read = {"chain_of_thought": None, "num_rationales": 3, "temperature": 0.7, "max_rationale_tokens": 64}
    limits = {"precision": "fp32", "batch": 16, "deadline": 20.0, "queue": 512}
    assert first.items() >= (read | limits).items()
    assert second["chain_of_thought"] is False and second["num_rationales"] is None and second["precision"] == "auto"


def test_calibrate_takes_a_config_or_none(calls, good):
    assert tastemaker("calibrate", "votes.jsonl", "--config", str(good), "--strength", "5").exit_code == 0
    assert tastemaker("calibrate", "votes.jsonl", "--out", "w.yaml").exit_code == 0
    fixed = {"resamples": 1000, "seed": 0}
    assert calls == [
        ((Path("votes.jsonl"),), {"config": good, "strength": 5.0, "out": None, **fixed}),
        ((Path("votes.jsonl"),), {"config": None, "strength": 20.0, "out": Path("w.yaml"), **fixed}),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserMistake("prompts.jsonl:3 text: missing, add it"), 2),
        (ServiceFailed("the reward server did not answer for 300 s"), 3),
        (Corrupt("model.safetensors: checksum mismatch"), 1),
        (Stopped("stopped on request, step 4 saved; the same command resumes it"), 75),
    ],
)
def test_a_failure_is_one_line_and_its_exit_code(error, code, calls):
    calls.error = error
    result = tastemaker("demo")
    assert result.exit_code == code
    assert result.stderr.strip() == ("" if code == 75 else "error: ") + str(error)


def test_several_mistakes_are_a_line_each(calls):
    calls.error = UserMistake("a.yaml:1 seed: first\na.yaml:2 model: second [red]")
    assert tastemaker("demo").stderr.splitlines() == ["error: a.yaml:1 seed: first", "error: a.yaml:2 model: second [red]"]


def test_debug_shows_where_it_came_from(calls):
    calls.error = UserMistake("no such folder")
    result = tastemaker("--debug", "demo")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr and result.stderr.endswith("error: no such folder\n")


def test_ctrl_c_outside_of_training_says_how_to_go_on(calls):
    calls.error = KeyboardInterrupt()
    result = tastemaker("miniature", "build")
    assert result.exit_code == 75
    assert "the same command" in result.stderr and "Traceback" not in result.stderr


def test_a_mistake_of_ours_keeps_its_traceback(calls):
    calls.error = ZeroDivisionError()
    result = tastemaker("demo")
    assert result.exit_code == 1 and isinstance(result.exception, ZeroDivisionError)


def test_sigterm_acts_as_ctrl_c():
    script = (
        "import sys, time, types\n"
        "demo = types.ModuleType('demo')\n"
        "def run(**_):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "demo.run = run\n"
        "sys.modules['tastemaker.commands.demo'] = demo\n"
        "sys.argv = ['tastemaker', 'demo']\n"
        "from tastemaker.cli import main\n"
        "main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "the same command" in err


def test_check_lists_all_mistakes(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD + "sede: 1\nrollout:\n  group_size: -1\n  steps: ten\n")
    result = tastemaker("check", str(path), "-o", "budget.max_stepz=3")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 4 and all(line.startswith("error: ") for line in lines)
    assert "seed" in result.stderr and "max_steps" in result.stderr


MISTAKEN = """\
name: first
model: /nowhere
sede: 1
data: {prompts: nowhere.jsonl, held_out: held.jsonl}
rollout: {steps: ten}
rewards:
- {name: nonsense, weight: 0.5}
- {name: taste, weight: 0.4, low: 1, high: 5, judge: {kind: folder, path: judges/a, rubric: alignment.v1}}
"""


def told(path: Path, *overrides: str) -> list[str]:
    """Each mistake up to its rule, without the folder."""
    result = tastemaker("check", str(path), *(word for one in overrides for word in ("-o", one)))
    assert result.exit_code == 2
    lines = [line.replace(f"{path.parent}/", "").removeprefix("error: ") for line in result.stderr.splitlines()]
    return [line.partition(",")[0].partition(";")[0] for line in lines]


def test_mistakes_of_settings_hide_none_of_what_the_settings_name(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MISTAKEN)
    assert told(path, "seed=x") == [
        "override 'seed=x' seed: x",
        "run.yaml:3 sede: 1",
        "run.yaml:5 rollout.steps: ten",
        "run.yaml:7 rewards.0.weight: 0.5",
        "run.yaml:2 model: /nowhere is not a folder",
        "run.yaml:4 data.held_out: held.jsonl: there is no such file of prompts",
        "run.yaml:4 data.prompts: nowhere.jsonl: there is no such file of prompts",
        "run.yaml:7 rewards.0.name: 'nonsense' is not built in (there are edit_facts",
        "run.yaml:8 rewards.1.judge.path: judges/a is not a folder",
    ]


@pytest.mark.parametrize(
    ("change", "silent"),
    [
        ("data=null", "data"),
        ("model=3", "model"),
        ("rewards.1.judge.kind=foldr", "rewards.1"),
        ("rewards.1.judge=5", "rewards.1"),
    ],
)
def test_nothing_is_said_of_what_only_stands_in_for_a_mistake(tmp_path, change, silent):
    path = tmp_path / "run.yaml"
    path.write_text(MISTAKEN)
    lines = [line for line in told(path, change) if " is not " in line or "no such" in line]
    assert lines and not [line for line in lines if f" {silent}" in line]


def test_check_reads_rows_and_pictures_and_the_pipelines_folder(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(GOOD.replace("model: miniature", "model: empty").replace("prompts: miniature", "prompts: p.jsonl"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    edit = '{"id": "2", "text": "make it red", "task": "edit", "sources": ["broken.png"]}'
    (tmp_path / "p.jsonl").write_text('{"id": "1", "text": ""}\n' + edit + "\n")
    found = told(path)
    assert found[0] == "run.yaml:2 model: empty is not a diffusers pipeline folder: it has no model_index.json"
    assert [line.partition(": ")[0] for line in found[1:]] == ["p.jsonl:1", "p.jsonl:2"]


FILES = {
    "distill": "model: miniature\ndata: {prompts: miniature}\nteachers: [{name: t, weights: gone, teaches: [t2i]}]\n",
    "evaluate": "prompts: miniature\nmodels: [{name: base, path: gone}]\n",
    "train-reward": "base: gone\nrubric: alignment.v1\ndata: {ratings: [gone.jsonl], dimension: alignment}\n",
}


@pytest.mark.parametrize(
    ("command", "key"), [("distill", "teachers.0.weights"), ("evaluate", "models.0"), ("train-reward", "base")]
)
def test_check_knows_the_files_of_other_commands(tmp_path, command, key):
    path = tmp_path / "file.yaml"
    path.write_text(f"name: first\nsede: 1\n{FILES[command]}")
    first, second, *_ = told(path)
    assert first == "file.yaml:2 sede: 1" and f" {key}: gone" in second


def test_check_knows_rules_and_recipes(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("rules: [{category: portrait, words: [face]}]\n")
    assert "no mistakes. It is for tastemaker categorise" in tastemaker("check", str(path)).output
    path.write_text(
        "name: r\nstages:\n  one:\n    kind: train\n    "
        + GOOD.replace("model: miniature", "model: gone").replace("\n", "\n    ")
    )
    assert told(path) == ["stages.one: model: gone is not a folder"]
    assert "--show" in tastemaker("check", str(path), "--show").stderr


def test_check_compares_held_out_prompts_with_those_to_train_on(tmp_path):
    path, own = tmp_path / "run.yaml", tmp_path / "own.jsonl"
    path.write_text(GOOD)
    data = ("-o", "data.prompts=own.jsonl", "-o", "data.held_out=held-out.jsonl")
    (tmp_path / "held-out.jsonl").write_text('{"id": "h", "text": "a cat"}\n')
    own.write_text('{"id": "p", "text": "a dog"}\n')
    assert tastemaker("check", str(path), *data).exit_code == 0
    own.write_text('{"id": "p", "text": "A cat"}\n')
    result = tastemaker("check", str(path), *data)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(
        "error: override 'data.held_out=held-out.jsonl' data.held_out: 1 of the prompts to train on"
    )
    assert "are in held-out.jsonl too: 'p' (text);" in result.stderr


def test_check_warns_as_the_command_would(good, monkeypatch):
    """Of a miniature that passes for a large model; one line more."""
    monkeypatch.setattr(inputs, "LARGE", 1000)
    lines = tastemaker("check", str(good)).output.splitlines()
    assert len(lines) == 2 and lines[1].startswith("warning: rollout.picture_side is not set, so miniature would draw 64 x 64")


def test_check_says_what_a_good_config_means(good):
    result = tastemaker("check", str(good), "-o", "rollout.prompts=5", "-o", "rollout.group_size=4")
    assert result.exit_code == 0
    assert "no mistakes" in result.output and "5 prompts x 4 pictures" in result.output


def test_check_shows_settings_that_can_be_read_back(good, tmp_path):
    shown = tastemaker("check", str(good), "--show").output
    again = tmp_path / "again.yaml"
    again.write_text(shown)
    assert tastemaker("check", str(again), "--show").output == shown


@pytest.mark.parametrize("line", ["chekc", "train", "demo --seed -1", "miniature build --part vae"])
def test_wrong_usage_is_the_users_mistake(line):
    assert tastemaker(*line.split()).exit_code == 2


def test_version_names_what_it_stands_on():
    names = {line.split()[0] for line in tastemaker("version").output.splitlines()}
    assert names >= {"tastemaker", "python", "torch", "diffusers"}


def test_readme_configs_are_accepted_and_its_commands_exist(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    configs = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert configs
    (tmp_path / "my_rewards.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)))
    for config in configs:
        check_judges(parse(config, TrainConfig).judges, tmp_path)
    blocks = "\n".join(re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL))
    for command in re.findall(r"^tastemaker (.+?)(?:\s+#.*)?$", blocks, re.MULTILINE):
        assert any(command.startswith(known) for known in COMMANDS), command
