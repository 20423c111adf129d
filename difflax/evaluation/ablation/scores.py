"""The single values behind a metric's means, arm by arm, so that arms can be compared in pairs."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.contrasts.ranking import Objective
from difflax.evaluation.metrics import Metric


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """A metric of some prompts in every arm.

    Attributes:
        group: the prompt group.
        values: one value an arm and image, or an arm and prompt; NaN where there is none.
        prompts: the prompt of each value, by its number among all prompts.
    """

    group: str
    metric: Metric
    values: Float[np.ndarray, "a n"]
    prompts: Int[np.ndarray, " n"]

    @property
    def objective(self) -> Objective:
        """With higher values better."""
        return self.metric.sign * self.values, self.prompts


def scores(result: AblationResult, group: str, metric: str) -> Scores | None:
    """The values of a metric in a prompt group.

    Returns:
        ``None`` for a metric of a whole set of images, which has no value of its own for an image or prompt.

    Raises:
        KeyError: it was not measured.
    """
    measured = result.of(group, metric)
    names = [info.name for info in result.groups]
    sizes = [len(info.prompts) for info in result.groups]
    first = sum(sizes[: names.index(group)])
    numbers = np.arange(first, first + sizes[names.index(group)])
    if metric in result.by_prompt:
        values, prompts = result.by_prompt[metric][:, numbers], numbers
    elif metric in result.records:
        mine = result.records["group"][: len(result.records["group"]) // len(result.arms)] == group
        values = result.records[metric].reshape(len(result.arms), -1)[:, mine]
        prompts = np.repeat(numbers, len(result.seeds))
    else:
        return None
    return Scores(group=group, metric=measured.metric, values=values, prompts=prompts)
