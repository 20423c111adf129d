"""Training times: their distribution, their keys, their stratification."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.streams import sample_keys
from difflax.diffusion.loss.time_samplers import TIME_SAMPLERS, LogitNormal, Stratified, Uniform, sample_times
from difflax.diffusion.schedules import SCHEDULES, Linear
from scipy import stats

from tests.diffusion.members import ALL_SCHEDULES

KEYS = sample_keys(jax.random.key(0), jnp.arange(4000))


def test_uniform_and_logit_normal_have_their_distribution():
    assert stats.kstest(np.asarray(sample_times(Uniform(), KEYS, Linear())), "uniform").pvalue > 0.01
    t = np.asarray(sample_times(LogitNormal(mean=-0.5, std=0.8), KEYS, Linear()), np.float64)
    assert stats.kstest(np.log(t / (1 - t)), stats.norm(-0.5, 0.8).cdf).pvalue > 0.01


def test_a_stratified_batch_has_one_time_in_each_stratum():
    t = np.sort(sample_times(Stratified(), KEYS[:64], Linear()))
    assert (np.floor((t - t[0]) * 64 + 0.5) == np.arange(64)).all()


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_times_lie_inside(name):
    t = sample_times(TIME_SAMPLERS[name](), KEYS, Linear())
    assert t.shape == (4000,) and (t > 0).all() and (t < 1).all()


EXTREMES = {
    "logit_normal": ({"mean": 60.0}, {"mean": -200.0}, {"std": 100.0}),
    "log_normal_sigma": ({"mean": 30.0}, {"mean": -30.0}, {"std": 50.0}, {"mean": 2.0, "std": 3.0}),
    "mode": ({"scale": -1.0}, {"scale": 1.75}),
    "uniform": ({"timesteps": 1}, {"timesteps": 1000}),
}


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_times_and_their_levels_lie_within_every_schedule(name):
    for options in ({}, *EXTREMES.get(name, ())):
        for stratified in (False, True):
            sampler = TIME_SAMPLERS[name](**options, stratified=stratified)
            for label, schedule in ALL_SCHEDULES.items():
                t = sample_times(sampler, KEYS[:512], schedule)
                alpha, sigma = schedule.alpha_sigma(t)
                assert ((t > 0) & (t <= 1)).all(), (label, options)
                assert np.isfinite(alpha).all() and np.isfinite(sigma).all(), (label, options)
                assert (alpha >= 0).all() and (sigma >= 0).all(), (label, options)


def test_the_normal_of_log_sigma_is_cut_off_where_the_schedule_ends():
    """As if draws outside were drawn again: scipy's truncated normal."""
    schedule = Linear()
    t = sample_times(TIME_SAMPLERS["log_normal_sigma"](mean=3.0, std=2.0), KEYS, schedule)
    alpha, sigma = (np.asarray(a, np.float64) for a in schedule.alpha_sigma(t))
    end = np.log(np.sqrt(1 / schedule.alphas_cumprod[-1] - 1))
    law = stats.truncnorm(-np.inf, (end - 3.0) / 2.0, 3.0, 2.0)
    assert stats.kstest(np.log(sigma / alpha), law.cdf).pvalue > 0.01


def test_the_cauchy_schedule_ends_without_signal():
    alpha, sigma = SCHEDULES["cauchy"]().alpha_sigma(jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(alpha, [1, 0])
    np.testing.assert_array_equal(sigma, [0, 1])


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_quantiles_invert_their_published_densities(x64, name):
    """``d quantile / du = 1 / density`` at the quantile."""
    normal = stats.norm.pdf
    cosine = SCHEDULES["rectified_flow"]()
    densities = {
        "uniform": lambda t: np.ones_like(t),
        "stratified": lambda t: np.ones_like(t),
        "running_loss": lambda t: np.ones_like(t),
        "logit_normal": lambda t: normal(np.log(t / (1 - t))) / (t * (1 - t)),  # SD3, eq. 19
        "cosmap": lambda t: 2 / (np.pi * (1 - 2 * t + 2 * t**2)),  # SD3, eq. 21
        # EDM: log(sigma / alpha) = logit(t) of a flow is normal
        "log_normal_sigma": lambda t: normal((np.log(t / (1 - t)) + 1.2) / 1.2) / (1.2 * t * (1 - t)),
    }
    u, h = np.linspace(0.02, 0.98, 25), 1e-6
    quantile = lambda u: np.asarray(TIME_SAMPLERS[name]().quantile(jnp.asarray(u), cosine))  # noqa: E731
    if name == "mode":  # SD3, eq. 20 is itself a map of u, falling
        expected = 1 - (1 - u) - 1.29 * (np.cos(np.pi / 2 * (1 - u)) ** 2 - 1 + (1 - u))
        np.testing.assert_allclose(quantile(u), expected, rtol=1e-9)
        return
    slope = (quantile(u + h) - quantile(u - h)) / (2 * h)
    np.testing.assert_allclose(slope, 1 / densities[name](quantile(u)), rtol=1e-4)


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_a_stratified_batch_has_the_same_law(name):
    """One low-discrepancy draw: every quantile of the batch is within one place of its own."""
    sampler = TIME_SAMPLERS[name](stratified=True)
    t = np.sort(sample_times(sampler, KEYS[:256], SCHEDULES["rectified_flow"]()))
    edges = np.asarray(sampler.quantile(jnp.linspace(1e-6, 1 - 1e-6, 257), SCHEDULES["rectified_flow"]()))
    assert (t >= edges[:-1] - 1e-5).all() and (t <= edges[1:] + 1e-5).all()


def test_an_examples_time_depends_on_its_own_key():
    t = sample_times(Uniform(), KEYS, Linear())
    np.testing.assert_array_equal(sample_times(Uniform(), KEYS[7:9], Linear()), t[7:9])
