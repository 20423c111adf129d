"""The noise of training: white, with an offset a channel, or paired with the images."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from difflax.diffusion.checks import require
from difflax.streams import normal


def offset_noise(
    keys: Key[Array, " b"], shape: tuple[int, ...], strength: float = 0.1
) -> Float[Array, "b ..."]:
    """White noise plus ``strength`` times one normal number a channel (Guttenberg, "Diffusion with offset
    noise", 2023).

    Teaches the model to move an image's mean, which white noise hides last. ``shape`` of one example,
    channels last.
    """
    require(strength >= 0, f"offset noise strength must not be negative, got {strength}")
    white = normal(keys, shape)
    offset_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
    offset = normal(offset_keys, (*[1] * (len(shape) - 1), shape[-1]))
    return white + strength * offset


def paired_noise(x0: Float[Array, "b ..."], eps: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """``eps`` in the order that brings each close to its image: the assignment of least total squared
    distance.

    Immiscible diffusion (Li et al., arXiv:2406.12303, algorithm 1); minibatch optimal transport (Tong et al.,
    arXiv:2302.00482, section 4). Each noise remains white, but an example's noise now depends on its batch.
    """
    images, noises = x0.reshape(len(x0), -1), eps.reshape(len(eps), -1)
    # |a - b|^2 up to terms that every assignment shares.
    rows, columns = optax.assignment.hungarian_algorithm(-(images @ noises.T))
    return jnp.zeros_like(eps).at[rows].set(eps[columns])
