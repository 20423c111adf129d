"""Noise schedules in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.time_shift import ResolutionShift, TimeShift

Times = Float[Array, "*n"]


def variance_preserving(log_snr: Times) -> tuple[Times, Times]:
    """The pair with ``alpha^2 + sigma^2 = 1`` of a log-SNR (Kingma et al., VDM, arXiv:2107.00630, eq. 3)."""
    # The square root is taken in the exponent: in float32 a sigmoid of -106 is 0, its root is not.
    return jnp.exp(jax.nn.log_sigmoid(log_snr) / 2), jnp.exp(jax.nn.log_sigmoid(-log_snr) / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuousCosine:
    """``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)``: log-SNR ``-2 log tan(pi t / 2)``."""

    def alpha_sigma(self, t: Times) -> tuple[Times, Times]:
        # sin(pi (1 - t) / 2) is exactly 0 at t = 1, where cos(pi t / 2) rounds to 6e-17.
        return jnp.sin(np.pi / 2 * (1 - t)), jnp.sin(np.pi / 2 * t)

    def t_from_log_snr(self, log_snr: Times) -> Times:
        return 2 / np.pi * jnp.arctan(jnp.exp(-log_snr / 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShiftedCosine:
    """The cosine with ``2 log(reference / resolution)`` added to its log-SNR.

    Larger images need more noise to lose their structure (Hoogeboom et al., simple diffusion,
    arXiv:2301.11093, section 3.1). ``resolution`` is the side of the image in pixels.

    Attributes:
        resolution: side of the images, in pixels.
        reference: side at which the cosine is not moved, in pixels.
    """

    resolution: int = 256
    reference: int = 64

    def __post_init__(self):
        require(
            self.resolution > 0 and self.reference > 0,
            f"schedule.resolution and reference must be positive, got {self.resolution} and {self.reference}",
        )

    def alpha_sigma(self, t: Times) -> tuple[Times, Times]:
        signal, noise = ContinuousCosine().alpha_sigma(t)
        signal = signal * (self.reference / self.resolution)
        length = jnp.hypot(signal, noise)
        return signal / length, noise / length

    def t_from_log_snr(self, log_snr: Times) -> Times:
        return ContinuousCosine().t_from_log_snr(log_snr - 2 * np.log(self.reference / self.resolution))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """``alpha^2`` falls from 1 to 0 along a logistic curve between ``start`` and ``end``.

    Jabri et al., arXiv:2212.11972, and Chen, arXiv:2301.10972, algorithm 1.

    Attributes:
        start: of the logistic curve's argument.
        end: of the logistic curve's argument.
        temperature: that both are divided by.
    """

    start: float = -3.0
    end: float = 3.0
    temperature: float = 1.0

    def __post_init__(self):
        require(self.start < self.end, f"schedule.start {self.start} must be below schedule.end {self.end}")
        require(self.temperature > 0, f"schedule.temperature must be positive, got {self.temperature}")

    def alpha_sigma(self, t: Times) -> tuple[Times, Times]:
        # The difference of two logistic values at a distance d, up to a factor that cancels:
        # sinh(d / 2) / (cosh(high / 2) cosh(low / 2)). It keeps its digits where the values are close.
        start, end = self.start / self.temperature, self.end / self.temperature
        now = start + (end - start) * t
        whole = np.sinh((end - start) / 2)
        signal = jnp.sinh((end - start) * (1 - t) / 2) * np.cosh(start / 2)
        noise = jnp.sinh((end - start) * t / 2) * np.cosh(end / 2)
        scale = 1 / (whole * jnp.cosh(now / 2))
        return jnp.sqrt(signal * scale), jnp.sqrt(noise * scale)

    def t_from_log_snr(self, log_snr: Times) -> Times:
        start, end = self.start / self.temperature, self.end / self.temperature
        low, high = 1 / (1 + np.exp(-start)), 1 / (1 + np.exp(-end))
        value = low * jax.nn.sigmoid(log_snr) + high * jax.nn.sigmoid(-log_snr)
        return (jnp.log(value) - jnp.log1p(-value) - start) / (end - start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VPSDE:
    """``d log(alpha)/dt = -beta(t) / 2``, beta linear (Song et al., arXiv:2011.13456, eq. 32 and 33).

    Attributes:
        beta_min: at t = 0.
        beta_max: at t = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        require(
            0 < self.beta_min < self.beta_max,
            f"schedule needs 0 < beta_min < beta_max, got {self.beta_min} and {self.beta_max}",
        )

    def alpha_sigma(self, t: Times) -> tuple[Times, Times]:
        integral = self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2
        return jnp.exp(-integral / 2), jnp.sqrt(-jnp.expm1(-integral))

    def t_from_log_snr(self, log_snr: Times) -> Times:
        # -log(alpha^2); the root of the quadratic in the form that does not cancel near the data.
        integral = jax.nn.softplus(-log_snr)
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * integral))


@dataclasses.dataclass(frozen=True, kw_only=True)
class VE:
    """``alpha = 1``, sigma geometric from ``sigma_min`` to ``sigma_max`` (arXiv:2011.13456, eq. 31).

    The only schedule whose t = 0 is not the data: sigma is ``sigma_min`` there.

    Attributes:
        sigma_min: at t = 0.
        sigma_max: at t = 1.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self):
        require(
            0 < self.sigma_min < self.sigma_max,
            f"schedule needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}",
        )

    def alpha_sigma(self, t: Times) -> tuple[Times, Times]:
        return jnp.ones_like(t), self.sigma_min * jnp.exp(np.log(self.sigma_max / self.sigma_min) * t)

    def t_from_log_snr(self, log_snr: Times) -> Times:
        return (-log_snr / 2 - np.log(self.sigma_min)) / np.log(self.sigma_max / self.sigma_min)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDMSchedule:
    """``alpha = 1``, ``sigma = sigma_max t`` (Karras et al., arXiv:2206.00364, table 1, time in units of
    sigma_max).

    Attributes:
        sigma_max: at t = 1.
    """

    sigma_max: float = 80.0

    def __post_init__(self):
        require(self.sigma_max > 0, f"schedule.sigma_max must be positive, got {self.sigma_max}")

    def alpha_sigma(self, t: Times) -> tuple[Times, Times]:
        return jnp.ones_like(t), self.sigma_max * t

    def t_from_log_snr(self, log_snr: Times) -> Times:
        return jnp.exp(-log_snr / 2) / self.sigma_max


class _Flow:
    """``x_t = (1 - t') x0 + t' eps`` with ``t'`` the time ``t`` moved by ``time_shift``.

    The straight path of Liu et al., arXiv:2209.03003, eq. 1.
    """

    time_shift: TimeShift

    def alpha_sigma(self, t: Times) -> tuple[Times, Times]:
        # Not ``1 - t'``, which loses its digits near the noise.
        scale = 1 + (self.time_shift.shift - 1) * t
        return (1 - t) / scale, self.time_shift.shift * t / scale

    def t_from_log_snr(self, log_snr: Times) -> Times:
        return jax.nn.sigmoid(-log_snr / 2 - np.log(self.time_shift.shift))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RectifiedFlow(_Flow):
    """The straight path with a given shift (SD3: 3).

    Attributes:
        shift: towards the noise; 1: none.
    """

    shift: float = 1.0

    def __post_init__(self):
        require(self.shift > 0, f"schedule.shift must be positive, got {self.shift}")

    @property
    def time_shift(self) -> TimeShift:
        return TimeShift(shift=self.shift)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExponentialFlow(_Flow):
    """The straight path with ``shift = exp(mu)`` (FLUX, diffusers' "exponential" time shift).

    Attributes:
        mu: the shift's logarithm.
    """

    mu: float = 0.0

    @property
    def time_shift(self) -> TimeShift:
        return TimeShift(shift=float(np.exp(self.mu)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolutionFlow(ResolutionShift, _Flow):
    """The straight path with the shift of the image's size (FLUX)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Laplace:
    """The log-SNR has a Laplace density when t is uniform (Hang et al., arXiv:2407.03297, table 1).

    Attributes:
        mean: of the log-SNR.
        scale: of its density.
    """

    mean: float = 0.0
    scale: float = 0.5

    def __post_init__(self):
        require(self.scale > 0, f"schedule.scale must be positive, got {self.scale}")

    def alpha_sigma(self, t: Times) -> tuple[Times, Times]:
        # min(t, 1 - t) rather than 1 - |2 t - 1|: the tails keep their digits.
        tail = jnp.log(2 * jnp.minimum(t, 1 - t))
        return variance_preserving(self.mean + self.scale * jnp.where(t < 0.5, -tail, tail))

    def t_from_log_snr(self, log_snr: Times) -> Times:
        distance = (log_snr - self.mean) / self.scale
        tail = jnp.exp(-jnp.abs(distance)) / 2
        return jnp.where(distance > 0, tail, 1 - tail)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cauchy:
    """The log-SNR has a Cauchy density when t is uniform (Hang et al., arXiv:2407.03297, table 1).

    Attributes:
        mean: of the log-SNR.
        scale: of its density.
    """

    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self):
        require(self.scale > 0, f"schedule.scale must be positive, got {self.scale}")

    def alpha_sigma(self, t: Times) -> tuple[Times, Times]:
        # The cotangent of pi t in a form whose sign and size are right at both ends.
        cotangent = jnp.cos(np.pi * t) / jnp.sin(np.pi * jnp.minimum(t, 1 - t))
        return variance_preserving(self.mean + self.scale * cotangent)

    def t_from_log_snr(self, log_snr: Times) -> Times:
        return jnp.arctan2(self.scale, log_snr - self.mean) / np.pi
