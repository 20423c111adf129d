"""Generated scheduler configs are read as diffusers reads them, step by step, or refused by name."""

import functools
import itertools
import json
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning, UserError
from difflax.diffusion.denoisers import make_denoiser, with_memory
from difflax.diffusion.samplers import dpm_solver
from difflax.diffusion.samplers.base import BoundDenoiser, sample
from difflax.diffusion.time_grids import pad_levels
from difflax.pretrained.components.scheduler_classes import SCHEDULER_CLASSES
from difflax.pretrained.components.scheduler_reading import Sampling
from difflax.pretrained.components.schedulers import read_scheduler

from tests.pretrained.components.scheduler_configs import (
    AXES,
    LATENT,
    ROWS,
    Case,
    network,
    noise_of_level,
    weights,
)

FILE = pathlib.Path(__file__).parents[2] / "fixtures" / "scheduler_configs.npz"


@functools.cache
def stored_cases() -> list[tuple[Case, np.ndarray, float]]:
    """Cases with the runs that diffusers made of them, empty where it made none, and the rounding of each."""
    with np.load(FILE) as data:
        cases = [Case(*case) for case in json.loads(bytes(data["cases"]))]
        runs = np.split(data["x"], np.cumsum(data["lengths"])[:-1])
        rounding = data["rounding"].tolist()
    return list(zip(cases, runs, rounding, strict=True))


@functools.cache
def denoiser(schedule, prediction_type, network_input):
    parameters = {name: jnp.asarray(value) for name, value in weights().items()}

    def toy(x, time, conditioning):
        return network(x, time[0], jnp, parameters)

    return make_denoiser(toy, schedule, prediction_type, network_input=network_input)


@functools.cache
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
    levels = sampling.options.levels(sampling.schedule, sampling.time_grid, steps, sampling.prediction_type)
    start = jnp.hypot(levels.alpha[0], levels.sigma[0]) if sampling.unit_start else levels.sigma[0]
    return levels, start * weights()["start"]


def run_ours(sampling: Sampling, steps: int):
    """The image after every step, in the coordinates of diffusers' class."""
    levels, x = levels_and_start(sampling, steps)
    step = step_of(sampling.sampler, sampling.schedule, sampling.prediction_type, sampling.network_input)
    keys = jax.random.split(jax.random.key(0), ROWS)
    state, images = sampling.sampler.init(x, keys), [x]
    for i in range(len(levels.t) - 1):
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        x, state = step(x, levels[i], levels[i + 1], own, state)
        images.append(x)
    return np.stack(images), levels


IN_SIGMA = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler")
"""Classes that hold images divided by alpha, where difflax's sampler does not."""


def difference(case: Case, theirs: np.ndarray) -> float | str:
    """The largest of a run, relative to its steps' largest pixels; or what is said against the config."""
    try:
        ours, levels = run_ours(read_scheduler(case.config), case.steps)
    except (UserError, ValueError) as error:
        return str(error)
    if len(theirs) == 0:
        return float("nan")
    if len(ours) != len(theirs):
        return float("inf")
    divided = ours / levels.alpha[:, None, None] if case.name in IN_SIGMA else ours
    size = np.abs(theirs).max(axis=(1, 2))
    return float((np.abs(divided - theirs).max(axis=(1, 2)) / size).max())


TIMES_ROUNDING = 10
LEAST_ROUNDING = 3e-7
"""Of float32, where nudging the last bits changed next to nothing."""


WORST_ROUNDING = 1e-3
"""Where the last bits decide more of an image than this, there is nothing to compare."""


def check(case: Case, theirs: np.ndarray, rounding: float) -> bool:
    """Whether the case was compared; else it was refused, by the name of one of its options.

    Raises:
        AssertionError: its run differs, or it is refused for no reason that it shows.
    """
    found = difference(case, theirs)
    if isinstance(found, str):
        options = [name for name in case.config if not name.startswith("_")]
        # A run's own number of steps, and a network's output that says nothing at zero SNR.
        named = [*options, "timesteps", "steps", "singular"]
        assert any(name in found for name in named) and "\n" not in found, (case, found)
        return False
    if rounding > WORST_ROUNDING:
        return False
    assert found < TIMES_ROUNDING * max(rounding, LEAST_ROUNDING), (str(case), found, rounding)
    return True


NAMES = sorted(AXES)
FAST = ("DDIMScheduler", "FlowMatchEulerDiscreteScheduler")
"""Those whose samplers take no more than a few programs."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in NAMES]
)
def test_stored_runs(name):
    cases = [stored for stored in stored_cases() if stored[0].name == name]
    compared = sum(check(*case) for case in cases)
    assert compared >= 0.6 * len(cases) > 0, f"{compared} of {len(cases)} configs are read"


def test_some_of_every_class():
    """The first config of each that is read: the rest of them in the slow run."""
    for name in NAMES:
        assert any(check(*case) for case in itertools.islice(cases_of(name), 4)), name


def cases_of(name):
    return (stored for stored in stored_cases() if stored[0].name == name)


def test_there_are_hundreds():
    cases = [case for case, *_ in stored_cases()]
    assert len(cases) >= 300
    assert len({str(case) for case in cases}) == len(cases)
    assert {case.name for case in cases} == set(SCHEDULER_CLASSES)
    assert {case.steps for case in cases} >= {4, 7, 23, 37, 48, 50}


def test_the_whole_loop_makes_the_last_image():
    """`sample` with padded levels, compiled, on a config whose last level repeats."""
    config = LATENT | {"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": True}
    sampling = read_scheduler(config | {"final_sigmas_type": "sigma_min"})
    levels, start = levels_and_start(sampling, 12)
    ours, _ = run_ours(sampling, 12)
    denoise = denoiser(sampling.schedule, sampling.prediction_type, sampling.network_input)
    keys = jax.random.split(jax.random.key(0), ROWS)
    made = sample(denoise, sampling.sampler, pad_levels(levels, 20), start, keys, conditioning=Conditioning())
    np.testing.assert_allclose(made, ours[-1], atol=1e-5)


@pytest.mark.parity
@pytest.mark.slow
def test_live_runs_are_the_stored_ones():
    """The installed diffusers still makes of the configs what is stored."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from tests.fixtures.make_scheduler_configs import run_diffusers, step_noises

    noises = step_noises()
    for case, theirs, rounding in stored_cases():
        if len(theirs):
            with warnings.catch_warnings():  # a quarter of a million of NumPy's
                warnings.simplefilter("ignore")
                run = run_diffusers(case, noises)
            size = np.abs(theirs).max(axis=(1, 2), keepdims=True)
            assert np.abs((run - theirs) / size).max() < 10 * max(rounding, LEAST_ROUNDING), str(case)


@pytest.mark.parity
def test_options_and_defaults_of_every_class_are_diffusers_own():
    """A class reads what diffusers' class takes, with its defaults; the others' options are all known."""
    pytest.importorskip("torch")
    import inspect

    import diffusers

    for name, kind in SCHEDULER_CLASSES.items():
        theirs = {
            key: parameter.default
            for key, parameter in inspect.signature(getattr(diffusers, name).__init__).parameters.items()
            if key != "self"
        }
        # Read by respacings, though the class does not name them.
        ours = {
            key: value
            for key, value in kind.defaults.items()
            if key in theirs or key not in ("sigma_min", "sigma_max")
        }
        assert ours == theirs, name
    from difflax.pretrained.components.scheduler_options import OTHER_OPTIONS, VALUES

    known = (
        set(OTHER_OPTIONS)
        | set(VALUES)
        | {key for kind in SCHEDULER_CLASSES.values() for key in kind.defaults}
    )
    for name in dir(diffusers):
        if name.endswith("Scheduler") and isinstance(getattr(diffusers, name), type):
            parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
            missing = (
                {key for key, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
                - known
                - {"self"}
            )
            assert not missing, (name, missing)
