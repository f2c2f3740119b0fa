"""Judges that a config names: a model's folder, our own server, any chat server with log-probabilities, a fixed scorer, or a
function of your own.

A token is never written into a config: `token_variable` names the environment variable that holds it. Whether the paths are
there is for `check_judges`, since they start at the config's own folder.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from tastemaker.config.base import Broken, Settings, nearest
from tastemaker.errors import UserMistake

FilePath = Annotated[str, Field(min_length=1)]
Many = Annotated[int, Field(ge=1, le=10_000)]

RUBRICS = Path(__file__).parents[1] / "rewards" / "rubrics"
"""The texts that come with the package; looked at without importing what reads them, which needs torch."""
_RUBRIC_FILE = re.compile(r".+\.v[1-9]\d*(\.md)?")


Range = tuple[float, float]
"""Lowest and highest score."""


Rationales = Annotated[int, Field(ge=1, le=100)]
Temperature = Annotated[float, Field(ge=0, le=10)]
Mass = Annotated[float, Field(gt=0, le=1)]


class ReadOutChanges(Settings):
    """What is read otherwise than a judge was trained to be read. null is as it was trained, or as for a chat server."""

    chain_of_thought: bool | None = None
    """Whether it writes a rationale before its score; a judge that was trained without one cannot."""
    num_rationales: Rationales | None = None
    """Rationales that a score is averaged over; more than 1 need a temperature."""
    temperature: Temperature | None = None
    """Of the rationales; at 0 a rationale is the most likely one."""
    max_rationale_tokens: Many | None = None
    """A rationale that has not come to its end by then has no score."""
    min_mass: Mass | None = None
    """Least probability of the five scores together; with less, the model was about to say something else: no score."""

    def broken_rules(self) -> Iterator[Broken]:
        """More than one rationale needs `chain_of_thought` and a `temperature` above 0."""
        if (self.num_rationales or 1) == 1:
            return
        if self.chain_of_thought is False:
            yield Broken(
                ("num_rationales", "chain_of_thought"), "there is nothing to average without rationales", "set it to 1"
            )
        elif not self.temperature:
            rule = "at temperature 0 all rationales are the same"
            yield Broken(("num_rationales", "temperature"), rule, "raise the temperature or set it to 1")


class ReadOutConfig(ReadOutChanges):
    """How a score is read from a vision-language model."""

    chain_of_thought: bool = True
    """Whether it writes a rationale before its score."""
    num_rationales: Rationales = 1
    """Rationales that a score is averaged over; more than 1 need a temperature."""
    temperature: Temperature = 0.0
    """Of the rationales; at 0 a rationale is the most likely one."""
    max_rationale_tokens: Many = 512
    """A rationale that has not come to its end by then has no score."""
    min_mass: Mass = 0.9
    """Least probability of the five scores together; with less, the model was about to say something else: no score."""


class FolderJudgeConfig(Settings):
    """A vision-language model of transformers from a local folder, run in the training process. Scores lie in [1, 5]."""

    kind: Literal["folder"] = "folder"
    """Chooses this judge."""
    path: FilePath = Field(examples=["judges/alignment"])
    """A transformers folder, or a LoRA's."""
    base: FilePath | None = None
    """The folder of a LoRA's base, if it is not where the LoRA says."""
    rubric: FilePath | None = None
    """What it is asked: a shipped rubric such as alignment.v1, or a text file NAME.v1.md; null is the one that the folder was
    trained with."""
    read_out: ReadOutChanges | None = None
    """How its score is read, where that is not as it was trained."""
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")] | None = None
    """Such as cpu or cuda:1; null is that of the trained model."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """As `precision` of the run, for the judge's device."""
    max_pictures: Many = 16
    """Pictures in one forward pass; limits memory."""
    scores: ClassVar[Range] = (1, 5)

    def broken_rules(self) -> Iterator[Broken]:
        """`rubric` is a shipped one, or a file whose name ends in its version, NAME.v1.md."""
        yield from _rubric_rules(self.rubric)


class ServerJudgeConfig(Settings):
    """A judge that `tastemaker serve-reward` serves. It knows its model, rubric and range."""

    kind: Literal["server"] = "server"
    """Chooses this judge."""
    url: str = Field(examples=["http://127.0.0.1:8100"])
    """Scheme, host and port."""
    token_variable: str | None = None
    """The environment variable that holds the server's token; null sends none."""
    per_request: Annotated[int, Field(ge=1, le=64)] = 16
    """Pictures in one request; a server takes no more than 64."""
    concurrency: Many = 32
    """Most requests at a time."""
    scores: ClassVar[Range | None] = None
    """Its own matter."""

    def broken_rules(self) -> Iterator[Broken]:
        """`url` is http or https, without a path or password; `token_variable` is a name in capitals, never the token."""
        yield from url_rules(self.url)
        yield from token_rules(self.token_variable)
        if not list(url_rules(self.url)) and urlsplit(self.url).path not in ("", "/"):
            yield Broken(("url",), "a server of ours is at the root of its host", "leave the path out, or use kind: chat")


class ChatJudgeConfig(Settings):
    """A vision-language model behind an OpenAI-compatible server that gives log-probabilities. Scores lie in [1, 5]."""

    kind: Literal["chat"] = "chat"
    """Chooses this judge."""
    url: str = Field(examples=["http://127.0.0.1:8000/v1"])
    """Up to /v1, which is followed by /chat/completions."""
    model: Annotated[str, Field(min_length=1)] = Field(examples=["Qwen/Qwen3-VL-8B-Instruct"])
    """As the server calls it."""
    revision: str = ""
    """Which weights the server has under that name, in your own words."""
    rubric: FilePath = Field(examples=["alignment.v1"])
    """What it is asked: a shipped rubric such as alignment.v1, or a text file NAME.v1.md."""
    token_variable: str | None = None
    """The environment variable that holds the server's token; null sends none."""
    template_opens: bool = False
    """Whether the server's chat template opens the rationale itself (`<think>`), as those of reasoning models do. If it does
    and this is false, the model sees two openings, which nothing in a reply tells."""
    read_out: ReadOutConfig = ReadOutConfig()
    """How its score is read."""
    concurrency: Many = 32
    """Most pictures that are asked about at a time."""
    scores: ClassVar[Range] = (1, 5)

    def broken_rules(self) -> Iterator[Broken]:
        """`url` is http or https and holds no password; `token_variable` is a name in capitals, never the token. `rubric` is a
        shipped one, or a file whose name ends in its version, NAME.v1.md. With `cache`, `revision` is given.
        """
        yield from url_rules(self.url)
        yield from token_rules(self.token_variable)
        yield from _rubric_rules(self.rubric)


class FaceIdentityConfig(Settings):
    """Whether the people of the source pictures are still themselves in the output of an edit. Scores lie in [0, 1]."""

    kind: Literal["face_identity"] = "face_identity"
    """Chooses this judge."""
    lost: Annotated[float, Field(ge=0, le=1)] | None = 0.0
    """What a face counts that is not found in the output, 0 being the worst; null makes the score missing, so that the
    picture is learnt from by the other rewards alone, and erasing a face costs nothing."""
    detector_side: Annotated[int, Field(ge=80, le=8192)] = 1024
    """Pixels of the longer side at which faces are looked for; they are found from 80 pixels there."""
    detector_confidence: Annotated[float, Field(ge=0)] = 0.3
    """What the detector is less sure of counts as no face."""
    scores: ClassVar[Range] = (0, 1)


class DlibIdentityConfig(FaceIdentityConfig):
    """Whether the people of the sources are still themselves, by dlib's network, from a package. Scores lie in [0, 1]."""

    backend: Literal["dlib"] = "dlib"
    """Chooses this network."""


class ArcFaceIdentityConfig(FaceIdentityConfig):
    """Whether the people of the source pictures are still themselves, by any ArcFace-style network. Scores lie in [0, 1]."""

    backend: Literal["arcface"] = "arcface"
    """Chooses this network."""
    path: FilePath = Field(examples=["face.onnx"])
    """An ONNX file that takes (1 or N, 3, S, S) and gives (1 or N, D)."""
    mean: float = 127.5
    """Is subtracted from the pixels, which are in 0 to 255."""
    std: Annotated[float, Field(gt=0)] = 127.5
    """Divides them; a mean of 0 and this at 1 suit a file that does so itself."""
    bgr: bool = False
    """Whether the file takes blue first."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads."""


class TextRenderingConfig(Settings):
    """Whether the picture shows the words that were asked for, as OCR reads it. Scores lie in [0, 1]."""

    kind: Literal["text_rendering"] = "text_rendering"
    """Chooses this judge."""
    field: Annotated[str, Field(min_length=1)] = "text"
    """The part of a prompt's truth that is to be read; without it, what the prompt has in quotation marks."""
    ignore_case: bool = True
    """Whether capitals may be small letters."""
    ignore_punctuation: bool = False
    """Whether punctuation may be left out."""
    extra_counts: bool = True
    """Whether text that nobody asked for costs."""
    confidence: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Lines that the OCR is less sure of count as not there."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads."""
    scores: ClassVar[Range] = (0, 1)


class MiniatureJudgeConfig(Settings):
    """The judge that comes with the miniature: it has learnt from simulated raters and knows no truth. Scores lie in [1, 5]."""

    kind: Literal["miniature"] = "miniature"
    """Chooses this judge."""
    dimension: Literal["alignment", "aesthetic", "portrait", "instruction"]
    """What it judges; instruction is for edits, portrait for faces."""
    chain_of_thought: bool = False
    """Whether it writes a rationale before its score, which takes several times as long."""
    scores: ClassVar[Range] = (1, 5)


class MiniatureIdentityConfig(Settings):
    """Whether a cartoon face of the miniature is still the same person after an edit. Scores lie in [0, 1]."""

    kind: Literal["miniature_identity"] = "miniature_identity"
    """Chooses this judge."""
    scores: ClassVar[Range] = (0, 1)


class PythonJudgeConfig(Settings):
    """A function or class of your own in a Python file, run in the training process. `low` and `high` are its range."""

    kind: Literal["python"] = "python"
    """Chooses this judge."""
    path: FilePath = Field(examples=["my_rewards.py"])
    """The file. It may import from its own folder."""
    call: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] = Field(examples=["sharpness"])
    """What to call with pictures (B, 3, H, W) in [0, 1] on the CPU and their prompts, for B scores; a class is made first."""
    options: dict[str, Any] = Field(default={})
    """What the function takes beside those, or what the class is made with. One called `device` is the run's if not given."""
    scores: ClassVar[Range | None] = None
    """Its own matter."""


AnyJudgeConfig = (
    FolderJudgeConfig
    | ServerJudgeConfig
    | ChatJudgeConfig
    | Annotated[DlibIdentityConfig | ArcFaceIdentityConfig, Field(discriminator="backend")]
    | TextRenderingConfig
    | MiniatureJudgeConfig
    | MiniatureIdentityConfig
    | PythonJudgeConfig
)
JudgeConfig = Annotated[AnyJudgeConfig, Field(discriminator="kind")]


def shipped_rubrics() -> list[str]:
    """Labels of the rubrics that come with the package."""
    return sorted(path.name.removesuffix(".md") for path in RUBRICS.glob("*.v*.md"))


def check_judges(judges: Mapping[str, AnyJudgeConfig | None], beside: Path) -> None:
    """Looks whether all files that judges name are there; relative paths start at `beside`. Opens no model and asks no server.

    `judges` are by the key of their reward, such as rewards.0. Raises UserMistake with a line for each mistake.
    """
    wrong = [f"{key}.judge.{line}" for key, judge in judges.items() if judge is not None for line in _absent(judge, beside)]
    if wrong:
        raise UserMistake("\n".join(wrong))


def _absent(judge: AnyJudgeConfig, beside: Path) -> Iterator[str]:
    if isinstance(judge, ArcFaceIdentityConfig) and not (beside / judge.path).is_file():
        yield f"path: there is no file {beside / judge.path}; give an ArcFace-style network in ONNX format"
    if isinstance(judge, PythonJudgeConfig):
        yield from _absent_call(judge, beside / judge.path)
    if not isinstance(judge, FolderJudgeConfig | ChatJudgeConfig):
        return
    if judge.rubric is not None and judge.rubric not in shipped_rubrics() and not (beside / judge.rubric).is_file():
        yield f"rubric: there is no file {beside / judge.rubric}; give one, or one of {', '.join(shipped_rubrics())}"
    if isinstance(judge, ChatJudgeConfig):
        return
    if judge.base is not None and not (beside / judge.base / "config.json").is_file():
        yield f"base: {beside / judge.base} is no folder of a whole model (it has no config.json); give that of the LoRA's base"
    folder = beside / judge.path
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        what = "has neither config.json nor adapter_config.json" if folder.is_dir() else "is not a folder"
        yield f"path: {folder} {what}; give the folder of a transformers model or of a LoRA"
    elif judge.rubric is None and not (folder / "judge.json").is_file():
        yield f"rubric: missing, and {folder} was not trained as a judge (it has no judge.json); set it, such as alignment.v1"


def _absent_call(judge: PythonJudgeConfig, path: Path) -> Iterator[str]:
    """The file is read and not run."""
    if path.suffix != ".py" or not path.is_file():
        yield f"path: there is no Python file {path}; give one that has the function or class {judge.call}"
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        yield f"path: {path} is no Python that can be read: {error}"
        return
    names = {name for statement in tree.body for name in _bound(statement)}
    if judge.call not in names and "*" not in names:
        yield f"call: {path} defines no {judge.call}; {nearest(judge.call, sorted(names))}"


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement may bind, those inside an `if` or a `try` too."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def _rubric_rules(rubric: str | None) -> Iterator[Broken]:
    """A bare word is a shipped rubric's; whether a file is there is seen later."""
    if rubric is None or rubric in shipped_rubrics():
        return
    if "/" not in rubric and not rubric.endswith(".md"):
        yield Broken(("rubric",), "unknown rubric", f"{nearest(rubric, shipped_rubrics())} Or give a file NAME.v1.md")
    elif not _RUBRIC_FILE.fullmatch(Path(rubric).name):
        yield Broken(("rubric",), "the file's name must hold a version", "name it such as mine.v1.md")


def url_rules(url: str) -> Iterator[Broken]:
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        plain = False
    if "@" in url:
        # The whole judge is blamed, so that the report does not show the password.
        yield Broken(((),), "the url holds a name or password, which would be logged", "take it out and use token_variable")
    elif not plain or parts.query or parts.fragment:
        yield Broken(("url",), "must be the address of a server", "write one like http://127.0.0.1:8000/v1")


def token_rules(variable: str | None) -> Iterator[Broken]:
    """Most tokens are no name of this form; one that was pasted here must not be shown, so the whole judge is blamed."""
    if variable is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]*", variable):
        rule = "token_variable must be the name of an environment variable, in capitals, and never the token itself"
        yield Broken(((),), rule, "write one like JUDGE_TOKEN and set it in the environment")
