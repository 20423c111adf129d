"""What a sweep may change, by the names of the axes; a new one is one entry in one of these tables.

They act in this order on an arm: the weights, then the null condition, the guidance and the rest of the run.
"""

from difflax.runs.axes.base import Setup, SweptAxis, Weights
from difflax.runs.axes.guidance import GUIDANCE_AXES
from difflax.runs.axes.sampling import SAMPLING_AXES
from difflax.runs.axes.weights import WEIGHTS_AXES

SWEPT_AXES = {**WEIGHTS_AXES, **GUIDANCE_AXES, **SAMPLING_AXES}

__all__ = ["SWEPT_AXES", "Setup", "SweptAxis", "Weights"]
