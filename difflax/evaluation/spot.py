"""A small measurement while a model trains: a few prompts, a few seeds, the judge's main numbers."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from difflax.evaluation.measurement import Design, Images, Instruments, Judge, PromptGroup, compare, measure

Draw = Callable[[list[str], Int[np.ndarray, " n"]], Images]
"""``draw(prompts, seeds) -> images``: float32 ``[n, h, w, c]`` in [0, 1]."""


def spot_check(draw: Draw, group: PromptGroup, seeds: int, judge: Judge) -> dict[str, float | None]:
    """The judge's aspects of images of every prompt of a group, by name, each with ``…_count``: how many
    images, or prompts, its mean rests on. ``None`` stands for a mean of nothing.

    Args:
        draw: called once; a model that has hardly begun may give anything, also what is not finite.
        seeds: images of each prompt; the same every time, so that two checks differ by the model alone.
    """
    design = Design(groups=(group,), seeds=tuple(range(seeds)), grid_prompts=1)
    images = np.nan_to_num(np.asarray(draw(design.captions, design.seed), np.float32), nan=0.5).clip(0, 1)
    measured = measure(iter([images]), design, Instruments(judge=judge), None)
    values = measured.columns | compare(measured, design, judge)
    found: dict[str, float | None] = {}
    for aspect, name in judge.aspects.items():
        known = values.get(name, np.zeros(0))
        known = known[~np.isnan(known)]
        found[aspect] = float(known.mean()) if len(known) else None
        found[f"{aspect}_count"] = len(known)
    return found
