"""The scores of a benchmark, read back from beside the images of a sweep as metrics of its arms.

They come one an image, so that they have what every other metric of images has: bands, paired differences, a
column of ``records.csv``, a place in the report.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.core.types import UserError
from difflax.evaluation import statistics as st
from difflax.evaluation.ablation.pictures import PICTURE_FOLDER, PICTURE_MANIFEST, Pictures, read_pictures
from difflax.evaluation.ablation.results import AblationResult, Measured
from difflax.evaluation.ablation.summary import paired_estimates
from difflax.evaluation.layouts import LAYOUTS
from difflax.evaluation.metrics import FEATURE_DIVERSITY, PIXEL_DIVERSITY, Metric


def with_scores(result: AblationResult, directory: epath.PathLike) -> AblationResult:
    """The result with what a benchmark's scripts have said of the images in its folder, instead of what they
    said before; as it is where there are no images in a benchmark's layout, or no scores yet.

    Raises:
        UserError: scores of other images, or not of all of an arm.
    """
    folder = epath.Path(directory) / PICTURE_FOLDER
    pictures = read_pictures(folder) if (folder / PICTURE_MANIFEST).exists() else None
    if pictures is None or not pictures.layout:
        return result
    prompts = tuple(prompt for group in result.groups for prompt in group.prompts)
    if (pictures.prompts, pictures.seeds) != (prompts, result.seeds):
        raise UserError(
            f"{folder}: the images are of other prompts or seeds than results.json: draw them again"
        )
    layout = LAYOUTS[pictures.layout]
    by_arm = {
        arm.key: layout.scores(folder / arm.key, pictures.asked, len(pictures.seeds))
        for arm in result.arms
        if arm.key in pictures.arms
    }
    there = {name for found in by_arm.values() for name in found}
    metrics = [metric for metric in layout.metrics(pictures.asked) if metric.name in there]
    return _joined(result, metrics, by_arm, pictures) if metrics else result


def _joined(
    result: AblationResult,
    metrics: list[Metric],
    by_arm: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]],
    pictures: Pictures,
) -> AblationResult:
    missing = np.full(len(pictures.prompts) * len(pictures.seeds), np.nan)
    columns = {
        metric.name: np.stack([by_arm.get(arm.key, {}).get(metric.name, missing) for arm in result.arms])
        for metric in metrics
    }
    prompt = np.repeat(np.arange(len(pictures.prompts)), len(pictures.seeds))
    group_of = np.array(pictures.groups)[prompt]
    found = []
    for metric in metrics:
        for group in result.groups:
            rows = group_of == group.name
            values = columns[metric.name][:, rows]
            shares = st.is_proportion(values)
            estimates, near = paired_estimates(metric, values, prompt[rows], shares=shares)
            if estimates:
                measured = {"estimates": tuple(estimates), "near_best": tuple(near)}
                found.append(Measured(group=group.name, metric=metric, **measured))
    kept = [each for each in result.measured if each.metric.name not in columns]
    layout = LAYOUTS[pictures.layout]
    scored = sum(bool(scores) for scores in by_arm.values())
    said = f"its own scripts' scores of {scored} of {len(result.arms)} arms, read from beside their images"
    return dataclasses.replace(
        result,
        measured=(*found, *kept),
        records={**result.records, **{name: values.ravel() for name, values in columns.items()}},
        aspects=_aspects(found[0].metric.name, kept),
        method={**result.method, layout.title: said},
    )


def _aspects(alignment: str, others: list[Measured]) -> dict[str, str]:
    """The story of a model without a judge: what the benchmark says, and how much the images differ."""
    names = {each.metric.name for each in others}
    cost = next((m.name for m in (FEATURE_DIVERSITY, PIXEL_DIVERSITY) if m.name in names), None)
    return {"alignment": alignment} | ({"diversity": cost} if cost else {})
