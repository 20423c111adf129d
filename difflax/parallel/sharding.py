"""A named mesh, and rules that place every array of a training run on it."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from difflax.core.types import UserError

AXES = ("data", "fsdp", "context", "tensor")

Rule = tuple[str, tuple[str | None, ...]]

TENSOR_RULES: tuple[Rule, ...] = (
    # UNet and MMDiT (to_q, add_q_proj, net), CLIP (q_proj, fc1), T5 (q, wi).
    (r"(to_q|to_k|to_v|q_proj|k_proj|v_proj|fc1|net/0/proj)/kernel$", (None, "tensor")),
    (r"(SelfAttention/[qkv]|DenseReluDense/wi(_[01])?)/kernel$", (None, "tensor")),
    (r"(to_out/0|to_add_out|out_proj|fc2|net/2|SelfAttention/o|DenseReluDense/wo)/kernel$", ("tensor", None)),
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
        context: shares of the tokens of an image, see `difflax.parallel.placement.split_tokens`.
        tensor: shares of single matrix products.
        rules: which axes of which parameters are split, ``((expression, (axis or None, ...)), ...)``; the
            first whose expression is found in the parameter's path counts.
    """

    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1
    rules: tuple[Rule, ...] = TENSOR_RULES

    def __post_init__(self):
        sizes = [getattr(self, axis) for axis in AXES]
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"axes must be positive, at most one -1, got {dict(zip(AXES, sizes, strict=True))}"
            )
        for rule in self.rules:
            _check_rule(rule)

    def make(self, devices: Sequence[Any] | None = None) -> Mesh:
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
        return Mesh(_arranged(devices, sizes), AXES)

    def fitted(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh over ``devices`` (all of them by default), also where they are not as many as the axes ask
        for: then all stand along ``fsdp`` if that splits parameters, else along ``data``.
        """
        try:
            return self.make(devices)
        except UserError:
            axis = "data" if self.fsdp == 1 else "fsdp"
            return dataclasses.replace(self, **{**dict.fromkeys(AXES, 1), axis: -1}).make(devices)


def _check_rule(rule: Rule) -> None:
    try:
        pattern, axes = rule
        re.compile(pattern)
        sound = all(axis is None or axis in AXES for axis in axes)
    except (TypeError, ValueError, re.error) as error:
        raise ValueError(f"rules: {rule!r} is no (expression, axes): {error}") from error
    if not sound:
        raise ValueError(f"rules: {rule!r} names axes other than {', '.join(AXES)} and None")


def _arranged(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """The devices in the mesh's shape: near ones side by side, slices of several along ``data``, whose sums
    are the only ones that the slow network between slices has to carry.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        if sizes[0] % slices:
            raise UserError(f"config.mesh.data = {sizes[0]} must be a multiple of the {slices} slices")
        inside = (sizes[0] // slices, *sizes[1:])
        between = (slices, *[1] * (len(sizes) - 1))
        return mesh_utils.create_hybrid_device_mesh(inside, between, devices)
    if devices[0].platform == "tpu":
        return mesh_utils.create_device_mesh(sizes, devices)
    return np.asarray(devices).reshape(sizes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """A batch is split along its first axis over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def shardings(tree: PyTree, mesh: Mesh | AbstractMesh, rules: Sequence[Rule] = TENSOR_RULES) -> PyTree:
    """Where each array of a state (its shapes) lives.

    The first rule whose expression is found in the array's path splits the axes that it names, where they
    divide evenly; ``fsdp`` then splits the longest axis left that divides evenly. Scalars and what divides
    nowhere are copied.
    """

    def sharding_of(path: tuple, leaf: jax.ShapeDtypeStruct | jax.Array | np.ndarray) -> NamedSharding:
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

    return jax.tree_util.tree_map_with_path(sharding_of, tree)


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Which rows of a global batch this process's devices hold, in order."""
    spans = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (span,) in spans for row in range(batch_size)[span]})


def fetch(tree: PyTree) -> PyTree:
    """A state's arrays whole, on the host of every process; each of them must ask."""

    def whole(array: jax.Array) -> np.ndarray:
        if array.is_fully_addressable:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(whole, tree)


def put_local_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """This process's share of a batch as part of one global array each."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), batch)


def sharded_shapes(shapes: PyTree, mesh: Mesh, rules: Sequence[Rule] = TENSOR_RULES) -> PyTree:
    """``shapes`` with their shardings, see `shardings`."""
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
        shapes,
        shardings(shapes, mesh, rules),
    )


def put(tree: PyTree, where: PyTree | NamedSharding) -> PyTree:
    """Arrays that every process holds whole, each as ``where`` says; what lies there already is not copied.

    Args:
        where: one sharding for all arrays, or a tree of shardings.
    """

    def one(array: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(array, jax.Array) and array.sharding.is_equivalent_to(sharding, array.ndim):
            return array
        # Devices of other processes can be reached from the host alone.
        return jax.device_put(np.asarray(array) if sharding.mesh.is_multi_process else array, sharding)

    # One sharding is the tree of a single leaf, for all that lies below it.
    return jax.tree.map(
        lambda sharding, part: jax.tree.map(lambda array: one(array, sharding), part), where, tree
    )
