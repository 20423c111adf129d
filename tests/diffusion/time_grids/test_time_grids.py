"""Time grids: the spacings of the literature, and what is refused."""

import jax
import numpy as np
import pytest
from difflax.diffusion.predictions import Epsilon, V
from difflax.diffusion.schedules import SCHEDULES, Linear, ScaledLinear
from difflax.diffusion.time_grids import (
    TIME_GRIDS,
    AlignYourSteps,
    DynamicFlowShift,
    Even,
    FlowShift,
    Karras,
    Leading,
    Linspace,
    Quadratic,
    Trailing,
    UniformLogSNR,
    sampling_levels,
)


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
@pytest.mark.parametrize("name", TIME_GRIDS)
def test_every_grid_falls_from_noise_to_data(name, n):
    if name == "distilled" and n > 50:
        with pytest.raises(ValueError, match="distilled on 50 steps"):
            sampling_levels(ScaledLinear(), TIME_GRIDS[name](), n)
        return
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


def test_edms_grid_of_18_steps(x64):
    """The sigmas that EDM's own formula gives for CIFAR-10's 18 steps (table 1), in float64 by numpy."""
    levels = sampling_levels(SCHEDULES["edm"](), Karras(sigma_min=0.002, sigma_max=80.0), 18)
    i = np.arange(18)
    published = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(levels.sigma[:-1], published, rtol=1e-9)
    np.testing.assert_allclose(levels.sigma[1:5], [57.586, 40.786, 28.375, 19.352], rtol=1e-4)


def test_sd3s_shifted_grid():
    """Esser et al., eq. 23 with shift 3: t 0.75 becomes 0.9, 0.5 becomes 0.75, 0.25 becomes 0.5."""
    times = FlowShift(shift=3.0).times(SCHEDULES["rectified_flow"](), 4)
    np.testing.assert_allclose(times, [1.0, 0.9, 0.75, 0.5], rtol=1e-12)
    levels = sampling_levels(SCHEDULES["rectified_flow"](shift=3.0), Even(), 4)
    np.testing.assert_allclose(levels.sigma, [1.0, 0.9, 0.75, 0.5, 0.0], rtol=1e-6)


def test_align_your_steps_are_the_published_tables(x64):
    """Sabour et al.: the ten sigmas of Stable Diffusion 1.5."""
    levels = sampling_levels(ScaledLinear(), AlignYourSteps(model="sd15"), 10)
    published = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152]
    np.testing.assert_allclose((levels.sigma / levels.alpha)[:-1], published, rtol=1e-6)


def test_uniform_log_snr_and_quadratic(x64):
    levels = sampling_levels(SCHEDULES["vp_sde"](), UniformLogSNR(sigma_max=50.0, sigma_min=0.05), 12)
    np.testing.assert_allclose(np.diff(np.asarray(levels.log_snr)[:-1], 2), 0, atol=1e-6)
    np.testing.assert_allclose(Quadratic().times(Linear(), 4), [1, 9 / 16, 1 / 4, 1 / 16])


def test_dynamic_shift_is_fluxs():
    """mu 0.5 at 256 tokens and 1.15 at 4096, linear between; t' = e^mu / (e^mu + 1 / t - 1)."""
    for tokens, mu in ((256, 0.5), (4096, 1.15), (2176, 0.825)):
        times = DynamicFlowShift(tokens=tokens).times(SCHEDULES["rectified_flow"](), 5)
        t = np.arange(5, 0, -1) / 5
        np.testing.assert_allclose(times, np.exp(mu) / (np.exp(mu) + 1 / t - 1), rtol=1e-9)


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
