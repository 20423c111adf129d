"""Noise schedules: ``alpha`` and ``sigma`` of ``t``, in closed form and from tables.

A schedule is a frozen dataclass with ``alpha_sigma(t)`` and ``t_from_log_snr(log_snr)``; its line in
`SCHEDULES` makes it selectable by name in every config.
"""

from difflax.diffusion.schedules.base import (
    NoiseLevel,
    NoiseSchedule,
    add_noise,
    as_time,
    expand,
    log_snr,
    noise_level,
    unscheduled_level,
)
from difflax.diffusion.schedules.continuous import (
    VE,
    VPSDE,
    Cauchy,
    ContinuousCosine,
    EDMSchedule,
    ExponentialFlow,
    Laplace,
    RectifiedFlow,
    ResolutionFlow,
    ShiftedCosine,
    Sigmoid,
)
from difflax.diffusion.schedules.discrete import (
    AlphaBarTable,
    BetaTable,
    Cosine,
    Linear,
    ScaledLinear,
    TableSchedule,
)

SCHEDULES = {
    "linear": Linear,
    "scaled_linear": ScaledLinear,
    "cosine": Cosine,
    "betas": BetaTable,
    "alphas_cumprod": AlphaBarTable,
    "continuous_cosine": ContinuousCosine,
    "shifted_cosine": ShiftedCosine,
    "sigmoid": Sigmoid,
    "vp_sde": VPSDE,
    "ve": VE,
    "edm": EDMSchedule,
    "rectified_flow": RectifiedFlow,
    "exponential_flow": ExponentialFlow,
    "resolution_flow": ResolutionFlow,
    "laplace": Laplace,
    "cauchy": Cauchy,
}

__all__ = [
    "SCHEDULES",
    "VE",
    "VPSDE",
    "AlphaBarTable",
    "BetaTable",
    "Cauchy",
    "ContinuousCosine",
    "Cosine",
    "EDMSchedule",
    "ExponentialFlow",
    "Laplace",
    "Linear",
    "NoiseLevel",
    "NoiseSchedule",
    "RectifiedFlow",
    "ResolutionFlow",
    "ScaledLinear",
    "ShiftedCosine",
    "Sigmoid",
    "TableSchedule",
    "add_noise",
    "as_time",
    "expand",
    "log_snr",
    "noise_level",
    "unscheduled_level",
]
