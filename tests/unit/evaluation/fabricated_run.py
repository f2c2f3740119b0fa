"""A fabricated run, to look at the report without training: `python fabricated_run.py FOLDER`. None of it was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tastemaker.evaluation.picture_statistics import compare
from tastemaker.evaluation.report import write_report
from tastemaker.evaluation.summary import Summary, differences_by_category, rows_by_category
from tastemaker.evaluation.summary_file import write_summary
from tastemaker.evaluation.terminal import print_table
from tastemaker.evaluation.wall import Wall, paired_wall, save_wall

CATEGORIES = ("count", "relation", "single", "typography", "portrait")
COLOURS = {"red": "#d83a34", "blue": "#2f62d9", "green": "#2b9e55", "yellow": "#f0c02e", "purple": "#8045c4"}
SHARES = {("base", 1.0): 0.475, ("base", 3.0): 0.72, ("trained", 1.0): 0.64, ("trained", 3.0): 0.8, ("student", 1.0): 0.79}


def fabricated_summary(n: int = 500) -> tuple[Summary, dict[tuple[str, float], np.ndarray]]:
    rng = np.random.default_rng(0)
    categories = [CATEGORIES[i % len(CATEGORIES)] for i in range(n)]
    ease = rng.normal(0, 0.16, n) + np.array([[-0.12, -0.05, 0.25, -0.1, 0.02][i % 5] for i in range(n)])
    luck = rng.random(n)
    verdicts = {key: (luck < np.clip(share + ease, 0, 1)).astype(float) for key, share in SHARES.items()}
    verdicts["trained", 3.0][17] = np.nan
    rows = [
        row
        for (model, guidance), found in verdicts.items()
        for row in rows_by_category(
            found, categories, model=model, task="t2i", guidance=guidance, forwards_per_image=10 if guidance == 1 else 20
        )
    ]
    compared = [(("trained", 1.0), ("base", 1.0)), (("trained", 3.0), ("base", 3.0)), (("student", 1.0), ("base", 3.0))]
    differences = [
        d
        for after, before in compared
        for d in differences_by_category(
            verdicts[after],
            verdicts[before],
            categories,
            pair=(after[0], before[0]),
            task="t2i",
            guidance=after[1],
            against_guidance=None if after[1] == before[1] else before[1],
        )
    ]
    summary = Summary(
        rows=tuple(rows),
        differences=tuple(differences),
        wall_seconds=1234.5,
        seed=7,
        versions={"tastemaker": "0.1.0", "torch": "2.13.0+cpu", "diffusers": "0.42.1", "python": "3.11.9"},
        settings={"algorithm": "grpo", "guidance": {"mode": "hybrid", "scale": 3.0}, "learning_rate": 8e-5, "group_size": 8,
                  "prompts_per_step": 32, "steps": {"sampling": 10, "trained": [0, 1, 2]}},
        rewards={"exact": "1 if the oracle reads the scene back as the prompt says, else 0; half of the reward",
                 "partial": "share of the prompt's facts that hold; the other half"},
        notes=("The oracle that judges here also gave the reward: this shows that optimisation works.",),
        warning="Fabricated data: made by a test, nothing was trained.",
    )  # fmt: skip
    return summary, verdicts


def fabricated_history(steps: int = 120) -> list[dict[str, float]]:
    rng = np.random.default_rng(1)
    rise = 1 - np.exp(-np.arange(steps) / 40)
    return [
        {
            "step": k,
            "reward/exact": 0.45 + 0.3 * rise[k] + rng.normal(0, 0.05),
            "reward/partial": 0.74 + 0.13 * rise[k] + rng.normal(0, 0.03) if k != 30 else float("nan"),
            "log_ratio/mean": abs(rng.normal(0, 2e-3)),
            "log_ratio/max": abs(rng.normal(0.02, 6e-3)),
            "clip_fraction": np.clip(0.08 + 0.03 * rng.normal(), 0, 1),
            "grad_norm": float(np.exp(rng.normal(-1, 0.3))),
            "kl": 2e-3 * rise[k] + abs(rng.normal(0, 2e-4)),
        }
        for k in range(steps)
    ]


def fabricated_picture(colour: str, count: int, noise: float, seed: int) -> np.ndarray:
    image = Image.new("RGB", (64, 64), "#f3efe6")
    draw = ImageDraw.Draw(image)
    rng = np.random.default_rng(seed)
    for place in range(count):
        x, y = (8 + 28 * (place % 2) + rng.integers(0, 4), 8 + 28 * (place // 2) + rng.integers(0, 4))
        draw.ellipse((x, y, x + 20, y + 20), fill=COLOURS[colour])
    pixels = np.asarray(image, np.float32) / 255 + rng.normal(0, noise, (64, 64, 3)).astype(np.float32)
    return pixels.clip(0, 1).transpose(2, 0, 1)


def fabricated_wall(cases: int = 12) -> Wall:
    colours, numbers = list(COLOURS), ["no", "one", "two", "three", "four"]
    captions = [f"{numbers[1 + i % 4]} {colours[i % 5]} circle{'s' if i % 4 else ''} on paper" for i in range(cases)]
    captions[1] = "a poster that says “<b>Tür & Tor</b>” in 红色, next to two blue circles, each smaller than the door, $5"
    right_before = [i % 3 == 0 for i in range(cases)]
    right_after: list[bool | None] = [i % 6 != 4 for i in range(cases)]
    right_after[7] = None
    wrong = [[not right for right in right_before], [right is False for right in right_after]]
    before, after = (
        [fabricated_picture(colours[i % 5], 1 + (i + wrong[m][i]) % 4, noise, i) for i in range(cases)]
        for m, noise in enumerate((0.05, 0.01))
    )
    pictures = (before, [None if i == 7 else picture for i, picture in enumerate(after)])
    return paired_wall("Before and after", ("base", "trained"), captions, pictures, (right_before, right_after))


def fabricated_report(folder: Path) -> Path:
    summary, _ = fabricated_summary()
    wall = fabricated_wall()
    before = [fabricated_picture("red", 1 + i % 4, 0.05, i) for i in range(64)]
    after = [fabricated_picture("red", 1 + i % 4, 0.01, i) for i in range(64)]
    save_wall(folder / "wall.png", wall)
    write_summary(folder / "summary.json", summary)
    shifts = compare(before, after, prompts=[str(i // 4) for i in range(64)])
    return write_report(
        folder, summary, title="tastemaker demo", history={"T2I specialist": fabricated_history()}, walls=(wall,), shifts=shifts
    )


if __name__ == "__main__":
    print_table(fabricated_summary()[0])
    print(fabricated_report(Path(sys.argv[1])))
