"""Weights of exponential and linear multistep methods: the only place where they are computed.

In the half-log-SNR ``lam`` the reverse SDE of strength eta (eta = 0: the probability-flow ODE) has the exact
step

    x' = (sigma' / sigma) e^(-eta h) x + alpha' int_0^h (1 + eta) e^(-(1 + eta)(h - s)) x0(lam + s) ds
         + sigma' sqrt(1 - e^(-2 eta h)) z,        h = lam' - lam                  (arXiv:2211.01095, eq. 4
         and 12)

and with x0 a polynomial in s the integral is a sum of phi functions.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_LARGE = 12.0


def phi(k: int, z: Float[Array, ""]) -> Float[Array, ""]:
    """``phi_k(z) = int_0^1 e^((1 - s) z) s^(k - 1) / (k - 1)! ds`` for ``z <= 0``, -inf included; k >= 1.

    By quadrature where ``z`` is moderate: the recursion ``phi_k+1 = (phi_k - 1 / k!) / z`` loses all its
    digits near 0. By the recursion where z is large.
    """
    near = jnp.maximum(z, -_LARGE)
    s = (_NODES + 1) / 2
    weights = _WEIGHTS / 2 * s ** (k - 1) / math.factorial(k - 1)
    quadrature = jnp.sum(jnp.exp((1 - s) * near) * weights)
    far = jnp.minimum(z, -_LARGE)
    recursion = jnp.expm1(far) / far
    for j in range(1, k):
        recursion = (recursion - 1 / math.factorial(j)) / far
    return jnp.where(z > -_LARGE, quadrature, recursion)


def adams_weights(
    nodes: Float[Array, " k"],
    start: float | Float[Array, ""],
    end: Float[Array, ""],
    density: Callable[[Array], Array],
) -> Float[Array, " k"]:
    """``int_start^end density(s) L_j(s) ds`` for the Lagrange polynomials L_j of ``nodes``."""
    s = start + (end - start) * (_NODES + 1) / 2
    weights = density(s) * (_WEIGHTS / 2) * (end - start)
    count = nodes.shape[0]
    basis = []
    for j in range(count):
        others = [i for i in range(count) if i != j]
        basis.append(math.prod((s - nodes[i]) / (nodes[j] - nodes[i]) for i in others) * jnp.ones_like(s))
    return jnp.stack([jnp.sum(weights * b) for b in basis])


def ramped_weights(
    nodes: Float[Array, " k"],
    available: Array,
    start: float | Float[Array, ""],
    end: Float[Array, ""],
    density: Callable[[Array], Array],
) -> Float[Array, " k"]:
    """``adams_weights`` of the first ``available`` nodes (1 … k, may be traced), zero for the rest."""
    count = nodes.shape[0]
    # Nodes that are not there yet must not make NaN of those that are.
    spare = start + jnp.arange(1, count + 1) * jnp.ones_like(nodes)
    nodes = jnp.where(jnp.arange(count) < available, nodes, spare)
    rows = [
        jnp.pad(adams_weights(nodes[: k + 1], start, end, density), (0, count - k - 1)) for k in range(count)
    ]
    return jnp.stack(rows)[jnp.clip(available - 1, 0, count - 1)]
