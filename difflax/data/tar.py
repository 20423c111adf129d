"""What lies where in a tar file of examples, found once and read at random afterwards.

Only the headers are read for the index, and no member is ever written anywhere: whatever a member is called,
it is bytes between two places. The reader of headers takes no more than `MAX_HEADER` bytes at once, so that
a header which lies about its size costs no memory.
"""

import dataclasses
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
from etils import epath
from jaxtyping import Int64, UInt8

from difflax.core.documents import json_object
from difflax.core.types import BadExample, UserError
from difflax.data.captions import Fields
from difflax.data.pictures import MAX_PICTURE_BYTES, SUFFIXES
from difflax.data.shards import made_once, open_shard, read_part, signs
from difflax.data.texts import decode_text

MAX_HEADER = 2**20  # bytes of a member's name and its like
MAX_SUFFIXES = 64  # kinds of members of a shard that are remembered
MAX_TEXT = 2**22  # bytes of one caption or description
INDEX_VERSION = 1

_NAME = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]*)", re.DOTALL)
"""The key of an example and the suffix of its member, at the first point of the name as WebDataset has it."""


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """Where the members of a shard's examples lie.

    Attributes:
        suffixes: of the members, without the first point.
        members: place and size of each example's member of each suffix; -1 where there is none.
        keys: of all examples, one behind the other.
        ends: where each key ends in ``keys``.
        faults: what is wrong with examples that cannot be used.
        signs: of the shard, see `difflax.data.shards.signs`.
    """

    suffixes: tuple[str, ...]
    members: Int64[np.ndarray, "n k 2"]
    keys: UInt8[np.ndarray, " bytes"]
    ends: Int64[np.ndarray, " n"]
    faults: dict[int, str]
    signs: list[Any]

    def key(self, row: int) -> str:
        """The name of an example in its shard."""
        start = self.ends[row - 1] if row else 0
        return self.keys[start : self.ends[row]].tobytes().decode("utf-8", "replace")


@dataclasses.dataclass
class _Found:
    """An example while the headers are read."""

    key: str
    members: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    fault: str = ""


class _Headers:
    """A file for `tarfile`, which reads headers and steps over all else."""

    def __init__(self, file: Any):
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            tarfile.ReadError: they are too many for a header.
        """
        if size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def open_index(folder: epath.Path, shard: str) -> tuple[ShardIndex, epath.Path, bool]:
    """The index of a shard, its file in ``folder``, and whether that was written now.

    Raises:
        UserError: the shard cannot be reached, or the folder not be written to.
    """
    new = False

    def make(file: IO[bytes]) -> None:
        nonlocal new
        new = True
        _write_index(make_index(shard), file)

    path = made_once(folder, shard, ".npz", INDEX_VERSION, make)
    try:
        return _read_index(path), path, new
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        path.unlink(missing_ok=True)  # it was damaged after it was written
        return _read_index(made_once(folder, shard, ".npz", INDEX_VERSION, make)), path, new


def _write_index(index: ShardIndex, file: IO[bytes]) -> None:
    # Signs too, so that the indices of a remote shard differ where the shard does.
    about = json.dumps({"suffixes": index.suffixes, "faults": index.faults, "signs": index.signs})
    about = np.frombuffer(about.encode(), np.uint8)
    np.savez(file, members=index.members, keys=index.keys, ends=index.ends, about=about)


def _read_index(path: epath.Path) -> ShardIndex:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        about = json_object(arrays["about"].tobytes())
        faults = {int(row): fault for row, fault in about["faults"].items()}
        suffixes = tuple(about["suffixes"])
        places = arrays["members"], arrays["keys"], arrays["ends"]
        return ShardIndex(suffixes, *places, faults, about["signs"])


def make_index(shard: str) -> ShardIndex:
    """The index of a shard by its headers. What is wrong in it is an example that cannot be used, so that it
    counts: of a shard that was cut short those before the cut are there.
    """
    found: list[_Found] = []
    seen: set[str] = set()
    marks = signs(shard)
    size = marks[0]
    try:
        with open_shard(shard) as file:
            for member in _members(file, size):
                _take(member, found, seen, size)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        said = " ".join(str(error).split())[:200]
        found.append(
            _Found(
                "", fault=f"cannot be read any further ({said}): it is no tar file, compressed or cut short"
            )
        )
    for example in found:
        pictures = [suffix for suffix in example.members if _is_picture(suffix)]
        if not example.fault and not pictures:
            example.fault = "has no picture"
    return _index(found, marks)


def _members(file: Any, size: int) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=_Headers(file), mode="r:") as tar:
        end = 0
        while (member := tar.next()) is not None:
            tar.members = []  # it would remember all of them
            if tar.offset <= end:
                raise tarfile.ReadError(f"the header at byte {member.offset:,} leads back")
            end = tar.offset
            yield member
        # It ends in silence at a header that it cannot read.
        file.seek(min(end, size))
        if any(file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"no header at byte {end:,}")


def _take(member: tarfile.TarInfo, found: list[_Found], seen: set[str], size: int) -> None:
    named = _NAME.fullmatch(member.name)
    if member.isdir() or named is None:
        return
    key, suffix = named[1], named[2].lower()
    if not found or found[-1].key != key:
        found.append(_Found(key))
        if key in seen:
            found[-1].fault = "comes a second time in its shard"
        seen.add(key)
    example = found[-1]
    if not member.isreg() or member.issparse():
        example.fault = f"has a link or device in the place of its .{suffix}"
    elif member.name.startswith("/") or ".." in member.name.split("/"):
        example.fault = f"is called {member.name[:100]!r}, which leads out of the archive"
    elif suffix in example.members:
        example.fault = f"has two members .{suffix}"
    elif member.offset_data + member.size > size:
        example.fault = f"is cut short: its .{suffix} ends behind the end of the shard"
    elif _is_picture(suffix) and member.size > MAX_PICTURE_BYTES:
        example.fault = f"has more than {MAX_PICTURE_BYTES >> 20} MB: make the picture smaller"
    else:
        example.members[suffix] = (member.offset_data, member.size)


def _is_picture(suffix: str) -> bool:
    return f".{suffix}" in SUFFIXES


def _index(found: Sequence[_Found], marks: list[Any]) -> ShardIndex:
    suffixes = list(dict.fromkeys(suffix for example in found for suffix in example.members))[:MAX_SUFFIXES]
    members = np.full((len(found), len(suffixes), 2), -1, np.int64)
    for row, example in enumerate(found):
        for place, suffix in enumerate(suffixes):
            members[row, place] = example.members.get(suffix, (-1, -1))
    keys = [example.key.encode("utf-8", "replace") for example in found]
    ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    faults = {row: example.fault for row, example in enumerate(found) if example.fault}
    joined = np.frombuffer(b"".join(keys), np.uint8)
    return ShardIndex(tuple(suffixes), members, joined, ends, faults, marks)


class TarEntries:
    """`Entries` of the examples of shards, in their order.

    Args:
        files: the shards where they are local, else the files of their indices.
        columns: those that are read: a text member is one by its suffix, all others are entries of the JSON.
    """

    epoch = None

    def __init__(
        self,
        shards: Sequence[str],
        indices: Sequence[ShardIndex],
        files: Sequence[epath.Path],
        columns: Sequence[str],
    ):
        self._shards, self._indices, self._files = shards, indices, files
        self._ends = np.cumsum([len(index.ends) for index in indices])
        self._columns = tuple(dict.fromkeys(columns))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def where(self, row: int) -> str:
        """See `Entries`."""
        shard, index, place = self._at(row)
        key = index.key(place)
        return f"{shard} {key[:200]}" if key else shard

    def examples(self, rows: Sequence[int]) -> list[tuple[bytes, Fields]]:
        """See `Entries`."""
        return [(self._picture(row), fields) for row, fields in zip(rows, self.fields(rows), strict=True)]

    def fields(self, rows: Sequence[int]) -> list[Fields]:
        """See `Entries`."""
        return [self._fields(row) for row in rows]

    def files(self) -> Sequence[epath.Path]:
        """See `Entries`."""
        return self._files

    def _at(self, row: int) -> tuple[str, ShardIndex, int]:
        number = int(np.searchsorted(self._ends, row, side="right"))
        before = int(self._ends[number - 1]) if number else 0
        return self._shards[number], self._indices[number], row - before

    def _picture(self, row: int) -> bytes:
        _, index, _ = self._at(row)
        found = (self._member(row, suffix) for suffix in index.suffixes if _is_picture(suffix))
        return next(data for data in found if data is not None)

    def _fields(self, row: int) -> dict[str, Any]:
        _, index, place = self._at(row)
        if place in index.faults:
            raise BadExample(f"{self.where(row)} {index.faults[place]}")
        made: dict[str, Any] = {}
        if set(self._columns) - set(index.suffixes) and "json" in index.suffixes:
            text = self._text(row, "json")
            try:
                made |= {} if text is None else json_object(text)
            except ValueError as error:
                raise BadExample(f"{self.where(row)}: its .json {error}") from error
        for column in set(self._columns) & set(index.suffixes):
            made[column] = self._text(row, column)
        return {name: value for name, value in made.items() if value is not None}

    def _text(self, row: int, suffix: str) -> str | None:
        data = self._member(row, suffix, MAX_TEXT)
        try:
            return None if data is None else decode_text(data, f"{self.where(row)}: its .{suffix}")
        except UserError as error:
            raise BadExample(str(error)) from error

    def _member(self, row: int, suffix: str, limit: int = MAX_PICTURE_BYTES) -> bytes | None:
        shard, index, place = self._at(row)
        start, size = map(int, index.members[place, index.suffixes.index(suffix)])
        if start < 0:
            return None
        if size > limit:
            raise BadExample(f"{self.where(row)}: its .{suffix} has {size:,} bytes: {limit:,} are the most")
        try:
            data = read_part(shard, start, size)
        except OSError as error:
            raise BadExample(f"{self.where(row)} cannot be read: {error}") from error
        if len(data) < size:
            raise BadExample(f"{self.where(row)}: its .{suffix} is cut short: the shard has changed")
        return data
