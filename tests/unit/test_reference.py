"""docs/settings.md is what the settings say now, and says all that they have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tastemaker.config import Settings
from tastemaker.config.reference import FILES, Page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def groups(of: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for group in of.__subclasses__():
        if group.__module__.startswith("tastemaker.config."):
            yield group
            yield from groups(group)


def test_the_page_is_what_the_settings_say():
    assert PAGE.read_text(encoding="utf-8") == Page().text(), "python -m tastemaker.config.reference > docs/settings.md"


def test_every_key_has_a_row_with_a_description():
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \| .* \| (.*) \|$", Page().text(), re.MULTILINE))
    chosen_by = {"kind", "backend"}  # these are in the headings
    assert {name for group in groups() for name in group.model_fields} - chosen_by <= rows.keys()
    assert all(rows.values())


def test_every_group_and_every_rule_says_what_it_is():
    silent = [group.__name__ for group in groups() if not group.__doc__ or not group.broken_rules.__doc__]
    assert not silent, f"{silent}: describe the group, and the rules in its broken_rules"


def test_a_group_is_written_once_and_every_link_leads_to_a_heading():
    text = Page().text()
    headings = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    assert len(set(headings)) == len(headings)
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(headings)
    assert {page for page in re.findall(r"\]\(([\w-]+\.md)\)", text) if not (PAGE.parent / page).is_file()} == set()
    assert text.count("| `group_size` |") == 2, "of a training and of a distillation"


def test_values_are_told_with_rule_unit_and_default():
    text = Page().text()
    assert (
        "| `picture_side` | whole number from 32 to 4096, a multiple of 32 | `64` | Height and width of the pictures in" in text
    )
    assert "| `eta` | number > 0 and ≤ 2 | `0.7` |" in text
    assert "| `betas` | two of number ≥ 0 and < 1 | `[0.9, 0.999]` |" in text
    assert "| `epsilon` | number > 0 and < 0.01 | `1e-8` |" in text
    assert "| `name` | name | required | The run's name, and its folder's. |" in text
    assert "| `policy` | one of [`policy`](#train-policy) | `{kind: full}` |" in text
    assert "| `task` | `t2i`, `edit` or `null` | `null` |" in text


def test_every_kind_of_file_is_there():
    assert {f"## {file.name}" for file in FILES} | {"## recipe"} <= set(Page().text().splitlines())
