"""Which factors of a picture change where a run goes on in another way: counted over pairs of its ends.

All discrete factors are compared, those that the prompt names and those that it leaves open; objects of two
pictures are matched as if nothing of them were named.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from difflax.data.shapes.captions import Caption, Named, parse
from difflax.evaluation.metrics import Metric
from difflax.evaluation.shapes.columns import from_columns
from difflax.evaluation.shapes.coverage import DISCRETE, SCENE_DISCRETE
from difflax.evaluation.shapes.descriptions import EXACT
from difflax.evaluation.shapes.differences import differences

COUNTED = (*DISCRETE, *SCENE_DISCRETE, "count")
"""The factors that are counted."""

FACTORS_CHANGED = Metric(
    name="factors_changed",
    label="Factors that change",
    unit=f"of {len(COUNTED)}",
    definition=f"How many of {', '.join(COUNTED)} differ between the two ends of a pair of runs.",
    source=EXACT,
    note="Of several objects a factor counts by their share. Pictures that cannot be read are left out.",
    bounds=(0.0, float(len(COUNTED))),
)
CHANGES = (
    *(
        Metric(
            name=f"{name}_changed",
            label=f"{name.capitalize()} changes",
            unit="share of pairs",
            definition=f"Share of pairs of runs whose ends differ in the {name}.",
            source=EXACT,
            bounds=(0.0, 1.0),
            part_of=FACTORS_CHANGED.name,
        )
        for name in COUNTED
    ),
    FACTORS_CHANGED,
)


def changes(
    kept: Mapping[str, Float[np.ndarray, " n"]],
    other: Mapping[str, Float[np.ndarray, " n"]],
    prompts: Sequence[str],
) -> dict[str, Float[np.ndarray, " n"]]:
    """`CHANGES` of every pair of pictures, by the metrics' names; NaN where one of them cannot be read.

    Args:
        kept, other: what the judge read, see `difflax.evaluation.shapes.columns`.
    """
    pairs = {name: np.stack([column, other[name]], axis=1).ravel() for name, column in kept.items()}
    # Nothing is named, not even how many there are.
    unnamed = [Caption(objects=(Named(),) * len(parse(prompt).objects), more=True) for prompt in prompts]
    found = differences(from_columns(pairs), unnamed)
    each = {f"{name}_changed": found[name][:, 0, 1] for name in COUNTED}
    return each | {FACTORS_CHANGED.name: np.sum(list(each.values()), axis=0)}
