"""Several records as one, each with its share of what a model sees."""

import bisect
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from difflax.core.types import UserError
from difflax.data.captions import Captions
from difflax.data.records import Record, Records, said_of

MAX_EPOCH = 2**27
"""Rows of an epoch, whose numbers take 8 bytes each."""


class MixedRecords:
    """The rows of several records, one behind the other.

    An epoch is the shortest in which the shares hold and every row of every part comes at least once; so the
    rows of a part with a large share come several times.

    Args:
        parts: records whose images have the same shapes.
        weights: the share of each part, which need not add up to 1; empty: by the parts' own lengths.

    Raises:
        UserError: an epoch would be longer than `MAX_EPOCH`.
    """

    def __init__(self, parts: Sequence[Records], weights: Sequence[float] = ()):
        self._parts, self._weights = parts, weights
        self._starts = [0, *itertools.accumulate(len(part) for part in parts)]
        self.flip = parts[0].flip
        epochs = [_epoch_of(part) + start for part, start in zip(parts, self._starts, strict=False)]
        counts = [len(epoch) for epoch in epochs]
        times = repetitions(counts, weights) if weights else counts
        self.epoch = np.concatenate([np.resize(epoch, n) for epoch, n in zip(epochs, times, strict=True)])
        self.transform = "; ".join(getattr(part, "transform", "") for part in parts)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> Record:
        number, own = self._at(row)
        return self._parts[number][own]

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        found: dict[int, Record] = {}
        for number, asked in itertools.groupby(sorted(set(rows)), lambda row: self._at(row)[0]):
            asked = list(asked)
            start = self._starts[number]
            read = self._parts[number].__getitems__([row - start for row in asked])
            found |= dict(zip(asked, read, strict=True))
        return [found[row] for row in rows]

    def files(self) -> list[epath.Path]:
        """See `StoredRecords`."""
        return [file for part in self._parts for file in part.files()]

    @property
    def uncut(self) -> "MixedRecords | None":
        """See `Records`; of parts that are cut already their own rows."""
        uncut = [getattr(part, "uncut", None) for part in self._parts]
        if not any(uncut):
            return None
        chosen = [part if whole is None else whole for part, whole in zip(self._parts, uncut, strict=True)]
        return MixedRecords(chosen, self._weights)

    @functools.cached_property
    def captions(self) -> list[str]:
        """Of every row the usual one."""
        return [caption for part in self._parts for caption in part.captions]

    @property
    def endless_captions(self) -> bool:
        """Whether there are more captions than can be listed."""
        return any(getattr(part, "endless_captions", False) for part in self._parts)

    def said(self) -> Iterator[Captions | None]:
        """The captions of every row; ``None`` where it has none."""
        for part in self._parts:
            yield from said_of(part)

    @functools.cached_property
    def scores(self) -> list[float] | None:
        """Of every row, where every part has them."""
        return self._joined([getattr(part, "scores", None) for part in self._parts])

    @functools.cached_property
    def buckets(self) -> list[int] | None:
        """The place of each row's shape, where there are several."""
        return self._joined([getattr(part, "buckets", None) for part in self._parts])

    def _joined(self, lists: Sequence[list[Any] | None]) -> list[Any] | None:
        return None if None in lists else [item for items in lists for item in items]

    def _at(self, row: int) -> tuple[int, int]:
        number = bisect.bisect_right(self._starts, row) - 1
        return number, row - self._starts[number]


def repetitions(counts: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many rows of each part an epoch has: by the weights, and no fewer than the part has.

    Raises:
        UserError: they are more than `MAX_EPOCH`.
    """
    longest = max(count / weight for count, weight in zip(counts, weights, strict=True))
    times = [max(count, round(weight * longest)) for count, weight in zip(counts, weights, strict=True)]
    if sum(times) > MAX_EPOCH:
        raise UserError(
            f"config.data.weights = {tuple(weights)} of sources with {', '.join(f'{n:,}' for n in counts)}"
            f" examples make an epoch of {sum(times):,}, and {MAX_EPOCH:,} are the most: choose shares nearer"
            " to the sources' sizes"
        )
    return times


def _epoch_of(records: Records) -> Int[np.ndarray, " n"]:
    epoch = getattr(records, "epoch", None)
    return np.arange(len(records)) if epoch is None else epoch
