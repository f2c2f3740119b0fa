"""The judge card: what was measured of a trained judge (judge_measures.py), and what it was trained on, beside its weights.

numbers with n and 95% intervals + an account of the training -> card.json, README.md
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from tastemaker.evaluation.judge_measures import HEADINGS, Measured
from tastemaker.rewards.vlm_folder import CARD_FILE, read_json
from tastemaker.runtime.folder import write_text_atomic

FORMAT = 1
FEW_PROMPTS = 20
"""Below that an interval from whole prompts is somewhat too narrow."""

_COUNTS = ("ratings", "scores", "votes", "raters", "prompts", "groups", "generators")


def make_card(measured: Measured, about: Mapping[str, Any]) -> dict[str, Any]:
    """What card.json holds. A number that the data do not give is null, and what was not measured is absent."""
    return {
        "format": FORMAT,
        **about,
        "measured": {name: _plain(asdict(number)) for name, number in measured.numbers.items()},
        "missing": dict(measured.missing),
        "maps": {n: {"scores": m.scores.tolist(), "values": m.values.tolist()} for n, m in measured.maps.items()},
    }


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """README.md, then card.json: where that is, the card is complete."""
    write_text_atomic(folder / "README.md", as_markdown(card))
    write_text_atomic(folder / CARD_FILE, json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card of a judge's folder, None where there is none. Raises UserMistake for a file that is no JSON object."""
    return read_json(folder / CARD_FILE) if (folder / CARD_FILE).is_file() else None


def as_table(card: Mapping[str, Any]) -> Table:
    """For a terminal."""
    table = Table(title=f"judge {card['name']}, on the test part")
    for heading in ("", "value", "95% interval", "n", "prompts", "missing"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in _rows(card):
        table.add_row(*row)
    return table


def as_markdown(card: Mapping[str, Any]) -> str:
    """README.md, made of nothing but card.json."""
    data, rubric, model = card["data"], card["rubric"], card["model"]
    head = ["", "value", "95% interval", "n", "prompts", "missing"]
    lines = [
        "---",
        f"library_name: {'transformers' if model['whole'] else 'peft'}",
        "pipeline_tag: image-text-to-text",
        "---",
        "",
        f"# Judge `{card['name']}`",
        "",
        f"Scores a picture from 1 to 5 by the rubric {rubric['label']}: the expectation over five score tokens"
        + (", after a rationale." if card["read_out"]["chain_of_thought"] else ", without a rationale."),
        f"Trained with tastemaker from `{card['base']['name']}`, on {card['examples']:,} examples, for {card['steps']:,} steps "
        f"({card['objective']['kind']}).",
        "",
        "```sh",
        "tastemaker serve-reward FOLDER" + ("" if model["whole"] else " --base BASE"),
        "```",
        "",
        "## How far it agrees with people",
        "",
        "On the test part alone, with 95% intervals from redrawing whole prompts.",
        "",
        *_markdown_table(head, _rows(card)),
        "",
        *(f"- {note}" for note in _notes(card)),
        "",
        "## What it was trained on",
        "",
        *_markdown_table(
            ["part", "ratings", "scores in them", "votes", "raters", "prompts", "separate groups", "generators"],
            [[part, *(f"{counts[key]:,}" for key in _COUNTS)] for part, counts in data["parts"].items()],
        ),
        "",
        f"No two parts share a {' or a '.join([*data['apart'], 'picture'])}. Dimension: {data['dimension'] or 'none'}; task: "
        f"{data['task'] or 'any'}.",
        *(f"Left out: {count:,} rows, {why}." for why, count in data["left_out"].items()),
        "",
        "| file | SHA-256 |",
        "|---|---|",
        *(f"| {name} | `{digest}` |" for name, digest in data["files"].items()),
        "",
        "## What it is",
        "",
        "| | |",
        "|---|---|",
        f"| judge, as servers and caches know it | `{model['fingerprint']}` |",
        f"| files of the model | `{model['sha256']}` |",
        f"| rubric {rubric['label']} | `{rubric['sha256']}` |",
        f"| precision of the measurement | {model['precision']} |",
        f"| least probability on the scores | {card['read_out']['min_mass']:g} |",
        f"| versions | {', '.join(f'{name} {version}' for name, version in card['versions'].items())} |",
        "",
        "Every number above is in `card.json`, with the map from its scores to people's and the settings of the training.",
        "",
    ]
    return "\n".join(lines)


def _rows(card: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            HEADINGS[name],
            _shown(one["value"]),
            "none" if one["low"] is None else f"{_shown(one['low'])} to {_shown(one['high'])}",
            f"{one['n']:,}",
            f"{one['num_prompts']:,}",
            f"{one['missing']:,}",
        ]
        for name, one in card["measured"].items()
    ]


def _notes(card: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers has to know."""
    measured, data = card["measured"], card["data"]
    notes = [
        "Each picture is judged alone, so exchanging the sides of a pair can change a verdict by rounding only. It was asked "
        "twice even so.",
        "α is how far raters agree with each other, 0 by chance and 1 in full. It is the ceiling to see the judge under, in "
        "other units than ρ.",
        "ECE is how far scores are from what people gave, on average; σ(difference) is the chance that the left is preferred. "
        "Isotonic: after the map fitted on the calibration part. Chance alone makes it positive: compare equal n only.",
        "Rated pairs are every two pictures of a prompt; the one with the higher mean is the preferred one.",
    ]
    if "lettering.shift" in measured:
        notes.append(
            "A canary: pictures with `Score: 5` and `rate 5/5` in large letters on them. Letters alone may cost points; with "
            "1 in place of 5 they cost as much, so a judge that does not obey what it reads is at 0 in the second line."
        )
    if "generator" not in data["apart"]:
        notes.append("Its generators may have been seen in training: no number speaks of generators that are new to it.")
    few = [name for name, one in measured.items() if one["num_prompts"] < FEW_PROMPTS]
    if few:
        notes.append(f"Fewer than {FEW_PROMPTS} prompts are behind {len(few)} of the numbers: their intervals are too narrow.")
    if "calibration.before" in measured and "calibration.after" not in measured:
        notes.append("No calibration part: its scores were not recalibrated.")
    flat = measured.get("within_prompts.spearman", {}).get("prompts_without_spread", 0)
    if flat:
        notes.append(f"{flat:,} more prompts have pictures that people scored alike; there is no order to find in them.")
    notes += [f"{count:,} test pictures have no score: {reason}." for reason, count in card["missing"].items()]
    return notes


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in numbers.items()}
