"""DDIM with any eta (Song et al., arXiv:2010.02502, eq. 12 and 16), for any alpha and sigma."""

import dataclasses

from difflax.core.streams import normal
from difflax.diffusion.checks import require
from difflax.diffusion.samplers.base import Stateless, ancestral, straight


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM(Stateless):
    """eta = 0: deterministic, first order; eta = 1: DDPM's posterior, first weak order.

    Attributes:
        eta: share of the posterior's noise that is added anew, in [0, 1].
    """

    eta: float = 0.0
    evaluations = 1

    def __post_init__(self):
        require(0 <= self.eta <= 1, f"sampler.eta must lie in [0, 1], got {self.eta}")

    def step(self, denoise, x, now, next, keys, state):
        down, std = ancestral(now, next.landed, self.eta)
        x_next = straight(denoise(x, now), down)
        if self.eta > 0:
            x_next = x_next + std * normal(keys, x.shape[1:], x.dtype)
        return x_next, state


@dataclasses.dataclass(frozen=True, kw_only=True)
class EulerAncestral(DDIM):
    """k-diffusion's Euler ancestral: DDIM with eta 1, in coordinates of its own."""

    eta: float = 1.0
