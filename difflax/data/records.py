"""The rows of a data split: random access to decoded images of one shape with their captions."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import UInt8

from difflax.core.types import BadExample, UserError
from difflax.data import transforms
from difflax.data.captions import Captions
from difflax.data.texts import MAX_CAPTION


@dataclasses.dataclass(frozen=True)
class Record:
    """One captioned image of one (grey) or three (RGB) channels, and perhaps a mask: 255 where it counts.

    Attributes:
        frame: what of its original it shows; ``None``: all of it, at its own size.
        score: how well it looks, about 1 to 10, where the data says so.
        captions: those that a loader draws from in place of ``caption``, which is the usual one; ``None``:
            there is no other.
        uncut: the height, width and channels that a loader cuts it to, at a place that it draws; ``None``: it
            has its shape.
    """

    image: UInt8[np.ndarray, "h w c"]
    caption: str
    mask: UInt8[np.ndarray, "h w 1"] | None = None
    frame: transforms.Frame | None = None
    score: float | None = None
    captions: Captions | None = None
    uncut: tuple[int, int, int] | None = None


@runtime_checkable
class Records(Protocol):
    """The rows of a split; the random access that Grain reads. All images are of one shape, or all of a
    bucket where a loader is given buckets.

    Attributes:
        captions: of all rows, read without their images.
        flip: the probability that a loader mirrors an image left to right.

    Records may also have ``epoch``, the rows of an epoch where some come several times; ``buckets``, the
    place of each row's shape; and ``uncut``, the same rows for a loader that cuts pictures where it draws.
    """

    captions: Sequence[str]
    flip: float

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Record: ...

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        """Many rows at once, which some files read faster than one by one."""
        ...


@runtime_checkable
class StoredRecords(Records, Protocol):
    """Records of files: what is computed of their images can tell whether it still belongs to them.

    Attributes:
        transform: what becomes of the files, in words.
    """

    transform: str

    def files(self) -> Sequence[epath.Path]:
        """The files that hold the images, in the order of the rows."""
        ...


def read_each(
    records: Records, rows: Sequence[int], note: Callable[[int, BadExample], None]
) -> list[Record | None]:
    """Many rows at once; those that cannot be used are given to ``note`` with what is wrong."""
    try:
        return list(records.__getitems__(rows))
    except BadExample:
        return [_read(records, row, note) for row in rows]


def _read(records: Records, row: int, note: Callable[[int, BadExample], None]) -> Record | None:
    try:
        return records[row]
    except BadExample as error:
        note(row, error)
        return None


def first_usable(records: Records, count: int) -> list[Record]:
    """The first so many rows that can be used, fewer where there are not so many.

    Raises:
        UserError: there is none.
    """
    found: list[Record] = []
    reasons: list[str] = []
    for row in range(len(records)):
        if len(found) == count:
            break
        found += [
            record
            for record in read_each(records, [row], lambda _, error: reasons.append(str(error)))
            if record is not None
        ]
    if not found:
        raise UserError(f"no example of the data can be used; the first: {reasons[0] if reasons else 'none'}")
    return found


def first_captions(captions: Iterable[str], count: int) -> tuple[str, ...]:
    """The first so many different captions, of which there may be fewer; no others are read."""
    found: dict[str, None] = {}
    for caption in captions:
        found.setdefault(caption)
        if len(found) == count:
            break
    return tuple(found)


def said_of(records: Records) -> Iterator[Captions | None]:
    """The captions of every row; ``None`` where it has none."""
    said = getattr(records, "said", None)
    return one_each(records.captions) if said is None else said()


def one_each(captions: Iterable[str]) -> Iterator[Captions | None]:
    """Those of rows that have one caption each."""
    return (Captions(options=((caption, 1.0),)) if caption else None for caption in captions)


def every_caption(records: Records) -> Sequence[str] | None:
    """All that a loader may give, each perhaps several times; ``None``: they cannot be listed."""
    if getattr(records, "endless_captions", False):
        return None
    if getattr(records, "said", None) is None:
        return records.captions
    captions = [text for said in records.said() if said is not None for text, _ in said.options]
    return captions or records.captions


def check_split(data: str, name: str, splits: Sequence[str]) -> None:
    """Refuses a split that a source does not have.

    Args:
        data: the source, for the error.

    Raises:
        UserError: ``name`` is none of ``splits``.
    """
    if name not in splits:
        raise UserError(f"{data} has no split {name!r}; splits: {', '.join(splits)}")


def captioned(caption: str, where: str) -> str:
    """The caption, if it says something in no more than `MAX_CAPTION` characters.

    Raises:
        BadExample: it does not; an empty one is the condition of saying nothing.
    """
    if not caption.strip():
        raise BadExample(f"{where} has an empty caption: write one or remove it")
    if len(caption) > MAX_CAPTION:
        raise BadExample(
            f"{where} has a caption of {len(caption):,} characters: {MAX_CAPTION:,} are the most"
        )
    return caption
