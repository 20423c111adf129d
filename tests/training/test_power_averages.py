"""Power-function averages against closed forms, quadrature, and numbers of the paper's own code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from difflax.core.types import UserError
from difflax.training.ema import EMA
from difflax.training.power_averages import LARGEST_ERROR, exponent, inner_products, snapshot_weights

LENGTHS = (0.05, 0.10)

PUBLISHED = {0.05: 16.972198602303447, 0.07: 11.244939447857924, 0.10: 6.937203937601809}
"""Of ``std_to_exp`` in training/phema.py of github.com/NVlabs/edm2; the paper rounds to 16.97 and 6.94."""


def profile(t, gamma, end):
    """The weight of time ``t`` in the average that ends at ``end``."""
    return np.where(t <= end, (gamma + 1) * np.power(t, gamma) / end ** (gamma + 1), 0.0)


def power_average(values, length, step):
    """The average after ``step`` of known values of steps 1, 2, …, summed directly in float64."""
    edges = (np.arange(step + 1) / step) ** (exponent(length) + 1)
    return np.diff(edges) @ values[:step]


@pytest.mark.parametrize("length", [0.001, 0.03, 0.05, 0.07, 0.10, 0.2, 0.28])
def test_the_exponent_gives_a_profile_of_that_standard_deviation(length):
    """By quadrature over the profile itself."""
    gamma = exponent(length)
    # In the distance from the end, where the profile is, so that quadrature finds a narrow one.
    weight = lambda back: profile(1 - back, gamma, 1.0)  # noqa: E731
    moment = lambda k: scipy.integrate.quad(  # noqa: E731
        lambda b: b**k * weight(b), 0, 1, points=[length, 5 * length], epsabs=1e-14
    )[0]
    assert moment(0) == pytest.approx(1, abs=1e-9)
    assert np.sqrt(moment(2) - moment(1) ** 2) == pytest.approx(length, rel=1e-6)
    if length in PUBLISHED:
        assert gamma == pytest.approx(PUBLISHED[length], rel=1e-12)


def test_inner_products_are_the_integrals():
    times, exponents = np.array([3.0, 5.0, 5.0, 8.0]), np.array([16.97, 6.94, 2.0, 0.5])
    found = inner_products(times, exponents, times, exponents)
    for i in range(4):
        for j in range(4):
            end = min(times[i], times[j])
            integral, _ = scipy.integrate.quad(
                lambda t, i=i, j=j: profile(t, exponents[i], times[i]) * profile(t, exponents[j], times[j]),
                0,
                end,
                epsabs=1e-12,
            )
            assert found[i, j] == pytest.approx(integral, rel=1e-8)


@pytest.mark.parametrize("length", [0.04, 0.07, 0.15])
def test_weights_are_the_least_squares_of_the_profiles_themselves(length):
    """Profiles on the points of a quadrature, solved by SciPy, which knows no inner products of ours."""
    times, lengths = np.repeat([100.0, 200.0, 300.0], 2), np.tile(LENGTHS, 3)
    weights, error = snapshot_weights(times, lengths, 300.0, length)
    pieces = [np.polynomial.legendre.leggauss(60) for _ in range(3)]
    points = np.concatenate([100 * i + 50 * (x + 1) for i, (x, _) in enumerate(pieces)])
    root = np.sqrt(np.concatenate([50 * w for _, w in pieces]))
    columns = np.stack([profile(points, exponent(s), t) for t, s in zip(times, lengths, strict=True)], axis=1)
    wanted = profile(points, exponent(length), 300.0)
    best, _, rank, _ = scipy.linalg.lstsq(root[:, None] * columns, root * wanted)
    assert rank == 6
    np.testing.assert_allclose(weights, best / best.sum(), rtol=1e-6, atol=1e-9)
    missed = np.linalg.norm(root * (columns @ weights - wanted)) / np.linalg.norm(root * wanted)
    assert error == pytest.approx(missed, rel=1e-6)
    assert weights.sum() == pytest.approx(1)


def test_a_length_that_was_kept_is_itself():
    weights, error = snapshot_weights(np.repeat([10.0, 20.0], 2), np.tile(LENGTHS, 2), 20.0, 0.10)
    np.testing.assert_allclose(weights, [0, 0, 0, 1], atol=1e-10)
    assert error < 1e-6


@pytest.fixture(scope="module")
def scalar_run():
    """A number that wanders for 4,000 steps, followed in float32, with snapshots of every 250th."""
    steps, lengths = 4000, (*LENGTHS, 0.08)
    draws = np.random.default_rng(0).normal(size=steps)
    values = 3 + np.cumsum(draws) * 0.01 + draws
    ema = EMA(profiles=lengths)

    def step(averages, given):
        number, value = given
        averages = ema.follow(averages, value, number)
        return averages, jnp.stack(averages)

    first = (jnp.float32(99.0),) * 3  # parameters from before the first step, which count for nothing
    _, averages = jax.lax.scan(step, first, (jnp.arange(1, steps + 1), jnp.asarray(values, jnp.float32)))
    return values, lengths, np.asarray(averages, np.float64)


def test_what_is_kept_is_the_power_average_of_all_steps(scalar_run):
    values, lengths, averages = scalar_run
    for step in (1, 2, 10, 500, 4000):
        wanted = [power_average(values, length, step) for length in lengths]
        np.testing.assert_allclose(averages[step - 1], wanted, atol=2e-5)


@pytest.mark.parametrize("length", [0.08, 0.04, 0.06, 0.15])
def test_a_rebuilt_average_is_the_one_that_was_not_kept(length, scalar_run):
    values, lengths, averages = scalar_run
    steps = np.arange(250, 4001, 250)
    weights, error = snapshot_weights(np.repeat(steps, 2).astype(float), np.tile(LENGTHS, 16), 4000.0, length)
    rebuilt = weights @ averages[steps - 1, :2].ravel()
    wanted = power_average(values, length, 4000)
    assert error < 0.012
    # Within what the values vary by, times the part of the profile that is missed.
    assert abs(rebuilt - wanted) < error * values.std()
    if length == 0.08:
        assert abs(rebuilt - averages[-1, lengths.index(length)]) < 1e-3


def test_what_stood_still_is_rebuilt_as_it_was():
    """Though two snapshots miss the profile by several per cent."""
    weights, error = snapshot_weights(np.repeat([1.0, 2.0], 2), np.tile(LENGTHS, 2), 2.0, 0.07)
    assert 0.01 < error < LARGEST_ERROR and weights.sum() == pytest.approx(1, abs=1e-12)


def test_late_steps_still_move_the_average():
    """Of step 10 million beta is 1 to within a few ends of float32's last digit."""
    moved = EMA(profiles=(0.05,)).follow((jnp.float32(0.0),), jnp.float32(1.0), jnp.asarray(10_000_000))
    assert float(moved[0]) == pytest.approx((exponent(0.05) + 1) / 1e7, rel=1e-4)


@pytest.mark.parametrize(("profiles", "says"), [((0.3,), "at most 0.28"), ((0.0,), "positive")])
def test_no_length(profiles, says):
    with pytest.raises(UserError, match=says):
        EMA(profiles=profiles)
    with pytest.raises(ValueError, match="each length once"):
        EMA(profiles=(0.05, 0.05))
