"""Exact log-likelihood by the probability-flow ODE (Song et al., arXiv:2011.13456, section 4.3 and
appendix D.2).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import Denoiser
from difflax.diffusion.samplers.base import Segment, between
from difflax.diffusion.schedules.base import NoiseLevel, expand


def log_likelihood(
    denoise: Denoiser,
    levels: NoiseLevel,
    image: Float[Array, "b ..."],
    keys: Key[Array, " b"],
    *,
    conditioning: Any,
    probes: int = 1,
    prior_std: float | Float[Array, ""] = 0.0,
) -> Float[Array, " b"]:
    """``log p`` of each image, in nats, under the density of ``levels[n]``.

    The change of variables ``log p(x_0) = log p(x_T) + int div(dx/ds) ds`` along the flow, by the classical
    Runge-Kutta method on each segment, with Hutchinson's estimate of the divergence: unbiased, from
    ``probes`` random signs an image that stay fixed along the run.

    Args:
        denoise: a denoiser; its gradient is taken.
        levels: noise to data as for sampling, but ending at a small positive sigma: at the data itself a
            density of images does not exist.
        image: at ``levels[n]``.
        keys: one an image, for the probes.
        conditioning: what ``denoise`` takes.
        probes: Hutchinson probes an image.
        prior_std: the data's standard deviation, for the terminal density ``N(0, alpha^2 prior_std^2 +
            sigma^2)`` of schedules that keep some signal at the end.
    """
    require(probes >= 1, f"probes must be at least 1, got {probes}")
    draw = lambda key: jax.random.rademacher(key, (probes, *image.shape[1:]), image.dtype)  # noqa: E731
    signs = jnp.moveaxis(jax.vmap(draw)(keys), 1, 0)
    axes = tuple(range(1, image.ndim))

    def climb(carry, pair):
        x, change = carry
        low, high = pair
        segment, middle = Segment(low, high), between(low, high, 0.5)

        def rates(x, level):
            slope, push = jax.linearize(lambda x: segment.slope(denoise(x, level, conditioning)), x)
            divergence = jax.vmap(lambda v: (v * push(v)).sum(axes))(signs).mean(0)
            return slope.astype(x.dtype), divergence

        k1, d1 = rates(x, low)
        k2, d2 = rates(x + k1 / 2, middle)
        k3, d3 = rates(x + k2 / 2, middle)
        k4, d4 = rates(x + k3, high)
        x = (x + (k1 + 2 * k2 + 2 * k3 + k4) / 6).astype(x.dtype)
        return (x, change + ((d1 + 2 * d2 + 2 * d3 + d4) / 6).astype(change.dtype)), None

    upwards = jax.tree.map(lambda a: a[::-1], levels)
    start = (image, jnp.zeros(len(image), image.dtype))
    (noise, change), _ = jax.lax.scan(climb, start, (upwards[:-1], upwards[1:]))
    variance = (levels.alpha[0] * prior_std) ** 2 + levels.sigma[0] ** 2
    normal = -0.5 * (noise**2 / expand(variance, noise) + jnp.log(2 * math.pi * variance)).sum(axes)
    return normal + change


def bits_per_dimension(
    log_likelihood: Float[Array, " b"], dimensions: int, width: float = 2 / 255
) -> Float[Array, " b"]:
    """Bits per dimension of images whose grey values are ``width`` apart (8 bits from -1 to 1: 2 / 255).

    For dequantised images (uniform noise of one grey value added) it is an upper bound on the discrete one
    (Theis et al., arXiv:1511.01844, section 3.1).
    """
    return -log_likelihood / (dimensions * math.log(2)) - math.log2(width)
