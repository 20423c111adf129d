"""Inpainting: a sampler that puts the known part of the image back after every step."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float

from difflax.core.streams import normal
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.schedules.base import add_noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inpaint:
    """``sampler``, with the known pixels replaced by the known image at the step's noise level.

    The replacement method (Song et al., arXiv:2011.13456, section 5); on ``repaint_levels`` it is RePaint
    (Lugmayr et al., arXiv:2201.09865, algorithm 1). Exact on the known part at the end. The paper draws the
    noise on the known part anew at every step; the pipelines of diffusers keep one, that of the start.

    Attributes:
        sampler: any sampler.
        known: the image to keep, ``[b, h, w, c]``.
        mask: 1 where it is known, 0 where it is to be made; broadcast against the image.
        noise: on the known part at every level, ``[b, h, w, c]``; ``None``: drawn anew at every step.
    """

    sampler: Sampler
    known: Float[Array, "b ..."]
    mask: Float[Array, "..."]
    noise: Float[Array, "b ..."] | None = None

    @property
    def evaluations(self) -> int:
        """The inner sampler's."""
        return self.sampler.evaluations

    def init(self, x, keys) -> Any:
        return self.sampler.init(x, keys)

    def step(self, denoise, x, now, next, keys, state):
        x_next, state = self.sampler.step(denoise, x, now, next, keys, state)
        noise = self.noise
        if noise is None:
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, 0x1A)
            noise = normal(own, x.shape[1:], x.dtype)
        known = add_noise(self.known, noise, next)
        return self.mask * known + (1 - self.mask) * x_next, state
