"""From the options of diffusers' scheduler classes to a `Sampling`, one reader for each kind of class."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.predictions import EDM, X0, Epsilon, FlowVelocity, PredictionType, V
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.schedules import BetaTable, Cosine, EDMSchedule, Linear, RectifiedFlow, ScaledLinear
from difflax.diffusion.schedules.base import NoiseSchedule
from difflax.diffusion.time_grids import CheckpointFlow, SizedFlow, TimeGrid
from difflax.diffusion.time_grids.run import RunOptions
from difflax.diffusion.time_shift import TimeShift
from difflax.pretrained.components.scheduler_grids import (
    Conventions,
    DistilledSteps,
    EDMSteps,
    SchedulerGrid,
    ShapedFlow,
)
from difflax.pretrained.components.scheduler_options import TO_DATA, Config
from difflax.pretrained.components.scheduler_plans import NoPlan, Planner
from difflax.pretrained.components.scheduler_samplers import NegativeEDM


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


_PREDICTIONS = {
    "epsilon": Epsilon(),
    "v_prediction": V(),
    "sample": X0(),
}


def read_schedule(values: Config) -> NoiseSchedule:
    zero = bool(values.get("rescale_betas_zero_snr"))
    if values["trained_betas"] is not None:
        table = tuple(map(float, values["trained_betas"]))
        if len(table) != values["num_train_timesteps"]:
            raise UserError(
                f"scheduler config: trained_betas has {len(table)} entries, num_train_timesteps ="
                f" {values['num_train_timesteps']} are needed"
            )
        return BetaTable(table=table, zero_terminal_snr=zero)
    steps = int(values["num_train_timesteps"])
    ends = {"beta_start": float(values["beta_start"]), "beta_end": float(values["beta_end"])}
    known: dict[str, Callable[[], NoiseSchedule]] = {
        "linear": lambda: Linear(num_timesteps=steps, zero_terminal_snr=zero, **ends),
        "scaled_linear": lambda: ScaledLinear(num_timesteps=steps, zero_terminal_snr=zero, **ends),
        "squaredcos_cap_v2": lambda: Cosine(num_timesteps=steps, zero_terminal_snr=zero),
    }
    return choose(known, values["beta_schedule"], "scheduler config: beta_schedule")()


_RESPACING_OF = {
    "use_karras_sigmas": "karras",
    "use_lu_lambdas": "lu",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}


def _respacing(values: Config) -> Any:
    """The one respacing that is asked for, or ``None``."""
    asked = [name for name in _RESPACING_OF if values.get(name)]
    if len(asked) > 1:
        raise UserError(f"scheduler config: {' and '.join(asked)} exclude each other: set only one of them")
    return _RESPACING_OF[asked[0]] if asked else None


def _ends(values: Config) -> tuple[float | None, float | None]:
    """The least and the greatest sigma of a respacing, where the config gives them."""
    low, high = (None if v is None else float(v) for v in (values.get("sigma_min"), values.get("sigma_max")))
    if low is not None and high is not None and low >= high:
        raise UserError(f"scheduler config: sigma_min = {low} must be below sigma_max = {high}")
    return low, high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discrete:
    """Schedulers over a discrete process.

    Attributes:
        sampler, planner: from the options.
        conventions: how it spaces its steps.
        final: what says where the last step lands: the data, the first timestep, or an option.
        unit_start: starts from noise of unit variance at any spacing, not at "leading" alone.
        variance_exploding: see `RunOptions`.
        reads_ends: respacings whose ends an option gives.
    """

    sampler: Callable[[Config], Sampler]
    planner: Callable[[Config], Planner] = lambda values: NoPlan()
    conventions: Conventions = dataclasses.field(default_factory=Conventions)
    final: Literal["data", "first", "final_sigmas_type", "set_alpha_to_one"] = "data"
    unit_start: bool = True
    variance_exploding: bool = False
    reads_ends: tuple[str, ...] = ("karras", "exponential", "beta")

    def __call__(self, values: Config, patch_size: int) -> Sampling:
        steps = int(values["num_train_timesteps"])
        spacing, respacing = values.get("timestep_spacing", "linspace"), _respacing(values)
        conventions = self.conventions
        if values.get("interpolation_type") == "log_linear":
            respacing = respacing or "log_linear"
            conventions = dataclasses.replace(conventions, over_steps=False)
        ends = _ends(values) if respacing in self.reads_ends else (None, None)
        continuous = (
            values.get("timestep_type") == "continuous" and values["prediction_type"] == "v_prediction"
        )
        return Sampling(
            schedule=read_schedule(values),
            prediction_type=choose(
                _PREDICTIONS, values["prediction_type"], "scheduler config: prediction_type"
            ),
            network_input=(
                NetworkInput(time="log_sigma", time_scale=0.25)
                if continuous
                else NetworkInput(time_scale=float(steps), time_offset=-1.0)
            ),
            sampler=self.sampler(values),
            time_grid=SchedulerGrid(
                num_timesteps=steps,
                spacing=spacing,
                steps_offset=int(values["steps_offset"]) if "steps_offset" in values else 0,
                respacing=respacing,
                ends=ends,
                clipped=float(values.get("lambda_min_clipped", "-inf")),
                conventions=conventions,
                planner=self.planner(values),
            ),
            options=RunOptions(
                final_t=self._final(values, steps), variance_exploding=self.variance_exploding
            ),
            unit_start=self.unit_start or spacing == "leading",
        )

    def _final(self, values: Config, steps: int) -> float:
        first = {
            "data": False,
            "first": True,
            "final_sigmas_type": not TO_DATA[values.get("final_sigmas_type")],
            "set_alpha_to_one": not values.get("set_alpha_to_one"),
        }
        return 1 / steps if first[self.final] else 0.0


def read_distilled(
    values: Config, patch_size: int, sampler: Callable[[Config], Sampler], final: float
) -> Sampling:
    steps, known = int(values["num_train_timesteps"]), int(values["original_inference_steps"])
    if known > steps:
        raise UserError(
            f"scheduler config: original_inference_steps = {known} must not exceed num_train_timesteps ="
            f" {steps}"
        )
    return Sampling(
        schedule=read_schedule(values),
        prediction_type=choose(_PREDICTIONS, values["prediction_type"], "scheduler config: prediction_type"),
        network_input=NetworkInput(time_scale=float(steps), time_offset=-1.0),
        sampler=sampler(values),
        time_grid=DistilledSteps(num_timesteps=steps, spacing="trailing", distilled_steps=known),
        options=RunOptions(final_t=final / steps),
    )


def read_flow(values: Config, patch_size: int, sampler: Sampler) -> Sampling:
    steps = int(values["num_train_timesteps"])
    return Sampling(
        schedule=RectifiedFlow(),
        prediction_type=FlowVelocity(),
        network_input=NetworkInput(time_scale=float(steps)),
        sampler=sampler,
        time_grid=_flow_grid(values, steps, patch_size),
    )


def _flow_grid(values: Config, steps: int, patch_size: int) -> TimeGrid:
    inner, respacing = _shifted(values, steps, patch_size), _respacing(values)
    terminal = values.get("shift_terminal")
    if terminal is None and respacing is None:
        return inner
    return ShapedFlow(
        inner=inner,
        terminal=None if terminal is None else float(terminal),
        respacing=respacing,
        ends=_ends(values),
    )


def _shifted(values: Config, steps: int, patch_size: int) -> CheckpointFlow | SizedFlow:
    if not values.get("use_dynamic_shifting"):
        return CheckpointFlow(shift=float(values["shift"]), num_timesteps=steps)
    shift = TimeShift(
        mu=(float(values["base_shift"]), float(values["max_shift"])),
        tokens=(int(values["base_image_seq_len"]), int(values["max_image_seq_len"])),
        kind=values["time_shift_type"],
    )
    return SizedFlow(shift=shift, patch_size=patch_size, num_timesteps=steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preconditioned:
    """Schedulers that work in sigma, with EDM's preconditioning.

    Attributes:
        sampler, planner: from the options.
        repeats: see `EDMSteps`.
    """

    sampler: Callable[[Config], Sampler]
    planner: Callable[[Config], Planner] = lambda values: NoPlan()
    repeats: bool = False

    def __call__(self, values: Config, patch_size: int) -> Sampling:
        (low, high), data = _ends(values), float(values["sigma_data"])
        if low is None or high is None:
            raise UserError("scheduler config: sigma_min and sigma_max must be numbers above 0, not null")
        kinds = {"epsilon": EDM(sigma_data=data), "v_prediction": NegativeEDM(sigma_data=data)}
        return Sampling(
            schedule=EDMSchedule(sigma_max=high),
            prediction_type=choose(kinds, values["prediction_type"], "scheduler config: prediction_type"),
            network_input=NetworkInput(time="log_sigma", time_scale=0.25, sigma_data=data),
            sampler=self.sampler(values),
            time_grid=EDMSteps(
                sigma_min=low,
                sigma_max=high,
                rho=float(values["rho"]),
                respacing=values["sigma_schedule"],
                repeats=self.repeats,
                planner=self.planner(values),
            ),
            options=RunOptions(final_t=0.0 if TO_DATA[values["final_sigmas_type"]] else low / high),
        )
