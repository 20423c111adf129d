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


def nearest_bucket(height: int, width: int, buckets: Sequence[tuple[int, int]]) -> int:
    """The place of the bucket (height, width) whose aspect ratio is nearest, on a logarithmic scale."""
    ratios = np.log([bucket[0] / bucket[1] for bucket in buckets])
    return int(np.argmin(np.abs(ratios - np.log(height / width))))


class OneShapeABatch(grain.MapDataset):
    """The rows of ``parent`` without end, in an order where each successive ``batch_size`` are of one bucket.

    Every epoch shuffles the rows of each bucket and the batches of all buckets anew. An epoch has whole
    batches alone: what a bucket has left over waits for another shuffle. A bucket smaller than a batch is
    shuffled and repeated, and has a batch when so many of its rows are due: its images are seen as often as
    others. The order is a function of the seed and the position, so that a run goes on anywhere and processes
    may take turns in it.

    Args:
        bucket_of: of each row.
        shuffle: otherwise rows come in their order, bucket by bucket.
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
        rows = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        self._rows = [rows_of for rows_of in rows if len(rows_of) >= batch_size]
        self._small = [rows_of for rows_of in rows if len(rows_of) < batch_size]

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, self._batch_size)
        epoch = self._epoch_of(batch)
        return self._parent[int(self._order(epoch)[batch - self._batches_before(epoch)][place])]

    def _batches_before(self, epoch: int) -> int:
        whole = sum(len(rows) // self._batch_size for rows in self._rows)
        return epoch * whole + sum(epoch * len(rows) // self._batch_size for rows in self._small)

    def _epoch_of(self, batch: int) -> int:
        """The last epoch with no more than ``batch`` batches before it: the one that holds it, since epochs
        may be empty where all buckets are small.
        """
        low, high = 0, 1
        while self._batches_before(high) <= batch:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._batches_before(middle) <= batch else (low, middle)
        return low

    @functools.lru_cache(maxsize=2)  # noqa: B019  the dataset lives as long as its loader
    def _order(self, epoch: int) -> Int[np.ndarray, "batches b"]:
        rng = np.random.default_rng((self._seed, epoch))
        batches = []
        for rows in self._rows:
            whole = len(rows) // self._batch_size * self._batch_size
            ordered = rng.permutation(rows) if self._shuffle else rows
            batches.append(ordered[:whole].reshape(-1, self._batch_size))
        for rows in self._small:
            first, end = (e * len(rows) // self._batch_size for e in (epoch, epoch + 1))
            batches += [self._due(rows, batch)[None] for batch in range(first, end)]
        order = np.concatenate(batches)
        return rng.permutation(order) if self._shuffle else order

    def _due(self, rows: Int[np.ndarray, " n"], batch: int) -> Int[np.ndarray, " b"]:
        """Batch number ``batch`` of a small bucket: one shuffle of it after the other, cut into batches."""
        start = batch * self._batch_size
        rounds = range(start // len(rows), -(-(start + self._batch_size) // len(rows)))
        shuffled = [
            np.random.default_rng((self._seed, r, int(rows[0]))).permutation(rows) if self._shuffle else rows
            for r in rounds
        ]
        skipped = start - rounds.start * len(rows)
        return np.concatenate(shuffled)[skipped : skipped + self._batch_size]
