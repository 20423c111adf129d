"""Scheduler configs, made from what the classes read, and the network that their runs are compared on.

The network reads its time, so a time that is rounded otherwise shows. Random samplers are given the same
noise in both worlds: that of the step's key where a sampler draws a step's noise, a function of the level
that the step leads to where it draws a path's.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np

ROWS, WIDTH = 2, 4
MOST_STEPS = 50

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = [
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "leading", "steps_offset": 0},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "trailing"},
]
SCHEDULES = [LATENT, {"beta_schedule": "linear"}, {"beta_schedule": "squaredcos_cap_v2"}]
RESPACED = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
ENDS = [{}, {}, {"sigma_min": 0.1}, {"sigma_max": 10.0}, {"sigma_min": 0.05, "sigma_max": 9.0}]
ALL, NOISE_OR_V = ("epsilon", "v_prediction", "sample"), ("epsilon", "v_prediction")
STEPS = (4, 5, 7, 8, 10, 12, 14, 15, 16, 20, 23, 28, 30, 37, 48, 50)


def predicting(*names: str) -> list[dict]:
    return [{"prediction_type": name} for name in names]


def either(name: str, *values: Any) -> list[dict]:
    return [{name: value} for value in values]


UNCLIPPED = [{"clip_sample": False}]
ZERO_SNR = [{}, {}, {"rescale_betas_zero_snr": True}]
FINAL = either("final_sigmas_type", "zero", "sigma_min")
LOWER = either("lower_order_final", True, False)
DPM = [
    predicting(*ALL), SCHEDULES, RESPACED, ENDS, FINAL, LOWER, either("solver_order", 1, 2, 2, 3, 3),
    either("solver_type", "midpoint", "heun", "logrho", "bh2"),
    either("algorithm_type", "dpmsolver++", "dpmsolver++", "sde-dpmsolver++", "deis"),
    [{}, {}, {}, {"lambda_min_clipped": -5.1}],
]  # fmt: skip

AXES: dict[str, list[list[dict]]] = {
    "DDIMScheduler": [
        UNCLIPPED,
        SPACINGS,
        SCHEDULES,
        ZERO_SNR,
        predicting(*ALL),
        either("set_alpha_to_one", True, False),
    ],
    "PNDMScheduler": [
        SPACINGS,
        SCHEDULES,
        predicting(*NOISE_OR_V),
        either("set_alpha_to_one", True, False),
        either("skip_prk_steps", True, True, False),
    ],
    "DDPMScheduler": [
        UNCLIPPED,
        SPACINGS,
        SCHEDULES,
        ZERO_SNR,
        predicting(*ALL),
        either("variance_type", "fixed_small", "fixed_small_log", "fixed_large"),
    ],
    "LCMScheduler": [
        SCHEDULES,
        ZERO_SNR,
        predicting(*ALL),
        either("original_inference_steps", 50, 100, 40),
        either("timestep_scaling", 10.0, 0.01),
    ],
    "EulerDiscreteScheduler": [
        SPACINGS,
        SCHEDULES,
        ZERO_SNR,
        predicting(*ALL),
        RESPACED,
        ENDS,
        FINAL,
        either("interpolation_type", "linear", "linear", "log_linear"),
        either("timestep_type", "discrete", "discrete", "continuous"),
    ],
    "EulerAncestralDiscreteScheduler": [SPACINGS, SCHEDULES, ZERO_SNR, predicting(*NOISE_OR_V)],
    "LMSDiscreteScheduler": [SPACINGS, SCHEDULES, predicting(*ALL), RESPACED, ENDS],
    "HeunDiscreteScheduler": [SPACINGS, SCHEDULES, predicting(*ALL), RESPACED, ENDS],
    "KDPM2DiscreteScheduler": [SPACINGS, SCHEDULES, predicting(*NOISE_OR_V), RESPACED, ENDS],
    # Its lower level is a difference of near numbers, lost in float32 where sigma / alpha is 2e4.
    "KDPM2AncestralDiscreteScheduler": [SPACINGS, SCHEDULES[:2], predicting(*NOISE_OR_V), RESPACED, ENDS],
    "DPMSolverMultistepScheduler": [
        *DPM,
        SPACINGS,
        ZERO_SNR,
        either("euler_at_final", False, False, True),
        either("use_lu_lambdas", False, False, True),
    ],
    "UniPCMultistepScheduler": [
        SPACINGS,
        SCHEDULES,
        ZERO_SNR,
        predicting(*ALL),
        RESPACED,
        ENDS,
        FINAL,
        either("lower_order_final", True, True, False),
        either("solver_order", 1, 2, 2, 3),
        either("solver_type", "bh2", "bh1", "midpoint"),
        either("disable_corrector", [], [], [0, 1], [3]),
    ],
    "DEISMultistepScheduler": [
        SPACINGS,
        SCHEDULES,
        predicting(*ALL),
        RESPACED,
        ENDS,
        LOWER,
        either("solver_order", 1, 2, 3),
        either("solver_type", "logrho", "midpoint"),
    ],
    "DPMSolverSinglestepScheduler": [
        *DPM[:-2],
        either("algorithm_type", "dpmsolver++", "dpmsolver++", "sde-dpmsolver++"),
        [{}, {}, {}, {"lambda_min_clipped": -5.1}],
    ],
    "SASolverScheduler": [
        SPACINGS,
        SCHEDULES,
        predicting(*ALL),
        RESPACED,
        ENDS,
        LOWER,
        either("predictor_order", 2, 1, 3),
        either("corrector_order", 2, 1, 3),
        [{}, {}, {}, {"lambda_min_clipped": -5.1}],
    ],
    "TCDScheduler": [SCHEDULES, ZERO_SNR, predicting(*ALL), either("original_inference_steps", 50, 100, 40)],
    "EDMEulerScheduler": [
        predicting(*NOISE_OR_V),
        FINAL,
        either("sigma_data", 0.5, 1.0),
        either("sigma_schedule", "karras", "exponential"),
        either("sigma_max", 80.0, 120.0),
        either("rho", 7.0, 5.0),
    ],
    "EDMDPMSolverMultistepScheduler": [
        predicting(*NOISE_OR_V),
        FINAL,
        LOWER,
        either("sigma_data", 0.5, 1.0),
        either("sigma_schedule", "karras", "exponential"),
        either("solver_order", 1, 2, 3),
        either("solver_type", "midpoint", "heun"),
        either("algorithm_type", "dpmsolver++", "dpmsolver++", "sde-dpmsolver++"),
        either("euler_at_final", False, False, True),
    ],
    "FlowMatchEulerDiscreteScheduler": [
        either("shift", 1.0, 3.0, 1.7),
        RESPACED,
        [{}, {}, {"shift_terminal": 0.02}],
        [{}, {}, {"sigma_min": 0.01}],
        either("stochastic_sampling", False, False, True),
    ],
    "FlowMatchHeunDiscreteScheduler": [either("shift", 1.0, 3.0, 1.7)],
    "FlowMatchLCMScheduler": [either("shift", 1.0, 3.0, 1.7), RESPACED, [{}, {}, {"shift_terminal": 0.02}]],
}

COUNTS = dict.fromkeys(AXES, 24) | {
    "DPMSolverMultistepScheduler": 60, "UniPCMultistepScheduler": 45, "EulerDiscreteScheduler": 40,
    "DEISMultistepScheduler": 30, "FlowMatchHeunDiscreteScheduler": 8, "DPMSolverSinglestepScheduler": 36,
}  # fmt: skip


PROCESSES: list[dict] = [
    {"num_train_timesteps": 500},
    {"num_train_timesteps": 1001},
    {"num_train_timesteps": 200, "trained_betas": np.linspace(0.002, 0.08, 200).round(6).tolist()},
    {"beta_start": 0.0005, "beta_end": 0.03},
]
"""Of other lengths, and other betas."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One config, and the number of steps of a run."""

    config: dict
    steps: int

    @property
    def name(self) -> str:
        return self.config["_class_name"]

    def __str__(self) -> str:
        options = ", ".join(f"{k}={v}" for k, v in self.config.items() if not k.startswith("_"))
        return f"{self.name}({options}) × {self.steps}"


def generated() -> list[Case]:
    """All cases."""
    usual = of_published_processes()
    return usual + of_other_processes(usual)


def of_other_processes(cases: list[Case]) -> list[Case]:
    """The first configs of each class with another process, at the same numbers of steps."""
    made = []
    for name in AXES:
        own = [case for case in cases if case.name == name]
        for case, process in zip(own, PROCESSES, strict=False):
            made.append(Case(case.config | process, case.steps))
    return made


def of_published_processes() -> list[Case]:
    """Every value of every option at least once, the rest of a class's configs at random."""
    cases: list[Case] = []
    for index, (name, axes) in enumerate(AXES.items()):
        rng = np.random.default_rng(100 + index)
        orders = [[axis[i] for i in rng.permutation(len(axis))] for axis in axes]
        seen = set()
        for i in itertools.count():
            if len(seen) == COUNTS[name]:
                break
            # Round each axis at its own speed, so that no two go together for long.
            config: dict = {"_class_name": name}
            for order in orders:
                first = i < len(order)
                config |= order[i if first else rng.integers(len(order))]
            case = Case(
                config, int(STEPS[(3 * i + index) % len(STEPS)] if i < len(STEPS) else rng.choice(STEPS))
            )
            if str(case) not in seen:
                seen.add(str(case))
                cases.append(case)
    return cases


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "W": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 2,
        "b": rng.normal(size=WIDTH).astype(np.float32) / 4,
        "c": rng.normal(size=WIDTH).astype(np.float32) / 2,
        "start": rng.normal(size=(ROWS, WIDTH)).astype(np.float32),
        "phase": rng.uniform(0, 6, size=(ROWS, WIDTH)).astype(np.float32),
    }


def network(x, time, numpy, parameters):
    """A smooth map that sees every timestep, and every logarithm of a level, in NumPy, PyTorch or JAX.

    Args:
        time: a scalar.
    """
    told = numpy.sin(0.025 * time) + 0.3 * numpy.sin(2.0 * time) / (1 + time**2)
    return numpy.tanh(x @ parameters["W"] + parameters["b"] + parameters["c"] * told)


def noise_of_level(log_snr, numpy, phase):
    """Noise of a step that leads to a level, for samplers that draw a path's."""
    return 1.4 * numpy.sin(3.0 * numpy.clip(log_snr, -30.0, 30.0) / 2 + phase)
