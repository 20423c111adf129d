"""Safetensors files read one tensor at a time, and written without a second copy.

A file is eight bytes with the header's length, the header (JSON: name → dtype, shape, place), and the
tensors. Everything that a header can get wrong is found when a file is opened, before a tensor is read, so a
damaged or hostile file is one clear line; a tensor's bytes are read when NumPy asks for it.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from difflax.core.documents import json_object, read_json
from difflax.core.files import atomic_write
from difflax.core.types import UserError

DTYPES_BY_NAME = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
HEADER_LIMIT = 100_000_000
"""Bytes; the format's own limit."""

METADATA = "__metadata__"
"""The header's entry that is no tensor."""

INDEX_SUFFIX = ".safetensors.index.json"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file; ``numpy.asarray`` reads it.

    Attributes:
        start: of its bytes in the file.
    """

    path: epath.Path
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> "StoredTensor":
        """Successive rows of it, not read yet either."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError("only successive rows of a stored tensor can be read")
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        shape = (max(stop - start, 0), *self.shape[1:])
        return dataclasses.replace(self, shape=shape, start=self.start + start * row)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        with self.path.open("rb") as file:
            file.seek(self.start)
            data = file.read(self.nbytes)
        if len(data) != self.nbytes:
            raise UserError(f"{self.path} became shorter while it was read: fetch it again")
        array = np.frombuffer(data, self.dtype).reshape(self.shape)
        return array if dtype is None else array.astype(dtype, copy=False)


Tensors = Mapping[str, Any]
"""By name; each has ``shape`` and ``dtype`` and is read by ``numpy.asarray``: a `StoredTensor`, an array."""


def open_file(path: epath.PathLike) -> dict[str, StoredTensor]:
    """The tensors of one file by name; nothing but the header is read.

    Raises:
        UserError: no such file, or one that is cut, damaged, or no safetensors file.
    """
    path = epath.Path(path)
    header, length, size = _header(path)
    header.pop(METADATA, None)
    try:
        entries = {name: _entry(value) for name, value in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from error
    end = 0
    for name, (dtype, shape, (start, stop)) in sorted(entries.items(), key=lambda item: item[1][2]):
        if start != end or stop - start != math.prod(shape) * np.dtype(dtype).itemsize:
            raise _broken(path, f"the place of {name} does not fit its shape or its neighbours")
        end = stop
    if end != size - 8 - length:
        raise _broken(path, f"its tensors take {end} bytes, {size - 8 - length} are there")
    return {
        name: StoredTensor(path, shape, np.dtype(dtype), 8 + length + place[0])
        for name, (dtype, shape, place) in entries.items()
    }


def read_metadata(path: epath.PathLike) -> dict[str, str]:
    """What a file's header says beside its tensors; errors as for `open_file`."""
    path = epath.Path(path)
    header, _, _ = _header(path)
    try:
        return {key: str(value) for key, value in (header.get(METADATA) or {}).items()}
    except AttributeError as error:
        raise _damaged(path, error) from error


def _header(path: epath.Path) -> tuple[dict[str, Any], int, int]:
    """A file's header with its length, and the file's size, in bytes."""
    if not path.is_file():
        raise UserError(f"no {path.name} in {path.parent}: fetch it again")
    size = path.stat().length
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise _broken(path, f"it has {len(head)} bytes")
        (length,) = struct.unpack("<Q", head)
        if length > min(size - 8, HEADER_LIMIT):
            raise _broken(path, f"its header would be {length} bytes long, the file has {size}")
        text = file.read(length)
    try:
        return json_object(text), length, size
    except ValueError as error:
        raise _broken(path, f"its header {error}") from error


def _broken(path: epath.Path, why: str) -> UserError:
    return UserError(f"{path} is not a readable safetensors file ({why}): fetch it again")


def _damaged(path: epath.Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return _broken(path, f"damaged header: {reason}")


def _entry(value: Mapping[str, Any]) -> tuple[Any, tuple[int, ...], tuple[int, int]]:
    if value["dtype"] not in DTYPES_BY_NAME:
        raise ValueError(f"unknown dtype {value['dtype']!r}")
    shape, place = tuple(value["shape"]), tuple(value["data_offsets"])
    if len(place) != 2 or not all(type(n) is int and n >= 0 for n in (*shape, *place)):
        raise ValueError("shapes and places must be natural numbers")
    return DTYPES_BY_NAME[value["dtype"]], shape, place


def open_weights(folder: epath.PathLike, name: str, *, variant: str | None = None) -> dict[str, StoredTensor]:
    """The tensors of a model's folder, from ``NAME.safetensors`` or the shards that its index names.

    Args:
        name: the stem of the files, ``"model"`` or ``"diffusion_pytorch_model"``.
        variant: ``"fp16"`` reads ``NAME.fp16.safetensors``; a folder without one is read without.

    Raises:
        UserError: no such file (a pickle is refused with the remedy), an index that does not fit its shards
            or names a file elsewhere, or a damaged file.
    """
    folder = epath.Path(folder)
    found = weight_file(set(_names(folder)), name, variant)
    if found is None:
        raise UserError(_no_weights(folder, name, variant))
    if found.endswith(".safetensors"):
        return open_file(folder / found)
    return _open_index(folder / found)


def weight_file(files: set[str], name: str, variant: str | None) -> str | None:
    """Which of ``files`` (names in one folder) holds the weights, or is the index of those that do."""
    candidates = [f"{name}.safetensors", f"{name}{INDEX_SUFFIX}"]
    if variant is not None:
        special = [
            f"{name}.{variant}.safetensors",
            f"{name}.safetensors.index.{variant}.json",
            f"{name}.{variant}{INDEX_SUFFIX}",
        ]
        candidates = special + candidates
    return next((candidate for candidate in candidates if candidate in files), None)


def write_json(path: epath.Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file as the Hub's libraries do."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(value, indent=2) + "\n")


def write_file(
    path: epath.PathLike, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file, one tensor at a time; ``numpy.asarray`` must read the values.

    Values need ``shape`` and ``dtype``; what is larger than a host's memory may be lazy. ``metadata`` goes
    into the header.
    """
    names = {np.dtype(dtype): name for name, dtype in DTYPES_BY_NAME.items()}
    # The format asks for alignment: wide dtypes first.
    order = sorted(tensors, key=lambda name: (-np.dtype(tensors[name].dtype).itemsize, name))
    # transformers asks for the framework that the tensors were written for.
    header: dict[str, Any] = {METADATA: {"format": "pt", **(metadata or {})}}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
        header[name] = {
            "dtype": names[np.dtype(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(np.ascontiguousarray(np.asarray(tensors[name])).reshape(-1).view(np.uint8).data)


def read_index(path: epath.Path) -> dict[str, str]:
    """The file, in the same folder, of every tensor that an index names.

    Raises:
        UserError: it is damaged, or names a file elsewhere.
    """
    try:
        files = {name: epath.Path(file) for name, file in read_json(path)["weight_map"].items()}
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} has no weight_map of tensor names to file names: restore the file"
        ) from error
    for file in files.values():
        if str(file) != file.name or not file.name.endswith(".safetensors"):
            raise UserError(
                f"{path} points to {str(file)!r}: shards are safetensors files in the same folder"
            )
    return {name: file.name for name, file in files.items()}


def _open_index(path: epath.Path) -> dict[str, StoredTensor]:
    places = read_index(path)
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(places.values())):
        tensors |= open_file(path.parent / file)
    problems = [f"missing {name}" for name in sorted(places.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - places.keys())]
    if problems:
        raise UserError(f"the shards do not fit {path}: {'; '.join(problems)}")
    return tensors


def _names(folder: epath.Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _no_weights(folder: epath.Path, name: str, variant: str | None) -> str:
    pickles = sorted(n for n in _names(folder) if n.endswith(PICKLES))
    if pickles:
        return refusal(folder / pickles[0])
    others = sorted(n for n in _names(folder) if n.endswith(".safetensors"))
    hint = f"there is {', '.join(others)}: give its variant" if others else "the folder is incomplete"
    return f"no {name}{'' if variant is None else '.' + variant}.safetensors in {folder}: {hint}"


def refusal(path: epath.PathLike) -> str:
    """Why a pickle is not read, and what to do."""
    return (
        f"{path} is a pickle, which can run any code when it is read, so it is not read: take the safetensors"
        " file of the same model, or convert it with PyTorch diffusers on a machine you can lose"
        " (pipeline.save_pretrained(DIR, safe_serialization=True))"
    )
