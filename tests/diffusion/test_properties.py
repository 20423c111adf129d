"""What holds for any shape, batch, precision and number of steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning
from difflax.diffusion.denoisers import make_denoiser
from difflax.diffusion.guidance import ClassifierFreeGuidance, Guided
from difflax.diffusion.predictions import PREDICTIONS, target, to_prediction
from difflax.diffusion.samplers import SAMPLERS, initial_noise, sample
from difflax.diffusion.schedules import SCHEDULES, noise_level
from difflax.diffusion.schedules.base import add_noise
from difflax.diffusion.time_grids import Even, sampling_levels
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.diffusion.members import ALL_SCHEDULES

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
TIMES = st.floats(0.02, 0.98)


def bfloat16_network(x, time, conditioning):
    """Computes in bfloat16, whatever it is given."""
    out = jnp.tanh(x.astype(jnp.bfloat16))
    return out + 0 * time.astype(jnp.bfloat16).reshape(-1, *[1] * (x.ndim - 1))


@settings(max_examples=12, deadline=None)
@given(
    shape=SHAPES,
    t=TIMES,
    schedule=st.sampled_from(sorted(ALL_SCHEDULES)),
    prediction=st.sampled_from(sorted(PREDICTIONS)),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
def test_conversions_keep_shape_and_precision(shape, t, schedule, prediction, dtype):
    """The images' precision is kept; levels stay in float32 whatever the images have."""
    level, kind = noise_level(ALL_SCHEDULES[schedule], t), PREDICTIONS[prediction]()
    assert level.alpha.dtype == level.sigma.dtype == jnp.float32
    x0, eps = (jax.random.normal(k, shape, dtype) for k in jax.random.split(jax.random.key(0)))
    x = add_noise(x0, eps, level)
    out = target(kind, x0, eps, level)
    back = to_prediction(kind, out, x, level)
    for a in (x, out, back.x0, back.eps):
        assert a.shape == shape and a.dtype == dtype


@settings(max_examples=12, deadline=None)
@given(t=TIMES, schedule=st.sampled_from(sorted(ALL_SCHEDULES)), rows=st.integers(1, 4))
def test_one_level_or_one_a_row_are_the_same(t, schedule, rows):
    schedule = ALL_SCHEDULES[schedule]
    one, each = noise_level(schedule, t), noise_level(schedule, np.full(rows, t))
    x0, eps = (jax.random.normal(k, (rows, 3, 2)) for k in jax.random.split(jax.random.key(0)))
    np.testing.assert_allclose(add_noise(x0, eps, one), add_noise(x0, eps, each), rtol=1e-6, atol=1e-7)


@settings(max_examples=6, deadline=None)
@given(
    rows=st.integers(1, 4),
    scale=st.floats(-3, 12),
    name=st.sampled_from(["ddim", "dpmpp_2m"]),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
def test_a_run_keeps_the_precision_of_its_images(rows, scale, name, dtype):
    """With a network in bfloat16 and guidance, whatever the batch: finite, and in the images' precision."""
    schedule, kind = SCHEDULES["cosine"](), PREDICTIONS["v"]()
    levels = sampling_levels(schedule, Even(), 2, prediction_type=kind)
    keys = jax.random.split(jax.random.key(0), rows)
    denoise = make_denoiser(bfloat16_network, schedule, kind)
    both = Guided(Conditioning(pooled=jnp.ones((rows, 1))), Conditioning(pooled=jnp.zeros((rows, 1))))
    start = initial_noise(keys, (2, 2, 1), levels).astype(dtype)
    with jax.disable_jit():
        end = sample(
            ClassifierFreeGuidance(scale).wrap(denoise), SAMPLERS[name](), levels, start, keys,
            conditioning=both,
        )  # fmt: skip
    assert end.shape == (rows, 2, 2, 1) and end.dtype == dtype and np.isfinite(end.astype(jnp.float32)).all()


def test_times_are_exact_in_float32_for_networks_in_bfloat16():
    """The network sees its timesteps in float32: bfloat16 holds whole numbers to 256 only."""
    seen = []

    def network(x, time, conditioning):
        seen.append(time)
        return x

    schedule, kind = SCHEDULES["scaled_linear"](), PREDICTIONS["epsilon"]()
    denoise = make_denoiser(network, schedule, kind)
    denoise(jnp.ones((1, 2, 2, 1), jnp.bfloat16), noise_level(schedule, 0.997), Conditioning())
    assert seen[0].dtype == jnp.float32
    np.testing.assert_allclose(seen[0], 997.0)


@pytest.mark.parametrize("name", ["ddpm", "unipc"])
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_any_number_of_steps(name, steps):
    schedule = SCHEDULES["cosine"]()
    levels = sampling_levels(schedule, Even(), steps)
    keys = jax.random.split(jax.random.key(0), 2)
    denoise = make_denoiser(lambda x, t, c: 0.5 * x, schedule, PREDICTIONS["x0"]())
    x = jax.jit(
        lambda levels: sample(
            denoise, SAMPLERS[name](), levels, initial_noise(keys, (3,), levels), keys,
            conditioning=Conditioning(),
        )
    )(levels)  # fmt: skip
    assert x.shape == (2, 3) and np.isfinite(x).all()
