"""The trajectories of chosen cells: a table a prompt, a row an arm, a column a step."""

from collections.abc import Mapping, Sequence

import numpy as np

from difflax.evaluation.ablation.formatting import named
from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.ablation.sections.tiles import encoded, settings_of, tile
from difflax.evaluation.ablation.trajectories import Trajectory, chosen_arms
from difflax.figures import html
from difflax.figures.html import Markup, tag
from difflax.figures.trajectory import show_log_snr


def trajectory_section(result: AblationResult, found: Sequence[Trajectory]) -> list[Markup]:
    """The section; empty where no trajectory was drawn."""
    shown = []
    for number, group in enumerate(result.groups):
        mine = [each for each in found if each.group == number]
        why = {result.arms[index].key: said for index, said in chosen_arms(result, group.name).items()}
        for row in range(min((len(each.seeds) for each in mine), default=0)):
            shown.append(_table(result, mine, row, group.prompts[row], group.name, why))
    lead = (
        "What the run takes the finished image to be, step by step. In a table prompt and noise are the same"
        " in every row; point at an image for its step and its settings."
    )
    return [html.section("How the images come about", *shown, lead=lead)] if shown else []


def _table(
    result: AblationResult,
    found: Sequence[Trajectory],
    row: int,
    prompt: str,
    group: str,
    why: Mapping[str, str],
) -> Markup:
    arms = {arm.key: arm for arm in result.arms}
    body = []
    for each in found:
        arm = arms[each.arm]
        cells = []
        for column, step in enumerate(each.steps):
            about = {
                "prompt": prompt,
                "seed": str(each.seeds[row]),
                "step": f"{step} of {each.of}",
                "log-SNR": show_log_snr(float(each.log_snr[column])),
                **settings_of(arm),
            }
            cells.append(tag("td", tile(encoded(each.images[column, row]), about)))
        said = [tag("small", f" {why[each.arm]}")] if each.arm in why else []
        body.append(tag("tr", tag("th", tag("span", named(result, arm)), *said), *cells))
    heads = [tag("th", ""), *(tag("th", *text) for text in _heads(found))]
    inside = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body))
    caption = f"{group}: {prompt} (seed {found[0].seeds[row]})"
    return tag("figure", tag("div", inside, class_="tiles-table"), tag("figcaption", caption), class_="plain")


def _heads(found: Sequence[Trajectory]) -> list[list[Markup]]:
    """Over each column its step and log-SNR where all rows share them, else how far the run is."""
    first = found[0]
    alike = all(
        np.array_equal(each.steps, first.steps) and np.array_equal(each.log_snr, first.log_snr)
        for each in found
    )
    if alike:
        texts = [
            (f"step {step}", f"log-SNR {show_log_snr(float(level))}")
            for step, level in zip(first.steps, first.log_snr, strict=True)
        ]
    else:
        columns = max(len(each.steps) for each in found)
        texts = [(f"{place / max(columns - 1, 1):.0%}", "of the run") for place in range(columns)]
    return [[tag("span", above), tag("small", below)] for above, below in texts]
