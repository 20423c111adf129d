"""Guidance: a denoiser in, a denoiser out; the sampler cannot tell.

Guidance by a scale s is ``uncond + s (cond - uncond)``: s = 1 is off, s = 0 the unconditional model, and
every real number is legal. Scales are pytree leaves: changing one does not compile again.
"""

from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import Denoiser
from difflax.diffusion.levels import NoiseLevel
from difflax.diffusion.predictions import Prediction
from difflax.types import Conditioning


@flax.struct.dataclass
class Guided:
    """What to go towards and what to go away from (the empty or the negative prompt); one row an image."""

    positive: Conditioning
    negative: Conditioning


@runtime_checkable
class Guidance(Protocol):
    """Wraps a denoiser over ``Conditioning`` into one over ``Guided``; implementations are pytrees."""

    def wrap(self, denoise: Denoiser) -> Denoiser:
        """The guided denoiser."""
        ...


def check_number(value: Any, name: str) -> None:
    """Refuses NaN and infinity in a concrete setting; traced values pass."""
    if isinstance(value, int | float | np.ndarray | np.generic):
        require(bool(np.all(np.isfinite(value))), f"guidance.{name} must be a finite number, got {value}")


def extrapolate(reference: Prediction, towards: Prediction, scale: float | Float[Array, "..."]) -> Prediction:
    """``reference + scale (towards - reference)``, exactly ``towards`` at 1 and exactly ``reference`` at
    0.
    """
    return jax.tree.map(lambda r, p: ((1 - scale) * r + scale * p).astype(r.dtype), reference, towards)


def evaluate_together(
    denoise: Denoiser, x: Float[Array, "b ..."], level: NoiseLevel, conditionings: list[Any]
) -> list[Prediction]:
    """The predictions at ``x`` under several conditionings, from one call on the joined batch."""
    count = len(conditionings)
    joined = jax.tree.map(lambda *rows: jnp.concatenate(rows), *conditionings)
    if level.t.ndim:
        level = jax.tree.map(lambda a: jnp.concatenate([a] * count), level)
    together = denoise(jnp.concatenate([x] * count), level, joined)
    rows = x.shape[0]
    return [jax.tree.map(lambda a, i=i: a[i * rows : (i + 1) * rows], together) for i in range(count)]


@flax.struct.dataclass
class NoGuidance:
    """The conditional denoiser itself: one evaluation, the negative prompt unread."""

    def wrap(self, denoise: Denoiser) -> Denoiser:
        return lambda x, level, conditioning: denoise(x, level, conditioning.positive)


@flax.struct.dataclass
class ClassifierFreeGuidance:
    """Ho & Salimans, arXiv:2207.12598, eq. 6, with s = 1 + w; both branches in one batch.

    Acts alike on x0, eps, v and every other space, since all are affine in each other at one ``x_t``.
    """

    scale: float | Float[Array, ""] = 7.5

    def __post_init__(self):
        check_number(self.scale, "scale")

    def wrap(self, denoise: Denoiser) -> Denoiser:
        def guided(x: Array, level: NoiseLevel, conditioning: Guided) -> Prediction:
            cond, uncond = evaluate_together(
                denoise, x, level, [conditioning.positive, conditioning.negative]
            )
            return extrapolate(uncond, cond, self.scale)

        return guided


GUIDANCES = {
    "none": NoGuidance,
    "cfg": ClassifierFreeGuidance,
}
