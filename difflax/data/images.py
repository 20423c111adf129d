"""Records of encoded pictures, whatever holds them: decoded, cut to their shape, with a caption."""

import collections
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Int

from difflax.core.types import BadExample
from difflax.data import pictures, transforms
from difflax.data.buckets import nearest_bucket
from difflax.data.captions import CaptionForm, Captions, Fields
from difflax.data.pictures import WHITE, Colour
from difflax.data.records import Record

FIELDS_AT_ONCE = 64  # rows whose columns are read together


@runtime_checkable
class Entries(Protocol):
    """Examples as a source stores them; a row that cannot be used is there too, and raises when it is read.

    Attributes:
        epoch: the rows of an epoch where some come several times; ``None``: each comes once.
    """

    epoch: Int[np.ndarray, " n"] | None

    def __len__(self) -> int: ...

    def where(self, row: int) -> str:
        """The file or record of a row, for errors."""
        ...

    def examples(self, rows: Sequence[int]) -> list[tuple[bytes, Fields]]:
        """The encoded pictures of rows with what stands beside them.

        Raises:
            BadExample: one of them cannot be read.
        """
        ...

    def fields(self, rows: Sequence[int]) -> list[Fields]:
        """What stands beside the pictures, which are not read; errors as for `examples`."""
        ...

    def files(self) -> Sequence[epath.Path]:
        """The files that hold the pictures; in the order of the rows, where a row is a file."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageForm:
    """What becomes of a picture.

    Attributes:
        shapes: height, width and channels that an image may have; each gets the one nearest to its own aspect
            ratio, whose place is in ``buckets``.
        caption: see `CaptionForm`.
        crop: see `difflax.data.transforms.Crop`.
        background: what transparency is laid over.
        flip: see `Records`.
        alpha_mask: an image's opacity is its mask.
        score_key: the column of the score in `Record`; empty: none.
    """

    shapes: tuple[tuple[int, int, int], ...]
    caption: CaptionForm
    crop: transforms.Crop = "center"
    background: Colour = WHITE
    flip: float = 0.0
    alpha_mask: bool = False
    score_key: str = ""

    @property
    def words(self) -> str:
        """What becomes of the pictures; for what is computed of them."""
        words = f"to {list(self.shapes)}"
        others = {"crop": (self.crop, "center"), "background": (self.background, WHITE)}
        return words + "".join(f", {key} {value}" for key, (value, usual) in others.items() if value != usual)


class ImageRecords:
    """The rows of `Entries` as `StoredRecords`; a picture is read when it is asked for.

    Args:
        uncut_of: the same rows, whose pictures are cut; those of these say to what they are to be.
    """

    def __init__(self, entries: Entries, form: ImageForm, *, uncut_of: "ImageRecords | None" = None):
        self._entries, self._form, self._cut = entries, form, uncut_of
        self.flip, self.epoch, self.transform = form.flip, entries.epoch, form.words

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, row: int) -> Record:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        found = self._entries.examples(rows)
        return [self._record(row, *example) for row, example in zip(rows, found, strict=True)]

    def files(self) -> Sequence[epath.Path]:
        """See `StoredRecords`."""
        return self._entries.files()

    @property
    def uncut(self) -> "ImageRecords | None":
        """The same rows with pictures for a loader to cut at random; ``None`` where they are cut here."""
        return ImageRecords(self._entries, self._form, uncut_of=self) if self._form.crop == "random" else None

    @functools.cached_property
    def captions(self) -> list[str]:
        """Of every row the usual one, "" where there is none."""
        return ["" if said is None else said.usual for said in self.said()]

    @property
    def endless_captions(self) -> bool:
        """Whether there are more captions than can be listed."""
        return self._form.caption.shuffle_tags

    def said(self) -> Iterator[Captions | None]:
        """The captions of every row; ``None`` where it has none."""
        for start in range(0, len(self), FIELDS_AT_ONCE):
            for row, fields in zip(range(start, len(self)), self._fields(start), strict=False):
                yield None if fields is None else self._captions_or_none(row, fields)

    @functools.cached_property
    def scores(self) -> list[float] | None:
        """Of every row, for `Record`; NaN where it has none that can be read."""
        form = self._form
        if not form.score_key:
            return None
        found = []
        for start in range(0, len(self), FIELDS_AT_ONCE):
            for row, fields in zip(range(start, len(self)), self._fields(start), strict=False):
                try:
                    found.append(
                        math.nan
                        if fields is None
                        else score_of(fields, form.score_key, self._entries.where(row))
                    )
                except BadExample:
                    found.append(math.nan)
        return found

    @functools.cached_property
    def buckets(self) -> list[int] | None:
        """The place of each row's shape; ``None`` where there is one. The first use reads every picture.

        A row that cannot be used is in the largest bucket, where there are others to stand in for it.
        """
        if self._cut is not None or len(self._form.shapes) == 1:
            return None if self._cut is None else self._cut.buckets
        found = [self._bucket_of(row) for row in range(len(self))]
        counts = collections.Counter(bucket for bucket in found if bucket is not None)
        largest = counts.most_common(1)[0][0] if counts else 0
        return [largest if bucket is None else bucket for bucket in found]

    def _bucket_of(self, row: int) -> int | None:
        where = self._entries.where(row)
        try:
            ((data, fields),) = self._entries.examples([row])
            self._form.caption.of(fields, where)
            size = pictures.size_of(data, where)
        except BadExample:
            return None
        return nearest_bucket(*size, [shape[:2] for shape in self._form.shapes])

    def _fields(self, start: int) -> list[Fields | None]:
        """What stands beside some rows, read at once unless one of them cannot be."""
        rows = range(start, min(start + FIELDS_AT_ONCE, len(self)))
        try:
            return list(self._entries.fields(rows))
        except BadExample:
            return [self._fields_or_none(row) for row in rows]

    def _fields_or_none(self, row: int) -> Fields | None:
        try:
            (fields,) = self._entries.fields([row])
        except BadExample:
            return None
        return fields

    def _captions_or_none(self, row: int, fields: Fields) -> Captions | None:
        try:
            return self._form.caption.of(fields, self._entries.where(row))
        except BadExample:
            return None

    def _record(self, row: int, data: bytes, fields: Fields) -> Record:
        form, where = self._form, self._entries.where(row)
        said = form.caption.of(fields, where)
        score = score_of(fields, form.score_key, where) if form.score_key else None
        shape = form.shapes[0 if self.buckets is None else self.buckets[row]]
        image = pictures.decode(data, where, form.background)
        mask = pictures.decode_alpha(data, where) if form.alpha_mask else None
        record = Record(
            image,
            said.usual,
            mask=mask,
            frame=transforms.Frame(image.shape[:2]),
            score=score,
            captions=said if said.varies else None,
            uncut=shape,
        )
        return cut(record, form.crop) if self._cut is None else record


def score_of(fields: Fields, key: str, where: str) -> float:
    """The finite number in a column.

    Raises:
        BadExample: there is none.
    """
    value = fields.get(key)
    try:
        score = math.nan if value is None or value is True or value is False else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise BadExample(f"{where} has no number under {key!r}")
    return score


def cut(record: Record, crop: transforms.Crop, corner: tuple[int, int] | None = None) -> Record:
    """What is uncut at its shape.

    Args:
        corner: top and left of the part, see `fit`; ``None``: the middle.
    """
    height, width, channels = record.uncut
    original = record.image.shape[:2]
    if crop == "none":
        image = transforms.squeeze(record.image, height, width, channels)
        mask = None if record.mask is None else transforms.squeeze(record.mask, height, width, 1)
        frame = transforms.Frame(original)
    else:
        image = transforms.fit(record.image, height, width, channels, corner)
        mask = None if record.mask is None else transforms.fit(record.mask, height, width, 1, corner)
        frame = transforms.frame(original, height, width, corner)
    return dataclasses.replace(record, image=image, mask=mask, frame=frame, uncut=None)


def cut_at_random(record: Record, rng: np.random.Generator) -> Record:
    """The same with a part that is drawn, each place as likely as the others."""
    corner = transforms.draw_corner(record.image.shape[:2], *record.uncut[:2], rng)
    return cut(record, "random", corner)
