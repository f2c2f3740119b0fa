"""`tastemaker evaluate`: models side by side on held-out prompts, by the world's truth, by judges, or by both.

settings -> prompts, models, judges checked -> each model draws (kept) -> verdicts, scores (kept) -> tables, walls, report
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from rich.console import Console
from transformers.utils import logging as transformers_logging

from tastemaker import config as settings
from tastemaker.commands.contest import Contest, Entrant, prepare
from tastemaker.commands.train import encoding
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.data.pictures import open_picture
from tastemaker.errors import ServiceFailed
from tastemaker.evaluation import picture_statistics
from tastemaker.evaluation.comparison import Side, compare, pairs_of
from tastemaker.evaluation.drawn import Drawn, Opened, draw_kept, kept, missing_bytes
from tastemaker.evaluation.judged import judge_kept, judged, kept_scores
from tastemaker.evaluation.report import write_report
from tastemaker.evaluation.summary import NO_GUIDANCE, Summary, guidance_words
from tastemaker.evaluation.summary_file import write_summary
from tastemaker.evaluation.terminal import print_table
from tastemaker.evaluation.wall import Wall, paired_wall, save_wall
from tastemaker.miniature import task as miniature
from tastemaker.named.inputs import MINIATURE
from tastemaker.named.judges import opened_rewards
from tastemaker.rewards.composite import Composite
from tastemaker.runtime import device as hardware
from tastemaker.runtime import folder as disk
from tastemaker.runtime.lock import Lock
from tastemaker.runtime.metrics import read_lines
from tastemaker.runtime.sittings import counted
from tastemaker.training.start import make_composite
from tastemaker.types import Prompt, Scores

PICTURES = "pictures"
"""In the folder of an evaluation: what was drawn, and what judges said of it, each named by all that decides it."""
WALL_CASES = 28  # two of each kind of the miniature's edits
SHIFT_PICTURES = 400
"""Most pictures whose plain statistics are compared; at 1024 pixels a side these are 1.2 GB."""


@dataclass(frozen=True)
class Around:
    """What the report says beside the comparison itself."""

    title: str = ""
    trainings: Mapping[str, Path] = field(default_factory=dict)
    """Folders of runs by name, whose curves are shown."""
    seconds_before: float = 0.0
    """Of what led to the models, where the comparison is the end of it."""
    notes: tuple[str, ...] = ()
    warning: str = ""


def evaluate(path: Path, *, overrides: Iterable[str] = (), folder: Path | None = None) -> Summary:
    """Compares what the file says in `folder` (evaluations/NAME by default), or goes on where it stopped."""
    config = settings.load(path, EvaluateConfig, tuple(overrides))
    return run_evaluation(config, path.parent, folder or Path("evaluations") / config.name)


def run_evaluation(
    config: EvaluateConfig,
    beside: Path,
    folder: Path,
    console: Console | None = None,
    around: Around | None = None,
    embeddings: Path | None = None,
) -> Summary:
    """Writes report.html, summary.json and walls. All mistakes are told before a model is opened.

    Pictures and scores are kept in `folder`, so what was interrupted goes on, and a model that is added draws only its own.
    Interrupted among the judges' answers, it tells what these were. Encoded prompts are kept in `embeddings`, which other
    commands may share; in `folder` if it is not given.
    """
    console, around = console or Console(), around or Around()
    contest = prepare(config, beside, folder, embeddings)
    for warning in contest.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    hardware.set_threads(config.threads)
    place = hardware.pick_device()
    dtype = hardware.pick_precision(config.precision, place)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with _alone(folder), counted(folder) as seconds, _judges(config, beside, place) as composite:
        disk.write_text_atomic(folder / "evaluation.yaml", settings.dump(config))
        pictures = drawn_by_all(contest, place, dtype, console)
        truth = config.prompts == MINIATURE
        with miniature.reading_processes(torch.get_num_threads() if truth else 1) as pool:
            sides = [read_by_truth(contest, key, drawn, pool) for key, drawn in pictures.items()]
        if composite is not None:
            try:
                sides = judged_by(composite, sides, pictures, judge_kept, console)
            except (KeyboardInterrupt, Exception):  # whatever ended it, what was judged by then was paid for
                console.print("interrupted; this is what was judged by then", highlight=False)
                try:
                    partial = judged_by(composite, sides, pictures, kept_scores)
                    _tell(contest, partial, pictures, around, seconds(), console, so_far(partial, composite))
                except Exception as error:  # what ended it says more
                    console.print(f"it could not be written: {error!r}", markup=False, highlight=False)
                raise
        summary = _tell(contest, sides, pictures, around, seconds(), console)
        if composite is not None:
            _check_missing(contest, sides, composite)
        return summary


def _check_missing(contest: Contest, sides: Sequence[Side], composite: Composite) -> None:
    """Raises ServiceFailed where a stage of a recipe would else pass for finished with what a server left out."""
    lost, asked = _missing(sides, contest.config), len(sides) * int(composite.asked_BR(contest.prompts).sum())
    allowed = contest.config.missing_budget
    if lost > allowed * asked:
        raise ServiceFailed(
            f"{lost} of {asked} scores are missing, more than the {allowed:.0%} allowed (missing_budget); the same command "
            "asks for them again"
        )


def _missing(sides: Sequence[Side], config: EvaluateConfig) -> int:
    names = {reward.name for reward in config.rewards}
    return sum(int(values.sum()) for side in sides for name, values in side.missing.items() if name in names)


def _tell(
    contest: Contest,
    sides: Sequence[Side],
    pictures: Mapping[tuple[str, float], Drawn],
    around: Around,
    seconds: float,
    console: Console,
    so_far: str = "",
) -> Summary:
    """Writes the numbers and the report; `so_far` says how much of an interrupted evaluation they are of."""
    summary = summarise(contest, sides, around, around.seconds_before + seconds, so_far)
    write_summary(contest.folder / "summary.json", summary)
    print_table(summary, console)
    page = report(contest, sides, pictures, summary, around)
    console.print(f"report: {page}", soft_wrap=True)
    return summary


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = Lock(folder / "lock")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _judges(config: EvaluateConfig, beside: Path, device: torch.device) -> Iterator[Composite | None]:
    if not config.rewards:
        yield None
        return
    with opened_rewards(config, beside, device) as rewards:
        yield make_composite(config, rewards)


def drawn_by_all(
    contest: Contest, device: torch.device, dtype: torch.dtype, console: Console
) -> dict[tuple[str, float], Drawn]:
    """The pictures of each model at each of its scales; one model is open at a time."""
    places = [(one, scale, contest.drawing(scale)) for one in contest.entrants for scale in one.guidance]
    folders = {(one.name, scale): contest.folder / PICTURES / f"{one.name}-guidance-{scale:g}" for one, scale, _ in places}
    keys = {one.name: f"{one.source.key} {dtype}" for one in contest.entrants}
    absent = (
        missing_bytes(kept(folders[one.name, scale], keys[one.name], contest.prompts, how), how) for one, scale, how in places
    )
    disk.require_space(contest.folder, sum(absent))
    found = {}
    for one in contest.entrants:
        opened = cache(partial(_opened, contest, one, device, dtype, console))
        for scale in one.guidance:
            say = partial(_say, console, f"{one.name}, guidance {guidance_words(scale)}")
            where = folders[one.name, scale]
            found[one.name, scale] = draw_kept(where, keys[one.name], contest.prompts, contest.drawing(scale), opened, say)
    return found


def _opened(contest: Contest, one: Entrant, device: torch.device, dtype: torch.dtype, console: Console) -> Opened:
    console.print(f"opening {one.name}", highlight=False)
    adapter = one.source.open(device, dtype)
    side, key = contest.config.picture_side, encoder_key(one.source.pipeline)
    cache = EmbeddingCache(adapter, height=side, width=side, folder=contest.embeddings, encoder_key=key)
    guided = any(scale != NO_GUIDANCE for scale in one.guidance)
    cache.encode_ahead(contest.prompts, [contest.config.negative_prompt] if guided else [], encoding(console))
    return adapter, cache


def _say(console: Console, what: str, done: int, total: int) -> None:
    console.print(f"{what}: {done} of {total} pictures", highlight=False, markup=False)


def read_by_truth(contest: Contest, key: tuple[str, float], drawn: Drawn, pool: Executor | None) -> Side:
    """One side, with what is known to be true of its pictures."""
    name, scale = key
    side = Side(name, scale, contest.drawing(scale).forwards_per_image)
    if contest.config.prompts == MINIATURE:
        found = [truths(pictures, drawn.prompts[places], pool) for _, places, pictures in drawn.batches()]
        read = {measure: np.concatenate([one[measure] for one in found]) for measure in found[0]}
        verdicts = read.pop("verdict")
        side = replace(side, verdicts=verdicts, scores=read, missing={m: np.zeros(len(verdicts), bool) for m in read})
    return side


def judged_by(
    composite: Composite,
    sides: Sequence[Side],
    pictures: Mapping[tuple[str, float], Drawn],
    scored: Callable[[Drawn, Composite], Scores],
    console: Console | None = None,
) -> list[Side]:
    """The sides with what the judges say of their pictures, by `judge_kept` or `kept_scores`."""
    found = []
    for side in sides:
        if console is not None:
            console.print(f"judging {side.title}", highlight=False, markup=False)
        drawn = pictures[side.model, side.guidance]
        said = judged(composite, scored(drawn, composite), drawn.prompts)
        scores, missing = {**side.scores, **said.scores}, {**side.missing, **said.missing}
        found.append(replace(side, scores=scores, missing=missing, judged=said.total, noise=said.noise))
    return found


def so_far(sides: Sequence[Side], composite: Composite) -> str:
    """In words, of how many pictures all scores are there."""
    lacking = [np.logical_or.reduce([side.missing[name] for name in composite.names]) for side in sides]
    total, judged = sum(map(len, lacking)), sum(int((~rows).sum()) for rows in lacking)
    return f"incomplete, n={judged}: it was interrupted when {judged} of {total} pictures were judged; the same command goes on"


def truths(pictures: np.ndarray, prompts: Sequence[Prompt], pool: Executor | None) -> dict[str, np.ndarray]:
    """(n,) floats by the miniature's oracle: whether a prompt is met, and of edits what became of the rest; NaN elsewhere."""
    found = {name: np.full(len(prompts), np.nan) for name in ("verdict", "oracle: preserved", "oracle: same person")}
    rows = {task: [row for row, prompt in enumerate(prompts) if prompt.task == task] for task in ("t2i", "edit")}
    if rows["t2i"]:
        texts = [prompts[row] for row in rows["t2i"]]
        found["verdict"][rows["t2i"]] = miniature.verdicts(pictures[rows["t2i"]], texts, pool)
    if rows["edit"]:
        edits = [prompts[row] for row in rows["edit"]]
        read = miniature.edit_verdicts(pictures[rows["edit"]], edits, pool)
        for name, values in zip(found, (read.success, read.preserved, read.identity), strict=True):
            found[name][rows["edit"]] = values
    return found


def summarise(contest: Contest, sides: Sequence[Side], around: Around, seconds: float, so_far: str = "") -> Summary:
    config = contest.config
    tables = compare(sides, contest.prompts, against=contest.against)
    lost = _missing(sides, config)
    notes = [
        *(f"{one.name}: {config.models[place].path}" for place, one in enumerate(contest.entrants)),
        *(
            ["accuracy: every fact of the prompt holds, by the miniature's oracle; of an edit, and the rest is preserved"]
            * (config.prompts == MINIATURE)
        ),
        *contest.warnings,
        *around.notes,
    ]
    incomplete = f"incomplete: {lost} scores are missing; when it runs again they are asked for" if lost else ""
    return Summary(
        **vars(tables),
        wall_seconds=seconds,
        seed=config.seed,
        versions={name: version(name) for name in ("tastemaker", "torch", "diffusers", "transformers")},
        settings=config.model_dump(mode="json"),
        models={one.name: one.source.key for one in contest.entrants},
        rewards={reward.name: f"weight {reward.weight:g}" for reward in config.rewards},
        notes=tuple(notes),
        warning="; ".join(filter(None, (around.warning, so_far or incomplete))),
    )


def report(
    contest: Contest,
    sides: Sequence[Side],
    pictures: Mapping[tuple[str, float], Drawn],
    summary: Summary,
    around: Around,
) -> Path:
    """Walls, and the page with the tables; gives the page's path."""
    walls = [wall_of(contest, sides, pictures, task) for task in dict.fromkeys(prompt.task for prompt in contest.prompts)]
    for wall in walls:
        save_wall(contest.folder / f"wall-{wall.heading.split(':')[0]}.png", wall)
    shifts: tuple[picture_statistics.Shift, ...] = ()
    notes = summary.notes
    if pairs := pairs_of(sides, contest.against):
        after, before = pairs[0]
        some = _of_all_kinds(range(len(contest.prompts)), contest.prompts, SHIFT_PICTURES)
        base, other = (pictures[side.model, side.guidance].pictures(some) for side in (before, after))
        shifts = picture_statistics.compare(base, other)
        notes = (*notes, f"picture statistics: before is {before.title}; after is {after.title}")
    title, trainings = around.title or f"tastemaker evaluation: {contest.config.name}", around.trainings
    return write_report(
        contest.folder,
        replace(summary, notes=notes),
        title=title,
        walls=walls,
        shifts=shifts,
        history={name: read_lines(run / "metrics.jsonl") for name, run in trainings.items()},
        watched={name: lines for name, run in trainings.items() if (lines := read_lines(run / "monitor.jsonl"))},
    )


def wall_of(contest: Contest, sides: Sequence[Side], pictures: Mapping[tuple[str, float], Drawn], task: str) -> Wall:
    """Prompts of all kinds in turn, a picture of each side, and the sources of an edit first."""
    chosen = _of_all_kinds([place for place, prompt in enumerate(contest.prompts) if prompt.task == task], contest.prompts)
    prompts = [contest.prompts[place] for place in chosen]
    most = max(len(prompt.sources) for prompt in prompts)
    sources = [[np.asarray(open_picture(p.sources[n])) if n < len(p.sources) else None for p in prompts] for n in range(most)]
    unjudged: list[bool | None] = [None] * len(chosen)
    wall = paired_wall(
        f"{task}: same prompts, same noise",
        [*(["source"] if most == 1 else [f"source {n + 1}" for n in range(most)]), *(side.title for side in sides)],
        [prompt.text for prompt in prompts],
        [*sources, *(pictures[side.model, side.guidance].pictures(chosen) for side in sides)],
        [*([unjudged] * len(sources)), *(unjudged if side.verdicts is None else side.verdicts[chosen] for side in sides)],
    )
    return replace(wall, cases=tuple(replace(c, note=_kind(p)) for c, p in zip(wall.cases, prompts, strict=True)))


def _of_all_kinds(places: Sequence[int], prompts: Sequence[Prompt], most: int = WALL_CASES) -> list[int]:
    """At most so many places: the first of each kind, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for place in places:
        kind = _kind(prompts[place])
        turns.append((seen[kind], place))
        seen[kind] += 1
    return [place for _, place in sorted(turns)[:most]]


def _kind(prompt: Prompt) -> str:
    """What the miniature's edits ask for (recolour, move ...), else the prompt's category."""
    return str((prompt.truth or {}).get("kind", prompt.category))
