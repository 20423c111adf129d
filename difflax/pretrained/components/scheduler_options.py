"""The options of diffusers' scheduler classes: what values they take, and which names there are at all."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from difflax.core.spelling import nearest
from difflax.core.types import UserError

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Values:
    """The values of an option.

    Attributes:
        says: what they are, for errors.
        holds: whether a value is one of them.
    """

    says: str
    holds: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def _whole(low: int, high: int = 10**6) -> Values:
    holds = lambda v: is_number(v) and v == int(v) and low <= v <= high  # noqa: E731
    return Values(f"a whole number from {low} to {high}", holds)


def _number(low: float | int, high: float | int = math.inf) -> Values:
    upper = "" if high == math.inf else f" and below {high:g}"
    return Values(f"a number above {low:g}{upper}", lambda v: is_number(v) and low < v < high)


def _one_of(*names: str) -> Values:
    return Values(" or ".join(map(repr, names)), lambda v: v in names)


def _optional(values: Values) -> Values:
    return Values(f"null or {values.says}", lambda v: v is None or values.holds(v))


def _list(item: Callable[[Any], bool], least: int) -> Callable[[Any], bool]:
    return lambda v: type(v) in (list, tuple) and len(v) >= least and all(map(item, v))


_FLAG = Values("true or false", lambda v: v is None or type(v) is bool)
_ANY = Values("anything", lambda v: True)
_LEARNED = ("learned", "learned_range")
_ALGORITHMS = (
    "dpmsolver",
    "dpmsolver++",
    "sde-dpmsolver",
    "sde-dpmsolver++",
    "deis",
    "data_prediction",
    "noise_prediction",
)
_SOLVERS = ("midpoint", "heun", "logrho", "bh1", "bh2")

VALUES: dict[str, Values] = {
    "algorithm_type": _one_of(*_ALGORITHMS),
    "base_image_seq_len": _whole(1),
    "base_shift": _number(-100, 100),
    "beta_end": _number(0, 1),
    "beta_schedule": _one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
    "beta_start": _number(0, 1),
    "corrector_order": _whole(1, 3),
    "disable_corrector": Values("a list of steps", _list(lambda v: _whole(0).holds(v), 0)),
    "final_sigmas_type": _one_of("zero", "sigma_min"),
    "interpolation_type": _one_of("linear", "log_linear"),
    "lambda_min_clipped": Values(
        "a number or -Infinity", lambda v: is_number(v) or v == -math.inf
    ),
    "max_image_seq_len": _whole(1),
    "max_shift": _number(-100, 100),
    "num_train_timesteps": _whole(2),
    "original_inference_steps": _whole(1),
    "prediction_type": _one_of("epsilon", "v_prediction", "sample"),
    "predictor_order": _whole(1, 3),
    "rho": _number(0),
    "shift": _number(0),
    "shift_terminal": _optional(_number(0, 1)),
    "sigma_data": _number(0),
    "sigma_max": _optional(_number(0)),
    "sigma_min": _optional(_number(0)),
    "sigma_schedule": _one_of("karras", "exponential"),
    "solver_order": _whole(1, 3),
    "solver_type": _one_of(*_SOLVERS),
    "steps_offset": _whole(0),
    "time_shift_type": _one_of("exponential", "linear"),
    "timestep_scaling": _number(0),
    "timestep_spacing": _one_of("linspace", "leading", "trailing"),
    "timestep_type": _one_of("discrete", "continuous"),
    "variance_type": _optional(
        _one_of(*(f"fixed_{size}{log}" for size in ("small", "large") for log in ("", "_log")), *_LEARNED)
    ),
    "trained_betas": _optional(
        Values("a list of at least two numbers in (0, 1]", _list(lambda v: is_number(v) and 0 < v <= 1, 2))
    ),
} | dict.fromkeys(
    (
        "clip_sample", "euler_at_final", "invert_sigmas", "lower_order_final", "predict_x0",
        "rescale_betas_zero_snr", "set_alpha_to_one", "skip_prk_steps", "stochastic_sampling", "thresholding",
        "use_beta_sigmas", "use_dynamic_shifting", "use_exponential_sigmas", "use_flow_sigmas",
        "use_karras_sigmas", "use_lu_lambdas",
    ),
    _FLAG,
)  # fmt: skip
"""What an option may be set to, for those that are read; the others are of no effect."""

TO_DATA = {"zero": True, "sigma_min": False, None: False}
"""Whether a ``final_sigmas_type`` goes down to the data; ``None``: of a class that has none."""

OTHER_OPTIONS = frozenset({
    "alpha_cum_end", "alpha_cum_start", "block_length", "clip_denoised", "clip_sample_range", "correct_steps",
    "corrector_k", "corrector_selection", "corrector_selection_tau", "corrector_steps",
    "dynamic_thresholding_ratio", "editing_threshold", "entropy_bound", "eps", "eta", "final_step_size_scale",
    "flow_shift", "gamma", "gamma_cum_end", "gamma_cum_start", "masking_schedule", "minimal_topk", "n_grid",
    "noise_sampler_seed", "num_inference_steps", "num_policy_substeps", "num_vec_classes",
    "s", "s_noise", "sample_max_value", "sampling_eps", "scale_factors", "scaler", "scheduler_type", "snr",
    "snr_shift_scale", "solver_p", "stage_range", "stages", "t_lim_ode", "t_lim_ode_below", "t_max", "t_min",
    "tail_step_multiplier", "tail_steps", "tau_func", "threshold", "upscale_mode",
    "mask_token_id", "noise_mode", "s_churn", "s_max", "s_min", "schedule_mode", "tsr_k", "tsr_sigma",
    # Of earlier versions, without effect in this one.
    "tensor_format", "timestep_values",
})  # fmt: skip
"""Options that some class of diffusers has, beside those of `VALUES`: a config that was copied from another
class may hold them.
"""


def read_options(name: str, config: Config, defaults: Config, only: Mapping[str, Collection[Any]]) -> Config:
    """The options that the class ``name`` reads, a config's or its own.

    Args:
        defaults: of all options that the class reads.
        only: values of options that have a counterpart here, where not all have one.

    Raises:
        UserError: an option that no class has, or a value that is none or has no counterpart.
    """
    for key in config:
        known = key in defaults or key in VALUES or key in OTHER_OPTIONS
        if not (str(key).startswith("_") or known):
            raise UserError(
                f"scheduler config: no scheduler has an option {key!r}{nearest(key, defaults)}; remove it, or"
                " correct its name"
            )
    values = {key: config.get(key, default) for key, default in defaults.items()}
    for key, value in values.items():
        allowed = VALUES.get(key, _ANY)
        if not allowed.holds(value):
            raise UserError(f"scheduler config: {key} = {value!r} of {name} must be {allowed.says}")
        given = False if allowed is _FLAG and value is None else value
        if key in only and given not in only[key]:
            supported = " or ".join(map(repr, only[key]))
            raise UserError(
                f"scheduler config: {key} = {value!r} is not supported of {name}, only {supported}: set it,"
                " or choose another scheduler"
            )
        values[key] = given
    return values
