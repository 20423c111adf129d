"""What diffusers' schedulers are compared with: each case in their words and in ours, by the samplers' names.

A checkpoint's config is read as diffusers reads it: see test_scheduler_configs. Left out here, because
diffusers does something else there than the method's paper:
- churn in its Euler and Heun: the network is evaluated before the noise is added, not after;
- PNDM with v-prediction: it extrapolates v, not the noise;
- DDIM and PNDM on spacings whose stride is not T // n (linspace, uneven trailing): steps leave the grid;
- 3M of the SDE: a sign in its second-derivative term is wrong (``- 0.5`` for ``+ 0.5``); it is compared with
  the update as k-diffusion publishes it, in test_published_updates;
- zero-terminal-SNR in Euler, DPM-Solver and UniPC: sigma / alpha is set to 4096 in place of infinity.
"""

import dataclasses

import numpy as np
from difflax.diffusion import samplers as ours
from difflax.diffusion.predictions import PREDICTIONS
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.schedules import (
    BetaTable,
    Cosine,
    Linear,
    NoiseSchedule,
    RectifiedFlow,
    ScaledLinear,
    log_snr,
)
from difflax.diffusion.time_grids import (
    Beta,
    CheckpointFlow,
    Distilled,
    Karras,
    Leading,
    Linspace,
    TimeGrid,
    Trailing,
    UniformLogSNR,
)

THEIR_PREDICTION = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
THEIR_SCHEDULE = {
    Linear(): {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    ScaledLinear(): {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    Linear(zero_terminal_snr=True): {
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "rescale_betas_zero_snr": True,
    },
    Cosine(): {"beta_schedule": "squaredcos_cap_v2"},
}

# log-SNR in equal steps of the timestep: the middle of a step is one for PNDM's Runge-Kutta, which takes it
# in timesteps there and in log-SNR here.
_even = 1 / (1 + np.exp(-np.linspace(9.0, -5.0, 1000)))
EVEN = BetaTable(table=tuple((1 - _even / np.concatenate([[1.0], _even[:-1]])).tolist()))
THEIR_SCHEDULE[EVEN] = {"trained_betas": list(EVEN.table)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One run.

    Attributes:
        scheduler, settings: of diffusers; the schedule and the prediction are added.
        call: arguments of its ``step``.
        sampler, grid: ours.
        final_t: where the last step lands.
        exploding: the scheduler works in ``x / alpha``.
        timed: the network reads its time. Grids over sigma are off the timesteps, to which diffusers rounds
            the time in some schedulers and not in others.
        every: their steps that make one of ours.
    """

    scheduler: str
    sampler: Sampler
    grid: TimeGrid
    settings: dict = dataclasses.field(default_factory=dict)
    call: dict = dataclasses.field(default_factory=dict)
    schedule: NoiseSchedule = dataclasses.field(default_factory=ScaledLinear)
    prediction: str = "epsilon"
    steps: int = 10
    final_t: float = 0.0
    exploding: bool = False
    timed: bool = True
    every: int = 1

    @property
    def their_settings(self) -> dict:
        """All arguments of the scheduler."""
        if self.prediction == "flow_velocity":
            return self.settings
        return {
            **THEIR_SCHEDULE[self.schedule],
            "prediction_type": THEIR_PREDICTION[self.prediction],
            **self.settings,
        }

    @property
    def prediction_type(self):
        """Ours."""
        return PREDICTIONS[self.prediction]()


def spacings(endpoint: bool, rounded: bool = True) -> dict[str, tuple[dict, TimeGrid]]:
    """The three spacings by name, in their words and ours."""
    return {
        "leading": (
            {"timestep_spacing": "leading", "steps_offset": 1},
            Leading(steps_offset=1, endpoint=endpoint),
        ),
        "trailing": ({"timestep_spacing": "trailing"}, Trailing()),
        "linspace": ({"timestep_spacing": "linspace"}, Linspace(endpoint=endpoint, rounded=rounded)),
    }


def over_sigma(schedule: NoiseSchedule, endpoint: bool) -> dict[str, tuple[dict, TimeGrid]]:
    """Karras, exponential and beta sigmas between the ends that diffusers takes: those of the linspace grid
    in the Euler family, of the whole table elsewhere; they are the same.
    """
    low, high = (float(np.exp(-log_snr(schedule, t) / 2)) for t in (1 / 1000, 1.0))
    ends = {"sigma_min": low, "sigma_max": high}
    return {
        "karras": ({"use_karras_sigmas": True}, Karras(**ends)),
        "exponential": ({"use_exponential_sigmas": True}, UniformLogSNR(**ends)),
        "beta": ({"use_beta_sigmas": True}, Beta(over="sigma", **ends)),
    }


CASES: dict[str, Case] = {}

# First-order samplers on the timesteps themselves.
for prediction in THEIR_PREDICTION:
    CASES[f"ddim {prediction}"] = Case(
        scheduler="DDIMScheduler",
        settings={"clip_sample": False},
        sampler=ours.DDIM(),
        grid=Leading(),
        prediction=prediction,
    )
    CASES[f"ddpm {prediction}"] = Case(
        scheduler="DDPMScheduler",
        settings={"clip_sample": False},
        sampler=ours.DDPM(),
        grid=Leading(),
        schedule=Linear(),
        prediction=prediction,
    )
CASES["ddim stable diffusion"] = Case(
    scheduler="DDIMScheduler",
    settings={"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
    sampler=ours.DDIM(),
    grid=Leading(steps_offset=1),
    final_t=1 / 1000,
)
CASES["ddim cosine eta"] = Case(
    scheduler="DDIMScheduler",
    settings={"clip_sample": False},
    call={"eta": 0.7},
    sampler=ours.DDIM(eta=0.7),
    grid=Leading(),
    schedule=Cosine(),
)
CASES["ddim zero terminal snr"] = Case(
    scheduler="DDIMScheduler",
    settings={"clip_sample": False, "timestep_spacing": "trailing"},
    sampler=ours.DDIM(),
    grid=Trailing(),
    schedule=Linear(zero_terminal_snr=True),
    prediction="v",
)
for spacing, (settings, grid) in spacings(endpoint=True).items():
    CASES[f"ddpm {spacing}"] = Case(
        scheduler="DDPMScheduler",
        settings={"clip_sample": False, **settings, **({"steps_offset": 0} if spacing == "leading" else {})},
        sampler=ours.DDPM(),
        grid=Leading() if spacing == "leading" else grid,
        steps=7,
    )
CASES["ddpm large"] = Case(
    scheduler="DDPMScheduler",
    settings={"clip_sample": False, "variance_type": "fixed_large"},
    sampler=ours.DDPM(variance="large"),
    grid=Leading(),
)
CASES["ddpm learned range"] = Case(
    scheduler="DDPMScheduler",
    settings={"clip_sample": False, "variance_type": "learned_range"},
    sampler=ours.DDPM(variance="learned_range"),
    grid=Leading(),
)
CASES["lcm"] = Case(
    scheduler="LCMScheduler", settings={"clip_sample": False}, sampler=ours.LCM(), grid=Distilled(), steps=4
)
CASES["lcm v"] = Case(
    scheduler="LCMScheduler",
    settings={"clip_sample": False},
    sampler=ours.LCM(),
    grid=Distilled(),
    steps=3,
    prediction="v",
)

# The pseudo-numerical methods.
CASES["plms stable diffusion"] = Case(
    scheduler="PNDMScheduler",
    settings={"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
    sampler=ours.PLMS(),
    grid=Leading(steps_offset=1),
    final_t=1 / 1000,
)
CASES["pndm"] = Case(
    scheduler="PNDMScheduler",
    settings={"set_alpha_to_one": False, "steps_offset": 1},
    sampler=ours.PNDM(),
    grid=Leading(steps_offset=1),
    schedule=EVEN,
    final_t=1 / 1000,
)

# The family of k-diffusion, in x / alpha.
EULER_FAMILY = {
    "euler": ("EulerDiscreteScheduler", ours.Euler()),
    "euler ancestral": ("EulerAncestralDiscreteScheduler", ours.EulerAncestral()),
    "heun": ("HeunDiscreteScheduler", ours.Heun()),
    "dpm2": ("KDPM2DiscreteScheduler", ours.DPM2()),
    "dpm2 ancestral": ("KDPM2AncestralDiscreteScheduler", ours.DPM2Ancestral()),
    "lms": ("LMSDiscreteScheduler", ours.LMS()),
    "dpmpp sde": ("DPMSolverSDEScheduler", ours.DPMSolverSDE()),
}
for name, (scheduler, sampler) in EULER_FAMILY.items():
    for spacing, (settings, grid) in spacings(endpoint=True, rounded=False).items():
        CASES[f"{name} {spacing}"] = Case(
            scheduler=scheduler, settings=settings, sampler=sampler, grid=grid, exploding=True
        )
    CASES[f"{name} v"] = Case(
        scheduler=scheduler,
        settings={"timestep_spacing": "trailing"},
        sampler=sampler,
        grid=Trailing(),
        prediction="v",
        exploding=True,
    )
for name in ("euler", "heun", "dpm2", "lms"):
    scheduler, sampler = EULER_FAMILY[name]
    for spacing, (settings, grid) in over_sigma(ScaledLinear(), endpoint=True).items():
        CASES[f"{name} {spacing}"] = Case(
            scheduler=scheduler, settings=settings, sampler=sampler, grid=grid, exploding=True, timed=False
        )
# Exponential integrators.
MULTISTEP = {
    "dpmpp 2m": ("DPMSolverMultistepScheduler", {}, ours.DPMSolver2M()),
    "dpmpp 2m integrated": (
        "DPMSolverMultistepScheduler",
        {"solver_type": "heun"},
        ours.DPMSolver2M(midpoint=False),
    ),
    "dpmpp 3m": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 3},
        ours.DPMSolver3M(published=True, midpoint=True),
    ),
    "dpmpp 2m sde": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++"},
        ours.DPMSolver2MSDE(),
    ),
    "unipc bh2": ("UniPCMultistepScheduler", {}, ours.UniPC()),
}
for name, (scheduler, settings, sampler) in MULTISTEP.items():
    for spacing, (words, grid) in spacings(endpoint=False).items():
        CASES[f"{name} {spacing}"] = Case(
            scheduler=scheduler, settings={**settings, **words}, sampler=sampler, grid=grid, steps=16
        )
    for prediction in ("v", "x0"):
        CASES[f"{name} {prediction}"] = Case(
            scheduler=scheduler,
            settings={**settings, "timestep_spacing": "trailing"},
            sampler=sampler,
            grid=Trailing(),
            prediction=prediction,
            steps=16,
        )
for name in ("dpmpp 2m", "unipc bh2"):
    scheduler, settings, sampler = MULTISTEP[name]
    for spacing, (words, grid) in over_sigma(ScaledLinear(), endpoint=False).items():
        CASES[f"{name} {spacing}"] = Case(
            scheduler=scheduler, settings={**settings, **words}, sampler=sampler, grid=grid, timed=False
        )
for variant in ("bh1", "bh2"):
    CASES[f"unipc {variant} without the data"] = Case(
        scheduler="UniPCMultistepScheduler",
        settings={
            "solver_type": variant,
            "final_sigmas_type": "sigma_min",
            "lower_order_final": False,
        },
        sampler=ours.UniPC(variant=variant),
        grid=Linspace(endpoint=False),
        final_t=1 / 1000,
    )
CASES["unipc order 3"] = Case(
    scheduler="UniPCMultistepScheduler",
    settings={"solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
    sampler=ours.UniPC(order=3),
    grid=Linspace(endpoint=False),
    final_t=1 / 1000,
)
for order in (2, 3):
    for spacing, (words, grid) in spacings(endpoint=False).items():
        CASES[f"deis {order} {spacing}"] = Case(
            scheduler="DEISMultistepScheduler",
            settings={"solver_order": order, "lower_order_final": False, **words},
            sampler=ours.DEIS(order=order),
            grid=grid,
            final_t=1 / 1000,
        )
CASES["dpmpp 2s"] = Case(
    scheduler="DPMSolverSinglestepScheduler",
    settings={"lower_order_final": True, "use_exponential_sigmas": True},
    sampler=ours.DPMSolver2S(),
    grid=over_sigma(ScaledLinear(), endpoint=True)["exponential"][1],
    steps=9,
    timed=False,
    every=2,
)

# Flow matching.
for name, scheduler, sampler in (
    ("euler", "FlowMatchEulerDiscreteScheduler", ours.Euler()),
    ("heun", "FlowMatchHeunDiscreteScheduler", ours.Heun()),
):
    for shift in (1.0, 3.0):
        CASES[f"flow {name} shift {shift:g}"] = Case(
            scheduler=scheduler,
            settings={"shift": shift},
            sampler=sampler,
            grid=CheckpointFlow(shift=shift),
            schedule=RectifiedFlow(),
            prediction="flow_velocity",
        )
