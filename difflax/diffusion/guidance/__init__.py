"""Guidance: a denoiser in, a denoiser out."""

from difflax.diffusion.denoisers import Outcome, WithWeak
from difflax.diffusion.guidance.base import Guidance, Guided, NoGuidance, extrapolate
from difflax.diffusion.guidance.classifier_free import (
    AdaptiveProjectedGuidance,
    CFGPlusPlus,
    CFGZeroStar,
    ClassifierFreeGuidance,
    ComposedGuidance,
    FrequencyDecoupledGuidance,
    Prompts,
    TwoConditionGuidance,
    TwoConditions,
)
from difflax.diffusion.guidance.corrections import (
    CORRECTIONS,
    Corrected,
    DynamicThreshold,
    Rescale,
    StaticThreshold,
)
from difflax.diffusion.guidance.intervals import (
    SCALE_SHAPES,
    Bounds,
    Interval,
    ScaleSchedule,
    interval,
    scale_schedule,
    scale_table,
)
from difflax.diffusion.guidance.plan import GuidancePlan, ScaleShape, planned
from difflax.diffusion.guidance.weak import Autoguidance, PerturbationGuidance

GUIDANCES = {
    "none": NoGuidance,
    "cfg": ClassifierFreeGuidance,
    "cfg_plus_plus": CFGPlusPlus,
    "apg": AdaptiveProjectedGuidance,
    "cfg_zero_star": CFGZeroStar,
    "frequency_decoupled": FrequencyDecoupledGuidance,
    "composed": ComposedGuidance,
    "two_condition": TwoConditionGuidance,
    "autoguidance": Autoguidance,
    "perturbation": PerturbationGuidance,
}

__all__ = [
    "CORRECTIONS",
    "GUIDANCES",
    "SCALE_SHAPES",
    "AdaptiveProjectedGuidance",
    "Autoguidance",
    "Bounds",
    "CFGPlusPlus",
    "CFGZeroStar",
    "ClassifierFreeGuidance",
    "ComposedGuidance",
    "Corrected",
    "DynamicThreshold",
    "FrequencyDecoupledGuidance",
    "Guidance",
    "GuidancePlan",
    "Guided",
    "Interval",
    "NoGuidance",
    "Outcome",
    "PerturbationGuidance",
    "Prompts",
    "Rescale",
    "ScaleSchedule",
    "ScaleShape",
    "StaticThreshold",
    "TwoConditionGuidance",
    "TwoConditions",
    "WithWeak",
    "extrapolate",
    "interval",
    "planned",
    "scale_schedule",
    "scale_table",
]
