"""Scheduler configs of checkpoints, against diffusers' schedulers run on the same denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning, UserError
from difflax.diffusion.denoisers import make_denoiser
from difflax.diffusion.predictions import V
from difflax.diffusion.samplers import PLMS, sample
from difflax.diffusion.schedules import ScaledLinear
from difflax.diffusion.time_grids import sampling_levels
from difflax.diffusion.time_grids.sequences import variance_exploding
from difflax.pretrained.components.schedulers import read_scheduler

STABLE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}
CASES = [
    ("PNDMScheduler", {}, 20, 1e-4),
    ("DDIMScheduler", {}, 20, 1e-4),
    ("DDIMScheduler", {"prediction_type": "v_prediction"}, 50, 1e-4),
    ("DDIMScheduler", {"set_alpha_to_one": True, "steps_offset": 0}, 30, 1e-4),
    ("DDIMScheduler", {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
     | {"prediction_type": "v_prediction"}, 20, 1e-4),
    ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, 20, 1e-4),
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, 20, 1e-4),
    ("EulerDiscreteScheduler", {}, 20, 2e-3),  # between timesteps the tables are interpolated differently
    ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "use_karras_sigmas": True}, 20, 2e-3),
    ("LMSDiscreteScheduler", {"timestep_spacing": "leading"}, 20, 1e-3),
    ("HeunDiscreteScheduler", {"timestep_spacing": "leading"}, 20, 1e-3),
    ("KDPM2DiscreteScheduler", {"timestep_spacing": "leading"}, 20, 2e-3),
    ("DPMSolverMultistepScheduler", {}, 20, 1e-4),
    ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading", "solver_type": "heun"}, 20, 1e-4),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "timestep_spacing": "trailing"}, 20, 1e-4),
    ("UniPCMultistepScheduler", {}, 20, 1e-4),
    ("DEISMultistepScheduler", {"solver_order": 3}, 20, 1e-4),
]  # fmt: skip


def out(x, time, numpy):
    """A smooth network that depends on the image and the time, the same in NumPy, PyTorch and JAX."""
    return numpy.sin(2.0 * x + 0.004 * time) + 0.3 * x


def run_ours(sampling, noise, steps):
    levels = sampling_levels(
        sampling.schedule,
        sampling.time_grid,
        steps,
        prediction_type=sampling.prediction_type,
        final_t=sampling.options.final_t,
    )
    if sampling.options.variance_exploding:
        levels = variance_exploding(levels)
    start = levels.sigma[0]
    if sampling.unit_start:
        start = jnp.hypot(levels.alpha[0], levels.sigma[0])

    def network(x, time, conditioning):
        return out(x, time[:, None], jnp)

    denoise = make_denoiser(
        network, sampling.schedule, sampling.prediction_type, network_input=sampling.network_input
    )
    keys = jax.random.split(jax.random.key(0), len(noise))
    return sample(denoise, sampling.sampler, levels, start * noise, keys, conditioning=Conditioning())


@pytest.mark.parity
@pytest.mark.parametrize(("name", "more", "steps", "tolerance"), CASES)
def test_runs_as_diffusers_does(name, more, steps, tolerance):
    torch = pytest.importorskip("torch")
    import diffusers

    config = STABLE | more
    theirs = getattr(diffusers, name).from_config(config)
    noise = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    theirs.set_timesteps(steps)
    x = torch.from_numpy(noise) * theirs.init_noise_sigma
    for time in theirs.timesteps:
        x = theirs.step(out(theirs.scale_model_input(x, time), float(time), torch), time, x).prev_sample
    ours = run_ours(read_scheduler({"_class_name": name} | config), jnp.asarray(noise), steps)
    assert np.abs(x.numpy()).max() > 1
    assert np.abs(np.asarray(ours) - x.numpy()).max() / np.abs(x.numpy()).max() < tolerance


@pytest.mark.parity
@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
                                  "DDPMScheduler", "LCMScheduler"])  # fmt: skip
def test_random_ones_have_the_same_timesteps(name):
    pytest.importorskip("torch")
    import diffusers

    config = STABLE | {"timestep_spacing": "leading", "variance_type": "fixed_small"}
    theirs = getattr(diffusers, name).from_config(config)
    theirs.set_timesteps(10)
    sampling = read_scheduler({"_class_name": name} | config)
    times = np.asarray(sampling.time_grid.times(sampling.schedule, 10))
    expected = theirs.timesteps.numpy()
    if name == "KDPM2AncestralDiscreteScheduler":  # every second one is a step's middle
        expected = expected[::2]
    np.testing.assert_allclose(1000 * times - 1, expected, atol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flows_have_the_same_sigmas(shift):
    pytest.importorskip("torch")
    import diffusers

    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(28)
    sampling = read_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift})
    levels = sampling_levels(sampling.schedule, sampling.time_grid, 28)
    np.testing.assert_allclose(levels.sigma, theirs.sigmas, atol=1e-6)


@pytest.mark.parity
def test_defaults_of_every_class_are_diffusers_own():
    """A file without ``timestep_spacing``, ``clip_sample``, … means what it means to diffusers."""
    pytest.importorskip("torch")
    import inspect

    import diffusers
    from difflax.pretrained.components import schedulers

    for name, kind in schedulers.SCHEDULER_CLASSES.items():
        theirs = {
            key: parameter.default
            for key, parameter in inspect.signature(getattr(diffusers, name).__init__).parameters.items()
        }
        ours = schedulers._COMMON | {"timestep_spacing": kind.spacing} | dict(kind.defaults)
        both = {key for key in ours if key in theirs}
        assert {key: ours[key] for key in both} == {key: theirs[key] for key in both}, name


def test_stable_diffusion_1_and_2():
    first = read_scheduler(STABLE | {"_class_name": "PNDMScheduler"})
    assert isinstance(first.schedule, ScaledLinear)
    assert isinstance(first.sampler, PLMS)
    levels = sampling_levels(first.schedule, first.time_grid, 50, final_t=first.options.final_t)
    sigmas = np.asarray(levels.sigma / levels.alpha)
    # The published ends of the table of Stable Diffusion.
    assert sigmas[-1] == pytest.approx(0.0292, abs=1e-4)
    assert float(first.schedule.alphas_cumprod[-1]) == pytest.approx(0.00466, abs=1e-5)
    second = read_scheduler(STABLE | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"})
    assert isinstance(second.prediction_type, V)


@pytest.mark.parametrize("solver", ["logrho", "bh1", "bh2"])
def test_other_solvers_types_are_the_midpoint_as_in_diffusers(solver):
    """Configs that were made for another scheduler's class have them."""
    given = {"_class_name": "DPMSolverMultistepScheduler"}
    assert read_scheduler(given | {"solver_type": solver}) == read_scheduler(given)
    assert read_scheduler(given | {"solver_type": "heun"}) != read_scheduler(given)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"_class_name": "PNDMSheduler"}, "did you mean 'PNDMScheduler'"),
        ({}, "_class_name"),
        ({"_class_name": "DDIMScheduler"}, "clip_sample"),
        ({"_class_name": "PNDMScheduler", "beta_schedule": "cubic"}, "beta_schedule='cubic'"),
        ({"_class_name": "PNDMScheduler", "prediction_type": "noise"}, "prediction_type='noise'"),
        ({"_class_name": "PNDMScheduler", "timestep_spacing": "even"}, "timestep_spacing='even'"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "algorithm_type"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True}, "use_lu_lambdas"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_type": "heuns"}, "did you mean 'heun'"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "one"},
            "valid: sigma_min, zero",
        ),
        ({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}, "interpolation_type"),
    ],
)
def test_what_has_no_counterpart(config, says):
    with pytest.raises(UserError, match=says):
        read_scheduler(config)
