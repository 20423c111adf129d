"""What is trained: a loss of every example as a pure function of parameters, batch and key."""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from difflax.core.types import Params
from difflax.models.functional import Functional


@runtime_checkable
class Objective(Protocol):
    """A loss, and the model whose parameters it trains."""

    model: Functional

    def init(self, key: Key[Array, ""]) -> Params:
        """All that is trained: the model's parameters and perhaps the loss's own."""
        ...

    def begin(self) -> PyTree:
        """What the objective remembers from step to step, before the first; arrays, part of the state."""
        ...

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""], memory: PyTree = ()
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        """The loss of every example, and what else is worth logging."""
        ...

    def advance(self, memory: PyTree, losses: Float[Array, " b"], key: Key[Array, ""]) -> PyTree:
        """The memory after a step, from the losses that ``loss`` gave with the same key and memory."""
        ...

    def reading(self, frozen: PyTree) -> "Objective":
        """The objective with the arrays that it reads and does not train, if it has such."""
        ...


class Plain:
    """An objective that trains the model alone and remembers nothing."""

    model: Functional

    def init(self, key: Key[Array, ""]) -> Params:
        return self.model.init(key)

    def begin(self) -> PyTree:
        return ()

    def advance(self, memory: PyTree, losses: Float[Array, " b"], key: Key[Array, ""]) -> PyTree:
        return memory

    def reading(self, frozen: PyTree) -> Objective:
        return self


LOSS_PARAMS = "loss"
"""Where, beside the network's own parameters, those of the loss stand in the tree that is trained."""


def network_params(params: Params) -> Params:
    """The network's part of what is trained."""
    return {name: value for name, value in params.items() if name != LOSS_PARAMS}


def pixels(batch: PyTree) -> Float[Array, "b h w c"]:
    """A batch's images in [-1, 1]."""
    return jnp.asarray(batch["image"], jnp.float32) / 127.5 - 1
