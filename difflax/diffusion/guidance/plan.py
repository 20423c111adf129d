"""A guidance as a config states it: before the levels of the run are known, in units that people think in."""

import dataclasses
import functools
from typing import Any, Literal

import flax.struct

from difflax.diffusion.checks import require
from difflax.diffusion.guidance.base import Guidance, Strength
from difflax.diffusion.guidance.corrections import Corrected
from difflax.diffusion.guidance.intervals import Bounds, ScaleSchedule, interval, scale_schedule, scale_table
from difflax.diffusion.guidance.scale_schedules import ScaleOverNoise, scheduled
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleShape:
    """A scale that changes from ``start`` to ``end`` along the run's steps, in a shape of ``SCALE_SHAPES``.

    Attributes:
        shape: over the run, a name of ``SCALE_SHAPES``.
        start: scale at the first step.
        end: scale at the last step; of ``triangle`` in the middle.
    """

    shape: Literal["constant", "linear", "cosine", "triangle"] = "cosine"
    start: float = 1.0
    end: float = 7.5

    def over(self, levels: NoiseLevel) -> ScaleSchedule:
        """The scale over a run of these levels."""
        return scale_schedule(self.shape, levels, self.start, self.end)


@dataclasses.dataclass(frozen=True)
class ScaleSteps:
    """A scale that is given step by step.

    Attributes:
        values: one a step.
    """

    values: tuple[float, ...]

    def over(self, levels: NoiseLevel) -> ScaleSchedule:
        """The scale over a run of these levels.

        Raises:
            ValueError: there are not as many values as steps.
        """
        return scale_table(levels, self.values)


@functools.singledispatch
def changing(scale: Any) -> ScaleShape | ScaleSteps | None:
    """The scale of a config where it changes along the run: a shape, or a tuple of one number a step;
    ``None`` for all others.
    """
    return None


@changing.register
def _(scale: ScaleShape) -> ScaleShape:
    return scale


@changing.register
def _(scale: tuple) -> ScaleSteps:
    return ScaleSteps(scale)


@functools.singledispatch
def planned(guidance: Any) -> "GuidancePlan":
    """A guidance as a plan, which may then be given corrections and bounds."""
    return GuidancePlan(guidance)


@flax.struct.dataclass
class GuidancePlan(Guidance):
    """``guidance`` with a scale that changes, then ``corrections`` in their order, then within ``bounds``.

    Attributes:
        guidance: what acts.
        corrections: of its result.
        scale_over_run: replaces its scale.
        bounds: where it acts; ``None``: everywhere.
        schedule: how its scale changes with the noise level; ``None``: it does not.
    """

    guidance: Any
    corrections: tuple = ()
    scale_over_run: ScaleShape | ScaleSteps | None = flax.struct.field(pytree_node=False, default=None)
    bounds: Bounds | None = flax.struct.field(pytree_node=False, default=None)
    schedule: ScaleOverNoise | None = flax.struct.field(pytree_node=False, default=None)

    def __post_init__(self):
        require(
            self.scale_over_run is None or self.schedule is None,
            "a scale that changes along the run goes with no schedule: give one of them",
        )

    @property
    def needs_weak(self) -> bool:
        """Whether the guidance does."""
        return self.guidance.needs_weak

    @property
    def needs_condition(self) -> str | None:
        """What the guidance does."""
        return self.guidance.needs_condition

    @property
    def scale(self) -> Any:
        """The guidance's own."""
        return self.guidance.scale

    @property
    def prompts(self) -> int:
        """How many prompts an image has, where it has several."""
        return self.guidance.prompts

    def arrange(self, positives, negative):
        return self.guidance.arrange(positives, negative)

    def with_scale(self, scale: Strength) -> "GuidancePlan":
        require(
            self.schedule is None or self.schedule.stretches,
            "the guidance's schedule has the scale of every noise level: give none beside it",
        )
        return dataclasses.replace(self, guidance=self.guidance.with_scale(scale), scale_over_run=None)

    def with_image_scale(self, scale: float) -> "GuidancePlan":
        return dataclasses.replace(self, guidance=self.guidance.with_image_scale(scale))

    def resolve(self, schedule: NoiseSchedule, levels: NoiseLevel) -> Guidance:
        guidance = self.guidance.resolve(schedule, levels)
        if self.scale_over_run is not None:
            scale = self.scale_over_run.over(levels)
            guidance = dataclasses.replace(guidance.with_scale(1.0), scale=scale)
        if self.schedule is not None:
            guidance = scheduled(guidance, self.schedule, levels)
        if self.corrections:
            guidance = Corrected(guidance, self.corrections)
        if self.bounds is not None:
            low, high, unit = self.bounds.low, self.bounds.high, self.bounds.unit
            guidance = interval(guidance, low, high, unit, schedule=schedule, levels=levels)
        return guidance


@planned.register
def _(guidance: GuidancePlan) -> GuidancePlan:
    return guidance
