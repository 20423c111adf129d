"""The noise of training: its distribution, and which image it goes with."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from difflax.core.streams import sample_keys
from difflax.diffusion.loss.noises import NOISES, Offset, Paired, White
from scipy import stats

KEYS = sample_keys(jax.random.key(0), jnp.arange(600))
X0 = jax.random.normal(jax.random.key(1), (600, 4, 4, 3))


def test_white_noise_is_normal_and_an_images_own():
    eps = White()(KEYS, X0)
    assert stats.kstest(np.asarray(eps).ravel(), "norm").pvalue > 0.01
    np.testing.assert_array_equal(White()(KEYS[5:7], X0[5:7]), eps[5:7])


def test_offset_noise_moves_the_mean_of_each_channel():
    """The mean over a channel of n pixels has variance ``1 / n + strength^2``; channels move alone."""
    means = np.asarray(Offset(strength=0.5)(KEYS, X0)).mean((1, 2))
    np.testing.assert_allclose(means.var(axis=0), 1 / 16 + 0.25, rtol=0.25)
    assert np.abs(np.corrcoef(means.T) - np.eye(3)).max() < 0.15
    np.testing.assert_array_equal(Offset(strength=0.0)(KEYS, X0), White()(KEYS, X0))


def test_paired_noise_is_the_best_assignment():
    """The least total squared distance, as scipy finds it; the same noises in another order."""
    keys, x0 = KEYS[:24], X0[:24]
    white, paired = (np.asarray(kind(keys, x0)).reshape(24, -1) for kind in (White(), Paired()))
    images = np.asarray(x0).reshape(24, -1)
    cost = ((images[:, None] - white[None]) ** 2).sum(-1)
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    np.testing.assert_allclose(((images - paired) ** 2).sum(), cost[rows, columns].sum(), rtol=1e-5)
    np.testing.assert_allclose(np.sort(paired, axis=0), np.sort(white, axis=0))


def test_every_noise_has_the_images_shape():
    for kind in NOISES.values():
        assert kind()(KEYS[:3], X0[:3]).shape == (3, 4, 4, 3)
