"""Generated scheduler configs are read as diffusers reads them, step by step, or refused by name."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning, UserError
from difflax.diffusion.denoisers import make_denoiser, with_memory
from difflax.diffusion.samplers import dpm_solver
from difflax.diffusion.samplers.base import BoundDenoiser, sample
from difflax.pretrained.components.schedulers import Sampling, read_scheduler

from tests.pretrained.components.scheduler_configs import ROWS, Case, network, noise_of_level, weights

FILE = pathlib.Path(__file__).parents[2] / "fixtures" / "scheduler_configs.npz"


def stored() -> list[tuple[Case, np.ndarray, float]]:
    """Cases with the runs that diffusers made of them, empty where it made none, and the rounding of each."""
    with np.load(FILE) as data:
        cases = [Case(*case) for case in json.loads(bytes(data["cases"]))]
        runs = np.split(data["x"], np.cumsum(data["lengths"])[:-1])
        rounding = data["rounding"].tolist()
    return list(zip(cases, runs, rounding, strict=True))


@functools.lru_cache(maxsize=None)
def denoiser(schedule, prediction_type, network_input):
    parameters = {name: jnp.asarray(value) for name, value in weights().items()}

    def toy(x, time, conditioning):
        return network(x, time[0], jnp, parameters)

    return make_denoiser(toy, schedule, prediction_type, network_input=network_input)


@functools.lru_cache(maxsize=None)
def step_of(sampler, schedule, prediction_type, network_input):
    """One compiled step of a sampler, whatever the grid."""
    denoise = with_memory(denoiser(schedule, prediction_type, network_input))

    @jax.jit
    def step(x, now, next, keys, state):
        return sampler.step(BoundDenoiser(denoise, Conditioning(), ()), x, now, next, keys, state)

    return step


def path_noise(keys, u, u_next, shape, dtype):
    return noise_of_level(u_next, jnp, weights()["phase"])


@pytest.fixture(autouse=True)
def known_path(monkeypatch):
    monkeypatch.setattr(dpm_solver, "step_noise", path_noise)


def levels_and_start(sampling: Sampling, steps: int):
    levels = sampling.options.levels(
        sampling.schedule, sampling.time_grid, steps, sampling.prediction_type
    )
    start = jnp.hypot(levels.alpha[0], levels.sigma[0]) if sampling.unit_start else levels.sigma[0]
    return levels, start * weights()["start"]


def run_ours(sampling: Sampling, steps: int) -> np.ndarray:
    """The image after every step, in the coordinates of diffusers' class."""
    levels, x = levels_and_start(sampling, steps)
    step = step_of(sampling.sampler, sampling.schedule, sampling.prediction_type, sampling.network_input)
    keys = jax.random.split(jax.random.key(0), ROWS)
    state, images = sampling.sampler.init(x, keys), [x]
    levels = jax.tree.map(np.asarray, levels)
    for i in range(len(levels.t) - 1):
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        x, state = step(x, levels[i], levels[i + 1], own, state)
        images.append(x)
    return np.stack(images), levels


def difference(case: Case, theirs: np.ndarray) -> float | str:
    """The largest of a run, relative to the largest pixel of each step; or what is said against the config."""
    try:
        ours, levels = run_ours(read_scheduler(case.config), case.steps)
    except (UserError, ValueError) as error:
        return str(error)
    if len(theirs) == 0:
        return float("nan")
    if len(ours) != len(theirs):
        return float("inf")
    # Classes that step in sigma / alpha hold images divided by alpha.
    scale = np.abs(theirs[0]).max() / np.abs(ours[0]).max()
    exploding = abs(scale - 1) > 1e-3 or "Heun" in case.name
    divided = ours / levels.alpha[:, None, None] if exploding else ours
    size = np.abs(theirs).max(axis=(1, 2))
    return float((np.abs(divided - theirs).max(axis=(1, 2)) / size).max())
