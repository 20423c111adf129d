"""What a network predicts, and every conversion between predictions.

With ``x_t = alpha x0 + sigma eps`` each output in use is one linear combination

    out = a x0 + b eps,

so a prediction type is its pair ``(a, b)`` as a function of the noise level. The two equations are solved by
Cramer's rule with ``det = alpha b - sigma a``:

    x0  = (b x_t - sigma out) / det,        eps = (alpha out - a x_t) / det.

At one x_t an error of size u in out/det is an error ``sigma u`` in x0 and ``-alpha u`` in eps, so an error
measured in space A is ``det_B / det_A`` times as large in space B.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from difflax.diffusion.checks import require
from difflax.diffusion.schedules.base import NoiseLevel, expand


@flax.struct.dataclass
class Prediction:
    """What a denoiser says of a noisy image: the two ends of the path through it.

    Unless a guidance pulls them apart on purpose, ``x_t = alpha x0 + sigma eps``.

    Attributes:
        x0: estimate of the clean image.
        eps: estimate of the noise.
        variance: for networks that learn it, where the step's log-variance lies between the posterior's (0)
            and the forward step's (1).
    """

    x0: Float[Array, "*shape"]
    eps: Float[Array, "*shape"]
    variance: Float[Array, "*shape"] | None = None


@runtime_checkable
class PredictionType(Protocol):
    """The pair ``(a, b)`` of ``out = a x0 + b eps``."""

    def coefficients(self, level: NoiseLevel) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """``(a, b)`` at ``level``, in the level's batch shape."""
        ...


def determinant(prediction_type: PredictionType, level: NoiseLevel) -> Float[Array, "*n"]:
    """``alpha b - sigma a``: zero where the output no longer tells x0 from eps."""
    a, b = prediction_type.coefficients(level)
    return level.alpha * b - level.sigma * a


def target(
    prediction_type: PredictionType, x0: Float[Array, "..."], eps: Float[Array, "..."], level: NoiseLevel
) -> Float[Array, "..."]:
    """The output that a perfect network would give: ``a x0 + b eps``."""
    a, b = prediction_type.coefficients(level)
    return (expand(a, x0) * x0 + expand(b, x0) * eps).astype(x0.dtype)


def to_prediction(
    prediction_type: PredictionType, out: Float[Array, "..."], x_t: Float[Array, "..."], level: NoiseLevel
) -> Prediction:
    """Both ends of the path from a network's output; not finite where ``determinant`` is zero."""
    a, b = prediction_type.coefficients(level)
    inverse = 1 / (level.alpha * b - level.sigma * a)
    a, b, alpha, sigma = (expand(c * inverse, x_t) for c in (a, b, level.alpha, level.sigma))
    x0, eps = b * x_t - sigma * out, alpha * out - a * x_t
    return Prediction(x0=x0.astype(x_t.dtype), eps=eps.astype(x_t.dtype))


def loss_space_factor(source: PredictionType, space: PredictionType, level: NoiseLevel) -> Float[Array, "*n"]:
    """What a squared error of ``source`` outputs is multiplied by to be one in ``space``: ``(det_space /
    det_source)^2``, its limit where no signal is left, which may be infinite.

    An output that says nothing of x0 (``a = 0``) has ``det = alpha b``: its alpha is divided out first.
    """
    if source == space:
        return jnp.ones_like(level.alpha)
    here, there = (_without_signal(kind, level) for kind in (source, space))
    signal = jnp.square(level.alpha)
    powers = jnp.where(there[1] == here[1], 1.0, jnp.where(there[1], signal, 1 / signal))
    return (there[0] / here[0]) ** 2 * powers


def _without_signal(
    prediction_type: PredictionType, level: NoiseLevel
) -> tuple[Float[Array, "*n"], Bool[Array, "*n"]]:
    """The determinant, without its factor alpha where it has one, and whether it has."""
    a, b = prediction_type.coefficients(level)
    return jnp.where(a == 0, b, level.alpha * b - level.sigma * a), a == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class X0:
    """The clean image; ``det = -sigma``."""

    def coefficients(self, level: NoiseLevel) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        return jnp.ones_like(level.alpha), jnp.zeros_like(level.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Epsilon:
    """The noise (DDPM, arXiv:2006.11239, eq. 12); ``det = alpha``."""

    def coefficients(self, level: NoiseLevel) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        return jnp.zeros_like(level.alpha), jnp.ones_like(level.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class V:
    """``v = alpha eps - sigma x0`` (Salimans & Ho, arXiv:2202.00512, appendix D); ``det = alpha^2 +
    sigma^2``.
    """

    def coefficients(self, level: NoiseLevel) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        return -level.sigma, level.alpha


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowVelocity:
    """``dx_t/dt`` along the path, for rectified flow ``eps - x0`` (Lipman et al., arXiv:2210.02747, eq.
    21).
    """

    def coefficients(self, level: NoiseLevel) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        return level.alpha_dot, level.sigma_dot


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM:
    """EDM's F (Karras et al., arXiv:2206.00364, eq. 7 and table 1), for any alpha.

    From ``x0 = c_skip x_t + c_out F`` with ``c_skip = alpha sigma_data^2 / s^2``, ``c_out = sigma sigma_data
    / s`` and ``s^2 = alpha^2 sigma_data^2 + sigma^2`` follow ``a = sigma / (sigma_data s)``, ``b = -alpha
    sigma_data / s`` and ``det = -s / sigma_data``. With ``sigma_data = 1`` on a variance-preserving path F is
    ``-v``. The network is meant to see ``x_t / s`` (see ``NetworkInput.sigma_data``).

    Attributes:
        sigma_data: standard deviation of the data.
    """

    sigma_data: float = 0.5

    def __post_init__(self):
        require(self.sigma_data > 0, f"prediction.sigma_data must be positive, got {self.sigma_data}")

    def coefficients(self, level: NoiseLevel) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        s = jnp.hypot(level.alpha * self.sigma_data, level.sigma)
        return level.sigma / (self.sigma_data * s), -level.alpha * self.sigma_data / s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """``grad log p_t(x_t) = -eps / sigma`` (Song et al., arXiv:2011.13456, eq. 9); ``det = -alpha /
    sigma``.
    """

    def coefficients(self, level: NoiseLevel) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        return jnp.zeros_like(level.alpha), -1 / level.sigma


PREDICTIONS = {
    "x0": X0,
    "epsilon": Epsilon,
    "v": V,
    "flow_velocity": FlowVelocity,
    "edm": EDM,
    "score": Score,
}
