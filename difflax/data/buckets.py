"""Images of several shapes: each goes to the shape nearest to its own, and a batch holds one shape.

Cutting every image square loses what stands at its edges; with buckets (Podell et al. 2023,
https://arxiv.org/abs/2307.01952, section 2.3) a network sees wide and tall ones whole.
"""

import functools
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from difflax.core.types import UserError


def nearest_bucket(height: int, width: int, buckets: Sequence[tuple[int, int]]) -> int:
    """The place of the bucket (height, width) whose aspect ratio is nearest, on a logarithmic scale."""
    ratios = np.log([bucket[0] / bucket[1] for bucket in buckets])
    return int(np.argmin(np.abs(ratios - np.log(height / width))))


class OneShapeABatch(grain.MapDataset):
    """The rows of ``parent`` without end, in an order where each successive ``batch_size`` are of one bucket.

    Every epoch shuffles the rows of each bucket and the batches of all buckets anew. An epoch has whole
    batches alone: what a bucket has left over waits for another shuffle. The order is a function of the seed
    and the position, so that a run goes on anywhere and processes may take turns in it.

    Args:
        bucket_of: of each row.
        shuffle: otherwise rows come in their order, bucket by bucket.

    Raises:
        UserError: a bucket with fewer rows than a batch, which would never be seen.
    """

    def __init__(
        self,
        parent: grain.MapDataset,
        bucket_of: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
    ):
        super().__init__(parent)
        self._batch_size, self._seed, self._shuffle = batch_size, seed, shuffle
        buckets = np.asarray(bucket_of)
        self._rows = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        for rows in self._rows:
            if len(rows) < batch_size:
                raise UserError(
                    f"bucket {buckets[rows[0]]} of the data has {len(rows)} images, fewer than batch_size ="
                    f" {batch_size}, and would never be seen: lower it, or leave the bucket out"
                )
        self._epoch_length = sum(len(rows) // batch_size for rows in self._rows) * batch_size

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, place = divmod(index, self._epoch_length)
        return self._parent[int(self._order(epoch)[place])]

    @functools.lru_cache(maxsize=2)  # noqa: B019  the dataset lives as long as its loader
    def _order(self, epoch: int) -> Int[np.ndarray, " n"]:
        rng = np.random.default_rng((self._seed, epoch))
        batches = []
        for rows in self._rows:
            whole = len(rows) // self._batch_size * self._batch_size
            ordered = rng.permutation(rows) if self._shuffle else rows
            batches.append(ordered[:whole].reshape(-1, self._batch_size))
        order = np.concatenate(batches)
        return (rng.permutation(order) if self._shuffle else order).reshape(-1)
