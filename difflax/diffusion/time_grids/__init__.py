"""Which times to sample at; a grid's line in `TIME_GRIDS` makes it selectable by name in every config."""

from difflax.diffusion.time_grids.base import (
    TimeGrid,
    check_levels,
    data_level,
    pad_levels,
    sampling_levels,
)
from difflax.diffusion.time_grids.continuous import (
    AlignYourSteps,
    Beta,
    Even,
    Karras,
    Quadratic,
    UniformLogSNR,
)
from difflax.diffusion.time_grids.discrete import Distilled, Leading, Linspace, Trailing
from difflax.diffusion.time_grids.flows import (
    CheckpointFlow,
    DynamicFlowShift,
    FlowGrid,
    FlowShift,
    SizedFlow,
)

TIME_GRIDS = {
    "trailing": Trailing,
    "leading": Leading,
    "linspace": Linspace,
    "distilled": Distilled,
    "even": Even,
    "quadratic": Quadratic,
    "uniform_log_snr": UniformLogSNR,
    "exponential": UniformLogSNR,
    "karras": Karras,
    "beta": Beta,
    "align_your_steps": AlignYourSteps,
    "flow_shift": FlowShift,
    "dynamic_flow_shift": DynamicFlowShift,
    "checkpoint_flow": CheckpointFlow,
}

__all__ = [
    "TIME_GRIDS",
    "AlignYourSteps",
    "Beta",
    "CheckpointFlow",
    "Distilled",
    "DynamicFlowShift",
    "Even",
    "FlowGrid",
    "FlowShift",
    "Karras",
    "Leading",
    "Linspace",
    "Quadratic",
    "SizedFlow",
    "TimeGrid",
    "Trailing",
    "UniformLogSNR",
    "check_levels",
    "data_level",
    "pad_levels",
    "sampling_levels",
]
