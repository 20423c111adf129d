"""How much of what a model draws lies inside the truth: one number of alignment and coverage together.

Of two laws q and p, ``sum min(q, p) = 1 - TV(q, p)`` is what they share. Where a picture is right with
probability A, and p has no wrong ones, a model's law of pictures shares with p at most A, and at least ``A
(1 - D)``, D the total variation of its right pictures from p. `TRUTH_OVERLAP` is that product of a prompt:
D is the mean distance of everything that the prompt leaves open, factor by factor, above that of as many true
pictures.

So guidance that sharpens what is asked for and always draws the same gains nothing, and neither does variety
that the truth does not have, which the entropy kept would praise. It is no bound of the distance of the joint
law: factors are measured one by one, and D of all pictures that can be read, wrong ones among them.
"""

import numpy as np
from jaxtyping import Float

from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.metrics import ACCURACY, Metric
from difflax.evaluation.shapes.descriptions import EXACT, EXCESS

TRUTH_OVERLAP = Metric(
    name="overlap",
    label="Overlap with the truth",
    unit="share",
    better="higher",
    definition=(
        "Share of a prompt's images that are right, times 1 less their distance from the truth in what the"
        " prompt leaves open (above that of as many true images)."
    ),
    source=EXACT,
    note="1 is the truth; 0 is always wrong, or as far from the truth as can be.",
    truth=1.0,
)


def overlaps(result: AblationResult) -> Float[np.ndarray, "a p"]:
    """`TRUTH_OVERLAP` of every arm and prompt of a sweep; NaN where no truth is known."""
    right = by_prompt(result, ACCURACY.name)
    inside = 1 - by_prompt(result, EXCESS)
    # Where nothing is right there may be nothing to compare either.
    return np.where(right == 0, 0.0, right * inside)


def by_prompt(result: AblationResult, metric: str) -> Float[np.ndarray, "a p"]:
    """A metric of every arm and prompt, the mean over its images where an image has it; NaN where it was not
    measured, as coverage is not where no picture of the sweep can be read.
    """
    if metric in result.by_prompt:
        return result.by_prompt[metric]
    if metric not in result.records:
        return np.full((len(result.arms), sum(len(group.prompts) for group in result.groups)), np.nan)
    values = result.records[metric].reshape(len(result.arms), -1, len(result.seeds))
    asked = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(asked, values, 0.0).sum(-1) / asked.sum(-1)
