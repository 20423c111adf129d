"""Batches through Grain, in an order that is a function of the seed alone.

shuffle → repeat → mirror → share among processes → batch → cut, draw a caption. Every epoch is shuffled anew.
Each process reads its own places of every global batch and no others, so batch ``k`` of all processes
together is the same, row by row, however many there are. What is drawn of a picture depends on its place in
the order. The state is the number of the next batch: the same on every process, and valid for another number
of them.

A row that cannot be used (`BadExample`) is noted, and the next one that can stands in for it: what a batch
holds depends on the data and the seed alone.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from jaxtyping import Int

from difflax.core.types import BadExample, Batch, UserError
from difflax.data.buckets import OneShapeABatch
from difflax.data.faults import Faults
from difflax.data.images import cut_at_random
from difflax.data.records import Record, Records, read_each
from difflax.data.transforms import Frame

IN_MEMORY_BYTES = 2**30  # decoded images up to this size stay in memory: 350,000 of 32×32×3
READ_THREADS = 4  # that decode images where they do not
BATCHES_AHEAD = 4  # read before they are asked for


class Loader:
    """The batches of this process, without end or for some epochs.

    A batch is ``{"image": uint8 [b, h, w, c], "caption": list of b, "index": int64 [b]}``; ``index`` is the
    example's row in its split. ``"original_size"`` and ``"corner"``, int32 [b, 2], are those of its `Frame`.
    Records with masks add ``"mask"``: uint8 [b, h, w, 1], and those with scores ``"score"``: float32 [b].

    Args:
        records: what ``source.split(name)`` gives.
        batch_size: of all processes together.
        seed: of the order and the mirroring.
        shuffle: otherwise the rows come in their order, every epoch.
        num_epochs: ``None`` repeats for ever, and a batch may hold the end of one epoch and the start of the
            next, or several where the data is smaller than a batch. A number ends after so many; the last
            batch may be short, so that each row comes once.
        buckets: of each row, where images have several shapes: a batch holds those of one bucket, see
            `OneShapeABatch`; ``num_epochs`` must then be ``None``.
        epoch: the rows of an epoch, of which some may come several times; ``None``: each comes once.
        in_memory: decode everything at once and keep it; ``None`` does so up to `IN_MEMORY_BYTES`. What is
            cut at random is read each time.
        local_rows: which rows of every global batch are this process's, increasing; ``None``: the
            ``process_index``-th of ``process_count`` equal blocks.
        process_index, process_count: default to JAX's.
        max_bad_examples: the share of the rows that may be unusable.

    Raises:
        UserError: no rows, a batch that the processes cannot share equally, or too many unusable rows.
    """

    def __init__(
        self,
        records: Records,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        num_epochs: int | None = None,
        buckets: Sequence[int] | None = None,
        epoch: Int[np.ndarray, " n"] | None = None,
        in_memory: bool | None = None,
        local_rows: Sequence[int] | None = None,
        process_index: int | None = None,
        process_count: int | None = None,
        max_bad_examples: float = 0.0,
    ):
        index = jax.process_index() if process_index is None else process_index
        count = jax.process_count() if process_count is None else process_count
        if not 0 <= index < count:
            raise ValueError(f"process {index} of {count}")
        if batch_size < 1 or (local_rows is None and batch_size % count):
            raise UserError(f"batch_size = {batch_size} must be a positive multiple of the {count} processes")
        if not len(records):
            raise UserError("the data has 0 examples: add some")
        if local_rows is None:
            local_rows = range(index * batch_size // count, (index + 1) * batch_size // count)
        uncut = getattr(records, "uncut", None)
        if uncut is not None:
            records, in_memory = uncut, False
        if in_memory is None:
            sound = _Sound(records, Faults(len(records), max_bad_examples), buckets)
            ((_, first),) = sound.read([0])
            in_memory = first.image.nbytes * len(records) <= IN_MEMORY_BYTES
        self._records = InMemory(records) if in_memory else records
        self._faults = Faults(len(records), max_bad_examples)
        self._sound = _Sound(self._records, self._faults, buckets)

        # Of rows' numbers: a batch is read as a whole, which some records do faster than row by row.
        rows = grain.MapDataset.range(len(records)) if epoch is None else grain.MapDataset.source(epoch)
        if buckets is not None:
            if num_epochs is not None:
                raise ValueError("buckets go on without end: num_epochs must be None")
            bucket_of = buckets if epoch is None else np.asarray(buckets)[epoch]
            rows = OneShapeABatch(rows, bucket_of, batch_size=batch_size, seed=seed, shuffle=shuffle)
        else:
            rows = (rows.shuffle(seed=seed) if shuffle else rows).repeat(num_epochs)
        if records.flip:
            rows = rows.random_map(_Mirrored(records.flip), seed=seed)
        self._order = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle}
        self._order["rows"] = len(records) if epoch is None else len(epoch)
        batches = _Batches(rows, self._sound, batch_size, tuple(local_rows), seed)
        threads, ahead = (0, 0) if in_memory else (READ_THREADS, BATCHES_AHEAD)
        self._batches = iter(batches.to_iter_dataset(grain.ReadOptions(threads, ahead)))
        if buckets is not None:
            self._order["buckets"] = len(set(buckets))

    @property
    def captions(self) -> Sequence[str]:
        """Of the whole split, row by row."""
        return self._records.captions

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def new_faults(self) -> list[str]:
        """What is wrong with rows that were found unusable since the last call."""
        return self._faults.new()

    def get_state(self) -> dict[str, int | bool]:
        """The position and what the order depends on, as JSON values; equal on all processes."""
        return {"next_batch": self._batches.get_state()["next_index"], **self._order}

    def set_state(self, state: dict[str, int | bool]) -> None:
        """Goes to a position of `get_state`: the batches that follow are bit for bit the same.

        Raises:
            UserError: the state is of another order, which these batches cannot continue.
        """
        for name, mine in self._order.items():
            if state.get(name) != mine:
                raise UserError(
                    f"the stored position in the data is for {name} = {state.get(name)}, not {mine}: "
                    "set it back, or train in a new workdir"
                )
        self._batches.set_state({"next_index": state["next_batch"]})


class InMemory:
    """Records decoded once: after that an example costs no more than a copy."""

    def __init__(self, records: Records):
        self._bad: dict[int, str] = {}
        rows = read_each(records, range(len(records)), self._note)
        if all(row is None for row in rows):
            raise UserError(f"no example of the data can be used; the first: {self._bad[0]}")
        self.captions = ["" if row is None else row.caption for row in rows]
        self.flip = records.flip
        self._rows = rows

    def _note(self, row: int, error: BadExample) -> None:
        self._bad[row] = str(error)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Record:
        if row in self._bad:
            raise BadExample(self._bad[row])
        return self._rows[row]

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        return [self[row] for row in rows]


class _Sound:
    """Records with their row; the next row that can be used, with its own number, where one cannot: the next
    of the same bucket, if rows have ``buckets``.
    """

    def __init__(self, records: Records, faults: Faults, buckets: Sequence[int] | None = None):
        self._records, self._faults, self._buckets = records, faults, buckets

    def read(self, rows: Sequence[int]) -> list[tuple[int, Record]]:
        """Many rows at once."""
        found = read_each(self._records, rows, self._faults.note)
        return [
            self._instead_of(row) if record is None else (row, record)
            for row, record in zip(rows, found, strict=True)
        ]

    def _instead_of(self, unusable: int) -> tuple[int, Record]:
        row = self._following(unusable)
        while row != unusable:
            (record,) = read_each(self._records, [row], self._faults.note)
            if record is not None:
                return row, record
            row = self._following(row)
        raise UserError(f"no example can stand in for row {unusable}, which cannot be used")

    def _following(self, row: int) -> int:
        after = (row + 1) % len(self._records)
        while self._buckets is not None and self._buckets[after] != self._buckets[row]:
            after = (after + 1) % len(self._records)
        return after


class _Batches(grain.MapDataset):
    """Of every ``batch_size`` rows those at ``local_rows``, read.

    Args:
        parent: numbers of rows, inverted (``~row``) where they are mirrored.
    """

    def __init__(
        self,
        parent: grain.MapDataset,
        sound: _Sound,
        batch_size: int,
        local_rows: tuple[int, ...],
        seed: int,
    ):
        super().__init__(parent)
        self._sound, self._batch_size, self._places = sound, batch_size, local_rows
        self._seed = seed

    def __len__(self) -> int:
        return -(-len(self._parent) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        start, end = index * self._batch_size, len(self._parent)
        places = [start + place for place in self._places if start + place < end]
        wanted = [int(self._parent[place]) for place in places]
        read = self._sound.read([max(row, ~row) for row in wanted])
        return _collate(
            [
                (row, self._seen(_mirror(record) if asked < 0 else record, place))
                for place, asked, (row, record) in zip(places, wanted, read, strict=True)
            ]
        )

    def _seen(self, record: Record, place: int) -> Record:
        """The record as it is seen at a place of the order: what is drawn depends on nothing else."""
        if record.uncut is not None:
            record = cut_at_random(record, self._stream("crop", place))
        if record.captions is not None:
            caption = record.captions.draw(self._stream("caption", place))
            record = dataclasses.replace(record, caption=caption)
        return record

    def _stream(self, name: str, place: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, zlib.crc32(name.encode()), place))


class _Mirrored(grain.transforms.RandomMap):
    """Inverts the numbers of rows that are mirrored, with a probability."""

    def __init__(self, probability: float):
        self._probability = probability

    def random_map(self, element: int | np.integer, rng: np.random.Generator) -> int:
        return ~int(element) if rng.random() < self._probability else int(element)


def _mirror(record: Record) -> Record:
    mask = None if record.mask is None else record.mask[:, ::-1]
    # Before a cut at random; of any other as much was cut off on either side, so that the frame stays.
    return dataclasses.replace(record, image=record.image[:, ::-1], mask=mask)


def _collate(rows: Sequence[tuple[int, Record]]) -> Batch:
    frames = [record.frame or Frame(record.image.shape[:2]) for _, record in rows]
    batch = {
        "image": np.stack([record.image for _, record in rows]),
        "caption": [record.caption for _, record in rows],
        "index": np.array([row for row, _ in rows], np.int64),
        "original_size": np.array([frame.original_size for frame in frames], np.int32),
        "corner": np.array([frame.corner for frame in frames], np.int32),
    }
    if rows[0][1].mask is not None:
        batch["mask"] = np.stack([record.mask for _, record in rows])
    if rows[0][1].score is not None:
        batch["score"] = np.array([record.score for _, record in rows], np.float32)
    return batch
