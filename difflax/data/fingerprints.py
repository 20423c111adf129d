"""What computed files depend on: whether they still belong to the data and the weights that are there now.

Files are compared by their contents, so that a data set that was copied to another machine, or touched, is
still itself. Reading everything at every start would take as long as it is large; so a file whose size, time
of change and time of its inode are those that were noted counts as unchanged (as in git's index; a copy that
keeps the time of change has a new inode or a new time of it).
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree

from difflax.core.files import is_file

_BLOCK = 2**22  # bytes read at once

Notes = dict[str, list[Any]]
"""By path: size, times, and the digest of the contents, as JSON values."""


def note_files(files: Sequence[epath.Path], known: Mapping[str, Sequence[Any]]) -> Notes:
    """The notes of files, whose contents are read where ``known`` has no notes that still hold."""
    notes: Notes = {}
    for file in files:
        name = str(file)
        if name in notes:
            continue
        signs, old = _signs(file), known.get(name)
        unchanged = old is not None and list(old[:-1]) == signs
        notes[name] = [*signs, old[-1] if unchanged else _digest(file)]
    return notes


def contents_fingerprint(files: Sequence[epath.Path], notes: Notes) -> str:
    """Of the contents of files in their order, whatever their names."""
    return _hash(notes[str(file)][-1] for file in files)


def file_fingerprint(file: epath.PathLike) -> str:
    """Of the contents of one file."""
    path = epath.Path(file)
    return contents_fingerprint([path], note_files([path], {}))


def arrays_fingerprint(tree: PyTree, *facts: Any) -> str:
    """Of arrays on this host with their paths, shapes and dtypes, and of ``facts`` by their ``repr``, which
    must say all: dataclasses and plain values.
    """
    parts = [repr(fact) for fact in facts]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest = hashlib.sha256(array.reshape(-1).view(np.uint8)).hexdigest()
        parts.append(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} {digest}")
    return _hash(parts)


def _signs(file: epath.Path) -> list[int]:
    try:
        if "://" in str(file):
            found = file.stat()
            return [found.length, int(found.mtime)]
        stat = os.stat(file)
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _digest(file: epath.Path) -> str:
    """Of the contents, "" where there are none to read: such a file is an unusable example."""
    digest = hashlib.sha256()
    try:
        if not is_file(file):
            return ""
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                digest.update(block)
    except (OSError, ValueError):
        return ""
    return digest.hexdigest()[:32]


def _hash(parts: Any) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
