"""The noise of training: white, with an offset a channel, or paired with the images."""

import dataclasses
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from difflax.core.streams import normal
from difflax.diffusion.checks import require


@runtime_checkable
class Noise(Protocol):
    """What is mixed with the images.

    Attributes:
        pairs: whether an image's noise depends on the others of its batch.
    """

    pairs: ClassVar[bool]

    def __call__(self, keys: Key[Array, " b"], x0: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """The noise of each image."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class White:
    """Standard normal, each image from its own key."""

    pairs: ClassVar[bool] = False

    def __call__(self, keys: Key[Array, " b"], x0: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        return normal(keys, x0.shape[1:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offset:
    """White noise plus ``strength`` times one normal number a channel (Guttenberg, "Diffusion with offset
    noise", 2023).

    Teaches the model to move an image's mean, which white noise hides last. Channels come last.

    Attributes:
        strength: standard deviation of the offset.
    """

    pairs: ClassVar[bool] = False

    strength: float = 0.1

    def __post_init__(self):
        require(self.strength >= 0, f"noise.strength must not be negative, got {self.strength}")

    def __call__(self, keys: Key[Array, " b"], x0: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        offset_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
        offset = normal(offset_keys, (*[1] * (x0.ndim - 2), x0.shape[-1]))
        return normal(keys, x0.shape[1:]) + self.strength * offset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
    """White noise in the order that brings each close to its image: the assignment of least total squared
    distance.

    Immiscible diffusion (Li et al., arXiv:2406.12303, algorithm 1); minibatch optimal transport (Tong et al.,
    arXiv:2302.00482, section 4). Each noise remains white, but an image's noise now depends on its batch.
    """

    pairs: ClassVar[bool] = True

    def __call__(self, keys: Key[Array, " b"], x0: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        eps = normal(keys, x0.shape[1:])
        images, noises = x0.reshape(len(x0), -1), eps.reshape(len(eps), -1)
        # |a - b|^2 up to terms that every assignment shares.
        rows, columns = optax.assignment.hungarian_algorithm(-(images @ noises.T))
        return jnp.zeros_like(eps).at[rows].set(eps[columns])


NOISES = {"white": White, "offset": Offset, "paired": Paired}
