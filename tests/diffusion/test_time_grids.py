"""Time grids: the spacings of the literature, and what is refused."""

import jax
import numpy as np
import pytest
from difflax.diffusion.predictions import Epsilon, V
from difflax.diffusion.schedules import SCHEDULES, Linear, ScaledLinear
from difflax.diffusion.time_grids import TIME_GRIDS, Karras, Leading, Linspace, Trailing, sampling_levels


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
@pytest.mark.parametrize("name", TIME_GRIDS)
def test_every_grid_falls_from_noise_to_data(name, n):
    levels = sampling_levels(ScaledLinear(), TIME_GRIDS[name](), n)
    assert levels.t.shape == (n + 1,)
    assert (np.diff(levels.t) < 0).all()
    assert levels.sigma[-1] == 0 and levels.alpha[-1] == 1


@pytest.mark.parity
@pytest.mark.parametrize("n", [1, 7, 20, 999, 1000])
def test_spacings_are_those_of_diffusers(n):
    diffusers = pytest.importorskip("diffusers")
    for grid in (Leading(steps_offset=0), Linspace(), Trailing()):
        name = type(grid).__name__.lower()
        theirs = diffusers.DDIMScheduler(timestep_spacing=name, steps_offset=0)
        theirs.set_timesteps(n)
        np.testing.assert_array_equal(np.round(grid.times(Linear(), n) * 1000) - 1, theirs.timesteps.numpy())


def test_karras_grid_is_edms(x64):
    """EDM eq. 5 and table 1: sigma from 80 to 0.002, rho 7; the middle of three is the published
    formula's.
    """
    levels = sampling_levels(SCHEDULES["rectified_flow"](), Karras(sigma_min=0.002, sigma_max=80.0), 3)
    ratio = np.asarray(levels.sigma / levels.alpha)
    middle = (80 ** (1 / 7) + 0.5 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(ratio, [80, middle, 0.002, 0], rtol=1e-9)


def test_bad_input_is_refused_in_one_line():
    with pytest.raises(ValueError, match="at least 1"):
        sampling_levels(Linear(), Trailing(), 0)
    with pytest.raises(ValueError, match="only 1000"):
        sampling_levels(Linear(), Trailing(), 1001)
    with pytest.raises(ValueError, match="singular at t = 1 "):
        sampling_levels(Linear(zero_terminal_snr=True), Trailing(), 5, prediction_type=Epsilon())
    sampling_levels(Linear(zero_terminal_snr=True), Trailing(), 5, prediction_type=V())
    with pytest.raises(ValueError, match="strictly decreasing"):
        sampling_levels(Linear(), Leading(steps_offset=999), 5)
    with pytest.raises(ValueError, match="sigma_max"):
        sampling_levels(Linear(zero_terminal_snr=True), Karras(), 5)
    with pytest.raises(ValueError, match="sigma_max"):
        Karras(sigma_min=2.0, sigma_max=1.0)


def test_levels_may_be_built_inside_jit():
    levels = jax.jit(lambda: sampling_levels(Linear(), Karras(), 5))()
    np.testing.assert_allclose(levels.t, sampling_levels(Linear(), Karras(), 5).t)
