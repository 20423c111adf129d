"""diffusers' ``scheduler_config.json`` as schedule, prediction type, sampler and time grid.

The one place that knows diffusers' scheduler classes and their conventions: timesteps 0 … T - 1 that stand
for t = 1/T … 1, defaults that differ from class to class, where the noise's standard deviation starts, and
where the last step lands. A key that a file leaves out has its class's default, as in diffusers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.predictions import X0, Epsilon, FlowVelocity, PredictionType, V
from difflax.diffusion.samplers import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LCM,
    LMS,
    PLMS,
    PNDM,
    DPM2Ancestral,
    DPMSolver2M,
    DPMSolver3M,
    Euler,
    EulerAncestral,
    Heun,
    UniPC,
)
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.schedules import BetaTable, Cosine, Linear, RectifiedFlow, ScaledLinear
from difflax.diffusion.schedules.base import NoiseSchedule, as_time, log_snr
from difflax.diffusion.time_grids import (
    Beta,
    CheckpointFlow,
    Distilled,
    Karras,
    Leading,
    Linspace,
    SizedFlow,
    TimeGrid,
    Trailing,
    UniformLogSNR,
)
from difflax.diffusion.time_grids.run import RunOptions
from difflax.diffusion.time_shift import TimeShift

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a checkpoint is meant to be sampled.

    Attributes:
        options: where the last step lands, and whether steps go along straight lines in ``sigma / alpha``.
        unit_start: a run starts from noise of the length that images have on the path (1 on a
            variance-preserving one), not of the first level's sigma.
    """

    schedule: NoiseSchedule
    prediction_type: PredictionType
    network_input: NetworkInput
    sampler: Sampler
    time_grid: TimeGrid
    options: RunOptions = dataclasses.field(default_factory=RunOptions)
    unit_start: bool = True

    def time_shift(self, latent: tuple[int, int]) -> TimeShift | None:
        """How far a flow's times are moved for an image whose latent has that height and width; ``None`` for
        other models.
        """
        return self.time_grid.of_latent(latent).time_shift


@dataclasses.dataclass(frozen=True, kw_only=True)
class Respaced(TimeGrid):
    """Another spacing of ``sigma / alpha`` between the ends of ``over``, or of the whole table."""

    kind: Literal["karras", "exponential", "beta"]
    over: TimeGrid | None = None

    def times(self, schedule: NoiseSchedule, num_steps: int) -> Array:
        ends: dict[str, float] = {}
        if self.over is not None:
            high, *_, low = np.asarray(self.over.times(schedule, max(num_steps, 2)))
            ends = {
                name: float(jnp.exp(-log_snr(schedule, as_time(t)) / 2))
                for name, t in (("sigma_min", low), ("sigma_max", high))
            }
        grids = {
            "karras": Karras,
            "exponential": UniformLogSNR,
            "beta": lambda **ends: Beta(over="sigma", **ends),
        }
        return grids[self.kind](**ends).times(schedule, num_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Class:
    """A scheduler class of diffusers.

    Attributes:
        sampler: from its config.
        spacing: default of ``timestep_spacing``.
        defaults: of the keys whose default is not the common one.
        multistep: its timesteps leave the lowest out, and other spacings go over the whole table.
        rounded: its ``linspace`` has whole timesteps.
        karras_start: starts from noise of the first sigma unless the spacing is "leading".
        final: from its config, whether the last step lands on the data, and not on the first timestep.
        variance_exploding: see `RunOptions`.
    """

    sampler: Callable[[Config], Sampler]
    spacing: str = "linspace"
    defaults: Config = dataclasses.field(default_factory=dict)
    multistep: bool = False
    rounded: bool = True
    karras_start: bool = False
    final: Callable[[Config], bool] = lambda config: True
    variance_exploding: bool = False


def _final_sigma(config: Config) -> bool:
    ends = {"zero": True, "sigma_min": False}
    return choose(ends, config["final_sigmas_type"], "scheduler config: final_sigmas_type")


def _final_alpha(config: Config) -> bool:
    return bool(config["set_alpha_to_one"])


def _dpm_solver(config: Config) -> Sampler:
    kind, order = config["algorithm_type"], config["solver_order"]
    eta = choose(_ETA, kind, "scheduler config: algorithm_type")
    midpoint = choose(_MIDPOINT, config["solver_type"], "scheduler config: solver_type")
    if order == 1 and eta == 0:
        return DDIM()
    if order == 2:
        return DPMSolver2M(eta=eta, midpoint=midpoint)
    if order == 3:
        return DPMSolver3M(eta=eta, midpoint=midpoint, published=True)
    raise UserError(f"scheduler config: {kind} of solver_order = {order} is not supported, only 2 and 3")


def _ddpm(config: Config) -> Sampler:
    kinds = {"fixed_small": "small", "fixed_large": "large", "learned_range": "learned_range"}
    return DDPM(variance=choose(kinds, config["variance_type"], "scheduler config: variance_type"))


def _unipc(config: Config) -> Sampler:
    if not config["predict_x0"]:
        raise UserError("scheduler config: predict_x0 = false of UniPC is not supported, only true")
    return UniPC(order=config["solver_order"], variant=config["solver_type"])


_ETA = {"dpmsolver++": 0.0, "sde-dpmsolver++": 1.0}
_MIDPOINT = {"heun": False} | dict.fromkeys(("midpoint", "logrho", "bh1", "bh2"), True)
"""By ``solver_type``; diffusers reads the last three, which are other solvers', as the midpoint."""

_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
_KARRAS = {"beta_start": 0.00085, "beta_end": 0.012}

SCHEDULER_CLASSES: dict[str, _Class] = {
    "DDIMScheduler": _Class(
        sampler=lambda config: DDIM(),
        spacing="leading",
        defaults={"set_alpha_to_one": True, "clip_sample": True},
        final=_final_alpha,
    ),
    # With v prediction diffusers extrapolates v and PLMS here the noise: close, not the same.
    "PNDMScheduler": _Class(
        sampler=lambda config: PLMS() if config["skip_prk_steps"] else PNDM(),
        spacing="leading",
        defaults={"skip_prk_steps": False, "set_alpha_to_one": False},
        final=_final_alpha,
    ),
    "DDPMScheduler": _Class(
        sampler=_ddpm,
        spacing="leading",
        defaults={"clip_sample": True, "variance_type": "fixed_small"},
    ),
    "LCMScheduler": _Class(
        sampler=lambda config: LCM(timestep_scaling=config["timestep_scaling"]),
        spacing="leading",
        defaults=_KARRAS
        | {"beta_schedule": "scaled_linear", "timestep_scaling": 10.0, "original_inference_steps": 50},
    ),
    "EulerDiscreteScheduler": _Class(
        sampler=lambda config: Euler(), rounded=False, karras_start=True, final=_final_sigma
    ),
    "EulerAncestralDiscreteScheduler": _Class(
        sampler=lambda config: EulerAncestral(), rounded=False, karras_start=True
    ),
    "LMSDiscreteScheduler": _Class(sampler=lambda config: LMS(), rounded=False, karras_start=True),
    "HeunDiscreteScheduler": _Class(
        sampler=lambda config: Heun(),
        defaults=_KARRAS,
        rounded=False,
        karras_start=True,
        variance_exploding=True,
    ),
    "KDPM2DiscreteScheduler": _Class(
        sampler=lambda config: DPM2(),
        defaults=_KARRAS,
        rounded=False,
        karras_start=True,
        variance_exploding=True,
    ),
    "KDPM2AncestralDiscreteScheduler": _Class(
        sampler=lambda config: DPM2Ancestral(),
        defaults=_KARRAS,
        rounded=False,
        karras_start=True,
        variance_exploding=True,
    ),
    "DPMSolverMultistepScheduler": _Class(
        sampler=_dpm_solver, defaults=_DPM, multistep=True, final=_final_sigma
    ),
    "UniPCMultistepScheduler": _Class(
        sampler=_unipc,
        defaults={"solver_order": 2, "solver_type": "bh2", "predict_x0": True},
        multistep=True,
        final=_final_sigma,
    ),
    "DEISMultistepScheduler": _Class(
        sampler=lambda config: DEIS(order=config["solver_order"]),
        defaults={"solver_order": 2},
        multistep=True,
        final=lambda config: False,
    ),
}
FLOW = "FlowMatchEulerDiscreteScheduler"

_COMMON = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
    "final_sigmas_type": "zero",
}
_ABSENT = {
    "clip_sample": False,
    "thresholding": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "timestep_type": "discrete",
    "interpolation_type": "linear",
}
"""Options that are supported only in the state that leaves them out."""

_ABSENT_FROM_FLOWS = {
    "invert_sigmas": False,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
"""The same of `FLOW`."""

_PREDICTIONS = {"epsilon": Epsilon(), "v_prediction": V(), "sample": X0()}


def read_scheduler(config: Config, *, patch_size: int = 2) -> Sampling:
    """The parts of difflax that do what the scheduler of a ``scheduler_config.json`` does.

    Args:
        patch_size: of the network, for a shift that depends on the number of its tokens.

    Raises:
        UserError: a class or an option that has no counterpart here.
    """
    name = str(config.get("_class_name", "")).removeprefix("Flax")
    kind = choose({FLOW: None} | SCHEDULER_CLASSES, name, "scheduler config: _class_name")
    values = _COMMON | ({} if kind is None else dict(kind.defaults)) | dict(config)
    for key, only in (_ABSENT_FROM_FLOWS if kind is None else _ABSENT).items():
        if values.get(key, only) not in (only, None):
            raise UserError(f"scheduler config: {key} = {values[key]!r} is not supported, only {only!r}")
    steps = values["num_train_timesteps"]
    if kind is None:
        return Sampling(
            schedule=RectifiedFlow(),
            prediction_type=FlowVelocity(),
            network_input=NetworkInput(time_scale=float(steps)),
            sampler=Euler(),
            time_grid=_flow_grid(values, patch_size),
        )
    spacing = values.get("timestep_spacing") or kind.spacing
    return Sampling(
        schedule=_schedule(values),
        prediction_type=choose(_PREDICTIONS, values["prediction_type"], "scheduler config: prediction_type"),
        network_input=NetworkInput(time_scale=float(steps), time_offset=-1.0),
        sampler=kind.sampler(values),
        time_grid=_grid(kind, spacing, values),
        options=RunOptions(
            final_t=0.0 if kind.final(values) else 1 / steps, variance_exploding=kind.variance_exploding
        ),
        unit_start=not kind.karras_start or spacing == "leading",
    )


def _schedule(values: Config) -> NoiseSchedule:
    zero = bool(values["rescale_betas_zero_snr"])
    if values["trained_betas"] is not None:
        return BetaTable(table=tuple(map(float, values["trained_betas"])), zero_terminal_snr=zero)
    steps = values["num_train_timesteps"]
    ends = {"beta_start": float(values["beta_start"]), "beta_end": float(values["beta_end"])}
    known: dict[str, Callable[[], NoiseSchedule]] = {
        "linear": lambda: Linear(num_timesteps=steps, zero_terminal_snr=zero, **ends),
        "scaled_linear": lambda: ScaledLinear(num_timesteps=steps, zero_terminal_snr=zero, **ends),
        "squaredcos_cap_v2": lambda: Cosine(num_timesteps=steps, zero_terminal_snr=zero),
    }
    return choose(known, values["beta_schedule"], "scheduler config: beta_schedule")()


def _flow_grid(values: Config, patch_size: int) -> TimeGrid:
    steps = values["num_train_timesteps"]
    if not values.get("use_dynamic_shifting"):
        return CheckpointFlow(shift=float(values.get("shift", 1.0)), num_timesteps=steps)
    kind = values.get("time_shift_type", "exponential")
    shift = TimeShift(
        mu=(float(values.get("base_shift", 0.5)), float(values.get("max_shift", 1.15))),
        tokens=(values.get("base_image_seq_len", 256), values.get("max_image_seq_len", 4096)),
        kind=choose({"exponential": kind, "linear": kind}, kind, "scheduler config: time_shift_type"),
    )
    return SizedFlow(shift=shift, patch_size=patch_size, num_timesteps=steps)


def _grid(kind: _Class, spacing: str, values: Config) -> TimeGrid:
    steps, offset = values["num_train_timesteps"], values["steps_offset"]
    if "original_inference_steps" in values:
        return Distilled(distilled_steps=values["original_inference_steps"], num_timesteps=steps)
    whole = not kind.multistep
    grids: dict[str, TimeGrid] = {
        "linspace": Linspace(num_timesteps=steps, rounded=kind.rounded or kind.multistep, endpoint=whole),
        "leading": Leading(num_timesteps=steps, steps_offset=offset, endpoint=whole),
        "trailing": Trailing(num_timesteps=steps),
    }
    grid = choose(grids, spacing, "scheduler config: timestep_spacing")
    for other in ("karras", "exponential", "beta"):
        if values.get(f"use_{other}_sigmas"):
            return Respaced(kind=other, over=None if kind.multistep else grid)
    return grid
