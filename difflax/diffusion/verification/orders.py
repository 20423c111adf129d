"""Does a sampler have the order that it claims? Errors against exact solutions, and the slopes fitted to
them. Everything here wants ``jax.enable_x64``.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from difflax.core.streams import normal
from difflax.diffusion.samplers import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LMS,
    PLMS,
    PNDM,
    RK4,
    TCD,
    DPM2Ancestral,
    DPMSolver2M,
    DPMSolver2MSDE,
    DPMSolver2S,
    DPMSolver3M,
    DPMSolver3MSDE,
    DPMSolverSDE,
    DPMSolverSinglestep,
    Euler,
    EulerAncestral,
    Heun,
    SASolver,
    UniPC,
    sample,
)
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.samplers.brownian import step_noise
from difflax.diffusion.schedules import ContinuousCosine
from difflax.diffusion.schedules.base import NoiseLevel, unscheduled_level
from difflax.diffusion.time_grids import UniformLogSNR, pad_levels, sampling_levels
from difflax.diffusion.verification.oracles import Gaussian, Mixture


def runs(steps: Sequence[int]) -> list[NoiseLevel]:
    """Runs in equal steps of log-SNR from ``sigma / alpha`` 80 to 0.15, all from the same level to the same.

    Without the step to the data, which is of first order for every sampler. At 80 the data's own spread is
    lost in the noise, so the low order of a multistep method's first steps does not show.
    """
    grid = UniformLogSNR(sigma_max=80.0, sigma_min=0.15)
    return [sampling_levels(ContinuousCosine(), grid, n + 1)[:-1] for n in steps]


@dataclasses.dataclass(frozen=True)
class PathTrial:
    """The largest error at the end of a run against the exact flow of a mixture, which is nonlinear in x."""

    steps: tuple[int, ...]
    data: Mixture = dataclasses.field(default_factory=Mixture)
    samples: int = 4

    @functools.cached_property
    def _runs(self) -> list[NoiseLevel]:
        return runs(self.steps)

    @functools.cached_property
    def _start(self) -> Float[Array, "b d"]:
        shape = (self.samples, len(self.data.means[0]))
        return self._runs[0].sigma[0] * jax.random.normal(jax.random.key(3), shape)

    @functools.cached_property
    def _exact(self) -> Float[np.ndarray, "b d"]:
        return self.data.flow(self._start, self._runs[0][0], self._runs[0][-1])

    def errors(self, sampler: Sampler) -> Float[np.ndarray, " runs"]:
        """The error of each run; all of them through one compilation."""
        keys = jax.random.split(jax.random.key(0), self.samples)

        @jax.jit
        def run(x, levels):
            return sample(self.data.denoise, sampler, levels, x, keys, conditioning=None)

        ends = [run(self._start, pad_levels(levels, max(self.steps) + 1)) for levels in self._runs]
        return np.array([float(np.abs(end - self._exact).max()) for end in ends])


StepNoises = Callable[[Key[Array, " b"], NoiseLevel, int], Float[Array, "k b d"]]


def white_noises(keys: Key[Array, " b"], levels: NoiseLevel, dimensions: int) -> Float[Array, "n b d"]:
    """The standard normal numbers that each step draws afresh."""

    def draw(step: Array) -> Array:
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return normal(step_keys, (dimensions,), levels.alpha.dtype)

    return jax.lax.map(draw, jnp.arange(levels.t.shape[0] - 1))


def brownian_noises(keys: Key[Array, " b"], levels: NoiseLevel, dimensions: int) -> Float[Array, "n b d"]:
    """The noise of every step of an SDE solver with eta 1: the increments of its path."""
    return _increments(keys, levels.log_snr, dimensions)


def half_step_noises(keys: Key[Array, " b"], levels: NoiseLevel, dimensions: int) -> Float[Array, "m b d"]:
    """The same for every half of a step in log-SNR, for a solver that looks at the path in the middle."""
    lam = levels.log_snr
    halves = jnp.stack([lam[:-1], (lam[:-1] + lam[1:]) / 2], axis=1).ravel()
    return _increments(keys, jnp.append(halves, lam[-1]), dimensions)


def _increments(keys: Key[Array, " b"], u: Float[Array, " m1"], dimensions: int) -> Float[Array, "m b d"]:
    draw = lambda ends: step_noise(keys, *ends, (dimensions,), u.dtype)  # noqa: E731
    return jax.lax.map(draw, (u[:-1], u[1:]))


@dataclasses.dataclass(frozen=True)
class LawTrial:
    """The law of a run's end for Gaussian data, without sampling error.

    For Gaussian data every sampler is linear in its start and its noises, ``x = c + A x_init + sum_k B_k
    z_k``. The noises are functions of the keys, so as many samples as there are unknowns give ``c, A, B_k``
    to rounding, and with them the exact law.

    Attributes:
        length: of the longest run, in steps.
    """

    sampler: Sampler
    noises: StepNoises
    length: int
    data: Gaussian = dataclasses.field(default_factory=Gaussian)

    @functools.cached_property
    def _run(self) -> Callable[[NoiseLevel, Any], tuple[Array, Array, Array]]:
        """All runs through one compilation."""
        dimensions, points = len(self.data.std), jnp.zeros(self.length + 1)
        one_key, levels = jax.random.split(jax.random.key(0), 1), unscheduled_level(points, points)
        terms = jax.eval_shape(lambda levels: self.noises(one_key, levels, dimensions), levels).shape[0]
        keys = jax.random.split(jax.random.key(0), terms + 32)
        x = jax.random.normal(jax.random.key(1), (len(keys), dimensions))

        @jax.jit
        def run(levels, conditioning):
            start = levels.alpha[0] * jnp.asarray(self.data.mean) + x * self.data.std_at(levels[0])
            end = sample(self.data.denoise, self.sampler, levels, start, keys, conditioning=conditioning)
            return x, self.noises(keys, levels, dimensions), end

        return run

    def law(
        self, levels: NoiseLevel, conditioning: Any = None
    ) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        """Mean and standard deviation at the end of ``levels``, from the exact law at their start;
        ``conditioning``: what the data's denoiser is told.
        """
        padded = pad_levels(levels, self.length + 1)
        x, noises, end = (np.asarray(a) for a in self._run(padded, conditioning))
        taken = noises[: len(noises) * (levels.t.shape[0] - 1) // self.length]
        mean, std = np.array([_law(x[:, i], taken[:, :, i], end[:, i]) for i in range(x.shape[1])]).T
        return mean, std

    def error(self, levels: NoiseLevel) -> float:
        """The largest error of both."""
        mean, std = self.law(levels)
        mean_error = np.abs(mean - levels.alpha[-1] * np.array(self.data.mean)).max()
        return float(max(mean_error, np.abs(std - self.data.std_at(levels[-1])).max()))


def _law(x: np.ndarray, noises: np.ndarray, end: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of ``c + A x + sum_k B_k z_k``, for x and z_k standard normal."""
    terms = np.concatenate([np.ones((1, len(x))), x[None], noises]).T
    weights = np.linalg.lstsq(terms, end, rcond=None)[0]
    if np.abs(terms @ weights - end).max() > 1e-8:
        raise RuntimeError("the sampler draws noise that the trial does not know")
    return float(weights[0]), float(np.sqrt((weights[1:] ** 2).sum()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A sampler and its order.

    Attributes:
        noises: for a stochastic sampler what it draws, and the order is that of mean and covariance; ``None``
            for a deterministic one, and the order is the path's.
        steps: the runs that it is fitted to.
    """

    sampler: Sampler
    order: int
    noises: StepNoises | None = None
    steps: tuple[int, ...] = (128, 256, 512)

    @functools.cached_property
    def errors(self) -> Float[np.ndarray, " runs"]:
        """Against the exact solution, one for each number of steps."""
        if self.noises is None:
            return path_trial(self.steps).errors(self.sampler)
        trial = LawTrial(self.sampler, self.noises, max(self.steps))
        return np.array([trial.error(levels) for levels in runs(self.steps)])

    @property
    def measured(self) -> float:
        """The slope of ``log(error)`` against ``log(1 / steps)``, least squares."""
        return float(-np.polyfit(np.log(self.steps), np.log(self.errors), 1)[0])


@functools.cache
def path_trial(steps: tuple[int, ...]) -> PathTrial:
    """One trial for all samplers: the exact flow is computed once."""
    return PathTrial(steps=steps)


COARSE = (64, 128, 256)

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
    "dpmpp_singlestep (order 2)": Claim(sampler=DPMSolverSinglestep(), order=2),
    "dpmpp_singlestep (order 3)": Claim(
        sampler=DPMSolverSinglestep(order=3, midpoint=False), order=3, steps=(129, 258, 513)
    ),
    "dpmpp_singlestep (order 3, a step left over)": Claim(
        sampler=DPMSolverSinglestep(order=3, midpoint=False), order=2, steps=(127, 256, 511)
    ),
    "sa_solver (tau 0, predictor 1)": Claim(sampler=SASolver(tau=0.0, predictor_order=1), order=2),
    "sa_solver (tau 0, corrector 3)": Claim(sampler=SASolver(tau=0.0, corrector_order=3), order=3),
    "sa_solver (tau 0, published)": Claim(sampler=SASolver(tau=0.0, published=True), order=2),
    "tcd (gamma 0)": Claim(sampler=TCD(gamma=0.0), order=1),
    "unipc (order 1)": Claim(sampler=UniPC(order=1), order=2),
    "unipc (order 2, bh1)": Claim(sampler=UniPC(order=2, variant="bh1"), order=3),
    "unipc (order 2, bh2)": Claim(sampler=UniPC(order=2), order=3),
    "unipc (order 3)": Claim(sampler=UniPC(order=3), order=4),
    "unipc (order 2, no corrector)": Claim(sampler=UniPC(order=2, corrector=False), order=2),
    "unipc (order 3, no corrector)": Claim(sampler=UniPC(order=3, corrector=False), order=3),
    "deis (order 2)": Claim(sampler=DEIS(order=2), order=2),
    "deis (order 3)": Claim(sampler=DEIS(order=3), order=3),
    "lms (order 2)": Claim(sampler=LMS(order=2), order=2),
    "lms (order 3)": Claim(sampler=LMS(order=3), order=3),
    "lms (order 4)": Claim(sampler=LMS(), order=4),
    "plms": Claim(sampler=PLMS(), order=2),
    "pndm": Claim(sampler=PNDM(), order=2),
    "rk4": Claim(sampler=RK4(), order=4),
    "ddpm": Claim(sampler=DDPM(), order=1, noises=white_noises, steps=COARSE),
    "ddpm (large)": Claim(sampler=DDPM(variance="large"), order=1, noises=white_noises, steps=COARSE),
    "ddim (eta 1)": Claim(sampler=DDIM(eta=1.0), order=1, noises=white_noises, steps=COARSE),
    "euler_ancestral": Claim(sampler=EulerAncestral(), order=1, noises=white_noises, steps=COARSE),
    "sa_solver (published)": Claim(
        sampler=SASolver(published=True), order=2, noises=white_noises, steps=COARSE
    ),
    "dpm2_ancestral": Claim(sampler=DPM2Ancestral(), order=2, noises=white_noises, steps=COARSE),
    "dpmpp_sde": Claim(sampler=DPMSolverSDE(), order=2, noises=half_step_noises, steps=(32, 64, 128)),
    "dpmpp_2m_sde": Claim(sampler=DPMSolver2MSDE(), order=2, noises=brownian_noises, steps=COARSE),
    "dpmpp_3m_sde": Claim(sampler=DPMSolver3MSDE(), order=2, noises=brownian_noises, steps=COARSE),
}
"""Every sampler whose order is a number, by the name in the table.

An ancestral step is the flow's to a lower level, then exact noise back up: its law is as good as the flow's
method. The SDE solvers interpolate x0 along a path that is only as smooth as Brownian motion, so a third
estimate (3M) lowers the error but not below second order.
"""

TOLERANCE = 0.15


def order_table(names: Sequence[str] = tuple(CLAIMS)) -> str:
    """The claims of ``names``, measured, as a Markdown table."""
    rows = [
        "| sampler | evaluations a step | order | measured | largest error, by steps |",
        "|---|---|---|---|---|",
    ]
    with jax.enable_x64(True):
        for name in names:
            claim = CLAIMS[name]
            kind = " (law)" if claim.noises else ""
            pairs = zip(claim.steps, claim.errors, strict=True)
            errors = ", ".join(f"{steps}: {error:.1e}" for steps, error in pairs)
            rows.append(
                f"| {name} | {claim.sampler.evaluations} | {claim.order}{kind} | {claim.measured:.2f} |"
                f" {errors} |"
            )
    return "\n".join(rows)
