"""Does a sampler have the order that it claims? Errors against exact solutions, and the slopes fitted to
them.

For Gaussian data and for mixtures of Gaussians the ideal denoiser is closed-form, so a sampler's error is
its own. For a
Gaussian the probability-flow solution is closed-form too; for a mixture scipy's DOP853 gives it to 1e-12.
Everything
here wants ``jax.enable_x64``.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jaxtyping import Array, Float

from difflax.diffusion.levels import NoiseLevel, expand, unscheduled_level
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LMS,
    PLMS,
    PNDM,
    RK4,
    DPM2Ancestral,
    DPMSolver2M,
    DPMSolver2MSDE,
    DPMSolver2S,
    DPMSolver3M,
    DPMSolver3MSDE,
    DPMSolverSDE,
    Euler,
    EulerAncestral,
    Heun,
    UniPC,
    sample,
)
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.schedules import ContinuousCosine
from difflax.diffusion.time_grids import UniformLogSNR, pad_levels, sampling_levels


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """``x0 ~ N(mean, std^2)`` in every coordinate independently; ``[d]`` each."""

    mean: tuple[float, ...] = (0.7, -0.4, 0.2)
    std: tuple[float, ...] = (0.5, 1.2, 0.9)

    def denoise(self, x: Float[Array, "b d"], level: NoiseLevel, conditioning=None) -> Prediction:
        """The posterior mean of x0, and the noise that goes with it; finite at both ends of time."""
        mean, std = jnp.asarray(self.mean, x.dtype), jnp.asarray(self.std, x.dtype)
        alpha, sigma = expand(level.alpha, x), expand(level.sigma, x)
        scaled = (x - alpha * mean) / ((alpha * std) ** 2 + sigma**2)
        return Prediction(mean + alpha * std**2 * scaled, sigma * scaled)

    def flow(self, x: Float[Array, "b d"], now: NoiseLevel, next: NoiseLevel) -> Float[Array, "b d"]:
        """The exact probability-flow solution: the standardised coordinate is constant."""
        mean, std = jnp.asarray(self.mean, x.dtype), jnp.asarray(self.std, x.dtype)
        scale = jnp.hypot(next.alpha * std, next.sigma) / jnp.hypot(now.alpha * std, now.sigma)
        return next.alpha * mean + (x - now.alpha * mean) * scale

    def std_at(self, level: NoiseLevel) -> Float[Array, " d"]:
        """The standard deviation of ``x_t``."""
        return jnp.hypot(level.alpha * jnp.asarray(self.std), level.sigma)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Isotropic Gaussians of one width; the responsibilities make the denoiser nonlinear in x."""

    means: tuple[tuple[float, ...], ...] = ((1.0, -0.5, 0.3), (-0.8, 0.6, -0.2))
    weights: tuple[float, ...] = (0.6, 0.4)
    std: float = 0.4

    def denoise(self, x: Float[Array, "b d"], level: NoiseLevel, conditioning=None) -> Prediction:
        """The posterior mean of x0, and the noise that goes with it."""
        means = jnp.asarray(self.means, x.dtype)
        alpha, sigma = expand(level.alpha, x), expand(level.sigma, x)
        variance = (alpha * self.std) ** 2 + sigma**2
        offset = x[:, None, :] - alpha[..., None] * means
        log_weights = jnp.log(jnp.asarray(self.weights, x.dtype)) - (offset**2).sum(-1) / (2 * variance)
        share = jax.nn.softmax(log_weights, axis=-1)[..., None]
        scaled, mean = (share * offset).sum(1) / variance, (share * means).sum(1)
        return Prediction(mean + alpha * self.std**2 * scaled, sigma * scaled)

    def flow(self, x: Float[Array, "b d"], now: NoiseLevel, next: NoiseLevel) -> Float[np.ndarray, "b d"]:
        """The probability-flow solution to 1e-12, along the circle ``alpha = cos(phi), sigma = sin(phi)``."""
        start, end = (float(jnp.arctan2(level.sigma, level.alpha)) for level in (now, next))
        first, last = (float(jnp.hypot(level.sigma, level.alpha)) for level in (now, next))

        @jax.jit
        def slope(phi, flat):
            pair = self.denoise(flat.reshape(x.shape), unscheduled_level(jnp.cos(phi), jnp.sin(phi)))
            return (jnp.cos(phi) * pair.eps - jnp.sin(phi) * pair.x0).ravel()

        solution = scipy.integrate.solve_ivp(
            lambda phi, flat: np.asarray(slope(phi, flat)),
            (start, end),
            np.asarray(x).ravel() / first,
            method="DOP853",
            rtol=1e-12,
            atol=1e-13,
        )
        return solution.y[:, -1].reshape(x.shape) * last


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A sampler and the order that it claims; ``weak`` for the distribution rather than the path."""

    sampler: Sampler
    order: float
    weak: bool = False


CLAIMS = {
    "ddim": Claim(sampler=DDIM(), order=1),
    "euler": Claim(sampler=Euler(), order=1),
    "heun": Claim(sampler=Heun(), order=2),
    "dpm2": Claim(sampler=DPM2(), order=2),
    "dpmpp_2s": Claim(sampler=DPMSolver2S(), order=2),
    "dpmpp_2m": Claim(sampler=DPMSolver2M(), order=2),
    "dpmpp_2m (integrated)": Claim(sampler=DPMSolver2M(midpoint=False), order=2),
    "dpmpp_3m": Claim(sampler=DPMSolver3M(), order=3),
    "dpmpp_3m (published)": Claim(sampler=DPMSolver3M(published=True), order=2),
    "unipc (order 1)": Claim(sampler=UniPC(order=1), order=2),
    "unipc (order 2, bh1)": Claim(sampler=UniPC(order=2, variant="bh1"), order=3),
    "unipc (order 2, bh2)": Claim(sampler=UniPC(order=2), order=3),
    "unipc (order 3)": Claim(sampler=UniPC(order=3), order=4),
    "unip (order 2, no corrector)": Claim(sampler=UniPC(order=2, corrector=False), order=2),
    "unip (order 3, no corrector)": Claim(sampler=UniPC(order=3, corrector=False), order=3),
    "deis (order 2)": Claim(sampler=DEIS(order=2), order=2),
    "deis (order 3)": Claim(sampler=DEIS(order=3), order=3),
    "lms (order 2)": Claim(sampler=LMS(order=2), order=2),
    "lms (order 3)": Claim(sampler=LMS(order=3), order=3),
    "lms (order 4)": Claim(sampler=LMS(), order=4),
    "plms": Claim(sampler=PLMS(), order=2),
    "pndm": Claim(sampler=PNDM(), order=2),
    "rk4": Claim(sampler=RK4(), order=4),
    "ddpm (small)": Claim(sampler=DDPM(), order=1, weak=True),
    "ddim (eta 1)": Claim(sampler=DDIM(eta=1.0), order=1, weak=True),
    "euler_ancestral": Claim(sampler=EulerAncestral(), order=1, weak=True),
    "dpm2_ancestral": Claim(sampler=DPM2Ancestral(), order=1, weak=True),
    "dpmpp_sde": Claim(sampler=DPMSolverSDE(), order=2, weak=True),
    "dpmpp_2m_sde": Claim(sampler=DPMSolver2MSDE(), order=2, weak=True),
    "dpmpp_3m_sde": Claim(sampler=DPMSolver3MSDE(), order=3, weak=True),
}
"""Every sampler whose order is a number, by the name in the table."""


def flow_errors(
    sampler: Sampler, runs: Sequence[NoiseLevel], data: Gaussian | Mixture, x: Float[Array, "b d"]
) -> np.ndarray:
    """The largest error at the end of each run against the exact flow, all runs through one compilation.

    ``x`` is standard normal; each run starts at its own first level.
    """
    longest = max(levels.t.shape[0] for levels in runs)
    keys = jax.random.split(jax.random.key(0), len(x))

    @jax.jit
    def run(x, levels):
        return sample(data.denoise, sampler, levels, x, keys, conditioning=None)

    errors = []
    for levels in runs:
        start = x * levels.sigma[0]
        exact = data.flow(start, levels[0], levels[-1])
        errors.append(float(jnp.abs(run(start, pad_levels(levels, longest)) - exact).max()))
    return np.array(errors)


def variance_errors(
    sampler: Sampler, runs: Sequence[NoiseLevel], data: Gaussian, samples: int = 1 << 17
) -> np.ndarray:
    """The error of the final standard deviation of each run, relative to the exact one; largest coordinate.

    From exact samples of the first level. The error of the variance comes from ``E[x_n^2] - E[y^2]`` where
    y are the
    end points of the same samples along the exact flow, so that the sampling error of the start cancels.
    """
    longest = max(levels.t.shape[0] for levels in runs)
    keys = jax.random.split(jax.random.key(1), samples)
    x = jax.random.normal(jax.random.key(2), (samples, len(data.std)))

    @jax.jit
    def run(levels):
        mean = levels.alpha[0] * jnp.asarray(data.mean)
        start = mean + data.std_at(levels[0]) * x
        end = sample(data.denoise, sampler, levels, start, keys, conditioning=None)
        return end.std(axis=0) / data.std_at(levels[-1]) - 1

    return np.array([float(jnp.abs(run(pad_levels(levels, longest))).max()) for levels in runs])


def fitted_order(errors: Float[np.ndarray, " n"], steps: Sequence[int]) -> float:
    """The slope of ``log(error)`` against ``log(1 / steps)``, least squares."""
    return float(-np.polyfit(np.log(np.asarray(steps, float)), np.log(errors), 1)[0])


FLOW_STEPS = (64, 128, 256)


def flow_runs(steps: Sequence[int] = FLOW_STEPS) -> list[NoiseLevel]:
    """Runs in equal steps of log-SNR from ``sigma / alpha`` 80 to 0.15, without the step to the data."""
    grid = UniformLogSNR(sigma_max=80.0, sigma_min=0.15)
    return [sampling_levels(ContinuousCosine(), grid, n + 1)[:-1] for n in steps]
