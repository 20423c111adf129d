"""Power-function averages of the parameters, and an average of any length from snapshots of a few of them
(Karras et al. 2024, "EDM2", arXiv:2312.02696, section 3 and appendix C).

The average of exponent ``gamma`` after step t weighs what the parameters were at time ``tau`` with

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),        0 <= tau <= t,

whose standard deviation is a share of t that depends on ``gamma`` alone, the average's length (section 3.1):

    sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2).

It is kept by ``ema <- beta ema + (1 - beta) params`` with ``beta = (1 - 1/t)^(gamma + 1)`` (eq. 127), which
is exact: after step t the parameters of step k have the weight
``(k^(gamma+1) - (k-1)^(gamma+1)) / t^(gamma+1)``, the integral of p over the step. The first parameters, from
before step 1, have none.

Two such profiles have the inner product (eq. 151), with a the one that ends first:

    <p_a, p_b> = (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (t_a / t_b)^gamma_b / t_b.

So the weights of snapshots whose sum is nearest to a profile that was never kept solve a small linear system
(algorithm 3).
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from difflax.core.bounds import Range
from difflax.core.types import Params

EMA_LENGTHS = Range(0, 0.28, above=True)
"""Of an average, sigma_rel; at 0.2887 it is the mean of all steps, and gamma is 0."""

Length = Annotated[float, EMA_LENGTHS]

LARGEST_ERROR = 0.1
"""By which share of its norm a rebuilt profile may miss the one that was asked for."""


def exponent(length: float) -> float:
    """``gamma`` of an average's length sigma_rel, one of `EMA_LENGTHS`: 16.97 for 0.05, 6.94 for 0.10."""
    # The relation above, squared: gamma^3 + 7 gamma^2 + (16 - s) gamma + (12 - s) = 0, s = sigma_rel^(-2).
    s = float(length) ** -2
    return float(np.max(np.roots([1, 7, 16 - s, 12 - s]).real))


def follow(average: Params, params: Params, length: float, step: Int[Array, ""]) -> Params:
    """The average of that length after step number ``step`` (the first is 1), from the one before it."""
    # As 1 - beta: for late steps beta is so near to 1 that float32 would lose most of the difference.
    share = -jnp.expm1((exponent(length) + 1) * jnp.log1p(-1 / step.astype(jnp.float32)))
    return jax.tree.map(lambda a, p: a + share * (p - a), average, params)


def inner_products(
    times: Float[np.ndarray, " n"],
    exponents: Float[np.ndarray, " n"],
    other_times: Float[np.ndarray, " m"],
    other_exponents: Float[np.ndarray, " m"],
) -> Float[np.ndarray, "n m"]:
    """The inner products of profiles that end at ``times`` with others (eq. 151)."""
    t, gamma = times[:, None], exponents[:, None]
    # The power of the one that ends later, at the other's end.
    power = np.where(t < other_times, (t / other_times) ** other_exponents, (other_times / t) ** gamma)
    factor = (gamma + 1) * (other_exponents + 1) / (gamma + other_exponents + 1)
    return factor * power / np.maximum(t, other_times)


def snapshot_weights(
    times: Float[np.ndarray, " n"], lengths: Float[np.ndarray, " n"], time: float, length: float
) -> tuple[Float[np.ndarray, " n"], float]:
    """The weights of snapshots whose sum is nearest to the average of ``length`` that ends at ``time``.

    The least squares (algorithm 3) are scaled so that the weights sum to 1, as the released code does:
    parameters that never changed are then rebuilt as they are.

    Args:
        times: steps of the snapshots, none after ``time``; one a snapshot and length.
        lengths: the profile of each.

    Returns:
        the weights, and the distance of the profiles as a share of the norm of the one asked for.
    """
    exponents = np.array([exponent(each) for each in lengths])
    wanted = np.array([float(time)]), np.array([exponent(length)])
    own = inner_products(times, exponents, times, exponents)
    shared = inner_products(times, exponents, *wanted)[:, 0]
    norm = inner_products(*wanted, *wanted).item()
    weights = np.linalg.solve(own, shared)
    weights = weights / weights.sum()
    distance = norm - 2 * weights @ shared + weights @ own @ weights
    return weights, float(np.sqrt(max(distance, 0.0) / norm))
