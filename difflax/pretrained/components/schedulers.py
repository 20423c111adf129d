"""diffusers' ``scheduler_config.json`` as schedule, prediction type, sampler and time grid.

The one place that knows diffusers' scheduler classes and their options: `SCHEDULER_CLASSES` has a line for
each, with every option that the class reads. An option is read as diffusers reads it or is an error; one that
only other classes have is of no effect, as in diffusers, and one that no class has is an error. A key that a
file leaves out has its class's default.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.predictions import EDM, X0, Epsilon, FlowVelocity, PredictionType, V
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
    DPMSolverSinglestep,
    Euler,
    EulerAncestral,
    Heun,
    SASolver,
    UniPC,
)
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.schedules import BetaTable, Cosine, EDMSchedule, Linear, RectifiedFlow, ScaledLinear
from difflax.diffusion.schedules.base import NoiseSchedule
from difflax.diffusion.time_grids import CheckpointFlow, FlowGrid, SizedFlow, TimeGrid
from difflax.diffusion.time_grids.run import RunOptions
from difflax.diffusion.time_shift import TimeShift
from difflax.pretrained.components.scheduler_grids import (
    Conventions,
    DistilledSteps,
    EDMSteps,
    Halfway,
    NoPlan,
    Orders,
    Planner,
    RungeKuttaMultistep,
    SchedulerGrid,
    ShapedFlow,
    SingleOrders,
    Stochastic,
    Strided,
    StridedMultistep,
)
from difflax.pretrained.components.scheduler_options import Config, read_options
from difflax.pretrained.components.scheduler_samplers import NegativeEDM, Published3MSDE, TimestepTCD


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
        grid = self.time_grid
        return grid.of_latent(latent).time_shift if isinstance(grid, FlowGrid) else None


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


def read_scheduler(config: Config, *, patch_size: int = 2) -> Sampling:
    """The parts of difflax that do what the scheduler of a ``scheduler_config.json`` does.

    Args:
        patch_size: of the network, for a shift that depends on the number of its tokens.

    Raises:
        UserError: in one line, a class, an option or a value that is none, or has no counterpart here.
    """
    name = str(config.get("_class_name", "")).removeprefix("Flax")
    kind = choose(SCHEDULER_CLASSES, name, "scheduler config: _class_name")
    values = read_options(name, config, kind.defaults, kind.only)
    try:
        return kind.read(values, patch_size)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"scheduler config of {name}: {error}") from error


_BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
}
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
_UNSUPPORTED = dict.fromkeys(
    ("thresholding", "clip_sample", "use_flow_sigmas", "use_dynamic_shifting"), (False,)
)
_WITHOUT_X0 = {"prediction_type": ("epsilon", "v_prediction")}

_PREDICTIONS = {
    "epsilon": Epsilon(),
    "v_prediction": V(),
    "sample": X0(),
}


def _schedule(values: Config) -> NoiseSchedule:
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
class _Discrete:
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
    conventions: Conventions = Conventions()
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
        continuous = values.get("timestep_type") == "continuous" and values["prediction_type"] == "v_prediction"
        return Sampling(
            schedule=_schedule(values),
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
            options=RunOptions(final_t=self._final(values, steps), variance_exploding=self.variance_exploding),
            unit_start=self.unit_start or spacing == "leading",
        )

    def _final(self, values: Config, steps: int) -> float:
        first = {
            "data": False,
            "first": True,
            "final_sigmas_type": values.get("final_sigmas_type") == "sigma_min",
            "set_alpha_to_one": not values.get("set_alpha_to_one"),
        }
        return 1 / steps if first[self.final] else 0.0


_EULER = Conventions(fractional=True, in_sigma=True)
_EULER_ROUNDED = dataclasses.replace(_EULER, rounded=frozenset({"karras"}))
_MULTISTEP = Conventions(
    endpoint=False, truncated=True, rounded=frozenset({"karras"}), over_steps=False, repeats=True, in_sigma=True
)
_DPM_ROUNDED = dataclasses.replace(_MULTISTEP, rounded=frozenset({"karras", "lu"}), repeats=False)


_SOLVERS = {
    "midpoint": "midpoint", "heun": "heun", "logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint",
}  # fmt: skip
"""diffusers reads the names of other classes' solvers as the usual one."""
_UNIPC_VARIANTS = {"bh1": "bh1", "bh2": "bh2", "midpoint": "bh2", "heun": "bh2", "logrho": "bh2"}
_ALGORITHMS = {"dpmsolver++": 0.0, "deis": 0.0, "sde-dpmsolver++": 1.0}


def _dpm_solver(values: Config) -> Sampler:
    if values["algorithm_type"] == "deis" and values["final_sigmas_type"] == "zero":
        raise UserError(
            "scheduler config: algorithm_type = 'deis' does not go with final_sigmas_type = 'zero': set"
            " algorithm_type to 'dpmsolver++' or final_sigmas_type to 'sigma_min'"
        )
    eta, midpoint = _ALGORITHMS[values["algorithm_type"]], _SOLVERS[values["solver_type"]] == "midpoint"
    if values["solver_order"] < 3:
        return DPMSolver2M(eta=eta, midpoint=midpoint)
    if eta:
        return Published3MSDE(midpoint=midpoint)
    return DPMSolver3M(midpoint=midpoint, published=True)


def _short_orders(values: Config) -> Orders:
    return Orders(
        order=int(values["solver_order"]),
        rule="short",
        lower=values["lower_order_final"],
        first_at_last=bool(values.get("euler_at_final")) or values.get("final_sigmas_type") == "zero",
        divides={"heun": 2}.get(values["solver_type"], 3) if "euler_at_final" in values else 4,
    )


def _remaining_orders(values: Config) -> Orders:
    order = int(values["solver_order"])
    if values["solver_type"] == "bh1" and values["final_sigmas_type"] == "zero":
        raise UserError(
            "scheduler config: solver_type = 'bh1' with final_sigmas_type = 'zero' makes no image in"
            " UniPCMultistepScheduler of diffusers: set solver_type to 'bh2' or final_sigmas_type to 'sigma_min'"
        )
    if order > 1 and not values["lower_order_final"] and values["final_sigmas_type"] == "zero":
        raise UserError(
            "scheduler config: lower_order_final = False with final_sigmas_type = 'zero' makes no image in"
            " UniPCMultistepScheduler of diffusers: set lower_order_final to True or final_sigmas_type to"
            " 'sigma_min'"
        )
    return Orders(
        order=order,
        rule="remaining",
        lower=values["lower_order_final"],
        uncorrected=tuple(map(int, values["disable_corrector"])),
    )


_VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "learned_range": "learned_range",
}


def _ddpm(values: Config) -> Sampler:
    variance = _VARIANCES[values["variance_type"]]
    spacing, offset = values["timestep_spacing"], values["steps_offset"]
    if variance != "small" and (spacing == "trailing" or (spacing == "leading" and offset)):
        raise UserError(
            f"scheduler config: variance_type = {values['variance_type']!r} is not supported with"
            f" timestep_spacing = {spacing!r} and steps_offset = {offset}, where diffusers ends on a noisy"
            " image: set timestep_spacing to 'linspace', or to 'leading' with steps_offset 0"
        )
    return DDPM(variance=variance)


def _pndm(values: Config) -> Sampler:
    kind = PLMS if values["skip_prk_steps"] else PNDM
    extrapolated = {"epsilon": "eps", "v_prediction": "v"}
    return kind(extrapolates=extrapolated[values["prediction_type"]], reaches_data=True)


def _distilled(values: Config, patch_size: int, sampler: Callable[[Config], Sampler], final: float) -> Sampling:
    steps, known = int(values["num_train_timesteps"]), int(values["original_inference_steps"])
    if known > steps:
        raise UserError(
            f"scheduler config: original_inference_steps = {known} must not exceed num_train_timesteps = {steps}"
        )
    return Sampling(
        schedule=_schedule(values),
        prediction_type=choose(_PREDICTIONS, values["prediction_type"], "scheduler config: prediction_type"),
        network_input=NetworkInput(time_scale=float(steps), time_offset=-1.0),
        sampler=sampler(values),
        time_grid=DistilledSteps(num_timesteps=steps, spacing="trailing", distilled_steps=known),
        options=RunOptions(final_t=final / steps),
    )


def _lcm(values: Config) -> Sampler:
    return LCM(
        timestep_scaling=float(values["timestep_scaling"]), num_timesteps=int(values["num_train_timesteps"])
    )


def _flow(values: Config, patch_size: int, sampler: Sampler) -> Sampling:
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

@dataclasses.dataclass(frozen=True, kw_only=True)
class _EDM:
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
            options=RunOptions(final_t=0.0 if values["final_sigmas_type"] == "zero" else low / high),
        )


def _edm_dpm_solver(values: Config) -> Sampler:
    if values["algorithm_type"] == "sde-dpmsolver++" and values["solver_order"] == 3:
        raise UserError(
            "scheduler config: algorithm_type = 'sde-dpmsolver++' with solver_order = 3 fails in"
            " EDMDPMSolverMultistepScheduler of diffusers: set solver_order to 2"
        )
    return _dpm_solver(values)


def _singlestep(values: Config) -> Sampler:
    eta, midpoint = _ALGORITHMS[values["algorithm_type"]], _SOLVERS[values["solver_type"]] == "midpoint"
    order = int(values["solver_order"])
    if values["algorithm_type"] == "deis" and values["final_sigmas_type"] == "zero":
        raise UserError(
            "scheduler config: algorithm_type = 'deis' does not go with final_sigmas_type = 'zero': set"
            " algorithm_type to 'dpmsolver++' or final_sigmas_type to 'sigma_min'"
        )
    if eta and order == 3 and not midpoint:
        raise UserError(
            "scheduler config: solver_type = 'heun' of order 3 with algorithm_type = 'sde-dpmsolver++' is not"
            " supported: set solver_type to 'midpoint' or solver_order to 2"
        )
    return DPMSolverSinglestep(order=order, midpoint=midpoint, eta=eta)


def _single_orders(values: Config) -> SingleOrders:
    return SingleOrders(
        order=int(values["solver_order"]),
        lower=bool(values["lower_order_final"]),
        to_data=values["final_sigmas_type"] == "zero",
    )


def _sa_solver(values: Config) -> Sampler:
    return SASolver(
        predictor_order=int(values["predictor_order"]),
        corrector_order=int(values["corrector_order"]),
        published=True,
    )


def _tcd(values: Config) -> Sampler:
    # What diffusers' pipelines give its eta by default.
    return TimestepTCD(
        gamma=0.0, schedule=_schedule(values), num_timesteps=int(values["num_train_timesteps"])
    )


FLOW = "FlowMatchEulerDiscreteScheduler"
"""The class of flows."""

SCHEDULER_CLASSES: dict[str, SchedulerClass] = {
    "DDIMScheduler": SchedulerClass(
        defaults=_BETAS
        | _CLIPPING
        | _CLIPPED_SAMPLE
        | {"set_alpha_to_one": True, "timestep_spacing": "leading", "rescale_betas_zero_snr": False},
        only=_UNSUPPORTED,
        read=_Discrete(
            sampler=lambda values: DDIM(), planner=lambda values: Strided(), final="set_alpha_to_one"
        ),
    ),
    "PNDMScheduler": SchedulerClass(
        defaults=_BETAS
        | {"skip_prk_steps": False, "set_alpha_to_one": False, "timestep_spacing": "leading"},
        only=_WITHOUT_X0,
        read=_Discrete(
            sampler=_pndm,
            planner=lambda values: StridedMultistep() if values["skip_prk_steps"] else RungeKuttaMultistep(),
            final="set_alpha_to_one",
        ),
    ),
    "DDPMScheduler": SchedulerClass(
        defaults=_BETAS
        | _CLIPPING
        | _CLIPPED_SAMPLE
        | {"variance_type": "fixed_small", "timestep_spacing": "leading", "rescale_betas_zero_snr": False},
        only=_UNSUPPORTED | {"variance_type": tuple(_VARIANCES)},
        read=_Discrete(sampler=_ddpm),
    ),
    "LCMScheduler": SchedulerClass(
        defaults=_LATENT_BETAS
        | _CLIPPING
        | _CLIPPED_SAMPLE
        | {
            "clip_sample": False,
            "original_inference_steps": 50,
            "set_alpha_to_one": True,
            "timestep_spacing": "leading",
            "timestep_scaling": 10.0,
            "rescale_betas_zero_snr": False,
        },
        only=_UNSUPPORTED,
        read=functools.partial(_distilled, sampler=_lcm, final=0.0),
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
        read=_Discrete(
            sampler=lambda values: Euler(), conventions=_EULER, final="final_sigmas_type", unit_start=False
        ),
    ),
    "EulerAncestralDiscreteScheduler": SchedulerClass(
        defaults=_BETAS | {"timestep_spacing": "linspace", "rescale_betas_zero_snr": False},
        only=_WITHOUT_X0,
        read=_Discrete(sampler=lambda values: EulerAncestral(), conventions=_EULER, unit_start=False),
    ),
    "LMSDiscreteScheduler": SchedulerClass(
        defaults=_BETAS | _RESPACED | _ENDS | {"timestep_spacing": "linspace"},
        read=_Discrete(
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
        read=_Discrete(
            sampler=lambda values: Heun(), conventions=_EULER, unit_start=False, variance_exploding=True
        ),
    ),
    "KDPM2DiscreteScheduler": SchedulerClass(
        defaults=_KARRAS_BETAS | _RESPACED | _ENDS | {"timestep_spacing": "linspace"},
        only=_WITHOUT_X0,
        read=_Discrete(
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
        read=_Discrete(
            sampler=lambda values: DPM2Ancestral(),
            planner=lambda values: Halfway(ancestral=True),
            conventions=_EULER_ROUNDED,
            unit_start=False,
            variance_exploding=True,
        ),
    ),
    "DPMSolverMultistepScheduler": SchedulerClass(
        defaults=_BETAS
        | _CLIPPING
        | _RESPACED
        | _ENDS
        | _FLOW_SIGMAS
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
        only=_UNSUPPORTED | {"variance_type": (None,), "algorithm_type": tuple(_ALGORITHMS)},
        read=lambda values, patch_size: _Discrete(
            sampler=_dpm_solver,
            planner=_short_orders,
            conventions=_DPM_ROUNDED
            if values["beta_schedule"] != "squaredcos_cap_v2"
            else dataclasses.replace(_DPM_ROUNDED, rounded=frozenset()),
            final="final_sigmas_type",
        )(values, patch_size),
    ),
    "UniPCMultistepScheduler": SchedulerClass(
        defaults=_BETAS
        | _CLIPPING
        | _RESPACED
        | _ENDS
        | _FLOW_SIGMAS
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
        read=_Discrete(
            sampler=lambda values: UniPC(
                order=int(values["solver_order"]), variant=_UNIPC_VARIANTS[values["solver_type"]]
            ),
            planner=_remaining_orders,
            conventions=_MULTISTEP,
            final="final_sigmas_type",
        ),
    ),
    "DEISMultistepScheduler": SchedulerClass(
        defaults=_BETAS
        | _CLIPPING
        | _RESPACED
        | _ENDS
        | _FLOW_SIGMAS
        | {
            "solver_order": 2,
            "algorithm_type": "deis",
            "solver_type": "logrho",
            "lower_order_final": True,
            "timestep_spacing": "linspace",
        },
        only=_UNSUPPORTED | {"algorithm_type": ("deis", "dpmsolver", "dpmsolver++")},
        read=_Discrete(
            sampler=lambda values: DEIS(order=int(values["solver_order"])),
            planner=_short_orders,
            conventions=_MULTISTEP,
            final="first",
        ),
    ),
    "DPMSolverSinglestepScheduler": SchedulerClass(
        defaults={name: value for name, value in _BETAS.items() if name != "steps_offset"}
        | _CLIPPING
        | _RESPACED
        | _ENDS
        | _FLOW_SIGMAS
        | {
            "solver_order": 2,
            "algorithm_type": "dpmsolver++",
            "solver_type": "midpoint",
            "lower_order_final": False,
            "final_sigmas_type": "zero",
            "lambda_min_clipped": float("-inf"),
            "variance_type": None,
        },
        only=_UNSUPPORTED | {"variance_type": (None,), "algorithm_type": tuple(_ALGORITHMS)},
        read=_Discrete(
            sampler=_singlestep,
            planner=_single_orders,
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
        read=_Discrete(
            sampler=_sa_solver,
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
        defaults=_LATENT_BETAS
        | _CLIPPING
        | _CLIPPED_SAMPLE
        | {
            "clip_sample": False,
            "original_inference_steps": 50,
            "set_alpha_to_one": True,
            "timestep_spacing": "leading",
            "timestep_scaling": 10.0,
            "rescale_betas_zero_snr": False,
        },
        only=_UNSUPPORTED,
        read=functools.partial(_distilled, sampler=_tcd, final=1.0),
    ),
    "EDMEulerScheduler": SchedulerClass(
        defaults=_EDM_SIGMAS,
        only={"prediction_type": ("epsilon", "v_prediction")},
        read=_EDM(sampler=lambda values: Euler(), repeats=True),
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
        | {"algorithm_type": tuple(_ALGORITHMS), "prediction_type": ("epsilon", "v_prediction")},
        read=_EDM(sampler=_edm_dpm_solver, planner=_short_orders),
    ),
    FLOW: SchedulerClass(
        defaults=_FLOW | _RESPACED | _ENDS | {"stochastic_sampling": False},
        only=_UNSUPPORTED_FLOW,
        read=lambda values, patch_size: _flow(
            values, patch_size, LCM(boundary=False) if values["stochastic_sampling"] else Euler()
        ),
    ),
    "FlowMatchHeunDiscreteScheduler": SchedulerClass(
        defaults={"num_train_timesteps": 1000, "shift": 1.0},
        read=functools.partial(_flow, sampler=Heun()),
    ),
    "FlowMatchLCMScheduler": SchedulerClass(
        defaults=_FLOW | _RESPACED | _ENDS | {"scale_factors": None, "upscale_mode": "bicubic"},
        only=_UNSUPPORTED_FLOW | {"scale_factors": (None, [])},
        read=functools.partial(_flow, sampler=LCM(boundary=False)),
    ),
}
