"""Batches of captioned images: a Grain pipeline whose order is a function of the seed alone.

shuffle → repeat → transform → share among processes → batch. Every epoch is shuffled anew. Processes take
turns in one global order, so batch ``k`` of all processes together holds the same rows however many there
are. The state is the number of the next batch: the same on every process, and valid for another number of
them.
"""

import json
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from jaxtyping import UInt8

from difflax.data.sources import Record, Records
from difflax.data.transforms import Transform
from difflax.types import Batch, UserError

READ_THREADS = 4  # that decode images; in-memory data needs none
BATCHES_AHEAD = 4  # read before they are asked for


class InMemory:
    """Records kept decoded and fitted, for data that is small: 20,000 images of 32×32 are 61 MB.

    Raises:
        UserError: the fitted images differ in size.
    """

    def __init__(self, records: Records, transform: Transform):
        rows = records.__getitems__(range(len(records)))
        images = [transform.fit(row.image) for row in rows]
        if len(shapes := {image.shape for image in images}) > 1:
            raise _differing(shapes)
        self.images: UInt8[np.ndarray, "n h w c"] = np.stack(images)
        self.captions = [row.caption for row in rows]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, row: int) -> Record:
        return Record(self.images[row], self.captions[row])

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        return [self[row] for row in rows]


class Loader:
    """An endless or finite iterator of batches; made by `make_loader`.

    A batch is ``{"image": uint8 [b, h, w, c], "caption": list of b str, "index": int64 [b]}``, where the
    index is the row in the data set.
    """

    def __init__(self, dataset: grain.IterDataset, order: dict[str, int | bool]):
        self._batches = iter(dataset)
        self._order = order

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def get_state(self) -> dict[str, int | bool]:
        """The position, and what the order depends on: numbers that JSON can hold, equal on all processes."""
        return {"next_batch": self._batches.get_state()["next_index"], **self._order}

    def set_state(self, state: dict[str, int | bool]) -> None:
        """Goes to a position: the next batches are bit for bit those that followed `get_state`.

        Raises:
            UserError: the state is of another data order, which cannot be continued.
        """
        for name, mine in self._order.items():
            if state.get(name) != mine:
                raise UserError(
                    f"the stored data order has {name}={json.dumps(state.get(name))} and the config gives "
                    f"{json.dumps(mine)}: restore the old value, or start in a new workdir"
                )
        self._batches.set_state({"next_index": state["next_batch"]})


def make_loader(
    records: Records,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    num_epochs: int | None = None,
    transform: Transform = Transform(),
    in_memory: bool = False,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Loader:
    """The batches of one process.

    Args:
        records: what `difflax.data.sources` opens.
        batch_size: of all processes together.
        seed: of the order and of random transforms.
        shuffle: else the rows come in their order, every epoch.
        num_epochs: ``None`` repeats for ever and batches may reach over the end of an epoch; a number ends
            after so many, with a last batch that may be short (so that evaluation sees every row once).
        in_memory: decode everything once, now, and keep it.
        process_index, process_count: default to JAX's.

    Raises:
        UserError: fewer rows than a batch needs (when repeating), no rows, images that differ in size, or a
            batch that cannot be shared equally.
    """
    count = jax.process_count() if process_count is None else process_count
    index = jax.process_index() if process_index is None else process_index
    if not 0 <= index < count:
        raise ValueError(f"process {index} of {count}")
    if batch_size < 1 or batch_size % count:
        raise UserError(f"batch size {batch_size} must be a positive multiple of the {count} processes")
    needed = 1 if num_epochs is not None else batch_size
    if len(records) < needed:
        raise UserError(
            f"the data set has {len(records)} examples, fewer than the {needed} needed: "
            "lower the batch size or add data"
        )

    if in_memory:
        records = InMemory(records, transform)
    dataset = grain.MapDataset.source(_Rows(records, transform))
    if shuffle:
        dataset = dataset.shuffle(seed=seed)
    dataset = dataset.repeat(num_epochs)
    if transform.is_random:
        dataset = dataset.random_map(
            lambda row, rng: (row[0], Record(transform.augment(row[1].image, rng), row[1].caption)), seed=seed
        )
    dataset = dataset[index::count].batch(
        batch_size // count, drop_remainder=num_epochs is None, batch_fn=_collate
    )
    read = (
        grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        if in_memory
        else grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=BATCHES_AHEAD)
    )
    order = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle, "rows": len(records)}
    return Loader(dataset.to_iter_dataset(read), order)


class _Rows:
    """Records with their row number, fitted."""

    def __init__(self, records: Records, transform: Transform):
        self._records, self._transform = records, transform

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> tuple[int, Record]:
        record = self._records[row]
        return row, Record(self._transform.fit(record.image), record.caption)


def _collate(rows: Sequence[tuple[int, Record]]) -> Batch:
    images = [record.image for _, record in rows]
    if len(shapes := {image.shape for image in images}) > 1:
        raise _differing(shapes)
    return {
        "image": np.stack(images),
        "caption": [record.caption for _, record in rows],
        "index": np.array([row for row, _ in rows], np.int64),
    }


def _differing(shapes: set[tuple[int, ...]]) -> UserError:
    some = ", ".join("×".join(map(str, shape)) for shape in sorted(shapes)[:3])
    return UserError(f"images of one batch differ in size ({some}, …): set the size that they are resized to")
