"""Image-to-image, restart and inpainting on the ordinary samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.diffusion.denoisers import with_memory
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers import DDIM, DDPM, SAMPLERS, DPMSolver2M, sample
from difflax.diffusion.samplers.base import BoundDenoiser
from difflax.diffusion.samplers.inpaint import Inpaint, InpaintOneNoise
from difflax.diffusion.schedules import SCHEDULES, add_noise
from difflax.diffusion.schedules.base import expand
from difflax.diffusion.time_grids import UniformLogSNR, sampling_levels
from difflax.diffusion.time_grids.sequences import levels_from, repaint_levels, restart_levels

LEVELS = sampling_levels(SCHEDULES["cosine"](), UniformLogSNR(sigma_max=40.0, sigma_min=0.03), 40)
RHO, COUNT = 0.9, 4000


def correlated(x, level, conditioning=None):
    """The ideal denoiser of two pixels of unit variance and correlation RHO."""
    covariance = np.array([[1.0, RHO], [RHO, 1.0]])
    values, vectors = np.linalg.eigh(covariance)
    alpha, sigma = expand(level.alpha, x), expand(level.sigma, x)
    rotated = x @ vectors
    scaled = rotated / (alpha**2 * values + sigma**2)
    return Prediction((alpha * values * scaled) @ vectors.T, (sigma * scaled) @ vectors.T)


def inpaint(levels, known=1.5):
    """The free pixel beside a known one, COUNT times."""
    keys = jax.random.split(jax.random.key(0), COUNT)
    sampler = Inpaint(
        sampler=DDPM(), known=jnp.full((COUNT, 2), known, jnp.float32), mask=jnp.asarray([1.0, 0.0])
    )
    start = jax.random.normal(jax.random.key(1), (COUNT, 2)) * levels.sigma[0]
    draw = jax.jit(lambda x: sample(correlated, sampler, levels, x, keys, conditioning=None))
    return np.asarray(draw(start))


def test_repaint_makes_the_conditional_distribution():
    """Of two correlated pixels the free one given the known one is N(rho k, 1 - rho^2). Replacement alone
    knows too little of it in time; with RePaint's jumps back the two come to fit.
    """
    plain, repainted = inpaint(LEVELS), inpaint(repaint_levels(LEVELS, jump=4, repeats=8))
    for images in (plain, repainted):
        np.testing.assert_allclose(images[:, 0], 1.5, rtol=1e-6)
    error = lambda images: abs(images[:, 1].mean() - RHO * 1.5)  # noqa: E731
    assert error(repainted) < 0.06 and error(repainted) < 0.7 * error(plain), (error(plain), error(repainted))
    np.testing.assert_allclose(repainted[:, 1].std(), np.sqrt(1 - RHO**2), rtol=0.2)


def test_repaint_order_goes_back_and_ends_at_the_data():
    order = np.asarray(repaint_levels(LEVELS, jump=10, repeats=3).t)
    assert order[0] == LEVELS.t[0] and order[-1] == 0
    assert (np.diff(order) > 0).sum() == 3 * 2  # after 10, 20 and 30 steps, twice each


def test_image_to_image_starts_at_a_noise_level():
    """SDEdit: the share of the steps, and the noisy image as the start."""
    part = levels_from(LEVELS, 0.5)
    assert part.t.shape == (21,)
    np.testing.assert_array_equal(part.t, LEVELS.t[20:])
    assert levels_from(LEVELS, 1.0).t.shape == LEVELS.t.shape
    image = jnp.asarray([[0.8, 0.8], [-1.0, -1.0]])
    keys = jax.random.split(jax.random.key(0), 2)
    start = add_noise(image, jax.random.normal(jax.random.key(1), (2, 2)), part[0])
    near = sample(correlated, DDIM(), levels_from(LEVELS, 0.1), image, keys, conditioning=None)
    end = sample(correlated, DDIM(), part, start, keys, conditioning=None)
    assert np.isfinite(end).all() and np.abs(near - image).max() < np.abs(end - image).max()


def test_restart_keeps_the_law_and_the_order_of_levels():
    """Every jump back is the exact forward process: at the end the covariance is still the data's."""
    levels = restart_levels(LEVELS, 10, 20, repeats=3)
    assert levels.t.shape == (41 + 33,) and (np.diff(levels.t) > 0).sum() == 3
    keys = jax.random.split(jax.random.key(0), COUNT)
    start = jax.random.normal(jax.random.key(1), (COUNT, 2)) * levels.sigma[0]
    x = jax.jit(lambda x: sample(correlated, DPMSolver2M(), levels, x, keys, conditioning=None))(start)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), [[1, RHO], [RHO, 1]], atol=0.08)


@pytest.mark.parametrize(
    "make",
    [
        lambda: restart_levels(LEVELS, 5, 5, 1),
        lambda: restart_levels(LEVELS, 5, 99, 1),
        lambda: restart_levels(LEVELS, 1, 2, -1),
        lambda: repaint_levels(LEVELS, 0),
        lambda: levels_from(LEVELS, 0.0),
        lambda: levels_from(LEVELS, 1e-3),
        lambda: levels_from(LEVELS, float("nan")),
    ],
)
def test_bad_sequences_are_refused(make):
    with pytest.raises(ValueError, match=r"restart|repaint|strength"):
        make()


@pytest.mark.parametrize("name", ["ddim", "heun", "plms", "dpm2", "unipc"])
def test_every_look_but_the_first_sees_the_known_part_under_the_same_noise(name):
    """Those within a step included, at the level that the network is asked at; at the end it is as given."""
    rng = np.random.default_rng(0)
    known, noise, start = (jnp.asarray(rng.normal(size=(1, 2)), jnp.float32) for _ in range(3))
    seen = []

    def look(x, level, conditioning=None):
        seen.append((np.asarray(x), level))
        return correlated(x, level)

    sampler = InpaintOneNoise(
        sampler=SAMPLERS[name](), known=known, mask=jnp.asarray([1.0, 0.0]), noise=noise
    )
    levels = LEVELS[10:14]
    keys = jax.random.split(jax.random.key(0), 1)
    x, state = start, sampler.init(start, keys)
    with jax.disable_jit():
        for i in range(3):
            bound = BoundDenoiser(with_memory(look), None, ())
            x, state = sampler.step(bound, x, levels[i], levels[i + 1], keys, state)
    np.testing.assert_array_equal(seen[0][0], start)
    assert len(seen) >= 3
    for image, level in seen[1:]:
        expected = level.alpha * known[0, 0] + level.sigma * noise[0, 0]
        np.testing.assert_allclose(image[0, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(sampler.finished(x), jnp.stack([known[:, 0], x[:, 1]], 1))
