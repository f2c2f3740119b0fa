"""Commands that choose and sort prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.app import Allowed, ConfigFile, Overrides, app


@app.command()
def curate(
    config: ConfigFile,
    above: Annotated[
        float | None, typer.Option(min=0, max=1, show_default=False, help="Keep prompts whose range is above this.")
    ] = None,
    keep: Annotated[
        float | None, typer.Option(min=0.001, max=1, show_default=False, help="Keep this share with the largest ranges; 0.5.")
    ] = None,
    override: Overrides = None,
    folder: Annotated[Path | None, typer.Option(show_default=False, help="runs/NAME/curation if not given.")] = None,
    allow: Allowed = None,
    out: Annotated[
        Path | None, typer.Option(show_default=False, help="The list; PROMPTS.curated.jsonl beside PROMPTS if not given.")
    ] = None,
) -> None:
    """Keep the prompts that can teach: those of which the model draws some samples clearly better than others.

    Takes the config of `train`. The untrained model draws `rollout.group_size` samples of every prompt with training's own
    sampler, they are judged, and the range (max - min) of the weighted composite decides: above `--above`, or the `--keep`
    largest. A prompt without half of its scores is dropped.

    Writes the list as JSONL of the same form, for `data.prompts`; into the folder `table.csv` (each prompt with its range,
    scores, and why it was dropped), `summary.json` by category, `ranges.png`, and walls of kept and dropped prompts.

    Costs one rollout for each prompt; the estimate is shown. Killed or stopped, the same command goes on; with another
    threshold it draws nothing anew. See docs/curation.md.

    Example: `tastemaker curate run.yaml --keep 0.5`
    """
    from tastemaker.commands.curate import curate as start

    start(config, above=above, keep=keep, overrides=override or [], folder=folder, allow=allow or [], out=out)


@app.command()
def categorise(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS.jsonl", show_default=False, help="The prompts.")],
    rules: Annotated[Path, typer.Argument(metavar="RULES.yaml", show_default=False, help="How they get a category.")],
    out: Annotated[
        Path | None, typer.Option(show_default=False, help="The list; PROMPTS.categorised.jsonl beside PROMPTS if not given.")
    ] = None,
) -> None:
    """Give every prompt a category, by which rewards are weighed and results are told.

    A category that a prompt states itself stays. Else the first of the `rules` that matches its words decides, then what stands
    under `otherwise`, or a vision-language model (`judge`) that may answer with one of the `names`. An answer that is none of
    them is missing, and such a prompt is left out of the list.

    Writes the list as JSONL for `data.prompts`, and a CSV beside it that says of each prompt which rule or model decided, or
    why nothing did. Takes seconds with rules; a model is asked once for each prompt. See docs/curation.md.

    Example: `tastemaker categorise prompts.jsonl categories.yaml`
    """
    from tastemaker.commands.categorise import categorise as start

    start(prompts, rules, out=out)
