"""Every sampler under every schedule and prediction type, against exact solutions in float64.

A sampler sees a denoiser and levels. So the denoiser of every schedule and prediction type is held to the
ideal one, and every sampler with the ideal one is held to the exact answer on the levels of every schedule;
all of them together, as one product, is the slow test at the end.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning
from difflax.diffusion.denoisers import make_denoiser
from difflax.diffusion.predictions import PREDICTIONS
from difflax.diffusion.samplers import DDIM, DDPM, LCM, SAMPLERS, TCD, Adaptive, initial_noise, sample
from difflax.diffusion.schedules import SCHEDULES
from difflax.diffusion.schedules.base import unscheduled_level
from difflax.diffusion.time_grids import Even, UniformLogSNR, pad_levels, sampling_levels
from difflax.diffusion.verification.oracles import Gaussian, Mixture
from difflax.diffusion.verification.orders import LawTrial, brownian_noises, half_step_noises, white_noises

from tests.diffusion.members import ALL_SCHEDULES
from tests.diffusion.networks import as_network

GRID = UniformLogSNR(sigma_max=60.0, sigma_min=0.02)
STEPS = 60
STOCHASTIC = {
    "ddpm": white_noises,
    "euler_ancestral": white_noises,
    "dpm2_ancestral": white_noises,
    "dpmpp_sde": half_step_noises,
    "dpmpp_2m_sde": brownian_noises,
    "dpmpp_3m_sde": brownian_noises,
    "sa_solver": white_noises,
}
FIRST_ORDER = ("ddim", "euler", "ddpm", "euler_ancestral")
DETERMINISTIC = {
    name: Adaptive(rtol=1e-5, atol=1e-7) if name == "adaptive" else kind()
    for name, kind in SAMPLERS.items()
    if name not in (*STOCHASTIC, "lcm", "tcd")
}


def tolerance(name):
    """What the order leaves after 60 steps."""
    if name in STOCHASTIC:
        return 0.08 if name in FIRST_ORDER else 0.02
    return 0.06 if name in FIRST_ORDER else 0.006


def levels_of(schedule):
    return sampling_levels(schedule, GRID, STEPS)[:-1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
def test_the_denoiser_of_a_perfect_network_is_the_ideal_one(x64, schedule, prediction):
    """On its own levels, and asked on another path at the same noise-to-signal ratios."""
    data, schedule, kind = Mixture(), ALL_SCHEDULES[schedule], PREDICTIONS[prediction]()
    denoise = make_denoiser(as_network(data, schedule, kind), schedule, kind)
    levels = sampling_levels(schedule, UniformLogSNR(sigma_max=40.0, sigma_min=0.05), 6)[:-1]
    elsewhere = unscheduled_level(3.0 * levels.alpha, 3.0 * levels.sigma)
    for path in (levels, elsewhere):
        x = path.sigma[:, None] * jax.random.normal(jax.random.key(1), (6, 3))
        ours, ideal = denoise(x, path, Conditioning()), data.denoise(x, path)
        np.testing.assert_allclose(ours.x0, ideal.x0, atol=1e-7)
        np.testing.assert_allclose(ours.eps, ideal.eps, atol=1e-7)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_reach_the_exact_flow(x64, name):
    """For Gaussian data, under every schedule."""
    data, z = Gaussian(), jax.random.normal(jax.random.key(1), (2, 3))
    keys = jax.random.split(jax.random.key(0), len(z))

    @jax.jit
    def run(x, levels):
        return sample(data.denoise, DETERMINISTIC[name], levels, x, keys, conditioning=None)

    for schedule in ALL_SCHEDULES.values():
        levels = levels_of(schedule)
        start = levels.sigma[0] * z
        error = run(start, levels) - data.flow(start, levels[0], levels[-1])
        assert np.abs(error).max() < tolerance(name), schedule


LONG = ("dpmpp_sde", "dpmpp_2m_sde")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in STOCHASTIC]
)
def test_stochastic_samplers_have_the_right_mean_and_covariance(x64, name):
    """Exactly computed, under every schedule; coordinates stay independent."""
    trial = LawTrial(SAMPLERS[name](), STOCHASTIC[name], STEPS)
    for schedule in ALL_SCHEDULES.values():
        mean, std = trial.law(levels := levels_of(schedule))
        np.testing.assert_allclose(mean, levels.alpha[-1] * np.array(trial.data.mean), atol=1e-9)
        np.testing.assert_allclose(std, trial.data.std_at(levels[-1]), rtol=tolerance(name))


def test_lcm_has_the_law_of_its_recursion(x64):
    """``x' = alpha' E[x0 | x] + sigma' z``: for Gaussian data its variance follows by hand."""
    trial, levels = LawTrial(LCM(boundary=False), white_noises, 4), sampling_levels(
        SCHEDULES["cosine"](), UniformLogSNR(sigma_max=20.0, sigma_min=0.3), 4
    )  # fmt: skip
    mean, std = trial.law(levels)
    data = np.array(trial.data.std)
    variance = np.asarray(trial.data.std_at(levels[0])) ** 2
    alpha, sigma = np.asarray(levels.alpha), np.asarray(levels.sigma)
    for i in range(4):
        gain = alpha[i] * data**2 / (alpha[i] ** 2 * data**2 + sigma[i] ** 2)
        variance = (alpha[i + 1] * gain) ** 2 * variance + sigma[i + 1] ** 2
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-9)
    np.testing.assert_allclose(mean, trial.data.mean, rtol=1e-9)


def test_tcd_goes_from_ddim_to_consistency_sampling(x64):
    """gamma 0 makes no noise, gamma 1 all of it anew; the same noise, so the same images."""
    data, levels = Gaussian(), levels_of(SCHEDULES["linear"]())
    start, keys = levels.sigma[0] * jnp.ones((2, 3)), jax.random.split(jax.random.key(0), 2)
    for ours, other in ((TCD(gamma=0.0), DDIM()), (TCD(gamma=1.0), LCM(boundary=False))):
        made, expected = (
            sample(data.denoise, sampler, levels, start, keys, conditioning=None) for sampler in (ours, other)
        )
        np.testing.assert_allclose(made, expected, atol=1e-9)


def test_the_adaptive_pair_is_as_exact_as_it_is_asked(x64):
    """On a mixture, whose flow is nonlinear: the error follows rtol."""
    data, z = Mixture(), jax.random.normal(jax.random.key(1), (3, 3))
    levels = levels_of(SCHEDULES["cosine"]())[:: STEPS - 1]
    assert levels.t.shape == (2,)
    start = levels.sigma[0] * z
    exact = data.flow(start, levels[0], levels[-1])
    errors = []
    for rtol in (1e-3, 1e-5, 1e-7):
        keys = jax.random.split(jax.random.key(0), 3)
        sampler = Adaptive(rtol=rtol, atol=rtol / 10)
        end = sample(data.denoise, sampler, levels, start, keys, conditioning=None)
        errors.append(np.abs(end - exact).max() / rtol)
    assert max(errors) < 10, errors


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_lands_on_x0_from_pure_noise(name):
    """From no signal at all to the data, nothing is NaN and the end is the last estimate of x0."""
    data, schedule = Gaussian(), SCHEDULES["rectified_flow"]()
    levels, keys = sampling_levels(schedule, Even(), 4), jax.random.split(jax.random.key(0), 3)
    assert levels.alpha[0] == 0 and levels.sigma[-1] == 0
    sampler = LCM(boundary=False) if name == "lcm" else SAMPLERS[name]()
    x, estimates = sample(
        data.denoise, sampler, levels, initial_noise(keys, (3,), levels), keys, conditioning=None,
        return_trajectory=True,
    )  # fmt: skip
    assert np.isfinite(estimates).all() and estimates.shape == (4, 3, 3)
    if name not in ("lms", "unipc"):  # they extrapolate, or correct, the last step too
        np.testing.assert_allclose(x, estimates[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m_sde"])
def test_a_permuted_batch_gives_permuted_samples(name):
    """A sample depends on its own key and start, not on the batch around it."""
    data, levels = Gaussian(), sampling_levels(SCHEDULES["cosine"](), UniformLogSNR(), 8)
    keys = jax.random.split(jax.random.key(0), 6)
    x, order = initial_noise(keys, (3,), levels), np.array([4, 1, 5])
    draw = lambda x, keys: sample(data.denoise, SAMPLERS[name](), levels, x, keys, conditioning=None)  # noqa: E731
    np.testing.assert_allclose(draw(x, keys)[order], draw(x[order], keys[order]), rtol=1e-5, atol=1e-6)


def test_padded_levels_change_nothing_and_compile_once():
    data, schedule = Gaussian(), SCHEDULES["cosine"]()
    keys = jax.random.split(jax.random.key(0), 2)
    traces = []

    @jax.jit
    def draw(x, levels):
        traces.append(1)
        return sample(data.denoise, DDPM(), levels, x, keys, conditioning=None)

    x = jax.random.normal(jax.random.key(0), (2, 3))
    for n in (1, 2, 5, 9):
        levels = sampling_levels(schedule, Even(), n)
        plain = sample(data.denoise, DDPM(), levels, x, keys, conditioning=None)
        np.testing.assert_allclose(draw(x, pad_levels(levels, 10)), plain, rtol=2e-6)
    assert len(traces) == 1


def test_ddim_with_eta_adds_the_noise_that_it_takes_from_the_direction(x64):
    """One step of eta: mean and variance are those of Song et al., eq. 12 and 16."""
    data, eta = Gaussian(mean=(0.0,), std=(1.0,)), 0.6
    levels = sampling_levels(SCHEDULES["cosine"](), UniformLogSNR(sigma_max=2.0, sigma_min=0.5), 2)[:2]
    _, std = LawTrial(DDIM(eta=eta), white_noises, 1, data).law(levels)
    a, a_next = (float(levels.alpha[i]) ** 2 for i in (0, 1))
    noise = eta * np.sqrt((1 - a_next) / (1 - a)) * np.sqrt(1 - a / a_next)
    # For unit data on this path x0 = alpha x and eps = sigma x.
    direction = np.sqrt(a_next) * np.sqrt(a) + np.sqrt(1 - a_next - noise**2) * np.sqrt(1 - a)
    np.testing.assert_allclose(std, np.hypot(direction, noise), rtol=1e-9)


@dataclasses.dataclass(frozen=True)
class Networks(Gaussian):
    """Gaussian data whose denoisers are networks, one for each schedule and prediction type; the conditioning
    is the number of the one that is asked, so that all are one program.
    """

    pairs: tuple = tuple(itertools.product(ALL_SCHEDULES.values(), PREDICTIONS.values()))

    def denoise(self, x, level, conditioning=None):
        data = Gaussian()
        networks = [
            make_denoiser(as_network(data, schedule, kind()), schedule, kind())
            for schedule, kind in self.pairs
        ]
        branches = [lambda x, level, n=network: n(x, level, Conditioning()) for network in networks]
        return jax.lax.switch(conditioning, branches, x, level)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC])
def test_the_whole_product(x64, name):
    """Sampler x schedule x prediction type, each through its own network, against the exact flow or law."""
    data = Networks()
    z, keys = jax.random.normal(jax.random.key(1), (2, 3)), jax.random.split(jax.random.key(0), 2)
    trial = LawTrial(SAMPLERS[name](), STOCHASTIC[name], STEPS, data) if name in STOCHASTIC else None

    @jax.jit
    def run(x, levels, number):
        return sample(data.denoise, DETERMINISTIC[name], levels, x, keys, conditioning=number)

    for number, (schedule, kind) in enumerate(data.pairs):
        levels, case = levels_of(schedule), f"{schedule}, {kind.__name__}"
        if trial is None:
            start = levels.sigma[0] * z
            error = run(start, levels, jnp.asarray(number)) - data.flow(start, levels[0], levels[-1])
            assert np.abs(error).max() < tolerance(name), case
            continue
        mean, std = trial.law(levels, jnp.asarray(number))
        exact = levels.alpha[-1] * np.array(data.mean)
        np.testing.assert_allclose(mean, exact, atol=1e-7, err_msg=case)
        np.testing.assert_allclose(std, data.std_at(levels[-1]), rtol=tolerance(name), err_msg=case)
