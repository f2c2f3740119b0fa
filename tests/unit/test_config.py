"""Settings: every mistake of a file at once, before torch is imported; row 19 of what must hold."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tastemaker.config import (
    ArcFaceIdentityConfig,
    ChatJudgeConfig,
    DlibIdentityConfig,
    FolderJudgeConfig,
    GateConfig,
    GRPOConfig,
    LoraPolicy,
    NFTConfig,
    ReadOutChanges,
    ReadOutConfig,
    RewardConfig,
    RolloutConfig,
    ServerJudgeConfig,
    Settings,
    TextRenderingConfig,
    TrainConfig,
    check_judges,
    dump,
    load,
    parse,
)
from tastemaker.config.strict_yaml import read, scalar, write
from tastemaker.errors import UserMistake

GOOD = """\
name: first
model: miniature
data: {prompts: miniature}
rewards:
  - {name: exact, weight: 0.75}
  - {name: tidy, weight: 0.25}
"""


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserMistake) as caught:
        parse(text, TrainConfig, overrides, source="run.yaml")
    return str(caught.value).splitlines()


def test_defaults_are_the_measured_ones() -> None:
    config = parse(GOOD, TrainConfig)
    rollout = config.rollout
    assert (rollout.prompts, rollout.group_size, rollout.steps, rollout.guidance) == (24, 8, 10, 3.0)
    assert (rollout.transition, rollout.eta, rollout.window_start, rollout.window_size) == ("cps", 0.7, 0, 3)
    assert config.algorithm == GRPOConfig() and config.algorithm.guidance_mode == "hybrid"
    assert config.optimiser.learning_rate == 8e-5
    assert config.policy.kind == "full"
    assert (config.checkpoint.every, config.checkpoint.keep) == (20, 3)


def test_variants_are_chosen_by_a_word() -> None:
    config = parse(GOOD + "policy: {kind: lora, rank: 8}\nalgorithm: {name: grpo, updates_per_rollout: 4}\n", TrainConfig)
    assert isinstance(config.policy, LoraPolicy) and config.policy.rank == 8
    assert config.policy.targets is None  # the model family's own
    assert config.algorithm.updates_per_rollout == 4
    assert mistakes(GOOD + "policy: {kind: full, rank: 8}") == ["run.yaml:7 policy.rank: 8, unknown key, known here: kind"]
    assert "missing, choose one of 'full', 'lora'" in mistakes(GOOD + "policy: {rank: 8}")[0]
    assert "did you mean lora?" in mistakes(GOOD + "policy: {kind: lorra}")[0]
    assert "did you mean grpo?" in mistakes(GOOD + "algorithm: {name: gprpo}")[0]


def test_all_mistakes_at_once_each_with_its_line() -> None:
    text = """\
name: my run
seed: -1
modle: miniature
rollout:
  group_size: 1
  guidanc: 3
  window_size: 12
  max_batch: "many"
optimiser:
  learning_rate: 1e-5
  learning_rate: 2e-5
  micro_batch: -4
  betas: [0.9]
policy:
  kind: lora
  rnak: 8
rewards:
  - {name: a, weight: 0.5, low: 3}
  - {name: b, weight: 0.2, server_deadline: 100}
data: prompts.jsonl
checkpoint: {every: 2.5}
deadlines: {item: 90}
"""
    found = mistakes(text, "rollout.eta=1.5", "optimiser.warmup_steps=soon", "nonsense")
    expected = [
        "run.yaml:11 optimiser.learning_rate is set twice (first on line 10)",
        "override 'nonsense': not of the form key=value",
        "run.yaml:1 name: my run, must match",
        "run.yaml:1 model: missing, add it, for example `model: miniature`",
        "run.yaml:2 seed: -1, must be at least 0",
        "run.yaml:3 modle: miniature, unknown key, did you mean `model`?",
        "run.yaml:5 rollout.group_size: 1, must be at least 2",
        "run.yaml:6 rollout.guidanc: 3, unknown key, did you mean `guidance`?",
        "run.yaml:7 rollout.window_size: 12, window_start + window_size = 12 must leave the last of the 10 steps",
        "run.yaml:8 rollout.max_batch: many, must be a whole number",
        "override 'rollout.eta=1.5' rollout.eta: 1.5, must be at most 1 for the cps transition",
        "run.yaml:12 optimiser.micro_batch: -4, must be at least 1",
        "run.yaml:13 optimiser.betas: [0.9], has too few entries",
        "override 'optimiser.warmup_steps=soon' optimiser.warmup_steps: soon, must be a whole number",
        "run.yaml:16 policy.rnak: 8, unknown key, did you mean `rank`?",
        "run.yaml:18 rewards.0.low: 3, must be below high = 1",
        "run.yaml:18 rewards.0.weight: 0.5, the weights must add up to 1, they add up to 0.7",
        "run.yaml:20 data: prompts.jsonl, must be a group of settings",
        "run.yaml:21 checkpoint.every: 2.5, must be a whole number",
        "run.yaml:22 deadlines.item: 90, must be above the server's own deadline of 100 s",
    ]
    for start in expected:
        assert sum(line.startswith(start) for line in found) == 1, (start, found)
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["rollout.window_start=7"], "must leave the last of the 10 steps deterministic"),
        (["rollout.group_size=12"], "must hold whole groups of 12, set it to 252"),
        (["rollout.chunks=25"], "must be at most prompts = 24, since a chunk holds whole groups"),
        (["rollout.chunks=0"], "must be at least 1"),
        (["algorithm.guidance_mode=none"], "rollout.guidance is 3, set rollout.guidance to 1"),
        (["optimiser.micro_batch=7"], "must divide the 24 x 8 = 192 pictures of a step, set it to 6"),
        (["optimiser.micro_batch=1000"], "set it to 192"),
        (["optimiser.learning_rate=8"], "must be at most 0.01"),
        (["optimiser.learning_rate=.nan"], "must be a finite number"),
        (["rewards.0.weight=0.7"], "they add up to 0.95"),
        (["rewards.1.name=exact"], "is listed 2 times"),
        (["rewards.0.floor=2"], "must be below the range of the score, 1"),
        (["deadlines.item=300"], "must be below deadlines.batch = 300"),
        (["deadlines.batch=7200"], "must be below deadlines.step = 1800"),
        (["rewards.0.server_deadline=60"], "must be above the server's own deadline"),
        (["rewards=[]"], "must have at least 1 entries"),
        (["rollout=4"], "must be a group of settings"),
        (["seed=true"], "must be a whole number"),
        (["rollout.guidance_rescale=yes"], "must be true or false"),
        (["rollout.transition=cpss"], "did you mean cps?"),
        (["rewards.7.weight=1"], "there is no 7 to set here"),
        (["name.first=x"], "there is no first to set here"),
        (["rewards.0.weight=0", "rewards.1.weight=1"], "no gate asks for it, give it a weight or remove"),
        (["categories.portrait.exakt=1"], "categories.portrait.exakt: 1, unknown reward, did you mean `exact`?"),
        (["categories.portrait.zzz=1"], "unknown reward, known here: exact, tidy"),
        (["categories.portrait.exact=0.9"], "categories.portrait: the weights must add up to 1, they add up to 0.9"),
        (["categories.portrait={}"], "categories.portrait: has no weights, name at least one reward"),
        (["categories.portrait.exact=-1"], "categories.portrait.exact: -1, must be at least 0"),
        (["categories.portrait=exact"], "categories.portrait: exact, must be a group of settings"),
        (["rewards.0.gates=[{reward: tidi, below: 0.5, cap: 0.2}]"], "unknown reward, did you mean `tidy`?"),
        (["rewards.0.gates=[{reward: exact, below: 0.5, cap: 0.2}]"], "a reward cannot be its own gate"),
        (["rewards.0.gates=[{reward: tidy, below: 0, cap: 0.2}]"], "must be above 0 and at most 1, the range of tidy"),
        (["rewards.0.gates=[{reward: tidy, below: 1.1, cap: 0.2}]"], "else the gate never or always fails"),
        (["rewards.0.gates=[{reward: tidy, below: 0.5, cap: 1}]"], "must be at least 0 and below 1, the range of exact"),
        (["rewards.0.gates=[{reward: tidy, below: 0.5, cap: 0.2, categories: []}]"], "must have at least 1 entries"),
        (["rewards.0.gates=[{reward: tidy, belov: 0.5, cap: 0.2, below: 1}]"], "did you mean `below`?"),
    ],
)
def test_each_rule(overrides: list[str], rule: str) -> None:
    found = mistakes(GOOD, *overrides)
    assert len(found) == 1 and rule in found[0], found


def test_allowed_neighbours_of_the_rules() -> None:
    for override in (
        ("rollout.window_start=6",),
        ("algorithm.guidance_mode=none", "rollout.guidance=1"),
        ("algorithm.guidance_mode=both",),
        ("optimiser.micro_batch=96",),
        ("rollout.group_size=12", "rollout.prompts=4"),
        ("rewards.0.weight=0.7500005",),
        ("rollout.transition=flow_sde", "rollout.eta=1.5"),
        ("rewards.0.weight=0", "rewards.1.weight=1", "categories.portrait.exact=1"),
        ("rewards.0.weight=0", "rewards.1.weight=1", "rewards.1.gates=[{reward: exact, below: 1, cap: 0}]"),
        ("categories={a b.1: {exact: 0.3, tidy: 0.7}, portrait: {tidy: 1, exact: 0}}",),
    ):
        parse(GOOD, TrainConfig, override)


def test_all_mistakes_of_categories_and_gates_at_once() -> None:
    text = """\
name: first
model: miniature
data: {prompts: miniature}
rewards:
  - name: exact
    weight: 0.75
    low: 1
    high: 5
    gates:
      - {reward: tidi, below: 0.5, cap: 2}
      - {reward: tidy, below: 3, cap: 9}
  - {name: tidy, weight: 0.25}
  - {name: spare, weight: 0}
categories:
  v1.5: {exact: 0.5, teidy: 0.5}
  typography:
    exact: 0.5
    tidy: 0.4
  portrait: {}
"""
    assert mistakes(text) == [
        "run.yaml:10 rewards.0.gates.0.reward: tidi, unknown reward, did you mean `tidy`?",
        "run.yaml:11 rewards.0.gates.1.below: 3, must be above 0 and at most 1, the range of tidy, "
        "else the gate never or always fails",
        "run.yaml:11 rewards.0.gates.1.cap: 9, must be at least 1 and below 5, the range of exact, else it caps nothing",
        "run.yaml:13 rewards.2.weight: 0, is the weight in every category, and no gate asks for it, "
        "give it a weight or remove the reward",
        "run.yaml:15 categories.v1.5.teidy: 0.5, unknown reward, did you mean `tidy`?",
        "run.yaml:16 categories.typography: the weights must add up to 1, they add up to 0.9, change them",
        "run.yaml:19 categories.portrait: has no weights, name at least one reward or remove the category",
    ]


JUDGED = """\
name: first
model: miniature
data: {prompts: miniature}
rewards:
- {name: alignment, low: 1, high: 5, weight: 0.5, judge: {kind: folder, path: judges/a, rubric: alignment.v1}}
- {name: served, low: 1, high: 5, weight: 0.25, judge: {kind: server, url: "http://gpu:8100", token_variable: JUDGE_TOKEN}}
- {name: taste, low: 1, high: 5, weight: 0.25, judge: {kind: chat, url: "https://gpu/v1", model: m, rubric: aesthetic.v1}}
"""


def test_judges_by_name() -> None:
    config = parse(JUDGED, TrainConfig)
    folder, server, chat = config.judges.values()
    assert isinstance(folder, FolderJudgeConfig) and folder.read_out is None and folder.path == "judges/a"
    assert isinstance(server, ServerJudgeConfig) and server.token_variable == "JUDGE_TOKEN"
    assert isinstance(chat, ChatJudgeConfig) and chat.read_out == ReadOutConfig() and chat.token_variable is None
    assert list(config.judges) == ["rewards.0", "rewards.1", "rewards.2"]
    assert parse(dump(config), TrainConfig) == config
    assert list(parse(GOOD, TrainConfig).judges.values()) == [None, None]


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (
            ["rewards.0.judge.kind=foldr"],
            "rewards.0.judge.kind: foldr, must be one of 'folder', 'server', 'chat', 'face_identity', 'text_rendering'",
        ),
        (["rewards.0.judge={path: a}"], "rewards.0.judge.kind: missing, choose one of 'folder', 'server', 'chat'"),
        (["rewards.0.judge=alignment"], "must be a group of settings"),
        (["rewards.0.judge.pth=a"], "rewards.0.judge.pth: a, unknown key, did you mean `path`?"),
        (["rewards.0.judge.url=a"], "unknown key, known here: kind, path, base, rubric, read_out"),
        (["rewards.0.judge={kind: folder}"], "rewards.0.judge.path: missing, add it, for example `path: judges/alignment`"),
        (["rewards.0.judge.rubric=alignment.v9"], "unknown rubric, did you mean `alignment.v1`? Or give a file"),
        (["rewards.0.judge.rubric=mine/taste.md"], "the file's name must hold a version, name it such as mine.v1.md"),
        (["rewards.0.judge.device=gpu"], "must match"),
        (["rewards.0.judge.read_out={num_rationales: 3}"], "at temperature 0 all rationales are the same"),
        (["rewards.0.judge.read_out={num_rationales: 3, chain_of_thought: false}"], "nothing to average without rationales"),
        (["rewards.0.judge.read_out={min_mas: 1}"], "did you mean `min_mass`?"),
        (
            ["rewards.0={name: alignment, weight: 0.5, judge: {kind: folder, path: a}}"],
            "a judge of kind folder scores from 1 to 5",
        ),
        (
            ["rewards.1.judge.url=127.0.0.1:8100"],
            "rewards.1.judge.url: 127.0.0.1:8100, must be the address of a server, write one like",
        ),
        (["rewards.1.judge.url=ftp://gpu"], "must be the address of a server"),
        (["rewards.1.judge.url=http://gpu:99999"], "must be the address of a server"),
        (["rewards.1.judge.url=http://gpu/?key=1"], "must be the address of a server"),
        (["rewards.1.judge.url=http://gpu/v1"], "at the root of its host, leave the path out"),
        (["rewards.1.judge.per_request=0"], "must be at least 1"),
        (["rewards.2.judge={kind: chat, url: 'http://gpu/v1', rubric: aesthetic.v1}"], "rewards.2.judge.model: missing"),
        (["rewards.2.judge.rubric="], "must be text"),
        (
            ["cache={folder: scores}"],
            "so scores cannot be kept without it, name the weights in your own words, or remove cache",
        ),
        (["cache={folder: scores, max_bytes: 0}"], "cache.max_bytes: 0, must be at least 1"),
    ],
)
def test_each_rule_of_judges(overrides: list[str], rule: str) -> None:
    found = mistakes(JUDGED, *overrides)
    assert len(found) == 1 and rule in found[0], found


SCORED = """\
name: first
model: miniature
data: {prompts: miniature}
rewards:
- {name: likeness, weight: 0.5, floor: 0.05, judge: {kind: face_identity, backend: dlib, lost: 0}}
- {name: portrait, weight: 0.25, floor: 0.05, judge: {kind: face_identity, backend: arcface, path: face.onnx}}
- {name: lettering, weight: 0.25, floor: 0.02, judge: {kind: text_rendering, ignore_case: false}}
"""


def test_scorers_by_name() -> None:
    config = parse(SCORED, TrainConfig)
    dlib, arcface, lettering = config.judges.values()
    assert isinstance(dlib, DlibIdentityConfig) and dlib.lost == 0 and dlib.detector_side == 1024
    assert isinstance(arcface, ArcFaceIdentityConfig) and arcface.path == "face.onnx" and arcface.lost == 0
    assert isinstance(lettering, TextRenderingConfig) and not lettering.ignore_case and lettering.field == "text"
    assert parse(dump(config), TrainConfig) == config


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["rewards.0.judge={kind: face_identity}"], "rewards.0.judge.backend: missing, choose one of 'dlib', 'arcface'"),
        (
            ["rewards.0.judge.backend=dlip"],
            "rewards.0.judge.backend: dlip, must be one of 'dlib', 'arcface', did you mean dlib?",
        ),
        (["rewards.0.judge.path=face.onnx"], "rewards.0.judge.path: face.onnx, unknown key, known here: kind, lost"),
        (["rewards.0.judge.bgr=true"], "rewards.0.judge.bgr: true, unknown key"),
        (["rewards.0.judge.lost=1.5"], "rewards.0.judge.lost: 1.5, must be at most 1"),
        (["rewards.0.judge.lost=.nan"], "rewards.0.judge.lost"),
        (["rewards.0.judge.detector_side=0"], "must be at least 80"),
        (["rewards.0.high=5"], "a judge of kind face_identity scores from 0 to 1, set low to 0 and high to 1"),
        (
            ["rewards.1.judge={kind: face_identity, backend: arcface}"],
            "judge.path: missing, add it, for example `path: face.onnx`",
        ),
        (["rewards.1.judge.std=0"], "rewards.1.judge.std: 0, must be greater than 0"),
        (["rewards.2.low=-1"], "a judge of kind text_rendering scores from 0 to 1"),
        (["rewards.2.judge.field=''"], "rewards.2.judge.field: '', must not be empty"),
        (["rewards.2.judge.ignore_cases=true"], "did you mean `ignore_case`?"),
        (["rewards.2.judge.lost=0"], "rewards.2.judge.lost: 0, unknown key"),
        (["rewards.2.judge.confidence=50"], "must be at most 1"),
    ],
)
def test_each_rule_of_scorers(overrides: list[str], rule: str) -> None:
    found = mistakes(SCORED, *overrides)
    assert len(found) == 1 and rule in found[0], found


def test_a_mistake_in_the_only_reward_is_one_line() -> None:
    text = "name: a\nmodel: m\ndata: {prompts: p}\nrewards: [{name: a, judge: {kind: face_identity, backend: dlip}}]\n"
    (line,) = mistakes(text)
    assert "rewards.0.judge.backend: dlip" in line


def test_the_network_of_a_scorer_is_looked_for(tmp_path: Path) -> None:
    judges = parse(SCORED, TrainConfig).judges
    with pytest.raises(UserMistake) as caught:
        check_judges(judges, tmp_path)
    assert str(caught.value).startswith(f"rewards.1.judge.path: there is no file {tmp_path}/face.onnx; give an ArcFace")
    (tmp_path / "face.onnx").touch()
    check_judges(judges, tmp_path)


def test_the_judges_of_a_server_may_have_any_range() -> None:
    parse(JUDGED, TrainConfig, ["rewards.1.low=0", "rewards.1.high=1"])


@pytest.mark.parametrize("secret", ["sk-abcdef123456", "hf_AbCdEf", "http://me:sesame@gpu/v1"])
def test_a_token_or_password_in_a_config_is_refused_and_not_shown(secret: str) -> None:
    place = "url" if "@" in secret else "token_variable"
    other = "" if "@" in secret else "url: 'http://gpu', "
    text = JUDGED.replace('url: "http://gpu:8100", token_variable: JUDGE_TOKEN', f"{other}{place}: '{secret}'")
    (line,) = mistakes(text)
    assert line.startswith("run.yaml:6 rewards.1.judge: ") and "token_variable" in line
    assert secret not in line and "sesame" not in line


def test_the_files_of_judges_are_looked_for_all_at_once(tmp_path: Path) -> None:
    """Relative to the config's folder, without opening one."""
    text = JUDGED.replace("rubric: aesthetic.v1", "rubric: mine/taste.v2.md").replace(
        "path: judges/a, rubric: alignment.v1", "path: judges/a, base: judges/base"
    )
    judges = parse(text, TrainConfig).judges
    with pytest.raises(UserMistake) as caught:
        check_judges(judges, tmp_path)
    base, path, rubric = str(caught.value).splitlines()
    assert base.startswith(f"rewards.0.judge.base: {tmp_path}/judges/base is no folder of a whole model")
    assert path.startswith(f"rewards.0.judge.path: {tmp_path}/judges/a is not a folder; give")
    assert rubric.startswith(
        f"rewards.2.judge.rubric: there is no file {tmp_path}/mine/taste.v2.md; give one, or one of aesthetic.v1"
    )
    for name in ("judges/a/adapter_config.json", "judges/base/config.json", "mine/taste.v2.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserMistake, match=r"rewards\.0\.judge\.rubric: missing, and .* set it, such as alignment\.v1"):
        check_judges(judges, tmp_path)
    (tmp_path / "judges/a/judge.json").write_text("{}")
    check_judges(judges, tmp_path)


def test_overrides_win_and_are_read_as_yaml() -> None:
    config = parse(
        GOOD, TrainConfig, ["rollout.steps=20", "optimiser.learning_rate=1e-5", "optimiser.betas=[0.8, 0.9]", "threads="]
    )
    assert config.rollout.steps == 20 and config.threads is None
    assert config.optimiser.learning_rate == 1e-5 and config.optimiser.betas == (0.8, 0.9)


def test_rules_hold_for_settings_made_in_python_too() -> None:
    with pytest.raises(ValidationError, match="must be at most 1 for the cps transition"):
        RolloutConfig(eta=1.5)
    with pytest.raises(ValidationError, match="frozen"):
        RolloutConfig().steps = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="low: must be below high"):
        RewardConfig(name="a", low=2.0)


def test_every_setting_says_what_it_is() -> None:
    def check(model: type[Settings]) -> None:
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Settings):
                assert inner.__doc__
                check(inner)
            else:
                assert field.description or name in ("policy", "algorithm"), f"{model.__name__}.{name}"

    check(TrainConfig)
    check(LoraPolicy)
    check(GRPOConfig)
    check(NFTConfig)
    check(RewardConfig)
    check(GateConfig)
    check(FolderJudgeConfig)
    check(ServerJudgeConfig)
    check(ChatJudgeConfig)
    check(DlibIdentityConfig)
    check(ArcFaceIdentityConfig)
    check(TextRenderingConfig)
    check(ReadOutChanges)
    check(ReadOutConfig)


def test_whole_check_takes_under_two_seconds_and_no_torch(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(GOOD)
    code = (
        "import sys, time; from tastemaker.config import *; "
        f"load({str(tmp_path / 'run.yaml')!r}, TrainConfig); assert 'torch' not in sys.modules; "
        "print(time.process_time())"
    )
    began = time.monotonic()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 2.0, "seconds of processor time"
    assert time.monotonic() - began < 60


# ---- the YAML reader ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E5", 1e5), ("-.5", -0.5), ("1_000", 1000), ("0x1f", 31), ("+3", 3), ("010", 10),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("true", True), ("False", False), ("~", None), ("null", None),
        ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("1.2.3", "1.2.3"), ("e5", "e5"), ("1e", "1e"), ("-", "-"),
    ],
)  # fmt: skip
def test_scalars_mean_what_they_look_like(text: str, value: object) -> None:
    assert scalar(text) == value and type(scalar(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: &x [1]\nc: *x\n", 2, "anchors and aliases"),
        ("a: [1\nb: {", 2, "not YAML"),
        ("a:\n\tb: 3\n", 2, "spaces instead of tabs"),
        ("[" * 5000, 1, "nested deeper"),
        ("a: 1\na: 2\n", 2, "set twice (first on line 1)"),
        ("a: {b: 1, b: 2}\n", 1, "a.b is set twice"),
        ("x: 1\na: !!python/object/apply:os.system [ls]\n", 2, "tag"),
        ("a: !foo x\n", 1, "tag"),
        ("a: 1\n---\nb: 2\n", 2, "single document"),
        ("? [a]\n: 1\n", 1, "a key must be a single word"),
        ("a: 'x\x01y'\n", 1, "not YAML"),
        ("a: x" + " " * 2_000_000, 1, "longer than"),
    ],
)
def test_bad_yaml_names_its_line(text: str, line: int, says: str) -> None:
    faults = read(text).faults
    assert [fault.line for fault in faults[:1]] == [line] and says in faults[0].text, faults


def test_billion_laughs_costs_nothing() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
    )
    began = time.process_time()
    assert read(bomb).faults
    assert time.process_time() - began < 1


def test_files_that_are_not_settings(tmp_path: Path) -> None:
    for name, content, says in (
        ("list.yaml", b"- a\n", "keys and values"),
        ("word.yaml", b"hello", "keys and values"),
        ("bytes.yaml", b"\xff\xfe\x00", "not UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserMistake, match=says):
            load(tmp_path / name, TrainConfig)
    with pytest.raises(UserMistake, match="No such file"):
        load(tmp_path / "nowhere.yaml", TrainConfig)
    with pytest.raises(UserMistake, match="directory"):
        load(tmp_path, TrainConfig)
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(tmp_path / "bom.yaml", TrainConfig) == parse(GOOD, TrainConfig)


def test_empty_file_lists_what_is_required() -> None:
    assert [line.split()[1] for line in mistakes("")] == ["name:", "model:", "rewards:", "data:"]


leaf = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | st.text(max_size=8)
quick = {"deadline": None, "phases": (Phase.explicit, Phase.generate)}
tree = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3))
known = st.sampled_from([*TrainConfig.model_fields, *RolloutConfig.model_fields, "kind", "rank", "0"])


@settings(max_examples=30, **quick)
@given(st.dictionaries(known, tree | st.dictionaries(known, tree, max_size=3), max_size=5))
def test_any_data_is_either_settings_or_a_user_mistake(data: dict[str, object]) -> None:
    try:
        config = parse(write(data), TrainConfig)
    except UserMistake as mistake:
        assert str(mistake)
    else:
        assert parse(dump(config), TrainConfig) == config


@settings(max_examples=25, **quick)
@given(st.text(max_size=200))
def test_any_text_is_either_settings_or_a_user_mistake(text: str) -> None:
    with pytest.raises(UserMistake):
        parse(text, TrainConfig)


@settings(max_examples=25, **quick)
@given(st.text())
def test_any_text_written_is_read_back(text: str) -> None:
    for value in (
        text,
        "1e-5",
        "~",
        "",
        "no",
        "0x1f",
        "1_0",
        "a: b",
        "# x",
        "2026-01-01",
        "'",
        '"',
        "\n",
        " ",
        "\x85",
        "\ufeff",
    ):
        assert read(write({"key": value})).data == {"key": value}


@settings(max_examples=25, **quick)
@given(
    st.floats(1e-8, 1e-2), st.text(max_size=20), st.integers(0, 2**63 - 1), st.sampled_from(["no", "1e-5", "null", "0x1f", "~"])
)
def test_what_is_dumped_reads_back_the_same(rate: float, negative: str, seed: int, word: str) -> None:
    config = TrainConfig.model_validate(
        {
            "name": "r", "model": word, "seed": seed, "data": {"prompts": word}, "rewards": ({"name": "a"},),
            "optimiser": {"learning_rate": rate}, "rollout": {"negative_prompt": negative},
        }
    )  # fmt: skip
    assert parse(dump(config), TrainConfig) == config


def test_grpo_is_meant_where_no_algorithm_is_named_and_each_has_its_own_settings() -> None:
    assert isinstance(parse(GOOD + "algorithm: {clip_range: 1e-3}\n", TrainConfig).algorithm, GRPOConfig)
    nft = parse(GOOD + "algorithm: {name: nft, points: 2}\nrollout: {steps: 8}\n", TrainConfig)
    assert isinstance(nft.algorithm, NFTConfig) and nft.algorithm.points == 2
    assert parse(dump(nft), TrainConfig) == nft


def test_the_default_clip_range_is_that_of_the_kind_of_ratio() -> None:
    """Normalised ratios are about 3.5 times as large, and so is their rounding in bf16: docs/experiments/algorithms.md."""

    def clip_range(algorithm: str, *overrides: str) -> float:
        config = parse(GOOD + f"algorithm: {algorithm}\n", TrainConfig, overrides)
        assert parse(dump(config), TrainConfig) == config and f"clip_range: {config.algorithm.clip_range:g}" in dump(config)
        return config.algorithm.clip_range

    assert GRPOConfig().clip_range == clip_range("{}") == clip_range("{name: grpo, clip_range: null}") == 1e-4
    assert GRPOConfig(ratio_norm=True).clip_range == clip_range("{ratio_norm: true}") == 4e-4
    assert clip_range("{name: grpo}", "algorithm.ratio_norm=true") == 4e-4
    assert clip_range("{ratio_norm: true, clip_range: 1e-4}") == 1e-4
    found = mistakes(GOOD + "algorithm: {ratio_norm: maybe, clip_range: 2}\n")
    assert [line.split()[1] for line in found] == ["algorithm.clip_range:", "algorithm.ratio_norm:"]


def test_a_rollout_of_few_steps_is_for_nft_which_has_no_window() -> None:
    assert parse(GOOD + "algorithm: {name: nft}\nrollout: {steps: 3}\n", TrainConfig).rollout.steps == 3
    found = mistakes(GOOD + "rollout: {steps: 3}\n")
    assert len(found) == 1 and "window_start + window_size = 3 must leave the last of the 3 steps deterministic" in found[0]


def test_what_means_nothing_for_nft_is_refused() -> None:
    found = mistakes(GOOD + "algorithm: {name: nft, clip_range: 1e-3, sigma_low: 0.99}\n")
    assert [line.split()[1] for line in found] == ["algorithm.clip_range:", "algorithm.sigma_low:"]
    found = mistakes(GOOD + "algorithm: {name: nft}\nrollout: {eta: 0.5}\n")
    assert len(found) == 1 and "rollout.eta" in found[0] and "no effect with nft" in found[0]
