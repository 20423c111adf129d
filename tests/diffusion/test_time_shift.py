"""How far a flow's times are moved: by a constant (SD3), or by the size of the image (FLUX, diffusers)."""

import jax.numpy as jnp
import numpy as np
import pytest
from difflax.diffusion.loss.time_samplers import Shifted, Uniform
from difflax.diffusion.schedules import RectifiedFlow, ResolutionFlow, log_snr
from difflax.diffusion.time_grids import CheckpointFlow, DynamicFlowShift, FlowShift, SizedFlow
from difflax.diffusion.time_shift import TimeShift

T = np.linspace(0.05, 0.95, 19)


def test_a_shift_adds_to_the_log_snr(x64):
    """Esser et al., eq. 23: the signal-to-noise ratio of every time is divided by the shift's square."""
    plain = RectifiedFlow()
    moved = log_snr(plain, TimeShift(shift=3.0)(T))
    np.testing.assert_allclose(moved, log_snr(plain, T) - 2 * np.log(3.0), atol=1e-12)
    np.testing.assert_allclose(moved, log_snr(RectifiedFlow(shift=3.0), T), atol=1e-12)


def test_schedule_grid_and_time_sampler_move_alike(x64):
    shift = TimeShift(shift=2.5)
    expected = np.asarray(RectifiedFlow(shift=2.5).alpha_sigma(jnp.asarray(T))[1])
    np.testing.assert_allclose(shift(T), expected, rtol=1e-12)
    sampler = Shifted(sampler=Uniform(), shift=shift)
    np.testing.assert_allclose(sampler.quantile(jnp.asarray(T), RectifiedFlow()), expected, rtol=1e-12)
    grid = FlowShift(shift=2.5).times(RectifiedFlow(), 20)
    np.testing.assert_allclose(grid[1:][::-1], expected, rtol=1e-12)


def test_fluxs_shift_follows_the_tokens():
    """black-forest-labs/flux, ``get_schedule``: exp(mu), mu 0.5 at 256 tokens and 1.15 at 4096."""
    line = TimeShift(mu=(0.5, 1.15))
    for tokens, mu in ((256, 0.5), (2176, 0.825), (4096, 1.15), (7936, 1.8)):
        assert line.of(tokens).shift == pytest.approx(np.exp(mu), rel=1e-12)
        assert DynamicFlowShift(tokens=tokens).time_shift == line.of(tokens)
        assert ResolutionFlow(tokens=tokens).time_shift == line.of(tokens)
    assert TimeShift(shift=3.0).of(4096) == TimeShift(shift=3.0)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_both_kinds_are_those_of_diffusers(kind):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    ours = TimeShift(mu=(0.5, 1.15), kind=kind).of(1024)
    mu = 0.5 + (1024 - 256) / (4096 - 256) * 0.65
    np.testing.assert_allclose(ours(T), theirs.time_shift(mu, 1.0, T), rtol=1e-12)


def test_a_grid_that_follows_the_image_is_of_one_image():
    grid = SizedFlow(shift=TimeShift(mu=(0.5, 1.15)))
    assert grid.of_latent((32, 32)).time_shift.shift == pytest.approx(np.exp(0.5))
    assert grid.of_latent((64, 16)).time_shift == grid.of_latent((32, 32)).time_shift
    assert CheckpointFlow().of_latent((32, 32)) == CheckpointFlow()


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"shift": 0.0}, "shift must be positive"), ({"tokens": (9, 9)}, "base_tokens must be below")],
)
def test_what_cannot_be(fields, says):
    with pytest.raises(ValueError, match=says):
        TimeShift(**fields)
    with pytest.raises(ValueError, match="number of tokens"):
        TimeShift(mu=(0.5, 1.15))(0.5)
