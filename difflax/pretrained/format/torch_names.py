"""One rule for weights between PyTorch's files and difflax's trees.

Both name a tensor by the same path, ``encoder.layers.0.mlp.fc1.weight`` and
``encoder/layers/0/mlp/fc1/kernel``; the last name and the layout differ:

=============  ======  ==============================================
ours           theirs  layout
=============  ======  ==============================================
``kernel``     weight  4 axes: HWIO and OIHW; 2 axes: transposed
``scale``      weight  of a norm, the same
``embedding``  weight  of a table, the same
any other      same    the same
=============  ======  ==============================================
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from difflax.core.types import Params, UserError

FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0)}
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
"""The axes of a kernel, by their number."""

THEIRS = dict.fromkeys(("kernel", "scale", "embedding"), "weight")
"""PyTorch's last names, where they are not ours."""


def check_names(tensors: Mapping[str, Any], abstract: Params, what: str) -> None:
    """Whether ``tensors`` are those of ``abstract``; no tensor is read.

    Raises:
        UserError: tensors are missing, left over or of another shape; it names the first of each.
    """
    leaves = jax.tree_util.tree_flatten_with_path(abstract)[0]
    expected = {
        torch_name(path): tuple(leaf.shape[i] for i in _axes(path, leaf.ndim, TO_TORCH))
        for path, leaf in leaves
    }
    problems = _first([f"missing {name}" for name in expected if name not in tensors])
    problems += _first([f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())])
    problems += _first(
        [
            f"{name} has shape {tuple(tensors[name].shape)} and not {shape}"
            for name, shape in expected.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
    )
    if problems:
        raise UserError(f"the weights do not fit {what}: {'; '.join(problems)}")


def _first(problems: list[str], count: int = 3) -> list[str]:
    """The first of them, and how many more there are: an error has room for that."""
    more = len(problems) - count
    return problems[:count] + ([f"and {more} more of the kind"] if more > 0 else [])


def from_torch(
    tensors: Mapping[str, Any],
    abstract: Params,
    what: str,
    *,
    dtype: Any = None,
    shardings: Params | Sharding | None = None,
) -> Params:
    """The tree that ``abstract`` describes, filled from ``tensors``, on the devices.

    Tensors are read, laid out and placed one by one, so that the host never holds more than one.

    Args:
        tensors: by PyTorch's names; NumPy arrays, or anything with a shape that ``numpy.asarray`` reads.
        abstract: shapes and dtypes, ``functional(…).abstract()``.
        what: what the weights are of, for the error.
        dtype: of the parameters; ``None`` takes ``abstract``'s.
        shardings: where they go: one for all or a tree of them; ``None``: the default device.

    Raises:
        UserError: tensors are missing, left over, of another shape, or not finite; it names every one.
    """
    check_names(tensors, abstract, what)
    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract)
    spread = jax.tree.broadcast(shardings, abstract, is_leaf=lambda place: place is None)
    places = structure.flatten_up_to(spread)
    arrays, not_finite = [], []
    for (path, leaf), place in zip(leaves, places, strict=True):
        name = torch_name(path)
        array = np.asarray(tensors[name])
        if not _finite(array):
            not_finite.append(name)
        if not_finite:
            arrays.clear()
            continue
        wanted = leaf.dtype if dtype is None else dtype
        array = np.asarray(array.transpose(_axes(path, leaf.ndim, FROM_TORCH)), wanted, order="C")
        # Placed for good before the next is read: transfers run in the background and hold their source.
        arrays.append(jax.block_until_ready(jax.device_put(array, place)))
    if not_finite:
        raise UserError(
            f"the weights of {what} are not finite numbers in {', '.join(not_finite)}: the file is damaged,"
            " fetch it again"
        )
    return jax.tree.unflatten(structure, arrays)


@dataclasses.dataclass(frozen=True)
class TorchTensor:
    """A parameter in PyTorch's layout; ``numpy.asarray`` fetches it from its devices."""

    array: Any
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.array)[i] for i in self.axes)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.array.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.transpose(np.asarray(self.array), self.axes)
        return np.array(array, dtype, order="C")


def to_torch(params: Params) -> dict[str, TorchTensor]:
    """``params`` by PyTorch's names and in its layout, each fetched when NumPy asks for it."""
    return {
        torch_name(path): TorchTensor(leaf, _axes(path, np.ndim(leaf), TO_TORCH))
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }


def torch_name(path: tuple) -> str:
    """PyTorch's name of the leaf at a ``jax.tree_util`` path of dictionary keys."""
    *parents, last = (entry.key for entry in path)
    return ".".join([*parents, THEIRS.get(last, last)])


def _axes(path: tuple, ndim: int, kernels: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    return kernels[ndim] if path[-1].key == "kernel" and ndim in kernels else tuple(range(ndim))


def _finite(array: np.ndarray) -> bool:
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.size == 0:
        return True
    # Both ends propagate what is not a number, and are much faster than a test of every element; a float16
    # or narrower array is scanned in float32, which the processor knows.
    wide = array if array.dtype.itemsize > 2 else array.astype(np.float32)
    return bool(np.isfinite(wide.min()) and np.isfinite(wide.max()))
