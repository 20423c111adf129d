"""Batches through Grain: sharded by process, shuffled anew every epoch, resumable to the example."""

import json
from typing import Any

import grain
import jax
import numpy as np

from difflax.data.sources import Captioned
from difflax.types import UserError


class Loader:
    """An endless iterator of batches of this process.

    A batch is ``{"image": uint8 [b, h, w, c], "caption": list of b, "index": int64 [b]}``; ``index`` is the
    example's row in its split. The order is a function of the seed alone.

    Attributes:
        captions: of the whole split, row by row.
    """

    def __init__(self, split: Captioned, *, batch_size: int, seed: int, shuffle: bool = True):
        processes, process = jax.process_count(), jax.process_index()
        local = batch_size // processes
        if batch_size % processes:
            raise UserError(f"batch_size = {batch_size} must be a multiple of the {processes} processes")
        if len(split) < batch_size:
            raise UserError(f"the data has {len(split)} examples, fewer than batch_size = {batch_size}")
        # Small sets are decoded once: the examples of a run then cost no more than a copy.
        self._images, self.captions = split.decoded()
        rows = grain.MapDataset.range(len(split))[process::processes]
        rows = rows.shuffle(seed=seed) if shuffle else rows
        # Epochs follow one another without a gap: a batch may hold the end of one and the start of the next.
        self._iterator = iter(rows.repeat().batch(local).to_iter_dataset())

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> dict[str, Any]:
        index = np.asarray(next(self._iterator), np.int64)
        return {"image": self._images[index], "caption": [self.captions[i] for i in index], "index": index}

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON values."""
        return json.loads(json.dumps(self._iterator.get_state()))

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position of `get_state`."""
        self._iterator.set_state(state)
