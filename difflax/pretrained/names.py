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

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from difflax.types import Params, UserError

_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0)}
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}


def from_torch(tensors: Mapping[str, Any], abstract: Params, what: str) -> Params:
    """The tree that ``abstract`` describes, filled from ``tensors``; NumPy arrays of ``abstract``'s dtypes.

    Args:
        tensors: by PyTorch's names; NumPy arrays, or anything that ``numpy.asarray`` reads.
        abstract: shapes and dtypes, ``functional(…).abstract()``.
        what: what the weights are of, for the error.

    Raises:
        UserError: tensors are missing, left over or of another shape; it names every one.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract)
    names = [torch_name(path) for path, _ in leaves]
    problems = [f"missing {name}" for name in names if name not in tensors]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - set(names))]
    arrays = []
    for name, (path, leaf) in zip(names, leaves, strict=True):
        if name not in tensors:
            continue
        given, axes = np.asarray(tensors[name]), _axes(path, leaf.ndim, _FROM_TORCH)
        expected = tuple(leaf.shape[i] for i in _axes(path, leaf.ndim, _TO_TORCH))
        if given.shape != expected:
            problems.append(f"{name} has shape {given.shape} and not {expected}")
        else:
            arrays.append(given.transpose(axes).astype(leaf.dtype))
    if problems:
        raise UserError(f"the weights do not fit {what}: {'; '.join(problems)}")
    return jax.tree.unflatten(structure, arrays)


def to_torch(params: Params) -> dict[str, np.ndarray]:
    """``params`` by PyTorch's names and in its layout, as contiguous NumPy arrays."""
    return {
        torch_name(path): np.array(np.transpose(leaf, _axes(path, np.ndim(leaf), _TO_TORCH)), order="C")
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }


def torch_name(path: tuple) -> str:
    """PyTorch's name of the leaf at a ``jax.tree_util`` path of dictionary keys."""
    *parents, last = (entry.key for entry in path)
    return ".".join([*parents, "weight" if last in ("kernel", "scale", "embedding") else last])


def _axes(path: tuple, ndim: int, kernels: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    return kernels[ndim] if path[-1].key == "kernel" and ndim in kernels else tuple(range(ndim))
