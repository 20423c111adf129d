"""Laws that every schedule obeys, and published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.diffusion.schedules import Cosine, Linear, ScaledLinear, log_snr, noise_level

from tests.diffusion.members import ALL_SCHEDULES

T = np.linspace(0.003, 0.997, 400)


@pytest.fixture(params=ALL_SCHEDULES)
def schedule(request):
    return ALL_SCHEDULES[request.param]


def test_log_snr_falls_and_its_inverse_is_exact(x64, schedule):
    value = log_snr(schedule, T)
    assert (np.diff(value) < 0).all()
    np.testing.assert_allclose(schedule.t_from_log_snr(value), T, atol=1e-10)


def test_float32_inverse(schedule):
    np.testing.assert_allclose(schedule.t_from_log_snr(log_snr(schedule, T)), T, atol=3e-5)


def test_derivatives_match_finite_differences(x64, schedule):
    t = T + 0.00037  # off the knots of the tables
    level, h = noise_level(schedule, t), 1e-7
    above, below = noise_level(schedule, t + h), noise_level(schedule, t - h)
    np.testing.assert_allclose(level.alpha_dot, (above.alpha - below.alpha) / (2 * h), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(level.sigma_dot, (above.sigma - below.sigma) / (2 * h), rtol=1e-4, atol=1e-5)


def test_published_numbers():
    """DDPM's and Stable Diffusion's tables (alpha_bar_T from the papers' betas), the sigma range of
    k-diffusion.
    """
    last = noise_level(ScaledLinear(), 1.0)
    np.testing.assert_allclose(last.sigma / last.alpha, 14.6146, rtol=1e-5)
    first = noise_level(ScaledLinear(), 1 / 1000)
    np.testing.assert_allclose(first.sigma / first.alpha, 0.0292, rtol=2e-3)
    np.testing.assert_allclose(noise_level(Linear(), 1.0).alpha ** 2, 4.036e-5, rtol=1e-3)
    np.testing.assert_allclose(
        noise_level(Cosine(), 0.5).alpha ** 2,
        np.cos(0.508 / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2,
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
def test_tables_are_hit_exactly_and_time_zero_is_data(x64, name):
    schedule = ALL_SCHEDULES[name]
    t = np.arange(1, 1001) / 1000
    np.testing.assert_allclose(
        noise_level(schedule, t).alpha ** 2, np.cumprod(1 - schedule.betas()), rtol=1e-9
    )
    level = noise_level(schedule, 0.0)
    assert level.alpha == 1 and level.sigma == 0


def test_zero_terminal_snr_ends_without_signal_and_keeps_the_first_entry(x64):
    plain, rescaled = Linear(), Linear(zero_terminal_snr=True)
    assert noise_level(rescaled, 1.0).alpha == 0
    np.testing.assert_allclose(rescaled.alphas_cumprod[0], plain.alphas_cumprod[0], rtol=1e-12)
    assert np.isfinite(jax.tree.leaves(noise_level(rescaled, jnp.linspace(0.01, 0.999, 300)))).all()
