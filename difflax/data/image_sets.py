"""Many images that are read once, one after the other, and not kept: what evaluation measures.

They are a folder of pictures, a NumPy file with an array of them (``.npz`` with ``arr_0``, as samples are
exchanged since ADM, or ``.npy``), or an array. Pictures are read as the reference implementations of metrics
do, see `decode_plain`.
"""

import dataclasses
import zipfile
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import UInt8

from difflax.core.files import reason
from difflax.core.types import UserError
from difflax.data.fingerprints import (
    arrays_fingerprint,
    contents_fingerprint,
    file_fingerprint,
    note_files,
)
from difflax.data.folders import find_images
from difflax.data.pictures import decode_plain, read_bytes

DECODING = "Pillow, convert('RGB')"
"""How pictures are read, for a manifest."""

FIRST_ARRAY = "arr_0"
"""What `numpy.savez` calls an array without a name."""

ARRAY_SUFFIXES = (".npz", ".npy")

RGBImage = UInt8[np.ndarray, "h w 3"]


@runtime_checkable
class ImageSet(Protocol):
    """Images in a fixed order.

    Attributes:
        where: as the user named them.
    """

    where: str

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]:
        """What `pixels` reads, one after the other; cheap."""
        ...

    def pixels(self, item: Any) -> RGBImage:
        """An image. Threads may call it at once."""
        ...

    def fingerprint(self) -> str:
        """Of the contents and their order."""
        ...


@dataclasses.dataclass(frozen=True)
class PictureFiles:
    """The pictures below a folder, in the order of their paths."""

    where: str
    files: tuple[epath.Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[epath.Path]:
        return iter(self.files)

    def pixels(self, item: epath.Path) -> RGBImage:
        """See `ImageSet`."""
        return decode_plain(read_bytes(item), str(item))

    def fingerprint(self) -> str:
        """See `ImageSet`; files are read for it."""
        return contents_fingerprint(self.files, note_files(self.files, {}))


@dataclasses.dataclass(frozen=True, eq=False)
class ImageArray:
    """Images in memory, all of one size."""

    where: str
    images: UInt8[np.ndarray, "n h w 3"]

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[RGBImage]:
        return iter(self.images)

    def pixels(self, item: RGBImage) -> RGBImage:
        """See `ImageSet`."""
        return item

    def fingerprint(self) -> str:
        """See `ImageSet`."""
        return arrays_fingerprint(self.images)


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """Images in one array of a ``.npz`` file, which are read row by row.

    Attributes:
        shape: of the array, ``(n, h, w, 3)``.
    """

    where: str
    path: epath.Path
    shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[RGBImage]:
        count, *image = self.shape
        size = int(np.prod(image))
        with (
            self.path.open("rb") as file,
            zipfile.ZipFile(file) as archive,
            archive.open(f"{FIRST_ARRAY}.npy") as opened,
        ):
            _header(opened)
            for row in range(count):
                data = opened.read(size)
                if len(data) != size:
                    raise UserError(f"{self.where} ends within image {row} of {count}: fetch it again")
                yield np.frombuffer(data, np.uint8).reshape(image)

    def pixels(self, item: RGBImage) -> RGBImage:
        """See `ImageSet`."""
        return item

    def fingerprint(self) -> str:
        """See `ImageSet`; the file is read for it."""
        return file_fingerprint(self.path)


def open_images(images: epath.PathLike | np.ndarray, where: str) -> ImageSet:
    """A set of images.

    Args:
        images: a folder, a ``.npz`` or ``.npy`` file, or an array ``[n, h, w, 3]``, uint8 or float in [0, 1].
        where: how the user named it, for errors and manifests.

    Raises:
        UserError: there are no images, or none that can be read.
    """
    if isinstance(images, np.ndarray):
        return ImageArray(where, _as_bytes(images, where))
    path = epath.Path(images)
    if path.is_dir():
        return PictureFiles(str(path), tuple(find_images(path, where)))
    if path.suffix not in ARRAY_SUFFIXES:
        problem = f"give a folder of pictures or one of {', '.join(ARRAY_SUFFIXES)}"
        raise UserError(f"{where}={path}: {'a file' if path.exists() else 'no such folder'}: {problem}")
    if path.suffix == ".npz":
        return _open_npz(path, where)
    return ImageArray(str(path), _as_bytes(load_array(path, where), where))


def load_array(path: epath.Path, where: str) -> Any:
    """A NumPy file; of a ``.npz`` its arrays by name, read when they are asked for.

    Raises:
        UserError: there is none, or it is damaged or a pickle.
    """
    if not path.exists():
        raise UserError(f"{where}={path}: no such file")
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{where}={path} is no readable NumPy file ({reason(error)}): fetch it again"
        ) from error


def _open_npz(path: epath.Path, where: str) -> StoredArray:
    names = load_array(path, where).files
    if FIRST_ARRAY not in names:
        raise UserError(f"{where}={path} has no images {FIRST_ARRAY}, only {', '.join(names) or 'nothing'}")
    with (
        path.open("rb") as file,
        zipfile.ZipFile(file) as archive,
        archive.open(f"{FIRST_ARRAY}.npy") as opened,
    ):
        shape, by_column, dtype = _header(opened)
    if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8 or by_column:
        raise UserError(
            f"{where}={path}: {FIRST_ARRAY} is {dtype} of shape {shape}: images are uint8 [n, h, w, 3]"
        )
    if not shape[0]:
        raise UserError(f"{where}={path} holds no image")
    return StoredArray(str(path), path, shape)


def _header(opened: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array whose numbers follow."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return read[np.lib.format.read_magic(opened)](opened)


def _as_bytes(images: np.ndarray, where: str) -> UInt8[np.ndarray, "n h w 3"]:
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"{where}: an array of shape {images.shape}: images are [n, h, w, 3]")
    if not len(images):
        raise UserError(f"{where} holds no image")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"{where}: images of {images.dtype}: give uint8, or float in [0, 1]")
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
    if bad.size:
        raise UserError(f"{where}: {bad.size} images hold NaN or infinity, the first is image {bad[0]}")
    if images.min() < 0 or images.max() > 1:
        raise UserError(
            f"{where}: float images run from {images.min():g} to {images.max():g}: bring them to [0, 1]"
        )
    return np.rint(images.astype(np.float64) * 255).astype(np.uint8)
