"""What is trained: a loss of every example as a pure function of parameters, batch and key."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from difflax.core import streams
from difflax.core.types import Params
from difflax.diffusion.loss.weightings import Constant
from difflax.models.functional import Functional


@dataclasses.dataclass(frozen=True)
class BatchPart:
    """Every ``of``-th example of a batch from ``number`` on: what a step that accumulates gradients looks at
    in one go. An example's random numbers are those that it has in the whole batch.

    Attributes:
        number: from 0, may be traced.
        of: how many parts there are.
    """

    number: int | Int[Array, ""] = 0
    of: int = 1

    def rows(self, count: int) -> Int[Array, " b"]:
        """The places of the part's ``count`` examples in the batch."""
        return jnp.arange(count) * self.of + self.number

    def keys(self, key: Key[Array, ""], count: int) -> Key[Array, " b"]:
        """The keys of the part's ``count`` examples."""
        return streams.sample_keys(key, self.rows(count))

    def own(self, key: Key[Array, ""]) -> Key[Array, ""]:
        """A key for what has one a part, as a network's dropout; of the whole batch ``key`` itself."""
        return key if self.of == 1 else jax.random.fold_in(key, self.number)


WHOLE = BatchPart()
"""All of a batch."""


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
        self, params: Params, batch: PyTree, key: Key[Array, ""], memory: PyTree = (), part: BatchPart = WHOLE
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        """The loss of every example, and what else is worth logging.

        Args:
            key: of the whole batch.
            part: which part of it ``batch`` is.
        """
        ...

    def advance(self, memory: PyTree, losses: Float[Array, " b"], key: Key[Array, ""]) -> PyTree:
        """The memory after a step, from the losses of the whole batch that ``loss`` gave with the same key
        and memory.
        """
        ...

    def reading(self, frozen: PyTree) -> "Objective":
        """The objective with the arrays that it reads and does not train, if it has such."""
        ...


@runtime_checkable
class Validated(Objective, Protocol):
    """An objective whose loss can be measured at given times, see `difflax.training.validation`."""

    def losses_at(
        self,
        params: Params,
        batch: PyTree,
        keys: Key[Array, " b"],
        t: Float[Array, " b"],
        weighting: Constant,
    ) -> Float[Array, " b"]:
        """The squared error of each example at its own time under white noise from its own key: nothing is
        dropped, and nothing of the training loss counts but a mask.
        """
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
