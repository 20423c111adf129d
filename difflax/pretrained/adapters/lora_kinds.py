"""The methods of adapters' files: the parts that each writes for a layer, read as what they add to its weight
(`difflax.models.weight_changes`).

Parts are in PyTorch's layout and by LyCORIS' names, whatever the file called them. A convolution's may have
its window flattened into the inputs' axis, and a 1 × 1 convolution and a linear layer take each other's.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from difflax.models.weight_changes import (
    Decomposed,
    Difference,
    Hadamard,
    Kronecker,
    LowRank,
    ProportionalChange,
    WeightChange,
)
from difflax.pretrained.format.torch_names import FROM_TORCH, TO_TORCH

Parts = Mapping[str, np.ndarray]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A method.

    Attributes:
        name: of the method, for errors.
        needed, optional: its parts of a layer.
        read: the change of a kernel of a shape that they make; a `ValueError` is the end of a sentence about
            the layer.
    """

    name: str
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Parts, Shape], ProportionalChange]

    @property
    def parts(self) -> frozenset[str]:
        return frozenset(self.needed + self.optional)


def _lora(parts: Parts, shape: Shape) -> LowRank:
    return _low_rank(parts["lora_down"], parts["lora_up"], parts.get("lora_mid"), shape)


def _loha(parts: Parts, shape: Shape) -> Hadamard:
    first, second = (
        _tucker(parts[f"hada_w{n}_b"], parts[f"hada_w{n}_a"], parts.get(f"hada_t{n}"), shape) for n in "12"
    )
    return Hadamard(first, second)


def _lokr(parts: Parts, shape: Shape) -> Kronecker:
    *window, inputs, outputs = shape
    left, right = _matrix(parts, "lokr_w1"), _matrix(parts, "lokr_w2", parts.get("lokr_t2"))
    o1, i1 = left.rows.shape[0], left.columns.shape[1]
    if not (i1 and o1) or inputs % i1 or outputs % o1:
        raise ValueError(f"has a lokr_w1 of {o1} × {i1}, which does not divide {outputs} × {inputs}")
    return Kronecker(left.change((i1, o1)), right.change((*window, inputs // i1, outputs // o1)))


class _Matrix(NamedTuple):
    """One of the two matrices of LoKr, whole or in factors.

    Attributes:
        rows, columns: of which the one has its rows and the other its columns.
        change: what it makes of a kernel of a shape.
    """

    rows: np.ndarray
    columns: np.ndarray
    change: Callable[[Shape], LowRank | Difference]


def _matrix(parts: Parts, name: str, core: np.ndarray | None = None) -> _Matrix:
    if name in parts:
        whole = parts[name]
        return _Matrix(whole, whole, lambda shape: Difference(_kernel(whole, shape)))
    if f"{name}_a" in parts and f"{name}_b" in parts:
        up, down = parts[f"{name}_a"], parts[f"{name}_b"]
        return _Matrix(up, down, lambda shape: _tucker(down, up, core, shape))
    raise ValueError(f"has neither {name} nor both of {name}_a and {name}_b")


def _difference(parts: Parts, shape: Shape) -> Difference:
    return Difference(_kernel(parts["diff"], shape))


METHODS = (
    Kind("LoRA", ("lora_down", "lora_up"), ("lora_mid",), _lora),
    Kind("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ("hada_t1", "hada_t2"), _loha),
    Kind(
        "LoKr",
        (),
        ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        _lokr,
    ),
    Kind("a whole difference", ("diff",), (), _difference),
)
LENGTHS = ("dora_scale", "magnitude")
"""DoRA's part, beside those of any other method; LyCORIS' and peft's."""


def read_change(parts: Parts, shape: Shape, *, kernel: bool) -> WeightChange | None:
    """The change of a layer's weight that its parts make; ``None``: they make none.

    Args:
        shape: of our weight; with several layers, of all their outputs together.
        kernel: it is a kernel, and not a norm's scale or a table.

    Raises:
        ValueError: the parts do not make one, or one of another shape; the end of a sentence about the layer.
    """
    lengths = [parts[name] for name in LENGTHS if name in parts]
    found = [kind for kind in METHODS if kind.parts & parts.keys()]
    if not found:
        if lengths:
            raise ValueError("has DoRA's lengths without a change of the directions")
        return None
    if len(found) > 1:
        raise ValueError(f"has parts of {' and of '.join(kind.name for kind in found)}")
    (kind,) = found
    missing = [name for name in kind.needed if name not in parts]
    if missing:
        raise ValueError(f"has {sorted(kind.parts & parts.keys())[0]} without {' and '.join(missing)}")
    if not kernel:
        if kind.name != METHODS[-1].name or lengths:
            raise ValueError(f"has {kind.name}, but is neither a linear layer nor a convolution")
        return Difference(_sized(parts["diff"], shape))
    change = kind.read(parts, shape)
    if not lengths:
        return change
    if len(lengths) > 1:
        raise ValueError("has the lengths of DoRA twice")
    return _decomposed(change, lengths[0], shape, of_peft="magnitude" in parts)


def _decomposed(
    change: ProportionalChange, lengths: np.ndarray, shape: Shape, *, of_peft: bool
) -> Decomposed:
    """peft's lengths are the outputs'; LyCORIS' [1, inputs, …] or [outputs, 1, …]."""
    *_, inputs, outputs = shape
    first = lengths.shape[0] if lengths.ndim else 0
    if lengths.size == outputs and (of_peft or first == outputs):
        return Decomposed(change, lengths.reshape(-1))
    if lengths.size == inputs and not of_peft:
        return Decomposed(change, lengths.reshape(-1), of_inputs=True)
    raise ValueError(
        f"has DoRA's lengths of shape {lengths.shape}, and {inputs} inputs and {outputs} outputs"
    )


def _low_rank(down: np.ndarray, up: np.ndarray, core: np.ndarray | None, shape: Shape) -> LowRank:
    """``down`` [rank, inputs, …] and ``up`` [outputs, rank, …]; the window is ``core``'s if there is one."""
    if min(down.ndim, up.ndim) < 2:
        raise ValueError(f"has factors of {down.ndim} and {up.ndim} axes")
    *window, inputs, outputs = shape
    ones, rank = [1] * len(window), down.shape[0]
    size = inputs * math.prod(window if core is None else ones)
    if math.prod(down.shape[1:]) != size or up.shape[0] != outputs:
        given = (down.shape[1], up.shape[0])
        if given != (inputs, outputs):
            raise ValueError(f"has factors for {given} channels and not {(inputs, outputs)}")
        raise ValueError(f"has factors of shapes {down.shape} and {up.shape}")
    if rank < 1 or math.prod(up.shape[1:]) != rank:
        raise ValueError(f"has factors of rank {rank} and {math.prod(up.shape[1:])}")
    return LowRank(
        _kernel(down, (*(window if core is None else ones), inputs, rank)),
        up.reshape(outputs, rank).T.reshape(*ones, rank, outputs),
        None if core is None else _kernel(core, (*window, rank, rank)),
    )


def _tucker(down: np.ndarray, up: np.ndarray, core: np.ndarray | None, shape: Shape) -> LowRank:
    """LoHa's and LoKr's factors, of which ``up`` is [rank, outputs] where there is a core."""
    return _low_rank(down, up if core is None else up.T, core, shape)


def _kernel(array: np.ndarray, shape: Shape) -> np.ndarray:
    """A weight in PyTorch's layout as a kernel of ``shape``."""
    axes = TO_TORCH[len(shape)]
    return _sized(array, tuple(shape[i] for i in axes)).transpose(FROM_TORCH[len(shape)])


def _sized(array: np.ndarray, shape: Shape) -> np.ndarray:
    if array.size != math.prod(shape) or (array.ndim > 1 and array.shape[0] != shape[0]):
        raise ValueError(f"has a part of shape {array.shape} in place of {shape}")
    return array.reshape(shape)
