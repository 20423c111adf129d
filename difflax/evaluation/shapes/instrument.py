"""The judge of the shapes world as an instrument of a sweep: alignment, coverage and fidelity of images."""

import functools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from difflax.core.types import UserError
from difflax.data.shapes import captions
from difflax.data.shapes.examples import generator
from difflax.data.shapes.splits import COMBINATIONS
from difflax.evaluation import metrics as m
from difflax.evaluation.judges.shapes.reading import judge as read_pictures
from difflax.evaluation.measurement import Columns, Images, Judge, PromptGroup
from difflax.evaluation.shapes import descriptions
from difflax.evaluation.shapes.alignment import alignment
from difflax.evaluation.shapes.columns import from_columns, to_columns
from difflax.evaluation.shapes.coverage import Coverage, summary
from difflax.evaluation.shapes.fidelity import TrueLook, residual_psnr


def shapes_judge() -> Judge:
    """A judge that remembers, as long as it lives, what is true of each prompt that it met."""
    return Judge(
        read=read,
        metrics=(*descriptions.ALIGNMENT, *descriptions.COVERAGE, *descriptions.FIDELITY),
        compare=functools.partial(_compare, functools.cache(_truth)),
        aspects={
            "alignment": m.ACCURACY.name,
            "coverage": descriptions.KEPT,
            "fidelity": descriptions.PSNR,
        },
    )


def read(images: Images, prompts: list[str]) -> dict[str, Float[np.ndarray, " n"]]:
    """The columns of alignment, the residual, and all that was read, see `columns`."""
    reading = read_pictures(images)
    said = [captions.parse(prompt) for prompt in prompts]
    columns = alignment(reading, said) | {descriptions.PSNR: residual_psnr(reading)}
    return columns | to_columns(reading)


def _truth(prompt: str, split: str, size: int) -> tuple[Coverage, TrueLook] | None:
    """What is true of a prompt; ``None`` of one that next to no scene is like."""
    rng = generator(0, "truth", prompt, split)
    try:
        coverage = Coverage(captions.parse(prompt), rng, COMBINATIONS[split])
    except UserError:
        return None
    return coverage, TrueLook.of_scenes(coverage.scenes, size)


def _compare(truth, group: PromptGroup, prompt: str, columns: Columns) -> Mapping[str, float]:
    """Coverage and colours of the images of a prompt against the truth of the group's split."""
    if group.real_images is None:
        raise ValueError(f"prompt group {group.name!r} has no real images, whose size the truth is drawn in")
    true = truth(prompt, group.split, group.real_images.shape[1])
    if true is None:
        return {}
    coverage, look = true
    values = look.excess(columns[m.HSV_SATURATION.name], columns[m.CLIPPED_FRACTION.name])
    if len(columns[descriptions.PSNR]) < 2:  # one image has no distribution
        return values
    return values | summary(coverage(from_columns(columns)))
