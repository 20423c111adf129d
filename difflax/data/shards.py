"""Files that hold many examples each, here or in an object store: found by a pattern, read in parts.

A local file needs nothing but Python. What has a scheme (``gs://``, ``s3://``, ``hf://``, ``https://``) is
read through fsspec, of which each store's own package (gcsfs, s3fs, huggingface_hub) does the work.
"""

import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from etils import epath

from difflax.core.files import atomic_write, reason
from difflax.core.types import UserError

MAX_SHARDS = 1_000_000  # that one pattern may name
SPLIT = "{split}"

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def find_shards(pattern: str, split: str, suffixes: tuple[str, ...], where: str) -> list[str]:
    """The files of a split.

    Args:
        pattern: a file or address, with brace ranges as a shell has them (``{0000..0003}``, ``{a,b}``) and
            with ``{split}`` in the place of the split's name; or a local folder, whose files count, of which
            those of a split begin with its name or lie in a folder of its name. Where nothing names a
            split, all is "train".
        suffixes: of the files in a folder.
        where: the pattern as the user gave it, for errors.

    Raises:
        UserError: there are none, or there is no such split.
    """
    if is_local(pattern) and os.path.isdir(os.path.expanduser(pattern)):
        return _in_folder(os.path.expanduser(pattern), split, suffixes, where)
    if SPLIT not in pattern and split != "train":
        raise UserError(f"{where} has no split {split!r}: write {SPLIT} in the place of its name")
    found = list(itertools.islice(expand(pattern.replace(SPLIT, split)), MAX_SHARDS + 1))
    if len(found) > MAX_SHARDS:
        raise UserError(f"{where} names more than {MAX_SHARDS:,} files")
    return [os.path.expanduser(name) for name in found] if is_local(pattern) else found


def is_local(shard: str) -> bool:
    """Whether a file is one of this machine's."""
    return "://" not in shard


def _in_folder(folder: str, split: str, suffixes: tuple[str, ...], where: str) -> list[str]:
    files = sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(suffixes) and not name.startswith(".")
    )
    if not files:
        raise UserError(f"{where}: no file there ({', '.join(suffixes)})")

    def named(name: str) -> list[str]:
        parts = [(file, os.path.relpath(file, folder).split(os.sep)) for file in files]
        begins = re.compile(rf"{re.escape(name)}(?![a-z0-9])")
        return [file for file, below in parts if name in below[:-1] or begins.match(below[-1])]

    if found := named(split):
        return found
    if split == "train":
        others = set(itertools.chain.from_iterable(map(named, ("test", "validation", "valid", "val"))))
        if found := [file for file in files if file not in others]:
            return found
    raise UserError(f"{where} has no split {split!r}: no file or folder there begins with that name")


def expand(pattern: str) -> Iterator[str]:
    """What a pattern with braces names, as a shell has it; numbers keep their leading zeros."""
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    span = _RANGE.fullmatch(found[1])
    if span is None:
        options: Any = found[1].split(",")
    else:
        width = len(span[1]) if span[1].startswith("0") else 0
        options = (f"{number:0{width}d}" for number in range(int(span[1]), int(span[2]) + 1))
    for option in options:
        for rest in expand(pattern[found.end() :]):
            yield pattern[: found.start()] + option + rest


@functools.lru_cache(maxsize=64)
def _file_system(scheme: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise UserError(f"{scheme}:// is read through fsspec: pip install 'difflax[data]'") from error
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise UserError(f"{scheme}:// cannot be read ({error})") from error


def _remote(shard: str) -> Any:
    return _file_system(shard.partition("://")[0])


def signs(shard: str) -> list[Any]:
    """What changes where a file does: its size, and times or a tag of its contents.

    Raises:
        UserError: there is no such file, or it cannot be reached.
    """
    try:
        if is_local(shard):
            stat = os.stat(shard)
            return [stat.st_size, stat.st_mtime_ns]
        found = _remote(shard).info(shard)
    except (OSError, ValueError) as error:
        raise UserError(f"{shard} cannot be read: {reason(error)}") from error
    marks = (found.get(key) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created"))
    return [found["size"], *(str(mark) for mark in marks if mark is not None)]


def open_shard(shard: str) -> Any:
    """A file of bytes to read forwards and backwards; OSError where it cannot be."""
    return open(shard, "rb") if is_local(shard) else _remote(shard).open(shard, "rb")


def read_part(shard: str, start: int, size: int) -> bytes:
    """Some bytes of a file, fewer at its end; OSError where it cannot be read."""
    if not is_local(shard):
        return _remote(shard).cat_file(shard, start=start, end=start + size)
    with open(shard, "rb", buffering=0) as file:
        file.seek(start)
        parts = []
        while size > 0 and (part := file.read(size)):
            parts.append(part)
            size -= len(part)
    return b"".join(parts)


def made_once(
    folder: epath.Path, shard: str, suffix: str, version: int, make: Callable[[IO[bytes]], None]
) -> epath.Path:
    """The file that ``make`` writes of a shard, written to ``folder`` unless it is there already.

    A shard that changes has another. Of processes that write at once the last one's file stays, and either is
    whole.

    Args:
        version: of what ``make`` writes.

    Raises:
        UserError: the shard cannot be read, or the folder not be written to.
    """
    facts = json.dumps([shard, *signs(shard), version])
    path = folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}{suffix}"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                make(file)
        except OSError as error:
            raise UserError(f"{path}, made of {shard}, cannot be written: {reason(error)}") from error
    return path
