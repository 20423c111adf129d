"""The blur against scipy's."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from difflax.core.filters import gaussian_blur

IMAGE = np.random.default_rng(0).normal(size=(1, 24, 17, 2)).astype(np.float32)


@pytest.mark.parametrize("std", [1.2, 2.5])
def test_it_is_scipys_gaussian_filter(std):
    """To the difference between a sampled kernel and a continuous one."""
    theirs = scipy.ndimage.gaussian_filter(IMAGE, (0, std, std, 0), mode="reflect", truncate=8)
    np.testing.assert_allclose(gaussian_blur(jnp.asarray(IMAGE), std), theirs, atol=2e-3)


def test_the_ends():
    """No blur is the image, an infinite one its mean; constants stay."""
    np.testing.assert_allclose(gaussian_blur(jnp.asarray(IMAGE), 0.0), IMAGE, atol=1e-5)
    mean = np.broadcast_to(IMAGE.mean((1, 2), keepdims=True), IMAGE.shape)
    np.testing.assert_allclose(gaussian_blur(jnp.asarray(IMAGE), np.inf), mean, atol=1e-5)
    np.testing.assert_allclose(gaussian_blur(jnp.ones((1, 6, 5, 1)), 2.0), 1, atol=1e-5)
