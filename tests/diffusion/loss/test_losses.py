"""The loss of one example: spaces, weights and published formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning
from difflax.diffusion.loss.losses import diffusion_loss
from difflax.diffusion.loss.weightings import Constant, MinSNR
from difflax.diffusion.predictions import PREDICTIONS
from difflax.diffusion.schedules import SCHEDULES, Linear, noise_level

T = jnp.linspace(0.05, 0.95, 8)
X0, EPS, OUT = (jax.random.normal(k, (8, 4, 4, 2)) for k in jax.random.split(jax.random.key(0), 3))


def loss(kind, level, **options):
    network = lambda x, time, conditioning: OUT  # noqa: E731
    return diffusion_loss(network, kind, X0, EPS, level, Conditioning(), **options)


def test_epsilon_loss_is_ddpms():
    """Ho et al., eq. 14: the mean squared error of the noise, one value an example."""
    value = loss(PREDICTIONS["epsilon"](), noise_level(Linear(), T))
    np.testing.assert_allclose(value, ((OUT - EPS) ** 2).mean((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("x0", lambda snr, g: np.minimum(snr, g)),
        ("epsilon", lambda snr, g: np.minimum(snr, g) / snr),
        ("v", lambda snr, g: np.minimum(snr, g) / (snr + 1)),
    ],
)
def test_min_snr_weights_are_the_published_ones(x64, name, published):
    """Hang et al., section 3.4, for each prediction type."""
    kind, level = PREDICTIONS[name](), noise_level(SCHEDULES["cosine"](), T)
    ratio = loss(kind, level, weighting=MinSNR(gamma=5.0)) / loss(kind, level)
    np.testing.assert_allclose(ratio, published(np.exp(level.log_snr), 5.0), rtol=1e-6)


def test_a_constant_loss_in_one_space_is_the_same_number_for_every_prediction_type(x64):
    """One wrong denoiser has one error in v, whatever its network predicts."""
    from difflax.diffusion.loss.losses import weighted_penalty
    from difflax.diffusion.predictions import target

    level = noise_level(SCHEDULES["cosine"](), T)
    error_x0 = jax.random.normal(jax.random.key(5), (8, 6))
    error_eps = -error_x0 * (level.alpha / level.sigma)[:, None]
    values = [
        weighted_penalty(
            target(kind(), error_x0, error_eps, level), kind(), level, weighting=Constant(loss_space="v")
        )
        for kind in PREDICTIONS.values()
    ]
    for value in values[1:]:
        np.testing.assert_allclose(value, values[0], rtol=1e-9)
