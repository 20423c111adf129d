"""What a kind of run gives to the common training loop."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

from difflax.data.loader import Loader
from difflax.experiment.sections import Settings
from difflax.training.loop import Periodic
from difflax.training.objectives import Objective
from difflax.training.sharding import places
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
    """The training batches of this process, those of its devices."""
    size = settings.options.batch_size
    return Loader(
        settings.source.split("train"),
        batch_size=size,
        seed=settings.seed,
        places=places(settings.mesh.make(), size),
        max_bad_examples=settings.options.max_bad_examples,
    )
