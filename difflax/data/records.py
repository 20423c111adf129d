"""The rows of a data split: random access to decoded images of one shape with their captions."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import UInt8

from difflax.core.types import BadExample, UserError
from difflax.data import pictures, transforms
from difflax.data.buckets import nearest_bucket
from difflax.data.texts import MAX_CAPTION, decode_text

UNREADABLE = (ValueError, IndexError, OSError, RuntimeError)
"""What readers raise at a file that is cut short or broken."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One captioned image of one (grey) or three (RGB) channels, and perhaps a mask: 255 where it counts.

    Attributes:
        frame: what of its original it shows; ``None``: all of it, at its own size.
        score: how well it looks, about 1 to 10, where the data says so.
    """

    image: UInt8[np.ndarray, "h w c"]
    caption: str
    mask: UInt8[np.ndarray, "h w 1"] | None = None
    frame: transforms.Frame | None = None
    score: float | None = None


@runtime_checkable
class Records(Protocol):
    """The rows of a split; the random access that Grain reads. All images are of one shape, or all of a
    bucket where a loader is given buckets.

    Attributes:
        captions: of all rows, read without their images.
        flip: the probability that a loader mirrors an image left to right.
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


class TfdsRecords:
    """The rows of a split of a prepared TFDS data set, in file order; see `Tfds` for the arguments."""

    def __init__(
        self,
        builder,
        split: str,
        image_shape: tuple[int, int, int],
        *,
        image_key: str = "image",
        caption_key: str = "caption",
        caption_template: str = "{}",
        flip: float = 0.0,
    ):
        import tensorflow_datasets as tfds  # slow to import

        # Its own decoder would warn that OpenCV is missing.
        self._rows = builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
        self._where = f"{builder.info.full_name} {split}"
        self._image_shape, self._image_key, self._caption_key = image_shape, image_key, caption_key
        feature = builder.info.features[caption_key]
        self._names = feature.int2str if isinstance(feature, tfds.features.ClassLabel) else self._text
        self._caption_template = caption_template
        self.flip = flip
        self._files = list(builder.info.splits[split].filepaths)
        self.transform = f"{image_key} to {image_shape}"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Record:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        try:
            read = self._rows.__getitems__(rows)
        except UNREADABLE as error:
            where = f"{self._where} row {rows[0]}" + (f" to {rows[-1]}" if len(rows) > 1 else "")
            raise BadExample(
                f"{where} cannot be read, as its file is cut short or broken: {error}"
            ) from error
        return [self._record(*item) for item in zip(rows, read, strict=True)]

    def files(self) -> list[epath.Path]:
        """See `StoredRecords`."""
        return self._files

    @functools.cached_property
    def captions(self) -> list[str]:
        try:
            rows = self._rows.__getitems__(range(len(self)))
        except UNREADABLE:
            return [self._caption_or_nothing(row) for row in range(len(self))]
        return [self._caption_or_nothing(row, fields) for row, fields in enumerate(rows)]

    def _caption_of(self, fields: Mapping) -> str:
        value = fields[self._caption_key]
        # A reader gives nothing for what stood behind the end of a file that was cut short.
        return "" if value is None else self._caption_template.format(self._names(value))

    def _caption_or_nothing(self, row: int, fields: Mapping | None = None) -> str:
        try:
            return self._caption_of(self._rows[row] if fields is None else fields)
        except (*UNREADABLE, UserError):
            return ""

    def _text(self, value: bytes) -> str:
        return decode_text(value, "the caption").strip()

    def _record(self, row: int, fields: Mapping) -> Record:
        where = f"{self._where} row {row}"
        if fields[self._image_key] is None:
            raise BadExample(f"{where} is empty: its file is cut short or broken")
        image = pictures.decode(fields[self._image_key], where)
        frame = transforms.frame(image.shape[:2], *self._image_shape[:2])
        try:
            caption = captioned(self._caption_of(fields), where)
        except UserError as error:
            raise BadExample(f"{where}: {error}") from error
        return Record(transforms.fit(image, *self._image_shape), caption, frame=frame)


class FolderRecords:
    """Image files with their captions; a file is read when it is asked for.

    Args:
        shapes: that an image may have; each gets the one nearest to its own aspect ratio, whose place is in
            ``buckets``.
        masks: of their opacity.
        scores: of the rows, for `Record`.
        faults: what is wrong with the captions of rows that cannot be used.
    """

    def __init__(
        self,
        rows: Sequence[tuple[epath.Path, str]],
        shapes: Sequence[tuple[int, int, int]],
        flip: float = 0.0,
        masks: bool = False,
        scores: Sequence[float] | None = None,
        faults: Mapping[int, str] | None = None,
    ):
        self._paths = [path for path, _ in rows]
        self.captions = [caption for _, caption in rows]
        self._shapes = shapes
        self._masks = masks
        self.scores = scores
        self._faults = faults or {}
        self.flip = flip
        self.transform = f"to {list(shapes)}"

    @functools.cached_property
    def buckets(self) -> list[int] | None:
        """The place of each row's shape; ``None`` where there is one. The first use reads every file.

        A row that cannot be used is in the largest bucket, where there are others to stand in for it.
        """
        if len(self._shapes) == 1:
            return None
        found = [self._bucket_of(row) for row in range(len(self))]
        counts = collections.Counter(bucket for bucket in found if bucket is not None)
        largest = counts.most_common(1)[0][0] if counts else 0
        return [largest if bucket is None else bucket for bucket in found]

    def _bucket_of(self, row: int) -> int | None:
        path = self._paths[row]
        try:
            self._caption_of(row)
            size = pictures.size_of(pictures.read_bytes(path), str(path))
        except BadExample:
            return None
        return nearest_bucket(*size, [shape[:2] for shape in self._shapes])

    def __len__(self) -> int:
        return len(self._paths)

    def files(self) -> list[epath.Path]:
        """See `StoredRecords`."""
        return self._paths

    def __getitem__(self, row: int) -> Record:
        path = self._paths[row]
        where = str(path)
        caption = self._caption_of(row)
        data = pictures.read_bytes(path)
        shape = self._shapes[0 if self.buckets is None else self.buckets[row]]
        whole = pictures.decode(data, where)
        mask = None
        if self._masks:
            mask = transforms.fit(pictures.decode_alpha(data, where), *shape[:2], 1)
        frame = transforms.frame(whole.shape[:2], *shape[:2])
        score = None if self.scores is None else self.scores[row]
        return Record(transforms.fit(whole, *shape), caption, mask, frame, score)

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        return [self[row] for row in rows]

    def _caption_of(self, row: int) -> str:
        if row in self._faults:
            raise BadExample(self._faults[row])
        return captioned(self.captions[row], str(self._paths[row]))
