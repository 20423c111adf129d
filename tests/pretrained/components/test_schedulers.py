"""Scheduler configs of checkpoints: what is read, and what is said of configs that are wrong.

How the runs of diffusers' schedulers are met is in test_scheduler_configs.
"""

import math

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.diffusion.predictions import V
from difflax.diffusion.samplers import PLMS
from difflax.diffusion.schedules import ScaledLinear
from difflax.diffusion.time_grids import sampling_levels
from difflax.pretrained.components.scheduler_classes import SCHEDULER_CLASSES
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
"""As Stable Diffusion's folders have it, whatever their class: options of other classes are of no effect."""


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


BAD = [
    ("PNDMSheduler", {}, "did you mean 'PNDMScheduler'"),
    ("", {}, "_class_name"),
    ("DDIMScheduler", {}, "clip_sample = True is not supported of DDIMScheduler, only False: set it"),
    ("DDIMScheduler", {"made_up_option": 1}, "no scheduler has an option 'made_up_option'"),
    ("DDIMScheduler", {"steps_ofset": 1}, "'steps_ofset', did you mean 'steps_offset'"),
    ("DDIMScheduler", {"clip_sample": False, "thresholding": True}, "thresholding = True"),
    (
        "PNDMScheduler",
        {"beta_schedule": "cubic"},
        "beta_schedule = 'cubic' of PNDMScheduler must be 'linear' or",
    ),
    ("PNDMScheduler", {"prediction_type": "noise"}, "prediction_type = 'noise'"),
    ("PNDMScheduler", {"prediction_type": "sample"}, "prediction_type = 'sample' is not supported"),
    ("PNDMScheduler", {"prediction_type": ["epsilon"]}, "prediction_type"),
    ("PNDMScheduler", {"timestep_spacing": "even"}, "timestep_spacing = 'even'"),
    ("PNDMScheduler", {"timestep_spacing": None}, "timestep_spacing = None"),
    ("PNDMScheduler", {"steps_offset": -1}, "steps_offset = -1"),
    ("PNDMScheduler", {"steps_offset": 0.5}, "steps_offset = 0.5"),
    ("PNDMScheduler", {"steps_offset": True}, "steps_offset = True"),
    ("PNDMScheduler", {"skip_prk_steps": "true"}, "skip_prk_steps = 'true'"),
    ("PNDMScheduler", {"beta_start": 2.0, "beta_end": 3.0}, "beta_start = 2.0"),
    ("PNDMScheduler", {"beta_start": 0.02, "beta_end": 0.01}, "beta_start"),
    ("PNDMScheduler", {"beta_start": math.nan}, "beta_start = nan"),
    ("PNDMScheduler", {"beta_end": "0.02"}, "beta_end = '0.02'"),
    ("PNDMScheduler", {"num_train_timesteps": 0}, "num_train_timesteps = 0"),
    ("PNDMScheduler", {"num_train_timesteps": None}, "num_train_timesteps = None"),
    ("PNDMScheduler", {"trained_betas": []}, "trained_betas"),
    ("PNDMScheduler", {"trained_betas": [0.1, "a"]}, "trained_betas"),
    (
        "PNDMScheduler",
        {"trained_betas": [0.1, 0.2]},
        "trained_betas has 2 entries, num_train_timesteps = 1000",
    ),
    ("UniPCMultistepScheduler", {"solver_order": 4}, "solver_order = 4"),
    ("UniPCMultistepScheduler", {"solver_type": "bh3"}, "solver_type = 'bh3'"),
    (
        "UniPCMultistepScheduler",
        {"solver_type": "bh1"},
        "solver_type = 'bh1' with final_sigmas_type = 'zero'",
    ),
    ("UniPCMultistepScheduler", {"predict_x0": False}, "predict_x0 = False"),
    ("UniPCMultistepScheduler", {"disable_corrector": 3}, "disable_corrector = 3"),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "use_flow_sigmas = True"),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, "algorithm_type = 'dpmsolver'"),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "deis"}, "algorithm_type = 'deis' does not go with"),
    ("DPMSolverMultistepScheduler", {"variance_type": "learned"}, "variance_type = 'learned'"),
    ("DPMSolverMultistepScheduler", {"lambda_min_clipped": math.nan}, "lambda_min_clipped = nan"),
    (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True, "use_lu_lambdas": True},
        "exclude each other",
    ),
    ("EulerDiscreteScheduler", {"final_sigmas_type": "sigmamin"}, "final_sigmas_type = 'sigmamin'"),
    ("EulerDiscreteScheduler", {"interpolation_type": "cubic"}, "interpolation_type = 'cubic'"),
    (
        "EulerDiscreteScheduler",
        {"use_karras_sigmas": True, "sigma_min": 3, "sigma_max": 1},
        "sigma_min = 3.0",
    ),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "sigma_min": -1}, "sigma_min = -1"),
    ("DDPMScheduler", {"clip_sample": False, "variance_type": "learned"}, "variance_type = 'learned'"),
    ("LCMScheduler", {"original_inference_steps": 0}, "original_inference_steps = 0"),
    ("LCMScheduler", {"original_inference_steps": 2000}, "must not exceed num_train_timesteps"),
    ("SASolverScheduler", {"algorithm_type": "noise_prediction"}, "algorithm_type = 'noise_prediction'"),
    ("EDMEulerScheduler", {"sigma_min": None}, "sigma_min"),
    ("EDMEulerScheduler", {"sigma_data": 0}, "sigma_data = 0"),
    ("FlowMatchEulerDiscreteScheduler", {"shift": None}, "shift = None"),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 0}, "shift = 0"),
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas = True"),
    ("FlowMatchLCMScheduler", {"scale_factors": [2.0]}, r"scale_factors = \[2.0\]"),
]


@pytest.mark.parametrize(("name", "options", "says"), BAD)
def test_what_has_no_counterpart(name, options, says):
    """One line that names the option, its value and what is right."""
    with pytest.raises(UserError, match=says) as caught:
        read_scheduler({"_class_name": name} | options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SCHEDULER_CLASSES)
@pytest.mark.parametrize("value", [math.nan, -1, "x", [], {}])
def test_bad_values_are_one_line(name, value):
    """Whatever stands in a file: the option is read, or one line names it."""
    for key in SCHEDULER_CLASSES[name].defaults:
        try:
            read_scheduler({"_class_name": name, "clip_sample": False} | {key: value})
        except UserError as error:
            assert key in str(error) and "\n" not in str(error), (key, str(error))


@pytest.mark.parametrize("name", SCHEDULER_CLASSES)
def test_options_of_other_classes_and_private_keys_are_of_no_effect(name):
    config = {"_class_name": name, "clip_sample": False}
    others = {
        "skip_prk_steps": True,
        "set_alpha_to_one": True,
        "_diffusers_version": "0.42",
        "masking_schedule": "x",
    }
    read = SCHEDULER_CLASSES[name].defaults
    others = {key: value for key, value in others.items() if key not in read}
    assert read_scheduler(config | others) == read_scheduler(config)


def test_names_of_other_classes_solvers_are_the_usual_one():
    for name, usual, others in (
        ("UniPCMultistepScheduler", "bh2", ("midpoint", "heun", "logrho")),
        ("DPMSolverMultistepScheduler", "midpoint", ("logrho", "bh1", "bh2")),
        ("DEISMultistepScheduler", "logrho", ("midpoint", "heun", "bh1", "bh2")),
    ):
        for other in others:
            first, second = (
                read_scheduler({"_class_name": name, "solver_type": kind}) for kind in (usual, other)
            )
            assert first.sampler == second.sampler, (name, other)


def test_steps_that_diffusers_cannot_make():
    sampling = read_scheduler(STABLE | {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"})
    with pytest.raises(ValueError, match="take another one"):
        sampling.options.levels(sampling.schedule, sampling.time_grid, 61)  # 1000 / 61 rounds to 62 steps
    with pytest.raises(ValueError, match="only 1000 timesteps for 1001 steps"):
        sampling.options.levels(sampling.schedule, sampling.time_grid, 1001)
