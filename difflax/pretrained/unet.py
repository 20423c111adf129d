"""Weights of diffusers' (PyTorch) UNet in and out, by path.

Both name a tensor by its place, ``down_blocks.0.resnets.1.conv1.weight`` there and
``down_blocks/0/resnets/1/conv1/kernel`` here, so the rules are about the last name and the layout alone:

===========  ========  =========================================
ours         theirs    layout
===========  ========  =========================================
``kernel``   weight    4 axes: HWIO and OIHW; 2 axes: transposed
``scale``    weight    of a norm, the same
``embedding``  weight  of a table, the same
``bias``     bias      the same
===========  ========  =========================================
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from difflax.types import Params, UserError

_TO_OURS = {4: (2, 3, 1, 0), 2: (1, 0)}  # OIHW → HWIO, [out, in] → [in, out]
_TO_THEIRS = {4: (3, 2, 0, 1), 2: (1, 0)}
_WEIGHT_NAMES = ("kernel", "scale", "embedding")


def from_diffusers(tensors: Mapping[str, Any], abstract: Params) -> Params:
    """The parameters of ``tensors``, laid out as ``abstract`` (``functional(…).abstract()``) says.

    Args:
        tensors: by diffusers' names; NumPy arrays, or anything that ``numpy.asarray`` reads.
        abstract: shapes and dtypes of the parameters.

    Raises:
        UserError: if tensors are missing, left over or of another shape; it names every one.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract)
    names = [_their_name(path) for path, _ in leaves]
    problems = [f"missing {name}" for name in names if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in set(names)]
    arrays = []
    for name, (path, leaf) in zip(names, leaves, strict=True):
        if name in tensors:
            array = _transposed(np.asarray(tensors[name]), path, _TO_OURS)
            if array.shape != leaf.shape:
                expected = _transposed(np.empty(leaf.shape, bool), path, _TO_THEIRS).shape
                problems.append(f"{name} has shape {tuple(np.shape(tensors[name]))} and not {expected}")
            arrays.append(array.astype(leaf.dtype))
    if problems:
        raise UserError(f"UNet weights do not fit the config: {'; '.join(problems)}")
    return jax.tree.unflatten(structure, arrays)


def to_diffusers(params: Params) -> dict[str, np.ndarray]:
    """``params`` by diffusers' names and in PyTorch's layout, as contiguous NumPy arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {
        _their_name(path): np.ascontiguousarray(_transposed(np.asarray(leaf), path, _TO_THEIRS))
        for path, leaf in leaves
    }


def _their_name(path: tuple) -> str:
    *parents, last = (entry.key for entry in path)
    return ".".join([*parents, "weight" if last in _WEIGHT_NAMES else last])


def _transposed(array: np.ndarray, path: tuple, axes: Mapping[int, tuple[int, ...]]) -> np.ndarray:
    if path[-1].key != "kernel" or array.ndim not in axes:
        return array
    return array.transpose(axes[array.ndim])
