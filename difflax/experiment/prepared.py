"""What a kind of run gives to the common training loop."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

from difflax.data.loader import Loader
from difflax.experiment.sections import Settings
from difflax.training.loop import Periodic
from difflax.training.objectives import Objective
from difflax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a kind of model adds to the common loop."""

    objective: Objective
    loader: Any
    prepare: Callable[[dict[str, Any]], PyTree]
    constants: dict[str, Any]
    periodic: tuple[Periodic, ...] = ()
    finish: Callable[[TrainState], None] | None = None


def make_loader(settings: Settings) -> Loader:
    split = settings.source.split("train")
    buckets = getattr(split, "buckets", None)
    return Loader(split, batch_size=settings.options.batch_size, seed=settings.seed, buckets=buckets)
