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
from difflax.diffusion.guidance.scale_schedules import (
    SCALE_SCHEDULES,
    BandScale,
    ConstantScale,
    CosineScale,
    LinearScale,
    PowerCosineScale,
    ScaleOverNoise,
    TableScale,
)
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
    "SCALE_SCHEDULES",
    "SCALE_SHAPES",
    "AdaptiveProjectedGuidance",
    "Autoguidance",
    "BandScale",
    "Bounds",
    "CFGPlusPlus",
    "CFGZeroStar",
    "ClassifierFreeGuidance",
    "ComposedGuidance",
    "ConstantScale",
    "Corrected",
    "CosineScale",
    "DynamicThreshold",
    "FrequencyDecoupledGuidance",
    "Guidance",
    "GuidancePlan",
    "Guided",
    "Interval",
    "LinearScale",
    "NoGuidance",
    "Outcome",
    "PerturbationGuidance",
    "PowerCosineScale",
    "Prompts",
    "Rescale",
    "ScaleOverNoise",
    "ScaleSchedule",
    "ScaleShape",
    "StaticThreshold",
    "TableScale",
    "TwoConditionGuidance",
    "TwoConditions",
    "WithWeak",
    "extrapolate",
    "interval",
    "planned",
    "scale_schedule",
    "scale_table",
]
