"""The validation loss of a run: batches of the test split, made like those of training."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from difflax.config.experiments import DiffusionExperiment, FineTuningExperiment
from difflax.core.types import Batch, UserError
from difflax.data.loader import Loader
from difflax.data.records import Record, Records
from difflax.parallel.sharding import local_rows, put_local_batch
from difflax.training.loop import Periodic
from difflax.training.objectives.base import Validated
from difflax.training.state import TrainState

Prepare = Callable[[Batch], PyTree]
"""A batch of the loader, on the host, to the arrays of the objective's batch."""


@dataclasses.dataclass(frozen=True)
class FirstRows:
    """The first rows of a split, never mirrored."""

    records: Records
    count: int

    flip = 0.0

    @functools.cached_property
    def captions(self) -> Sequence[str]:
        return list(itertools.islice(self.records.captions, self.count))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Record:
        return self.records[row]

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        return self.records.__getitems__(rows)


def validation_task(
    experiment: DiffusionExperiment | FineTuningExperiment,
    objective: Validated,
    prepare_of: Callable[[Records], Prepare],
    mesh: Mesh,
    frozen: PyTree = None,
) -> Periodic | None:
    """Measures the loss of ``config.validation``; ``None`` where it says that there is none.

    Args:
        prepare_of: the test rows to what makes their batches; asked when it is first needed.
        frozen: arrays that the objective reads and does not train.

    Raises:
        UserError: the data has no test split, or too small a one.
    """
    options = experiment.validation
    if not options.every:
        return None
    split = experiment.data.split("test")
    count = options.examples or len(split)
    if count > len(split):
        raise UserError(
            f"config.validation.examples = {count}, but the test split has {len(split)}: give at most so many"
        )
    if not options.every_time and count < len(options.times):
        raise UserError(
            f"config.validation: {count} test examples cannot be dealt to {len(options.times)} times: set"
            " every_time = True, or give fewer times"
        )
    records, size = FirstRows(split, count), experiment.training.batch_size

    @functools.cache
    def instruments() -> tuple[Loader, dict[str, Any], Prepare, Callable[..., jax.Array]]:
        # Made when they are first needed: a run that is only continued to its end reads no test images.
        loader = Loader(
            records,
            batch_size=size,
            seed=0,
            shuffle=False,
            local_rows=local_rows(mesh, size),
            max_bad_examples=experiment.training.max_bad_examples,
        )
        return loader, loader.get_state(), prepare_of(records), options.losses(objective, mesh)

    def measured(state: TrainState) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        loader, start, prepare, losses = instruments()
        loader.set_state(start)
        for first in range(0, count, size):
            # The last batch goes on with the first rows, whose losses are cut off: one program serves all.
            places = (np.arange(first, first + size) % count).astype(np.int32)
            batch = put_local_batch(prepare(next(loader)), mesh)
            found = losses(state.ema_params, batch, places, frozen)
            here = np.asarray(found.addressable_data(0))  # every process has all of them
            used = min(size, count - first)
            yield here[:, :used], places[:used]

    def measure(step: int, state: TrainState) -> dict[str, float | None]:
        return options.means(measured(state))

    return Periodic(options.every, measure)
