"""DDIM inversion: the noise from which the deterministic sampler makes a given image."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import Denoiser
from difflax.diffusion.samplers.base import Segment
from difflax.diffusion.schedules.base import NoiseLevel


def invert(
    denoise: Denoiser,
    levels: NoiseLevel,
    image: Float[Array, "b ..."],
    *,
    conditioning: Any,
    iterations: int = 0,
) -> Array:
    """Runs DDIM backwards, from ``levels[n]`` up to ``levels[0]``.

    Each step moves by the noise that the denoiser sees. With ``iterations`` 0 it is evaluated at the step's
    lower end (Song et al., arXiv:2010.02502, section 4.3), which inverts up to the step's own error; each
    iteration evaluates it again at the upper end so reached, and converges to the exact inverse of the DDIM
    step (Garibi et al., ReNoise, arXiv:2403.14602). From the data itself, where no noise is to be seen, the
    first step is always evaluated above.

    Args:
        denoise: a denoiser, best unguided.
        levels: the sampling run's levels, noise to data; alpha > 0 at all of them.
        image: at ``levels[n]``.
        conditioning: what ``denoise`` takes.
        iterations: evaluations more a step.

    Returns:
        x at ``levels[0]``.
    """
    require(iterations >= 0, f"iterations must not be negative, got {iterations}")

    def climb(x, pair):
        low, high = pair
        # A level that repeats its predecessor (`pad_levels`) costs nothing, as in sampling.
        same = (low.alpha == high.alpha) & (low.sigma == high.sigma)
        return jax.lax.cond(same, lambda: x, lambda: up(x, low, high)), None

    def up(x, low, high):
        segment = Segment(low, high)
        # At the data the level itself has no noise; the image stands for x at the level above.
        at = jax.tree.map(lambda a, b: jnp.where(low.sigma > 0, a, b), low, high)
        x_high = segment.transfer(x, denoise(x, at, conditioning).eps)

        def refine(_, x_high):
            return segment.transfer(x, denoise(x_high, high, conditioning).eps).astype(x.dtype)

        return jax.lax.fori_loop(0, iterations, refine, x_high.astype(x.dtype))

    upwards = jax.tree.map(lambda a: a[::-1], levels)
    return jax.lax.scan(climb, image, (upwards[:-1], upwards[1:]))[0]
