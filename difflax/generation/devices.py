"""The devices that share the work of a pipeline."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from difflax.core.types import Params
from difflax.generation.model import Model
from difflax.parallel.sharding import TENSOR_RULES, MeshShape, Rule, batch_sharding, put, shardings


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that share the work.

    Attributes:
        mesh: as in training: a batch is split along ``data`` and ``fsdp``, parameters by ``rules``. Where it
            spans several processes, all of them call, and all get all images. ``None``: that of the
            parameters if they are spread already, else all local devices along ``data``.
        rules: see `shardings`.
        batch_size: the most images in one call of the network's program; smaller requests are filled up to a
            power of two, so that few programs are ever compiled.
    """

    mesh: Mesh | None = None
    rules: tuple[Rule, ...] = TENSOR_RULES
    batch_size: int = 64

    def of(self, params: Params) -> "Devices":
        """The same with a mesh, that of ``params`` if none is given."""
        if self.mesh is not None:
            return self
        for leaf in jax.tree.leaves(params):
            if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
                return dataclasses.replace(self, mesh=leaf.sharding.mesh)
        return dataclasses.replace(self, mesh=MeshShape().make(jax.local_devices()))

    def place(self, model: Model) -> Model:
        """The model with its parameters where the rules say."""
        weak = model.weak
        trees = (model.params, model.autoencoder_params, None if weak is None else weak.params)
        params, autoencoder_params, weak_params = put(trees, shardings(trees, self.mesh, self.rules))
        if weak is not None:
            weak = dataclasses.replace(weak, params=weak_params)
        return dataclasses.replace(model, params=params, autoencoder_params=autoencoder_params, weak=weak)

    def batches(self, count: int) -> Iterator[tuple[np.ndarray, int]]:
        """The rows of every batch of ``count``, its last filled up by repeating the last row, and how many of
        them count.
        """
        shares = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        batch_size = max(self.batch_size // shares, 1) * shares
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            size = min(batch_size, shares * (1 << (-(-(stop - start) // shares) - 1).bit_length()))
            yield np.minimum(np.arange(start, start + size), stop - 1), stop - start

    def put_everywhere(self, tree: Any) -> Any:
        """Arrays whole on every device."""
        return put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def put_rows(self, tree: Any) -> Any:
        """Arrays of a batch, split along their first axis."""
        return put(tree, batch_sharding(self.mesh))
