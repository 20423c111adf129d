"""Parquet files with the pictures in them, which is how most data sets of the Hub are stored.

Parquet is read by groups of hundreds of rows, whose pictures would all be unpacked for one of them. So a file
is copied once, a batch of rows after the other, into an Arrow file of the same columns, of which the
operating system maps into memory what is read (the library ``datasets`` does the same).
"""

import bisect
import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import IO, Any

from etils import epath

from difflax.core.events import announce
from difflax.core.types import BadExample, UserError
from difflax.data.captions import Fields, check_columns
from difflax.data.images import ImageRecords
from difflax.data.pictures import MAX_PICTURE_BYTES, read_bytes
from difflax.data.shards import find_shards, is_local, made_once, open_shard
from difflax.data.sources.base import ImageSource, data_directory
from difflax.data.sources.tables import class_names, picture_of, pyarrow, with_names

ROWS_AT_ONCE = 32  # of the copy: of pictures of 1 MB, 32 MB are in memory
BUFFER = 2**20  # bytes of a column that are read together
COPY_VERSION = 1  # of the copy
BROKEN = "broken"
"""The one column of the copy of a file that cannot be read: why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(ImageSource):
    """Parquet files with a column of pictures: files as bytes, structs of bytes and path, or paths beside.

    A class label of the Hub reads as its name.

    Attributes:
        path: the files, with brace ranges and the split's name in braces
            (``data/{split}-{00000..00003}-of-00004.parquet``), local or an address that fsspec reads; or a
            folder of them, whose files begin with the split's name or lie in a folder of its name.
        image_key: the column with the picture.
        data_dir: where they are copied to, once, in a form that is read at random.
    """

    path: str
    image_key: str = "image"
    data_dir: str | None = None

    def split(self, name: str) -> ImageRecords:
        """See `Source`; where nothing names a split, all is "train"."""
        where = f"config.data.path = {self.path!r}"
        pyarrow(where)
        files = find_shards(self.path, name, (".parquet",), where)
        folder = data_directory(self.data_dir) / "parquet"
        copies = []
        for number, file in enumerate(files):
            new: list[str] = []
            copies.append(
                made_once(folder, file, ".arrow", COPY_VERSION, functools.partial(_copy, file, new))
            )
            if new:
                announce(f"{where}: {number + 1} of {len(files)} files are copied to {folder}")
        entries = ParquetEntries(files, copies, self.image_key)
        if not len(entries):
            raise UserError(f"{where}: no rows in {len(files)} files")
        if entries.columns:
            if self.image_key not in entries.columns:
                raise UserError(
                    f"config.data.image_key = {self.image_key!r} is no column of {files[0]}: "
                    f"{', '.join(entries.columns)}"
                )
            check_columns(self.caption_form, [c for c in entries.columns if c != self.image_key], files[0])
        return ImageRecords(entries, self.form)


def _copy(source: str, new: list[str], file: IO[bytes]) -> None:
    """Writes the rows of a Parquet file to an Arrow file; of one that cannot be read a row that says so, and
    of one that breaks in the middle the rows before and that one.
    """
    arrow = pyarrow(source)
    new.append(source)
    faults: list[str] = []
    with contextlib.ExitStack() as stack:
        try:
            # Buffered: a group of rows would be in memory as a whole.
            opened = stack.enter_context(open_shard(source))
            table = arrow.parquet.ParquetFile(opened, buffer_size=BUFFER)
            fields = list(table.schema_arrow)
        except (arrow.ArrowException, OSError) as error:
            faults.append(_said(error))
            table, fields = None, []
        metadata = None if table is None else table.schema_arrow.metadata
        schema = arrow.schema([*fields, arrow.field(BROKEN, arrow.string())], metadata=metadata)
        with arrow.ipc.new_file(file, schema) as copy:
            for batch in () if table is None else _batches(arrow, table, faults):
                fine = arrow.nulls(len(batch), arrow.string())
                copy.write_batch(arrow.record_batch([*batch.columns, fine], schema=schema))
            for fault in faults:
                columns = [arrow.nulls(1, field.type) for field in fields]
                columns.append(arrow.array([fault], arrow.string()))
                copy.write_batch(arrow.record_batch(columns, schema=schema))


def _batches(arrow: Any, table: Any, faults: list[str]) -> Iterator[Any]:
    """Some rows after the other, until one cannot be read: then why is added to ``faults``."""
    try:
        yield from table.iter_batches(batch_size=ROWS_AT_ONCE)
    except (arrow.ArrowException, OSError) as error:
        faults.append(_said(error))


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class ParquetEntries:
    """`Entries` of the rows of Parquet files, in their order.

    Args:
        files: as the user named them.
        copies: their Arrow files.
    """

    epoch = None

    def __init__(self, files: Sequence[str], copies: Sequence[epath.Path], image_key: str):
        self._files, self._image_key = files, image_key
        self._arrow = pyarrow("Parquet")
        self._copies = [str(copy) for copy in copies]
        self._starts = [0]  # of every batch of rows of all files
        self._places: list[tuple[int, int]] = []
        self._first: list[int] = []  # row of every file
        for number in range(len(files)):
            self._first.append(self._starts[-1])
            reader = self._reader(number)
            for batch in range(reader.num_record_batches):
                self._places.append((number, batch))
                self._starts.append(self._starts[-1] + reader.get_batch(batch).num_rows)
        names = [self._reader(number).schema.names for number in range(len(files))]
        self.columns = tuple(name for name in max(names, key=len, default=[]) if name != BROKEN)

    def __len__(self) -> int:
        return self._starts[-1]

    def where(self, row: int) -> str:
        """See `Entries`."""
        number, _, _ = self._at(row)
        return f"{self._files[number]} row {row - self._first[number]}"

    def examples(self, rows: Sequence[int]) -> list[tuple[bytes, Fields]]:
        """See `Entries`."""
        beside = self.fields(rows)
        return [(self._picture(row), fields) for row, fields in zip(rows, beside, strict=True)]

    def fields(self, rows: Sequence[int]) -> list[Fields]:
        """See `Entries`."""
        return [self._fields(row) for row in rows]

    def files(self) -> list[epath.Path]:
        """See `Entries`."""
        pairs = zip(self._files, self._copies, strict=True)
        return [epath.Path(file if is_local(file) else copy) for file, copy in pairs]

    @functools.lru_cache(maxsize=1024)  # noqa: B019  the entries live as long as their loader
    def _reader(self, number: int) -> Any:
        copy = self._copies[number]
        try:
            return self._arrow.ipc.open_file(self._arrow.memory_map(copy))
        except (self._arrow.ArrowException, OSError) as error:
            raise UserError(f"{copy}, the copy of {self._files[number]}, is damaged: delete it") from error

    @functools.lru_cache(maxsize=1024)  # noqa: B019
    def _names(self, number: int) -> dict[str, list[str]]:
        return class_names(self._reader(number).schema)

    def _at(self, row: int) -> tuple[int, int, int]:
        """Of a row the file, the batch and the place in it."""
        found = bisect.bisect_right(self._starts, row) - 1
        return *self._places[found], row - self._starts[found]

    def _fields(self, row: int) -> dict[str, Any]:
        number, batch, place = self._at(row)
        rows = self._reader(number).get_batch(batch)
        fields = {
            name: column[place].as_py()
            for name, column in zip(rows.schema.names, rows.columns, strict=True)
            if name != self._image_key
        }
        if (said := fields.pop(BROKEN)) is not None:
            raise BadExample(f"{self._files[number]} cannot be read any further: {said}")
        named = with_names(fields, self._names(number))
        return {name: value for name, value in named.items() if value is not None}

    def _picture(self, row: int) -> bytes:
        number, batch, place = self._at(row)
        rows, where = self._reader(number).get_batch(batch), self.where(row)
        if self._image_key not in rows.schema.names:
            raise BadExample(f"{where} has no column {self._image_key!r}")
        value = rows.column(self._image_key)[place].as_py()
        data = picture_of(
            value, lambda path: read_bytes(epath.Path(self._files[number]).parent / path, where)
        )
        if not isinstance(data, bytes):
            raise BadExample(f"{where} has no picture")
        if len(data) > MAX_PICTURE_BYTES:
            raise BadExample(f"{where} has more than {MAX_PICTURE_BYTES >> 20} MB: make the picture smaller")
        return data
