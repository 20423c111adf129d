"""A named mesh, and rules that place every array of a training run on it."""

import dataclasses
import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from difflax.types import UserError

AXES = ("data", "fsdp", "tensor")

Rule = tuple[str, tuple[str | None, ...]]

TENSOR_RULES: tuple[Rule, ...] = (
    (r"(to_q|to_k|to_v|q_proj|k_proj|v_proj|fc1|net/0/proj)/kernel$", (None, "tensor")),
    (r"(to_out/0|to_add_out|out_proj|fc2|net/2)/kernel$", ("tensor", None)),
)
"""Attention heads and feed-forward channels split, so that each pair of layers needs one sum over devices
(Megatron-LM, https://arxiv.org/abs/1909.08053, section 3).
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
    """Devices along each axis; one axis may be -1, which takes what the others leave.

    Attributes:
        data: copies of the parameters, each with its share of the batch.
        fsdp: shares of the batch between which parameters and optimizer state are split as well.
        tensor: shares of single matrix products (``TENSOR_RULES``).
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = [getattr(self, axis) for axis in AXES]
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"axes must be positive, at most one -1, got {dict(zip(AXES, sizes, strict=True))}"
            )

    def make(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """The mesh over ``devices`` (all of them by default).

        Raises:
            UserError: if the axes do not multiply to the number of devices.
        """
        devices = list(jax.devices() if devices is None else devices)
        sizes = [getattr(self, axis) for axis in AXES]
        known = math.prod(size for size in sizes if size != -1)
        sizes = [len(devices) // known if size == -1 else size for size in sizes]
        if math.prod(sizes) != len(devices):
            raise UserError(
                f"config.mesh: {dict(zip(AXES, sizes, strict=True))} does not multiply to the {len(devices)}"
                " devices there are; leave one axis at -1"
            )
        return Mesh(np.asarray(devices).reshape(sizes), AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """A batch is split along its first axis over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def shardings(tree: PyTree, mesh: Mesh | AbstractMesh, rules: Sequence[Rule] = TENSOR_RULES) -> PyTree:
    """Where each array of a state (its shapes) lives.

    The first rule whose expression is found in the array's path splits the axes that it names, where they
    divide evenly; ``fsdp`` then splits the longest axis left that divides evenly. Scalars and what divides
    nowhere are copied.
    """

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec: list[str | None] = [None] * len(leaf.shape)
        for pattern, axes in rules:
            if re.search(pattern, name) and len(axes) == len(leaf.shape):
                divides = [a is None or n % mesh.shape[a] == 0 for a, n in zip(axes, leaf.shape, strict=True)]
                spec = [a if fits else None for a, fits in zip(axes, divides, strict=True)]
                break
        free = [i for i, n in enumerate(leaf.shape) if spec[i] is None and n % mesh.shape["fsdp"] == 0]
        if free and mesh.shape["fsdp"] > 1:
            spec[max(free, key=lambda i: (leaf.shape[i], i))] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(place, tree)


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """This process's share of a batch as part of one global array each."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), batch)
