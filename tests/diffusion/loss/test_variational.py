"""The bound that trains a variance, against DDPM's tables and PyTorch's divergence of two normals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning, UserError
from difflax.diffusion.loss.losses import diffusion_loss
from difflax.diffusion.loss.variational import VariationalBound
from difflax.diffusion.predictions import PREDICTIONS, Prediction
from difflax.diffusion.schedules import Linear, noise_level
from difflax.diffusion.schedules.base import add_noise

SCHEDULE = Linear()
STEPS = np.asarray([0, 1, 2, 10, 400, 999])
"""Indices of DDPM's tables: the step from index n to n - 1, where index n is the time (n + 1) / 1000."""
X0, EPS = np.random.default_rng(0).normal(size=(2, len(STEPS), 3, 3, 2))
SHARE = np.linspace(-0.5, 1.5, X0.size).reshape(X0.shape)


def level():
    return noise_level(SCHEDULE, jnp.asarray((STEPS + 1) / 1000))


@pytest.mark.parity
def test_the_bound_is_the_divergence_of_ddpms_steps(x64):
    """Ho et al., eq. 5 to 7, and Nichol & Dhariwal, eq. 15, on the tables of the betas."""
    torch = pytest.importorskip("torch")
    betas = np.asarray(SCHEDULE.betas(), np.float64)
    alphas = 1 - betas
    products = np.cumprod(alphas)
    before = np.concatenate([[1.0], products[:-1]])
    wrong = np.asarray(EPS) + 0.3
    x_t = np.asarray(add_noise(jnp.asarray(X0), jnp.asarray(EPS), level()))
    at = lambda table: table[STEPS][:, None, None, None]  # noqa: E731

    def mean(x0):
        clean = np.sqrt(before) * betas / (1 - products)
        noisy = np.sqrt(alphas) * (1 - before) / (1 - products)
        return torch.tensor(at(clean) * x0 + at(noisy) * x_t)

    guessed = (x_t - np.sqrt(1 - at(products)) * wrong) / np.sqrt(at(products))
    small = np.maximum((1 - before) / (1 - products) * betas, 1e-300)
    log_variance = SHARE * np.log(at(betas)) + (1 - SHARE) * np.log(at(small))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean(np.asarray(X0)), torch.tensor(np.sqrt(at(small)))),
        normal(mean(guessed), torch.tensor(np.exp(log_variance / 2))),
    ).numpy()
    prediction = Prediction(x0=jnp.asarray(guessed), eps=jnp.asarray(wrong), variance=jnp.asarray(SHARE))
    made = VariationalBound(schedule=SCHEDULE, weight=0.002)(
        prediction, jnp.asarray(X0), jnp.asarray(EPS), level()
    )
    # In bits, for the thousand steps of which each example is one; the step to the data has no variance.
    np.testing.assert_allclose(made[1:], 0.002 * 1000 * expected[1:] / np.log(2), rtol=2e-4)
    np.testing.assert_array_equal(made[0], 0)


def test_the_bound_trains_the_variance_alone(x64):
    """Where the mean is right, its gradient pulls towards the posterior's variance; the mean feels none."""

    def loss(out, **options):
        network = lambda x, time, conditioning: out  # noqa: E731
        return diffusion_loss(
            network,
            PREDICTIONS["epsilon"](),
            jnp.asarray(X0),
            jnp.asarray(EPS),
            level(),
            Conditioning(),
            **options,
        ).sum()

    bound = VariationalBound(schedule=SCHEDULE)
    out = jnp.concatenate([EPS + 0.1, jnp.zeros_like(EPS)], -1)
    plain, hybrid = (jax.grad(lambda o, b=b: loss(o, bound=b))(out) for b in (None, bound))
    np.testing.assert_array_equal(plain[..., :2], hybrid[..., :2])
    np.testing.assert_array_equal(plain[..., 2:], 0)
    assert np.all(np.asarray(hybrid[1:, ..., 2:]) != 0) and np.all(np.isfinite(hybrid))
    # A perfect mean: the divergence falls until the share is 0, the posterior's variance itself.
    right = jnp.concatenate([EPS, -jnp.ones_like(EPS)], -1)
    np.testing.assert_allclose(loss(right, bound=bound), 0, atol=1e-9)
    np.testing.assert_allclose(jax.grad(lambda o: loss(o, bound=bound))(right)[..., 2:], 0, atol=1e-9)


def test_a_network_without_a_variance_is_refused_by_a_line():
    with pytest.raises(UserError, match="vlb_weight") as refused:
        diffusion_loss(
            lambda x, time, conditioning: x,
            PREDICTIONS["epsilon"](),
            jnp.asarray(X0, jnp.float32),
            jnp.asarray(EPS, jnp.float32),
            level(),
            Conditioning(),
            bound=VariationalBound(schedule=SCHEDULE),
        )
    assert "\n" not in str(refused.value)
