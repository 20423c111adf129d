"""A file's tensors by other names, and what their names and shapes tell of the structure.

Nothing is read: a tensor that has another form by its other name becomes a `Part` of it.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from difflax.core.types import UserError
from difflax.pretrained.format.safetensors import Tensors

HEAD = 64
"""Channels of a head where nothing says otherwise, as in everything that CompVis, Stability, OpenAI and
OpenCLIP published.
"""


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of a stored tensor, without its last axes of size 1 where ``flat``, with the second half of rows
    before the first where ``swapped``, or the whole ``turned``; ``numpy.asarray`` reads it.
    """

    tensor: Any
    rows: tuple[int | None, int | None] = (None, None)
    flat: bool = False
    swapped: bool = False
    turned: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.tensor.shape)
        if shape:
            shape = (len(range(*slice(*self.rows).indices(shape[0]))), *shape[1:])
        return shape[:2] if self.flat else shape[::-1] if self.turned else shape

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.asarray(self.tensor[slice(*self.rows)])
        if self.flat:
            array = array.reshape(array.shape[:2])
        if self.swapped:
            array = np.roll(array, len(array) // 2, axis=0)
        if self.turned:
            array = array.T
        return array if dtype is None else array.astype(dtype)


def grouped(tensors: Tensors, prefixes: Iterable[str]) -> dict[str, Tensors]:
    """The tensors under each of ``prefixes``, without it."""
    return {
        prefix: {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        for prefix in prefixes
    }


def thirds(tensor: Any) -> list[Any]:
    """Its rows in three parts, the last with what is too much."""
    third = (tensor.shape or (0,))[0] // 3
    return [Part(tensor, rows=rows) for rows in ((0, third), (third, 2 * third), (2 * third, None))]


def replaced(name: str, pieces: Mapping[str, str]) -> str:
    """``name`` with the first of ``pieces`` that stands at its start or after a dot replaced."""
    for old, new in pieces.items():
        if name.startswith(old):
            return new + name[len(old) :]
        before, found, after = name.partition("." + old)
        if found:
            name = f"{before}.{new}{after}"
    return name


def shapes_of(tensors: Tensors, axes: Mapping[str, int], what: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors named in ``axes``, of so many axes each, none of them empty."""
    problems = [f"missing {name}" for name in axes if name not in tensors]
    shapes = {name: tuple(tensors[name].shape) for name in axes if name in tensors}
    problems += [
        f"{name} has shape {shape} and not {axes[name]} axes"
        for name, shape in shapes.items()
        if len(shape) != axes[name] or 0 in shape
    ]
    if problems:
        raise UserError(f"{what} is incomplete: {'; '.join(problems)}")
    return shapes


def count_heads(width: int, head: int, what: str) -> int:
    """How many heads of so many channels make a width."""
    if width % head:
        raise UserError(
            f"{what} has a width of {width}, which heads of {head} channels do not divide: give config=DIR, a"
            " pipeline folder that says how many heads there are"
        )
    return width // head


def count_of(numbers: Iterable[str], what: str) -> int:
    """How many there are of what is numbered from 0."""
    found = sorted({int(number) for number in numbers})
    if not found or found[-1] != len(found) - 1:
        raise UserError(f"{what} are incomplete: there are those numbered {found}, and not all from 0 on")
    return len(found)
