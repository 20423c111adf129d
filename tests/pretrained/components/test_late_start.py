"""Runs that start late (image-to-image) under a scheduler whose steps depend on where they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning
from difflax.diffusion.samplers.base import sample
from difflax.diffusion.schedules import add_noise
from difflax.diffusion.time_grids import pad_levels
from difflax.diffusion.time_grids.sequences import PARTS, levels_from
from difflax.pretrained.components.schedulers import read_scheduler

from tests.pretrained.components.scheduler_configs import LATENT, ROWS, network, weights
from tests.pretrained.components.test_scheduler_configs import denoiser

CONFIGS = {
    "leading": {"steps_offset": 1},
    "linspace": {"timestep_spacing": "linspace", "set_alpha_to_one": True},
    "v": {"steps_offset": 1, "prediction_type": "v_prediction"},
}
PLMS = LATENT | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}


def theirs(config, n, strength):
    """What an image-to-image pipeline of diffusers makes of the start."""
    torch = pytest.importorskip("torch")
    import diffusers

    scheduler = diffusers.PNDMScheduler.from_config(config)
    scheduler.set_timesteps(n)
    parameters = {name: torch.from_numpy(value) for name, value in weights().items()}
    times = scheduler.timesteps[n - int(n * strength) :]
    x = scheduler.add_noise(0.7 * parameters["phase"], parameters["start"], times[:1])
    for t in times:
        x = scheduler.step(network(x, t.float(), torch, parameters), t, x, return_dict=False)[0]
    return x.numpy()


@pytest.mark.parity
@pytest.mark.parametrize("name", CONFIGS)
def test_pndm_counts_its_calls(name):
    config = PLMS | CONFIGS[name]
    sampling = read_scheduler(config)
    denoise = denoiser(sampling.schedule, sampling.prediction_type, sampling.network_input)
    keys = jax.random.split(jax.random.key(0), ROWS)
    run = jax.jit(
        lambda levels, x: sample(denoise, sampling.sampler, levels, x, keys, conditioning=Conditioning())
    )
    errors = {}
    for n, taken in ((3, 1), (3, 2), (7, 3), (7, 6), (7, 7), (13, 1), (13, 11), (13, 12), (20, 9)):
        strength = (taken + 0.5) / n if taken < n else 1.0
        assert PARTS["down"](n, strength) == taken
        levels = sampling.options.levels(sampling.schedule, sampling.time_grid, n, sampling.prediction_type)
        levels = levels_from(levels, strength, late=sampling.sampler.started_late)
        x = add_noise(jnp.asarray(0.7 * weights()["phase"]), jnp.asarray(weights()["start"]), levels[0])
        expected = theirs(config, n, strength)
        made = np.asarray(run(pad_levels(levels, 24), x))
        errors[n, taken] = np.abs(made - expected).max() / np.abs(expected).max()
    assert max(errors.values()) < 1e-5, errors


def test_runge_kutta_steps_do_not_start_late():
    sampling = read_scheduler(PLMS | {"skip_prk_steps": False})
    levels = sampling.options.levels(sampling.schedule, sampling.time_grid, 10, sampling.prediction_type)
    assert levels_from(levels, 1.0, late=sampling.sampler.started_late) is levels
    with pytest.raises(ValueError, match="skip_prk_steps = false makes no image of a strength below 1"):
        levels_from(levels, 0.5, late=sampling.sampler.started_late)
