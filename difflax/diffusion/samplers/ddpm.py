"""Ancestral sampling of DDPM (Ho et al., arXiv:2006.11239, algorithm 2), for any alpha and sigma."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.core.streams import normal
from difflax.core.types import UserError
from difflax.diffusion.samplers.base import Stateless, ancestral, straight
from difflax.diffusion.schedules.base import NoiseLevel


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPM(Stateless):
    """Posterior mean plus noise.

    ``variance="small"`` is the posterior's (right for data of no spread), ``"large"`` the forward step's
    (right for data of unit variance), ``"learned_range"`` what the network chose between them (Nichol &
    Dhariwal, arXiv:2102.09672, eq. 15). The step to the data adds none.

    Attributes:
        variance: of the noise that a step adds.
    """

    variance: Literal["small", "large", "learned_range"] = "small"
    evaluations = 1

    def step(self, denoise, x, now, next, keys, state):
        prediction = denoise(x, now)
        down, small, large = posterior(now, next)
        std = jnp.where(next.sigma > 0, VARIANCES[self.variance](small, large, prediction.variance), 0)
        return straight(prediction, down) + std * normal(keys, x.shape[1:], x.dtype), state


def _learned(small: Array, large: Array, share: Array | None) -> Array:
    """Between the two, as far up as the network says."""
    if share is None:
        raise UserError(
            "sampler ddpm: variance = 'learned_range' is what a network predicts beside the image, and this"
            " one has no channels for it: choose 'small' or 'large', or train one with config.loss.vlb_weight"
        )
    return large**share * small ** (1 - share)


VARIANCES = {
    "small": lambda small, large, share: small,
    "large": lambda small, large, share: large,
    "learned_range": _learned,
}
"""The noise's deviation, of the least, the greatest, and `Prediction.variance`."""


def posterior(now: NoiseLevel, next: NoiseLevel) -> tuple[NoiseLevel, Float[Array, "*n"], Float[Array, "*n"]]:
    """An ancestral step from ``now`` to ``next``: the level of its mean, and the noise's least and greatest
    deviation, the posterior's and the forward step's.
    """
    down, small = ancestral(now, next, 1.0)
    ratio = now.alpha / next.alpha
    return down, small, jnp.sqrt(jnp.maximum(now.sigma**2 - (ratio * next.sigma) ** 2, 0))
