"""The scheduler classes of diffusers that are supported, a line each, with every option that a class reads.

A key that a file leaves out has its class's default here.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

from difflax.diffusion.samplers import (
    DDIM,
    DEIS,
    DPM2,
    LCM,
    LMS,
    DPM2Ancestral,
    Euler,
    EulerAncestral,
    Heun,
    UniPC,
)
from difflax.pretrained.components.scheduler_grids import Conventions
from difflax.pretrained.components.scheduler_options import Config
from difflax.pretrained.components.scheduler_plans import (
    Halfway,
    Orders,
    RungeKuttaMultistep,
    Stochastic,
    Strided,
    StridedMultistep,
)
from difflax.pretrained.components.scheduler_reading import (
    Discrete,
    Preconditioned,
    Sampling,
    read_distilled,
    read_flow,
)
from difflax.pretrained.components.scheduler_solvers import (
    ALGORITHMS,
    DDPM_VARIANCES,
    UNIPC_VARIANTS,
    ddpm,
    dpm_solver,
    edm_dpm_solver,
    lcm,
    pndm,
    remaining_orders,
    sa_solver,
    short_orders,
    single_orders,
    singlestep,
    tcd,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerClass:
    """A scheduler class of diffusers.

    Attributes:
        defaults: of all options that it reads.
        only: values of options that have a counterpart here, where not all have one.
        read: the sampling of its options, and of the network's patch size.
    """

    defaults: Config
    only: Mapping[str, Collection[Any]] = dataclasses.field(default_factory=dict)
    read: Callable[[Config, int], Sampling]


_UNSPACED_BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
_BETAS = _UNSPACED_BETAS | {"steps_offset": 0}
_KARRAS_BETAS = _BETAS | {"beta_start": 0.00085, "beta_end": 0.012}
_LATENT_BETAS = _KARRAS_BETAS | {"beta_schedule": "scaled_linear"}
_CLIPPING = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_CLIPPED_SAMPLE = {"clip_sample": True, "clip_sample_range": 1.0}
_RESPACED = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_ENDS = {"sigma_min": None, "sigma_max": None}
"""Read by respacings also of classes that do not name them."""
_FLOW_SIGMAS = {
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
_SOLVER = _CLIPPING | _RESPACED | _ENDS | _FLOW_SIGMAS
"""What the solvers of the DPM family, UniPC and DEIS all read."""
_DISTILLED = (
    _LATENT_BETAS
    | _CLIPPING
    | {
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "original_inference_steps": 50,
        "set_alpha_to_one": True,
        "timestep_spacing": "leading",
        "timestep_scaling": 10.0,
        "rescale_betas_zero_snr": False,
    }
)
_UNSUPPORTED = dict.fromkeys(
    ("thresholding", "clip_sample", "use_flow_sigmas", "use_dynamic_shifting"), (False,)
)
_WITHOUT_X0 = {"prediction_type": ("epsilon", "v_prediction")}
_UNSUPPORTED_FLOW = {"invert_sigmas": (False,)}
_EDM_SIGMAS = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "zero",
}
_FLOW = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "invert_sigmas": False,
    "shift_terminal": None,
    "time_shift_type": "exponential",
}

_EULER = Conventions(fractional=True, in_sigma=True)
_EULER_ROUNDED = dataclasses.replace(_EULER, rounded=frozenset({"karras"}))
_MULTISTEP = Conventions(
    endpoint=False,
    truncated=True,
    rounded=frozenset({"karras"}),
    over_steps=False,
    repeats=True,
    in_sigma=True,
)
_DPM_ROUNDED = dataclasses.replace(_MULTISTEP, rounded=frozenset({"karras", "lu"}), repeats=False)
_OF_COSINE = {"squaredcos_cap_v2": dataclasses.replace(_DPM_ROUNDED, rounded=frozenset())}

FLOW = "FlowMatchEulerDiscreteScheduler"
"""The class of flows."""

SCHEDULER_CLASSES: dict[str, SchedulerClass] = {
    "DDIMScheduler": SchedulerClass(
        defaults=_BETAS
        | _CLIPPING
        | _CLIPPED_SAMPLE
        | {"set_alpha_to_one": True, "timestep_spacing": "leading", "rescale_betas_zero_snr": False},
        only=_UNSUPPORTED,
        read=Discrete(
            sampler=lambda values: DDIM(), planner=lambda values: Strided(), final="set_alpha_to_one"
        ),
    ),
    "PNDMScheduler": SchedulerClass(
        defaults=_BETAS | {"skip_prk_steps": False, "set_alpha_to_one": False, "timestep_spacing": "leading"},
        only=_WITHOUT_X0,
        read=Discrete(
            sampler=pndm,
            planner=lambda values: StridedMultistep() if values["skip_prk_steps"] else RungeKuttaMultistep(),
            final="set_alpha_to_one",
        ),
    ),
    "DDPMScheduler": SchedulerClass(
        defaults=_BETAS
        | _CLIPPING
        | _CLIPPED_SAMPLE
        | {"variance_type": "fixed_small", "timestep_spacing": "leading", "rescale_betas_zero_snr": False},
        only=_UNSUPPORTED | {"variance_type": tuple(DDPM_VARIANCES)},
        read=Discrete(sampler=ddpm),
    ),
    "LCMScheduler": SchedulerClass(
        defaults=_DISTILLED,
        only=_UNSUPPORTED,
        read=functools.partial(read_distilled, sampler=lcm, final=0.0),
    ),
    "EulerDiscreteScheduler": SchedulerClass(
        defaults=_BETAS
        | _RESPACED
        | _ENDS
        | {
            "interpolation_type": "linear",
            "timestep_spacing": "linspace",
            "timestep_type": "discrete",
            "rescale_betas_zero_snr": False,
            "final_sigmas_type": "zero",
        },
        read=Discrete(
            sampler=lambda values: Euler(), conventions=_EULER, final="final_sigmas_type", unit_start=False
        ),
    ),
    "EulerAncestralDiscreteScheduler": SchedulerClass(
        defaults=_BETAS | {"timestep_spacing": "linspace", "rescale_betas_zero_snr": False},
        only=_WITHOUT_X0,
        read=Discrete(sampler=lambda values: EulerAncestral(), conventions=_EULER, unit_start=False),
    ),
    "LMSDiscreteScheduler": SchedulerClass(
        defaults=_BETAS | _RESPACED | _ENDS | {"timestep_spacing": "linspace"},
        read=Discrete(
            sampler=lambda values: LMS(),
            conventions=_EULER,
            unit_start=False,
            reads_ends=("exponential", "beta"),
        ),
    ),
    "HeunDiscreteScheduler": SchedulerClass(
        defaults=_KARRAS_BETAS
        | _RESPACED
        | _ENDS
        | _CLIPPED_SAMPLE
        | {"clip_sample": False, "timestep_spacing": "linspace"},
        only=_UNSUPPORTED,
        read=Discrete(
            sampler=lambda values: Heun(), conventions=_EULER, unit_start=False, variance_exploding=True
        ),
    ),
    "KDPM2DiscreteScheduler": SchedulerClass(
        defaults=_KARRAS_BETAS | _RESPACED | _ENDS | {"timestep_spacing": "linspace"},
        only=_WITHOUT_X0,
        read=Discrete(
            sampler=lambda values: DPM2(),
            planner=lambda values: Halfway(),
            conventions=_EULER_ROUNDED,
            unit_start=False,
            variance_exploding=True,
        ),
    ),
    "KDPM2AncestralDiscreteScheduler": SchedulerClass(
        defaults=_KARRAS_BETAS | _RESPACED | _ENDS | {"timestep_spacing": "linspace"},
        only=_WITHOUT_X0,
        read=Discrete(
            sampler=lambda values: DPM2Ancestral(),
            planner=lambda values: Halfway(ancestral=True),
            conventions=_EULER_ROUNDED,
            unit_start=False,
            variance_exploding=True,
        ),
    ),
    "DPMSolverMultistepScheduler": SchedulerClass(
        defaults=_BETAS
        | _SOLVER
        | {
            "solver_order": 2,
            "algorithm_type": "dpmsolver++",
            "solver_type": "midpoint",
            "lower_order_final": True,
            "euler_at_final": False,
            "use_lu_lambdas": False,
            "final_sigmas_type": "zero",
            "lambda_min_clipped": float("-inf"),
            "variance_type": None,
            "timestep_spacing": "linspace",
            "rescale_betas_zero_snr": False,
        },
        only=_UNSUPPORTED | {"variance_type": (None,), "algorithm_type": tuple(ALGORITHMS)},
        read=lambda values, patch_size: Discrete(
            sampler=dpm_solver,
            planner=short_orders,
            conventions=_OF_COSINE.get(values["beta_schedule"], _DPM_ROUNDED),
            final="final_sigmas_type",
        )(values, patch_size),
    ),
    "UniPCMultistepScheduler": SchedulerClass(
        defaults=_BETAS
        | _SOLVER
        | {
            "solver_order": 2,
            "predict_x0": True,
            "solver_type": "bh2",
            "lower_order_final": True,
            "disable_corrector": [],
            "solver_p": None,
            "timestep_spacing": "linspace",
            "final_sigmas_type": "zero",
            "rescale_betas_zero_snr": False,
            "shift_terminal": None,
        },
        only=_UNSUPPORTED | {"predict_x0": (True,), "solver_p": (None,), "shift_terminal": (None,)},
        read=Discrete(
            sampler=lambda values: UniPC(
                order=int(values["solver_order"]), variant=UNIPC_VARIANTS[values["solver_type"]]
            ),
            planner=remaining_orders,
            conventions=_MULTISTEP,
            final="final_sigmas_type",
        ),
    ),
    "DEISMultistepScheduler": SchedulerClass(
        defaults=_BETAS
        | _SOLVER
        | {
            "solver_order": 2,
            "algorithm_type": "deis",
            "solver_type": "logrho",
            "lower_order_final": True,
            "timestep_spacing": "linspace",
        },
        only=_UNSUPPORTED | {"algorithm_type": ("deis", "dpmsolver", "dpmsolver++")},
        read=Discrete(
            sampler=lambda values: DEIS(order=int(values["solver_order"])),
            planner=short_orders,
            conventions=_MULTISTEP,
            final="first",
        ),
    ),
    "DPMSolverSinglestepScheduler": SchedulerClass(
        defaults=_UNSPACED_BETAS
        | _SOLVER
        | {
            "solver_order": 2,
            "algorithm_type": "dpmsolver++",
            "solver_type": "midpoint",
            "lower_order_final": False,
            "final_sigmas_type": "zero",
            "lambda_min_clipped": float("-inf"),
            "variance_type": None,
        },
        only=_UNSUPPORTED | {"variance_type": (None,), "algorithm_type": tuple(ALGORITHMS)},
        read=Discrete(
            sampler=singlestep,
            planner=single_orders,
            conventions=dataclasses.replace(_MULTISTEP, repeats=False),
            final="final_sigmas_type",
        ),
    ),
    "SASolverScheduler": SchedulerClass(
        defaults=_BETAS
        | _CLIPPING
        | _RESPACED
        | _ENDS
        | {
            "predictor_order": 2,
            "corrector_order": 2,
            "tau_func": None,
            "algorithm_type": "data_prediction",
            "lower_order_final": True,
            "use_flow_sigmas": False,
            "flow_shift": 1.0,
            "lambda_min_clipped": float("-inf"),
            "variance_type": None,
            "timestep_spacing": "linspace",
        },
        only=_UNSUPPORTED
        | {"variance_type": (None,), "tau_func": (None,), "algorithm_type": ("data_prediction",)},
        read=Discrete(
            sampler=sa_solver,
            planner=lambda values: Stochastic(
                orders=Orders(
                    order=int(values["predictor_order"]),
                    rule="remaining",
                    lower=bool(values["lower_order_final"]),
                    divides=4,
                )
            ),
            conventions=_MULTISTEP,
            final="first",
        ),
    ),
    "TCDScheduler": SchedulerClass(
        defaults=_DISTILLED,
        only=_UNSUPPORTED,
        read=functools.partial(read_distilled, sampler=tcd, final=1.0),
    ),
    "EDMEulerScheduler": SchedulerClass(
        defaults=_EDM_SIGMAS,
        only={"prediction_type": ("epsilon", "v_prediction")},
        read=Preconditioned(sampler=lambda values: Euler(), repeats=True),
    ),
    "EDMDPMSolverMultistepScheduler": SchedulerClass(
        defaults=_EDM_SIGMAS
        | _CLIPPING
        | {
            "solver_order": 2,
            "algorithm_type": "dpmsolver++",
            "solver_type": "midpoint",
            "lower_order_final": True,
            "euler_at_final": False,
        },
        only=_UNSUPPORTED
        | {"algorithm_type": tuple(ALGORITHMS), "prediction_type": ("epsilon", "v_prediction")},
        read=Preconditioned(sampler=edm_dpm_solver, planner=short_orders),
    ),
    FLOW: SchedulerClass(
        defaults=_FLOW | _RESPACED | _ENDS | {"stochastic_sampling": False},
        only=_UNSUPPORTED_FLOW,
        read=lambda values, patch_size: read_flow(
            values, patch_size, LCM(boundary=False) if values["stochastic_sampling"] else Euler()
        ),
    ),
    "FlowMatchHeunDiscreteScheduler": SchedulerClass(
        defaults={"num_train_timesteps": 1000, "shift": 1.0},
        read=functools.partial(read_flow, sampler=Heun()),
    ),
    "FlowMatchLCMScheduler": SchedulerClass(
        defaults=_FLOW | _RESPACED | _ENDS | {"scale_factors": None, "upscale_mode": "bicubic"},
        only=_UNSUPPORTED_FLOW | {"scale_factors": (None, [])},
        read=functools.partial(read_flow, sampler=LCM(boundary=False)),
    ),
}
