"""Noise of a path, not of a step: what an SDE solver draws stays the same when its steps are refined.

The exact noise of the reverse SDE of strength eta, divided by ``sigma e^(-eta lam)``, is a Brownian motion B
in ``tau = SNR^eta`` (see ``exponential``). ``U(u) = B(e^u) e^(-u / 2)`` is a stationary Ornstein-Uhlenbeck
process, and the noise of a step from u to u' is ``(U(u') - r U(u)) / sqrt(1 - r^2)`` with ``r = e^(-(u' - u)
/ 2)``: standard normal, independent from step to step, and the right sum of the noises of any finer steps. U
is evaluated anywhere by descending a fixed binary tree of bridges, each node's draw from its own key; nothing
is stored.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from difflax.core.streams import normal

_LOW, _HIGH, _DEPTH = -48.0, 48.0, 21


def path(keys: Key[Array, " b"], u: Float[Array, ""], shape: tuple[int, ...], dtype) -> Float[Array, "b ..."]:
    """``U(u)`` for each sample; u is clipped to [-48, 48]."""
    u = jnp.clip(u, _LOW, _HIGH)

    def draw(node: Array) -> Array:
        return normal(jax.vmap(jax.random.fold_in, (0, None))(keys, node), shape, dtype)

    def descend(level, carry):
        node, low, high, at_low, at_high = carry
        half = (high - low) / 2
        # The bridge's midpoint given its ends, whose correlation with it is e^(-half / 2).
        r = jnp.exp(-half / 2)
        std = jnp.sqrt(-jnp.expm1(-half) / (1 + r**2))
        at_middle = (at_low + at_high) * (r / (1 + r**2)).astype(dtype) + std.astype(dtype) * draw(node)
        middle = low + half
        right = u >= middle
        return (
            2 * node + right,
            jnp.where(right, middle, low),
            jnp.where(right, high, middle),
            jnp.where(right, at_middle, at_low),
            jnp.where(right, at_high, at_middle),
        )

    # The ends are 96 apart: their correlation, e^-48, is nothing. Node 0 and 2^31 - 1 are not in the tree.
    start = (jnp.int32(1), jnp.full_like(u, _LOW), jnp.full_like(u, _HIGH))
    start = (*start, draw(jnp.int32(0)), draw(jnp.int32(2**31 - 1)))
    _, low, high, at_low, at_high = jax.lax.fori_loop(0, _DEPTH, descend, start)
    share = ((u - low) / (high - low)).astype(dtype)
    return (1 - share) * at_low + share * at_high


def step_noise(
    keys: Key[Array, " b"],
    u: Float[Array, ""],
    u_next: Float[Array, ""],
    shape: tuple[int, ...],
    dtype,
) -> Float[Array, "b ..."]:
    """The standard normal noise of the step from ``u`` to ``u_next > u``, both ``2 eta lam``."""
    low, high = jnp.clip(u, _LOW, _HIGH), jnp.clip(u_next, _LOW, _HIGH)
    r = jnp.exp((low - high) / 2)
    norm = jnp.sqrt(jnp.maximum(-jnp.expm1(low - high), jnp.finfo(low.dtype).tiny))
    before, after = path(keys, low, shape, dtype), path(keys, high, shape, dtype)
    return (after - r.astype(dtype) * before) / norm.astype(dtype)
