"""Inpainting: samplers that put the known part of the image back at every step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.core.streams import normal
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers.base import BoundDenoiser, Sampler
from difflax.diffusion.schedules.base import NoiseLevel, add_noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inpaint:
    """``sampler``, with the known pixels replaced by the known image at the step's noise level.

    The replacement method (Song et al., arXiv:2011.13456, section 5); on ``repaint_levels`` it is RePaint
    (Lugmayr et al., arXiv:2201.09865, algorithm 1). Exact on the known part at the end.

    Attributes:
        sampler: any sampler.
        known: the image to keep, ``[b, h, w, c]``.
        mask: 1 where it is known, 0 where it is to be made; broadcast against the image.
    """

    sampler: Sampler
    known: Float[Array, "b ..."]
    mask: Float[Array, "..."]

    @property
    def evaluations(self) -> int:
        """The inner sampler's."""
        return self.sampler.evaluations

    def init(self, x, keys) -> Any:
        return self.sampler.init(x, keys)

    def step(self, denoise, x, now, next, keys, state):
        x_next, state = self.sampler.step(denoise, x, now, next, keys, state)
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, 0x1A)
        known = add_noise(self.known, normal(own, x.shape[1:], x.dtype), next)
        return self.mask * known + (1 - self.mask) * x_next, state


@dataclasses.dataclass(frozen=True, kw_only=True)
class InpaintOneNoise:
    """`Inpaint` with one and the same noise on the known part at all levels, as diffusers' pipelines have it.

    There, every evaluation but the run's first sees the known image with that noise, those within a step
    included, and the image that a run ends with holds the known image itself, wherever the last step lands:
    `finished`.

    Attributes:
        sampler, known, mask: see `Inpaint`.
        noise: that the run starts with, of unit variance.
    """

    sampler: Sampler
    known: Float[Array, "b ..."]
    mask: Float[Array, "..."]
    noise: Float[Array, "b ..."]

    @property
    def evaluations(self) -> int:
        """The inner sampler's."""
        return self.sampler.evaluations

    def init(self, x, keys) -> Any:
        return self.sampler.init(x, keys), jnp.zeros((), bool)

    def step(self, denoise, x, now, next, keys, state):
        inner, begun = state
        x = jnp.where(begun, self.put_back(x, now), x)
        bound = _PuttingBack(denoise, self)
        x_next, inner = self.sampler.step(bound, x, now, next, keys, inner)
        return x_next, (inner, jnp.ones((), bool))

    def put_back(self, x: Float[Array, "b ..."], level: NoiseLevel) -> Float[Array, "b ..."]:
        """``x`` with the known part at ``level``."""
        return self._joined(x, add_noise(self.known, self.noise.astype(x.dtype), level))

    def finished(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """What a run that ended with ``x`` gives."""
        return self._joined(x, self.known)

    def _joined(self, x: Array, known: Array) -> Array:
        return (self.mask * known + (1 - self.mask) * x).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class _PuttingBack:
    """A step's denoiser, whose evaluations after the first see the known part at their level."""

    denoise: BoundDenoiser
    inpaint: InpaintOneNoise

    def __call__(self, x: Array, level: NoiseLevel) -> Prediction:
        return self.denoise(x if self.denoise.first is None else self.inpaint.put_back(x, level), level)

    def when(self, needed: Array, x: Array, level: NoiseLevel, otherwise: Prediction) -> Prediction:
        return self.denoise.when(needed, self.inpaint.put_back(x, level), level, otherwise)
