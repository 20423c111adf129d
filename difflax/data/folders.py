"""Image files in folders and their subfolders: which of them count, and what is read of them."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Int

from difflax.core.events import announce
from difflax.core.types import BadExample, UserError
from difflax.data.captions import Fields
from difflax.data.pictures import OTHER_SUFFIXES, SUFFIXES, read_bytes


class FileEntries:
    """`Entries` of which each picture is a file, read when it is asked for.

    Args:
        fields: what stands beside each picture.
        faults: what is wrong with rows that cannot be used.
        epoch: see `Entries`.
    """

    def __init__(
        self,
        paths: Sequence[epath.Path],
        fields: Sequence[Fields],
        faults: Mapping[int, str] | None = None,
        epoch: Int[np.ndarray, " n"] | None = None,
    ):
        self._paths, self._fields, self._faults, self.epoch = paths, fields, faults or {}, epoch

    def __len__(self) -> int:
        return len(self._paths)

    def where(self, row: int) -> str:
        """See `Entries`."""
        return str(self._paths[row])

    def examples(self, rows: Sequence[int]) -> list[tuple[bytes, Fields]]:
        """See `Entries`."""
        beside = self.fields(rows)
        return [(read_bytes(self._paths[row]), fields) for row, fields in zip(rows, beside, strict=True)]

    def fields(self, rows: Sequence[int]) -> list[Fields]:
        """See `Entries`."""
        for row in rows:
            if row in self._faults:
                raise BadExample(self._faults[row])
        return [self._fields[row] for row in rows]

    def files(self) -> Sequence[epath.Path]:
        """See `Entries`."""
        return self._paths


def find_images(folder: epath.Path, where: str, *, without: Collection[epath.Path] = ()) -> list[epath.Path]:
    """The pictures in a folder as `images_of` gives them. Pictures of formats that are not read are named.

    Args:
        where: the folder as the user named it, for the error.

    Raises:
        UserError: there are none.
    """
    files = list(_files_below(folder, without))
    images = _images(files)
    suffixes = (path.suffix.lower() for path in files)
    others = Counter(suffix for suffix in suffixes if suffix in OTHER_SUFFIXES)
    left_out = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
    if not images:
        besides = f"; {left_out} cannot be read: convert them" if others else ""
        raise UserError(f"{where}: no image there ({', '.join(SUFFIXES)}){besides}")
    if others:
        announce(f"{where}: {left_out} are left out, as their formats are not read; convert them")
    return images


def images_of(folder: epath.Path, *, without: Collection[epath.Path] = ()) -> list[epath.Path]:
    """The pictures in a folder and its subfolders, in the order of their paths; none if there is no folder.

    Names that begin with a point do not count (macOS writes a ``._a.png`` beside ``a.png``), nor does the
    folder ``__MACOSX``.

    Args:
        without: subfolders that are left out.
    """
    return _images(_files_below(folder, without))


def _images(files: Iterable[epath.Path]) -> list[epath.Path]:
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


def _files_below(folder: epath.Path, without: Collection[epath.Path]) -> Iterator[epath.Path]:
    """Every file that counts, each real folder once, so that links may go round in a circle."""
    left_out, seen = {str(path) for path in without}, set()
    waiting = [folder] if folder.is_dir() else []
    while waiting:
        folder = waiting.pop()
        place = str(folder) if "://" in str(folder) else os.path.realpath(folder)
        if place in seen or str(folder) in left_out:
            continue
        seen.add(place)
        for path, is_folder in _entries(folder):
            if path.name.startswith(".") or path.name == "__MACOSX":
                continue
            if is_folder:
                waiting.append(path)
            else:
                yield path


def _entries(folder: epath.Path) -> list[tuple[epath.Path, bool]]:
    """What is in a folder, and whether it is a folder itself, by name."""
    try:
        if "://" in str(folder):
            return [(path, path.is_dir()) for path in sorted(folder.iterdir())]
        # Of a local folder that is known without asking for each file.
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
        return [(folder / name, is_folder) for name, is_folder in found]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error}") from error
