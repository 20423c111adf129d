"""Every sampler against exact solutions, in float64."""

import jax
import numpy as np
import pytest
from difflax.diffusion.denoisers import make_denoiser
from difflax.diffusion.predictions import PREDICTIONS
from difflax.diffusion.samplers import DDIM, DDPM, DPMSolver2M, Euler, Heun, initial_noise, sample
from difflax.diffusion.schedules import SCHEDULES
from difflax.diffusion.time_grids import Even, UniformLogSNR, pad_levels, sampling_levels
from difflax.evaluation.oracles import Gaussian
from difflax.types import Conditioning

from tests.diffusion.members import ALL_SCHEDULES
from tests.diffusion.networks import as_network

DETERMINISTIC = {"ddim": DDIM(), "euler": Euler(), "heun": Heun(), "dpmpp_2m": DPMSolver2M()}
GRID = UniformLogSNR(sigma_max=60.0, sigma_min=0.02)


def run(denoise, sampler, levels, x, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(x))
    return jax.jit(lambda x, levels: sample(denoise, sampler, levels, x, keys, conditioning=Conditioning()))(
        x, levels
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_deterministic_samplers_reach_the_exact_flow(x64, sampler, schedule, prediction):
    """The error against the closed-form flow is small, whatever the schedule and the prediction type."""
    data, schedule, kind = Gaussian(), ALL_SCHEDULES[schedule], PREDICTIONS[prediction]()
    levels = sampling_levels(schedule, GRID, 60, prediction_type=kind)[:-1]
    denoise = make_denoiser(as_network(data, schedule, kind), {}, schedule, kind)
    x = jax.random.normal(jax.random.key(1), (2, 3))
    error = run(denoise, DETERMINISTIC[sampler], levels, x) - data.flow(x, levels[0], levels[-1])
    assert np.abs(error).max() < (0.06 if sampler in ("ddim", "euler") else 0.004)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_the_last_step_lands_on_x0(x64, sampler):
    schedule, data = SCHEDULES["rectified_flow"](), Gaussian()
    levels = sampling_levels(schedule, Even(), 4)
    keys = jax.random.split(jax.random.key(0), 5)
    x, estimates = sample(
        data.denoise, DETERMINISTIC[sampler], levels, initial_noise(keys, (3,), levels).astype(float), keys,
        conditioning=None, return_trajectory=True,
    )  # fmt: skip
    assert np.isfinite(estimates).all() and estimates.shape == (4, 5, 3)
    np.testing.assert_array_equal(x, estimates[-1])


@pytest.mark.parametrize("sampler", [DDPM(), DDPM(variance="large"), DDIM(eta=0.5), DDIM(eta=1.0)])
def test_stochastic_samplers_have_the_right_mean_and_covariance(x64, sampler):
    """Over 20,000 samples, within five standard errors and the method's own bias at 200 steps."""
    data, schedule = Gaussian(), SCHEDULES["linear"]()
    levels = sampling_levels(schedule, UniformLogSNR(), 200)
    keys = jax.random.split(jax.random.key(3), 20_000)
    x = run(data.denoise, sampler, levels, jax.random.normal(jax.random.key(4), (len(keys), 3)))
    tolerance = 5 / np.sqrt(len(keys)) + 0.02
    np.testing.assert_allclose(x.mean(0), data.mean, atol=tolerance)
    np.testing.assert_allclose(np.cov(x.T), np.diag(data.std**2), atol=1.5 * tolerance)


def test_a_sample_depends_on_its_own_key_only():
    data, schedule = Gaussian(), SCHEDULES["cosine"]()
    levels = sampling_levels(schedule, UniformLogSNR(), 8)
    keys = jax.random.split(jax.random.key(0), 6)
    x = initial_noise(keys, (3,), levels)
    order = np.array([4, 1, 5])
    draw = lambda x, keys: sample(data.denoise, DDPM(), levels, x, keys, conditioning=None)  # noqa: E731
    np.testing.assert_array_equal(draw(x, keys)[order], draw(x[order], keys[order]))


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
