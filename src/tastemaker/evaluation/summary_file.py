"""`summary.json`: the numbers of an evaluation as strict JSON, in which one that the data do not give is null."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.errors import UserMistake
from tastemaker.evaluation.ranking import Elo
from tastemaker.evaluation.scores import ScoreDifference, ScoreRow
from tastemaker.evaluation.summary import Difference, Row, Summary
from tastemaker.runtime.folder import make_folder, write_text_atomic

REQUIRED = {"rows": Row, "differences": Difference}
OPTIONAL = {"elo": Elo, "scores": ScoreRow, "score_differences": ScoreDifference}
"""Tables of a summary, and what a line of each is."""


def write_summary(path: str | Path, summary: Summary) -> Path:
    """Write strict JSON, whole or not at all; NaN and infinite numbers become null."""
    text = json.dumps(_strict(asdict(summary)), indent=2, allow_nan=False, ensure_ascii=False)
    path = Path(path)
    make_folder(path.parent)
    write_text_atomic(path, text + "\n")
    return path


def read_summary(path: str | Path) -> Summary:
    """What `write_summary` wrote; raises UserMistake, naming the field, for anything else."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        tables = {name: tuple(_rows(kind, name, data.pop(name))) for name, kind in REQUIRED.items()}
        tables |= {name: tuple(_rows(kind, name, data.pop(name, ()))) for name, kind in OPTIONAL.items()}
        return _restore(Summary, {**data, **tables, "notes": tuple(data.pop("notes", ()))}, "summary")
    except (OSError, UnicodeDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserMistake(f"{path}: not a summary of an evaluation ({reason}); write it again with `evaluate`") from error


def _rows(kind: Any, table: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    for number, row in enumerate(rows):
        yield _restore(kind, {**row, "pair": tuple(row["pair"])} if "pair" in row else row, f"{table}[{number}]")


def _restore(kind: Any, data: Mapping[str, Any], where: str) -> Any:
    unknown = set(data) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    missing = {f.name for f in fields(kind) if f.type == "float"}
    try:
        return kind(**{key: math.nan if value is None and key in missing else value for key, value in data.items()})
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        return [_strict(item) for item in value]
    if isinstance(value, np.generic):
        return _strict(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
