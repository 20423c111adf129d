"""The rows of a split of the shapes world, made when they are read: no files, whatever their number."""

import hashlib
from collections.abc import Iterator, Sequence

from etils import epath

from difflax.data.records import Record
from difflax.data.shapes.examples import make_captions, make_examples

AT_ONCE = 64  # rows that are made by one call; more are no cheaper
FIRST = 16  # rows whose contents tell which world this is


class ShapesRecords:
    """Row ``i`` is example ``i`` of `make_examples`; see there for the arguments.

    Measured on one slow core, 32 pixels: 0.4 ms an example if 64 are read at once, half for the caption.
    """

    flip = 0.0

    def __init__(
        self, seed: int, split: str, number: int, *, size: int, long_captions: float, one_object: bool = False
    ):
        self._which, self._number, self._size = (seed, split), number, size
        self._kind = {"long_captions": long_captions, "one_object": one_object}
        self.captions = ShapesCaptions(seed, split, number, **self._kind)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, row: int) -> Record:
        return self.__getitems__([range(self._number)[row]])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        found = []
        for start in range(0, len(rows), AT_ONCE):
            examples = make_examples(
                *self._which,
                rows[start : start + AT_ONCE],
                size=self._size,
                **self._kind,
            )
            found += [Record(example.image, example.caption) for example in examples]
        return found

    def files(self) -> list[epath.Path]:
        """See `StoredRecords`: there are none, so that ``transform`` says which pictures these are."""
        return []

    @property
    def transform(self) -> str:
        """Of what is computed of the pictures: their number, and what the first of them look like."""
        digest = hashlib.sha256()
        for record in self.__getitems__(range(min(FIRST, self._number))):
            digest.update(record.image.tobytes())
        seed, split = self._which
        return f"shapes {split} {self._number} seed {seed} at {self._size}: {digest.hexdigest()[:32]}"


class ShapesCaptions(Sequence[str]):
    """The captions of the rows, made when they are read."""

    def __init__(self, seed: int, split: str, number: int, *, long_captions: float, one_object: bool):
        self._which, self._number = (seed, split), number
        self._kind = {"long_captions": long_captions, "one_object": one_object}

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, row: int) -> str:
        return self._made([range(self._number)[row]])[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, self._number, AT_ONCE):
            yield from self._made(range(start, min(start + AT_ONCE, self._number)))

    def _made(self, rows: Sequence[int]) -> list[str]:
        return make_captions(*self._which, rows, **self._kind)
