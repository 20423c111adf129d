"""Training times: their distribution, their keys, their stratification."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.diffusion.schedules import Linear
from difflax.diffusion.time_samplers import TIME_SAMPLERS, LogitNormal, Stratified, Uniform, sample_times
from difflax.streams import sample_keys
from scipy import stats

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


def test_an_examples_time_depends_on_its_own_key():
    t = sample_times(Uniform(), KEYS, Linear())
    np.testing.assert_array_equal(sample_times(Uniform(), KEYS[7:9], Linear()), t[7:9])
