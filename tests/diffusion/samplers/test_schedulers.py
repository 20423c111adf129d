"""Whole runs of diffusers' PyTorch schedulers, on the same network, start and noise, equal ours to 1e-5."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning
from difflax.diffusion.denoisers import NetworkInput, make_denoiser
from difflax.diffusion.samplers import ddim, ddpm, dpm_solver, edm, lcm, ode, sample
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.time_grids import sampling_levels
from difflax.diffusion.time_grids.sequences import variance_exploding

from tests.diffusion.samplers.scheduler_cases import CASES

FIXTURE = pathlib.Path(__file__).parents[2] / "fixtures" / "schedulers.npz"


@dataclasses.dataclass
class Recorder:
    """A sampler that notes where every step led."""

    sampler: Sampler
    images: list

    @property
    def evaluations(self):
        return self.sampler.evaluations

    def init(self, x, keys):
        return self.sampler.init(x, keys)

    def step(self, denoise, x, now, next, keys, state):
        x, state = self.sampler.step(denoise, x, now, next, keys, state)
        self.images.append(np.asarray(x))
        return x, state


def network(parameters, x, time, conditioning):
    """That of the fixture's script; a network that does not read its time has c = 0."""
    hidden = x @ parameters["W"] + parameters["b"] + parameters["c"] * time[:, None] / 1000
    return jnp.tanh(hidden)[:, : parameters["outputs"]]


def run_ours(case, parameters, x_start, noise, monkeypatch):
    """The images after every step, one eager step after the other."""
    drawn = iter(noise)
    for module in (ddim, ddpm, edm, lcm, ode):
        monkeypatch.setattr(module, "normal", lambda *_: jnp.asarray(next(drawn, 0.0)))
    monkeypatch.setattr(dpm_solver, "step_noise", lambda *_: jnp.asarray(next(drawn, 0.0)))
    learned = "learned" in str(case.settings.get("variance_type"))
    parameters = {
        **parameters,
        "c": parameters["c"] * case.timed,
        "outputs": 2 * x_start.shape[1] if learned else x_start.shape[1],
    }
    flow = case.prediction == "flow_velocity"
    denoise = make_denoiser(
        functools.partial(network, parameters), case.schedule, case.prediction_type,
        network_input=NetworkInput(time_scale=1000.0, time_offset=0.0 if flow else -1.0),
    )  # fmt: skip
    levels = sampling_levels(
        case.schedule, case.grid, -(-case.steps // case.every), prediction_type=case.prediction_type,
        final_t=case.final_t,
    )  # fmt: skip
    if case.exploding:
        levels = variance_exploding(levels)
    recorder = Recorder(case.sampler, [x_start])
    with jax.disable_jit():
        keys = jax.random.split(jax.random.key(0), len(x_start))
        sample(denoise, recorder, levels, jnp.asarray(x_start), keys, conditioning=Conditioning())
    assert next(drawn, None) is None
    return np.stack(recorder.images)


def assert_equal_runs(ours, theirs):
    """To 1e-5 of the largest pixel of each step."""
    size = np.abs(theirs).max(axis=(1, 2))
    error = np.abs(ours - theirs).max(axis=(1, 2)) / size
    assert error.max() < 1e-5, error


def once(name):
    """Grids and predictions that a sampler shares with others: compared with one of each family, the rest in
    the slow run.
    """
    sampler, grid = name.rsplit(" ", 1)
    shared = grid in ("leading", "linspace", "karras", "exponential", "beta", "v", "x0")
    tried = sampler in ("euler", "dpmpp 2m", "ddim")
    return pytest.param(name, marks=[pytest.mark.slow] if shared and not tried else [])


@pytest.mark.parametrize("name", [once(name) if " " in name else name for name in CASES])
def test_stored_runs(x64, name, monkeypatch):
    with np.load(FIXTURE) as stored:
        parameters = {key: np.asarray(stored[f"network/{key}"], np.float64) for key in "Wbc"}
        x = np.asarray(stored[f"{name}/x"], np.float64)
        key = f"{name}/noise"
        noise = np.asarray(stored[key], np.float64) if key in stored else []
    assert_equal_runs(run_ours(CASES[name], parameters, x[0], noise, monkeypatch), x)


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_live_runs_are_the_stored_ones(name):
    """The installed diffusers still makes the runs of the fixture."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    if name.startswith("dpmpp sde"):
        pytest.importorskip("torchsde")
    from tests.fixtures.make_schedulers import run_diffusers

    with np.load(FIXTURE) as stored:
        for key, value in run_diffusers(CASES[name]).items():
            np.testing.assert_allclose(value, stored[f"{name}/{key}"], rtol=1e-5, atol=1e-5)
