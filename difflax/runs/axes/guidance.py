"""The axes of guidance: its method, its scale and how that changes with the noise level, where it acts, and
how its result is rescaled.

Where an arm has no schedule of its scale, no interval, or no rescaling, its guidance has one that changes
nothing: so that one program makes the arms with and without.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from difflax.config.resolve import read_section
from difflax.config.schema import Section
from difflax.core.spelling import choose, shown
from difflax.core.types import UserError
from difflax.diffusion.guidance import SCALE_SCHEDULES, Bounds, Guidance, Rescale, ScaleOverNoise, planned
from difflax.diffusion.guidance.intervals import UNITS
from difflax.evaluation.ablation.values import canonical
from difflax.generation.rows import finite
from difflax.runs.axes.base import Setup, SweptAxis
from difflax.runs.guidance import read_guidance, with_guidance_section

SCHEDULE = Section(of=SCALE_SCHEDULES)
EVERYWHERE = Bounds(low=0.0, high=math.inf)
"""The interval that leaves no noise level out."""


def _method(value: Any, where: str) -> Any:
    """A name or a section; ``none`` is the guidance of that name."""
    value = "none" if value is None else value
    read_guidance({"name": value} if hasattr(value, "encode") else value, where)
    return value


def _with_method(setup: Setup, value: Any) -> Setup:
    section = value if hasattr(value, "keys") else {"name": value}
    key = canonical(section)
    if key not in setup.methods:
        made = with_guidance_section(setup.pipeline, section, setup.workdir, "the axis guidance")
        setup.methods[key] = made.defaults.guidance, made.model.weak
    return setup.with_pipeline(setup.pipeline.with_guidance(*setup.methods[key]))


def _schedule(value: Any, where: str) -> Any:
    """A name or a section; ``None`` is the one that changes nothing."""
    if value is not None:
        read_schedule(value, where)
    return value


def read_schedule(value: Any, where: str) -> ScaleOverNoise:
    """The schedule of a name or a section; ``None`` is the one that changes nothing.

    Raises:
        UserError: there is no such schedule.
    """
    if value is None or hasattr(value, "encode"):
        value = {"name": value or "constant"}
    if not SCHEDULE.takes(value):
        raise UserError(
            f"{where}: {shown(value)}: give none, a name of {', '.join(SCHEDULE.names)}, or a section with"
            " one"
        )
    return read_section(SCHEDULE, value, where)


def _scheduled(setup: Setup, value: Any) -> Setup:
    plan = planned(setup.pipeline.defaults.guidance)
    schedule = read_schedule(value, "the axis guidance.schedule")
    return _guided(setup, dataclasses.replace(plan, schedule=schedule, scale_over_run=None))


def _interval(value: Any, where: str) -> list[Any] | None:
    """``None``, or both bounds and their unit."""
    if value is None:
        return None
    given = value
    if hasattr(value, "keys"):
        unknown = set(value) - {"low", "high", "unit"}
        given = [] if unknown else [value.get("low"), value.get("high"), value.get("unit", "sigma")]
    if not hasattr(given, "append") or len(given) not in (2, 3):
        raise UserError(
            f"{where}: {shown(value)} is no interval: give (LOW, HIGH) of sigma / alpha, (LOW, HIGH, UNIT)"
            f" with a unit of {', '.join(UNITS)}, or none"
        )
    low, high, *unit = given
    unit = str(unit[0]) if unit else "sigma"
    choose(UNITS, unit, f"{where}: the unit")
    low, high = finite(low, f"{where}: the lower bound"), finite(high, f"{where}: the upper bound")
    if low > high:
        raise UserError(f"{where}: the lower bound {low:g} exceeds the upper one, {high:g}")
    return [low, high, unit]


def _within(setup: Setup, value: Any) -> Setup:
    bounds = EVERYWHERE
    if value is not None:
        low, high, unit = value
        bounds = Bounds(low=low, high=high, unit=unit)
    plan = planned(setup.pipeline.defaults.guidance)
    return _guided(setup, dataclasses.replace(plan, bounds=bounds))


def _share(value: Any, where: str) -> float | None:
    if value is None:
        return None
    share = finite(value, where)
    if not 0 <= share <= 1:
        raise UserError(f"{where}={value} must lie in [0, 1]")
    return share


def _rescaled(setup: Setup, value: Any) -> Setup:
    strength = 0.0 if value is None else value
    plan = planned(setup.pipeline.defaults.guidance)
    own = [hasattr(correction, "space") for correction in plan.corrections]
    if any(own):
        corrections = [
            dataclasses.replace(correction, strength=strength) if rescales else correction
            for correction, rescales in zip(plan.corrections, own, strict=True)
        ]
    else:
        corrections = [Rescale(strength=strength), *plan.corrections]
    return _guided(setup, dataclasses.replace(plan, corrections=tuple(corrections)))


def _guided(setup: Setup, plan: Guidance) -> Setup:
    pipeline = setup.pipeline
    return setup.with_pipeline(pipeline.with_guidance(plan, pipeline.model.weak))


GUIDANCE_AXES: Mapping[str, SweptAxis] = {
    "guidance": SweptAxis(
        label="method",
        takes="names of guidances, or sections as in a config, {'name': 'apg', 'momentum': -0.3}",
        read=_method,
        change=_with_method,
    ),
    "guidance.schedule": SweptAxis(
        label="schedule of the scale",
        takes="names of schedules, or sections as in a config, {'name': 'power_cosine', 'power': 2}, or none",
        read=_schedule,
        change=_scheduled,
    ),
    "guidance.interval": SweptAxis(
        label="guidance interval",
        takes="(LOW, HIGH) or (LOW, HIGH, UNIT) with a unit of sigma, log_snr, t or step, or none",
        read=_interval,
        change=_within,
    ),
    "guidance.rescale": SweptAxis(
        label="guidance rescale", takes="shares from 0 to 1, or none", read=_share, change=_rescaled
    ),
    "guidance.scale": SweptAxis(
        label="guidance scale", takes="finite numbers", read=finite, argument="guidance_scale"
    ),
}
