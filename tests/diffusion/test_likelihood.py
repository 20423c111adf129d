"""Log-likelihood against scipy, and the way back to the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.diffusion.inversion import invert
from difflax.diffusion.likelihood import bits_per_dimension, log_likelihood
from difflax.diffusion.samplers import DDIM, sample
from difflax.diffusion.schedules import SCHEDULES
from difflax.diffusion.time_grids import UniformLogSNR, sampling_levels
from difflax.diffusion.verification.oracles import Gaussian, Mixture
from scipy import stats


def levels_of(schedule, steps):
    grid = UniformLogSNR(sigma_max=2000.0, sigma_min=0.01)
    return sampling_levels(SCHEDULES[schedule](), grid, steps)[:-1]


@pytest.mark.parametrize("schedule", ["cosine", "rectified_flow"])
def test_bits_per_dimension_of_a_gaussian(x64, schedule):
    """The closed form: Hutchinson's estimate is exact for a diagonal Jacobian, whatever the signs."""
    data, levels = Gaussian(), levels_of(schedule, 250)
    last = levels[-1]
    std = np.asarray(data.std_at(last))
    x = np.asarray(last.alpha) * np.array(data.mean) + std * np.random.default_rng(0).normal(size=(5, 3))
    keys = jax.random.split(jax.random.key(0), 5)
    found = log_likelihood(data.denoise, levels, jnp.asarray(x), keys, conditioning=None, prior_std=0.9)
    exact = stats.norm(np.asarray(last.alpha) * np.array(data.mean), std).logpdf(x).sum(1)
    np.testing.assert_allclose(found, exact, atol=2e-3)
    bits = -exact / (3 * np.log(2)) + 7  # 256 values over [-1, 1]: a grey value is 2^-7 wide
    np.testing.assert_allclose(bits_per_dimension(found, 3, width=2 / 256), bits, atol=2e-3)


def test_the_estimate_is_unbiased_for_a_mixture(x64):
    """Its Jacobian is not diagonal: the mean over many probes is the exact density."""
    data, levels = Mixture(), levels_of("cosine", 250)
    last = levels[-1]
    x = np.random.default_rng(1).normal(size=(3, 3)) * 0.5
    keys = jax.random.split(jax.random.key(0), 3)
    found = log_likelihood(
        data.denoise, levels, jnp.asarray(x), keys, conditioning=None, probes=400, prior_std=0.9
    )
    alpha, spread = float(last.alpha), float(np.hypot(last.alpha * data.std, last.sigma))
    density = sum(
        weight * stats.multivariate_normal(alpha * np.array(mean), spread**2).pdf(x)
        for weight, mean in zip(data.weights, data.means, strict=True)
    )
    np.testing.assert_allclose(found, np.log(density), atol=0.1)  # three standard errors


def inversion_error(steps, iterations):
    """Noise to image and back."""
    data, levels = Mixture(), levels_of("cosine", steps)
    noise = levels.sigma[0] * jax.random.normal(jax.random.key(2), (4, 3))
    keys = jax.random.split(jax.random.key(0), 4)
    image = sample(data.denoise, DDIM(), levels, noise, keys, conditioning=None)
    back = invert(data.denoise, levels, image, conditioning=None, iterations=iterations)
    return float(np.abs(back - noise).max())


def test_inversion_round_trip(x64):
    """DDIM's inversion comes back to the step's own error, of first order; fixed-point iterations exactly."""
    coarse, fine = inversion_error(80, 0), inversion_error(160, 0)
    assert fine < 0.15 and 0.35 < fine / coarse < 0.65, (coarse, fine)
    assert inversion_error(80, 30) < 1e-9
