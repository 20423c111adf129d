"""PyTorch's own files (``.pth``, ``.pt``, ``.bin``) read as names and arrays; nothing that is in them runs.

Such a file is a pickle, which can name any function of any package and have it called. Here the pickle is
read by an unpickler that knows a dozen names, each of which makes nothing but containers and notes on tensors
(`_KNOWN`); any other name is refused before it is looked up. So nothing of the file runs, and nothing of
PyTorch is needed.

Two layouts are read. Since PyTorch 1.6 a file is a zip archive: ``NAME/data.pkl`` beside a file of raw bytes
for each storage. Before, it is five pickles in a row (a magic number, the version, facts of the machine, the
object, the storages' names), and then each storage's length and bytes. The object is a state dict, or a
mapping that holds one under ``state_dict`` or ``model``.
"""

import collections
import dataclasses
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from difflax.core.spelling import shown
from difflax.core.types import UserError
from difflax.pretrained.format.safetensors import PICKLES, Tensors, open_file

MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file in the older layout."""

STATE_DICTS = ("state_dict", "model")
"""Where training scripts put it beside an optimizer's state."""

DTYPES_OF_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Raw numbers of a file, by the key that they lie under."""

    key: str
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _View:
    """A tensor: numbers of a storage, from ``offset`` on, with steps along each axis, all in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor, a copy; ValueError where it does not lie within ``numbers``."""
        if len(self.shape) != len(self.strides) or min((self.offset, *self.shape, *self.strides)) < 0:
            raise ValueError("a tensor has no sound shape")
        ends = (step * (size - 1) for step, size in zip(self.strides, self.shape, strict=True))
        if 0 not in self.shape and self.offset + sum(ends) >= len(numbers):
            raise ValueError("a tensor reaches beyond its storage")
        steps = tuple(step * numbers.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps).copy()


class _Mapping(dict):
    """A state dict; PyTorch hangs a ``_metadata`` on it, which nobody reads."""

    def __setstate__(self, state: Any) -> None:
        del state


def _view(storage: _Storage, offset: int, shape: tuple, strides: tuple, *facts: Any) -> _View:
    del facts  # whether it needs a gradient, hooks
    return _View(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: _View, *facts: Any) -> _View:
    del facts
    return data


@dataclasses.dataclass(frozen=True)
class _Maker:
    """What is called in place of a function that a pickle names."""

    make: Callable

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)

    def __setstate__(self, state: Any) -> None:
        # A pickle may try to change what it got.
        raise pickle.UnpicklingError(f"it changes {self.make.__name__}")


_KNOWN: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): _Mapping,
    ("torch._utils", "_rebuild_tensor_v2"): _Maker(_view),
    ("torch._utils", "_rebuild_parameter"): _Maker(_parameter),
}
"""What a pickle may name, and what is called in its place; beside it, types of storages."""


class _Reader(pickle.Unpickler):
    """
    Attributes:
        storages: of everything in the file, by key.
    """

    def __init__(self, file: Any):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands in for a name of the file.

        Raises:
            UnpicklingError: it is none that tensors need.
        """
        if module == "torch" and name in DTYPES_OF_STORAGES:
            return name
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {shown(f'{module}.{name}')}, which no tensor needs")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage: ("storage", type, key, device, count of numbers, …)."""
        kind, name, key = pid[:3]
        if kind != "storage" or name not in DTYPES_OF_STORAGES:
            raise pickle.UnpicklingError(f"it holds {shown(pid)}")
        return self.storages.setdefault(str(key), _Storage(str(key), np.dtype(DTYPES_OF_STORAGES[name])))


def open_tensors(path: epath.PathLike) -> Tensors:
    """The tensors of a file by name: a safetensors file, or PyTorch's own without its code.

    Raises:
        UserError: no such file, one that is damaged, or one that names what no tensor needs.
    """
    path = epath.Path(path)
    if path.suffix not in PICKLES:
        return open_file(path)
    if not path.is_file():
        raise UserError(f"no {path.name} in {path.parent}: fetch it again")
    try:
        with path.open("rb") as file:
            read = _read_zip if zipfile.is_zipfile(file) else _read_stream
            file.seek(0)
            return read(file)
    # What a damaged pickle leads the reader to.
    except (
        *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, OSError),
        *(ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError, OverflowError),
    ) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} is not a readable file of PyTorch tensors ({why}): take a safetensors file of the same"
            " model"
        ) from error


def _read_zip(file: Any) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        (found,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        folder = found.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are in big-endian order")
        with archive.open(found) as opened:
            views = _views(_Reader(opened).load())
        # One storage at a time: several tensors may share it.
        return _arrays(views, lambda storage: archive.read(f"{folder}data/{storage.key}"))


def _read_stream(file: Any) -> dict[str, np.ndarray]:
    magic, _, _ = (_Reader(file).load() for _ in range(3))  # the layout's version, facts of the machine
    if magic != MAGIC:
        raise ValueError("it does not begin as one")
    reader = _Reader(file)
    views = _views(reader.load())
    raw: dict[str, bytes] = {}
    for key in map(str, _Reader(file).load()):
        (count,) = struct.unpack("<q", file.read(8))
        raw[key] = file.read(count * reader.storages[key].dtype.itemsize)
    return _arrays(views, lambda storage: raw[storage.key])


def _views(root: Any) -> dict[str, _View]:
    for name in STATE_DICTS:
        inner = root.get(name)
        root = inner if isinstance(inner, Mapping) else root
    return {str(name): value for name, value in root.items() if isinstance(value, _View)}


def _arrays(views: Mapping[str, _View], read: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    by_storage = collections.defaultdict(list)
    for name, view in views.items():
        by_storage[view.storage].append(name)
    arrays = {}
    for storage, names in by_storage.items():
        numbers = np.frombuffer(read(storage), storage.dtype)
        arrays |= {name: views[name].array(numbers) for name in names}
    return {name: arrays[name] for name in views}
