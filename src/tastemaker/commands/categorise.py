"""`tastemaker categorise`: gives every prompt a category, by the prompt itself, by rules, or by asking a model."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tastemaker import config as settings
from tastemaker.commands.curate import checked_list
from tastemaker.config import CategoriesConfig, ChatClassifierConfig
from tastemaker.data.categories import Rule, category_by_rules
from tastemaker.data.prompts import read_prompts, write_prompts
from tastemaker.errors import UserMistake
from tastemaker.rewards.classifier import ChatClassifier, Classifier, VLMClassifier
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.service import Address, Limits
from tastemaker.rewards.vlm_folder import load_vlm
from tastemaker.runtime.changes import fingerprint
from tastemaker.runtime.device import pick_device, pick_precision
from tastemaker.runtime.folder import write_text_atomic
from tastemaker.runtime.metrics import append_line, read_lines
from tastemaker.types import Prompt

ASKED_AT_ONCE = 256
"""Prompts whose categories are asked of a model within one deadline, and kept together."""


@dataclass(frozen=True)
class Categorised:
    """A prompt with its category, and where that comes from; or, with an empty category, why there is none."""

    prompt: Prompt
    how: str
    missing: str = ""


def categorise(path: Path, rules: Path, *, out: Path | None = None) -> Path:
    """Gives every prompt of the file that states no category one, and returns the new list; a table lies beside it.

    Prompts that get none are left out of the list, for without the key they would count as `general`; the table names them.
    What a model answered is kept beside the list, so the same command goes on, and asks again only where an answer is missing.
    """
    config = settings.load(rules, CategoriesConfig)
    prompts = read_prompts(path, category="")
    out = checked_list(out or path.with_name(f"{path.stem}.categorised.jsonl"), prompts)
    console = Console()
    kept = Kept(out.with_name(f"{out.stem}.answers.jsonl"), config, rules.parent)
    found = _asked(_by_rules(prompts, config), config, rules.parent, kept, console)
    table = out.with_name(f"{out.stem}.csv")
    write_text_atomic(table, _as_csv(found))
    _show(found, config, console)
    named = [one.prompt for one in found if one.prompt.category]
    if not named:
        raise UserMistake(f"{path}: no prompt got a category, see {table}; add rules, or ask a model")
    write_prompts(out, named)
    console.print(f"{len(named)} of {len(found)} prompts: {out}; how each got its category: {table}", soft_wrap=True)
    return out


def _by_rules(prompts: Sequence[Prompt], config: CategoriesConfig) -> list[Categorised]:
    rules = [Rule.of(rule.category, rule.words, rule.pattern) for rule in config.rules]

    def one(prompt: Prompt) -> Categorised:
        if prompt.category:
            return Categorised(prompt, "given")
        if matched := category_by_rules(prompt, rules):
            return Categorised(replace(prompt, category=matched[0]), f"rule {matched[1]}")
        if config.otherwise:
            return Categorised(replace(prompt, category=config.otherwise), "otherwise")
        return Categorised(prompt, "", "no rule matches")

    return [one(prompt) for prompt in prompts]


class Kept:
    """What a model has answered so far, one line each. It belongs to the words, the pictures and who was asked."""

    def __init__(self, path: Path, config: CategoriesConfig, beside: Path) -> None:
        self._path = path
        asked = config.model_dump(mode="json", include={"names", "judge"})
        if config.judge is not None and not isinstance(config.judge, ChatClassifierConfig):
            asked["weights"] = fingerprint(beside / config.judge.path)
        self._asked = json.dumps(asked, sort_keys=True)
        self._answers = {line["question"]: line["category"] for line in read_lines(path)}

    def __getitem__(self, prompt: Prompt) -> str | None:
        return self._answers.get(self._question(prompt))

    def add(self, prompt: Prompt, category: str) -> None:
        question = self._question(prompt)
        self._answers[question] = category
        append_line(self._path, {"question": question, "id": prompt.id, "category": category})

    def _question(self, prompt: Prompt) -> str:
        parts = [self._asked, prompt.text, prompt.task, *map(fingerprint, prompt.sources)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _asked(found: list[Categorised], config: CategoriesConfig, beside: Path, kept: Kept, console: Console) -> list[Categorised]:
    """Those without a category are asked about, where there is a model that has not answered yet."""
    found = [_as_judged(one, kept[one.prompt]) if one.missing and config.judge else one for one in found]
    left = [row for row, one in enumerate(found) if one.missing]
    if config.judge is None or not left:
        return found
    classifier = _classifier(config, beside)
    for start in range(0, len(left), ASKED_AT_ONCE):
        rows = left[start : start + ASKED_AT_ONCE]
        for row, answer in zip(rows, classifier.classify([found[row].prompt for row in rows]), strict=True):
            if not isinstance(answer, Missing):
                kept.add(found[row].prompt, answer)
            found[row] = _as_judged(found[row], answer)
        console.print(f"asked about {start + len(rows)} of {len(left)} prompts")
    return found


def _as_judged(one: Categorised, answer: str | Missing | None) -> Categorised:
    if answer is None:
        return one
    if isinstance(answer, Missing):
        return replace(one, missing=answer.reason)
    return Categorised(replace(one.prompt, category=answer), "judge")


def _classifier(config: CategoriesConfig, beside: Path) -> Classifier:
    judge = config.judge
    if isinstance(judge, ChatClassifierConfig):
        address = Address(url=judge.url, token_variable=judge.token_variable)
        return ChatClassifier(
            address=address, model=judge.model, names=config.names, limits=Limits(concurrency=judge.concurrency)
        )
    assert judge is not None
    device = pick_device()
    vlm = load_vlm(beside / judge.path, device=device, dtype=pick_precision(judge.precision, device))
    return VLMClassifier(vlm, config.names)


def _as_csv(found: Sequence[Categorised]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "category", "how", "why missing", "text"])
    writer.writerows([one.prompt.id, one.prompt.category, one.how, one.missing, one.prompt.text] for one in found)
    return buffer.getvalue()


def _show(found: Sequence[Categorised], config: CategoriesConfig, console: Console) -> None:
    """Counts by category and origin, reasons, and rules that no prompt met."""
    counts = Counter((one.prompt.category, one.how.partition(" ")[0]) for one in found if one.prompt.category)
    origins = [origin for origin in ("given", "rule", "otherwise", "judge") if any(origin == how for _, how in counts)]
    table = Table()
    for heading in ("category", "n", *origins):
        table.add_column(heading, justify="left" if heading == "category" else "right")
    for name in sorted({category for category, _ in counts}):
        numbers = [counts[name, origin] for origin in origins]
        table.add_row(Text(name), str(sum(numbers)), *map(str, numbers))
    console.print(table)
    for reason, count in Counter(one.missing for one in found if one.missing).most_common(5):
        console.print(Text(f"{count} without a category, left out of the list: {reason}", style="yellow"))
    met = {one.how for one in found}
    for number, rule in enumerate(config.rules, start=1):
        if f"rule {number}" not in met:
            console.print(Text(f"rule {number} ({rule.category}) decides on no prompt"))
