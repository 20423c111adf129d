"""The noise of a path: the same when its steps are refined."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from difflax.diffusion.samplers import DPMSolver2MSDE, sample
from difflax.diffusion.samplers.brownian import path, step_noise
from difflax.diffusion.verification.oracles import Mixture
from difflax.diffusion.verification.orders import runs

KEYS = jax.random.split(jax.random.key(0), 4000)
DRAW = jax.jit(lambda a, b: step_noise(KEYS, a, b, (1,), jnp.float32)[:, 0])


def test_steps_are_standard_normal_and_independent():
    u = np.array([-3.0, -1.2, 0.1, 2.0], np.float32)
    z = np.stack([DRAW(a, b) for a, b in itertools.pairwise(u)])
    np.testing.assert_allclose(np.cov(z), np.eye(3), atol=0.08)


def test_a_step_is_the_right_sum_of_its_parts():
    """``sqrt(1 - r^2) z = r_2 sqrt(1 - r_1^2) z_1 + sqrt(1 - r_2^2) z_2`` with ``r = r_1 r_2``."""
    a, m, b = np.float32(-0.7), np.float32(0.2), np.float32(1.4)
    r_1, r_2 = np.exp((a - m) / 2), np.exp((m - b) / 2)
    whole = np.sqrt(1 - (r_1 * r_2) ** 2) * DRAW(a, b)
    parts = r_2 * np.sqrt(1 - r_1**2) * DRAW(a, m) + np.sqrt(1 - r_2**2) * DRAW(m, b)
    np.testing.assert_allclose(whole, parts, atol=2e-4)


def test_the_path_is_stationary_and_correlated_as_it_should_be():
    low, high = (np.asarray(path(KEYS, jnp.float32(u), (1,), jnp.float32))[:, 0] for u in (0.3, 1.5))
    np.testing.assert_allclose([low.var(), high.var()], 1, atol=0.08)
    np.testing.assert_allclose(np.corrcoef(low, high)[0, 1], np.exp(-0.6), atol=0.04)


def test_runs_of_more_steps_follow_the_same_path(x64):
    """Strong convergence: with its keys kept, a sample of 2n steps is near that of n steps, and nearer still
    the next time; with fresh keys it is somewhere else.
    """
    data, ends = Mixture(), []
    for levels in runs((16, 32, 64)):
        start = levels.sigma[0] * jax.random.normal(jax.random.key(1), (8, 3))
        draw = jax.jit(
            lambda keys, levels=levels, start=start: sample(
                data.denoise, DPMSolver2MSDE(), levels, start, keys, conditioning=None
            )
        )
        ends.append((draw(KEYS[:8]), draw(KEYS[8:16])))
    moves = [float(np.abs(a[0] - b[0]).mean()) for a, b in itertools.pairwise(ends)]
    fresh = float(np.abs(ends[-1][0] - ends[-1][1]).mean())
    assert moves[1] < 0.7 * moves[0] and moves[1] < 0.15 * fresh, (moves, fresh)
