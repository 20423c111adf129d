"""One formula for every conversion, checked by going round."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.diffusion.predictions import EDM, PREDICTIONS, V, loss_space_factor, target, to_prediction
from difflax.diffusion.schedules import SCHEDULES, add_noise, noise_level
from difflax.diffusion.time_grids import check_levels, data_level

from tests.diffusion.members import ALL_SCHEDULES

KEYS = jax.random.split(jax.random.key(0), 2)


@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
@pytest.mark.parametrize("name", PREDICTIONS)
def test_round_trip(x64, name, schedule):
    """The output of a perfect network gives back x0 and the noise."""
    kind, t = PREDICTIONS[name](), jnp.linspace(0.01, 0.99, 25)
    x0, eps = (jax.random.normal(k, (25, 2, 3)) for k in KEYS)
    level = noise_level(ALL_SCHEDULES[schedule], t)
    back = to_prediction(kind, target(kind, x0, eps, level), add_noise(x0, eps, level), level)
    np.testing.assert_allclose(back.x0, x0, atol=1e-8)
    np.testing.assert_allclose(back.eps, eps, atol=1e-8)


@pytest.mark.parametrize("pair", list(itertools.permutations(PREDICTIONS, 2)), ids="-".join)
def test_loss_space_factor_is_the_ratio_of_squared_errors(x64, pair):
    """A wrong output's squared error, read in another space, is the factor times as large."""
    source, space = (PREDICTIONS[name]() for name in pair)
    level = noise_level(SCHEDULES["cosine"](), jnp.linspace(0.05, 0.95, 9))
    x0, eps = (jax.random.normal(k, (9, 4)) for k in KEYS)
    out = target(source, x0, eps, level)
    wrong = to_prediction(source, out + 0.3, add_noise(x0, eps, level), level)
    moved = target(space, wrong.x0, wrong.eps, level) - target(space, x0, eps, level)
    np.testing.assert_allclose(moved[:, 0] ** 2, 0.3**2 * loss_space_factor(source, space, level), rtol=1e-7)


def test_edm_is_minus_v_on_a_variance_preserving_path_of_unit_data(x64):
    level = noise_level(SCHEDULES["cosine"](), jnp.linspace(0.1, 0.9, 7))
    np.testing.assert_allclose(EDM(sigma_data=1.0).coefficients(level), [-c for c in V().coefficients(level)])


def test_edm_is_karras_preconditioning(x64):
    """``D = c_skip x + c_out F`` with table 1's coefficients, at alpha = 1."""
    level = noise_level(SCHEDULES["cosine"](), jnp.asarray([0.3])).replace(
        alpha=jnp.ones(1), sigma=jnp.asarray([1.7])
    )
    data, sigma = 0.5, 1.7
    c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / np.sqrt(sigma**2 + data**2)
    x, f = jnp.asarray([[0.4]]), jnp.asarray([[-1.1]])
    np.testing.assert_allclose(to_prediction(EDM(), f, x, level).x0, c_skip * x + c_out * f, rtol=1e-12)


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
def test_at_the_ends_of_time_it_goes_round_or_is_refused(x64, name, schedule):
    """Where no signal or no noise is left a conversion is exact, or the levels are refused: never NaN."""
    kind = PREDICTIONS[name]()
    level = noise_level(ALL_SCHEDULES[schedule], jnp.asarray([1.0]))
    data = data_level()
    levels = jax.tree.map(lambda a, b: jnp.append(a, b), level, data)
    try:
        check_levels(levels, kind)
    except ValueError as error:
        assert "singular at t = 1" in str(error) or "not a number" in str(error)
        return
    x0, eps = (jax.random.normal(k, (1, 4)) for k in KEYS)
    back = to_prediction(kind, target(kind, x0, eps, level), add_noise(x0, eps, level), level)
    # The inverse of an almost lost x0 has few digits; the noise has them all.
    amplification = float(np.max(level.sigma / np.maximum(level.alpha, 1e-300)))
    np.testing.assert_allclose(back.eps, eps, atol=1e-9)
    np.testing.assert_allclose(back.x0, x0, atol=1e-9 + 1e-14 * min(amplification, 1e12))
