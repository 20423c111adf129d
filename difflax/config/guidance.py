"""``config.guidance``: a guidance with what every guidance may have beside its own fields."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from difflax.config.resolve import read_section
from difflax.config.schema import Section, part
from difflax.core.types import UserError
from difflax.diffusion.guidance import (
    CORRECTIONS,
    GUIDANCES,
    SCALE_SCHEDULES,
    Bounds,
    Guidance,
    GuidancePlan,
    ScaleOverNoise,
    ScaleShape,
)
from difflax.diffusion.guidance.corrections import Correction
from difflax.diffusion.guidance.plan import changing
from difflax.models.perturbation import Perturbation
from difflax.training.power_averages import Length


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeakOptions:
    """``config.guidance.weak``: the worse model of autoguidance and perturbation guidance.

    Attributes:
        workdir: of another run, ``embedded`` for the model that comes with difflax, or empty for this one.
        step: the checkpoint, ``None`` for the newest.
        ema_length: the length of a power-function average of its parameters that is rebuilt from snapshots,
            see ``config.ema.profiles``; ``None`` for the average that the checkpoint has.
        perturbation: of the network, ``None`` for the network as it is.
    """

    workdir: str = ""
    step: int | None = None
    ema_length: Length | None = None
    perturbation: Perturbation | None = None

    @property
    def own_snapshot(self) -> bool:
        """Whether it is this run's own model as its files have it, another than makes the images."""
        return not self.workdir and (self.step is not None or self.ema_length is not None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """A guidance with the fields that stand beside its own.

    Attributes:
        plan: the guidance with its corrections, bounds and changing scale in it.
        interval: where it acts; ``None``: everywhere.
        schedule: how its scale changes with the noise level, by its name; ``None``: it does not.
        corrections: of its result, each with its name, in their order.
        weak: the worse model that ``autoguidance`` and ``perturbation`` go away from.
    """

    plan: Guidance
    interval: Bounds | None = None
    schedule: ScaleOverNoise | None = part(SCALE_SCHEDULES, optional=True)
    corrections: tuple[Correction, ...] = part(CORRECTIONS, many=True)
    weak: WeakOptions | None = None


def _make(cls: Callable[..., Any], own: dict[str, Any], beside: dict[str, Any]) -> GuidanceOptions:
    scale = changing(own.get("scale"))
    if scale is not None:
        del own["scale"]
    guidance = cls(**own)
    plan = {
        "corrections": beside["corrections"],
        "scale_over_run": scale,
        "bounds": beside["interval"],
        "schedule": beside["schedule"],
    }
    made = GuidancePlan(guidance, **plan) if any(plan.values()) else guidance
    return GuidanceOptions(plan=made, **beside)


GUIDANCE = Section(
    of=GUIDANCES,
    chosen="cfg",
    beside=GuidanceOptions,
    # The bounds of a perturbation as angles, which a run finds.
    given=("plan", "angles"),
    # A scale may change along the run: a shape, or one number a step.
    below={"scale": Section(of=ScaleShape, value=True)},
    make=_make,
)


def make_guidance(
    section: Mapping[str, Any] | ConfigDict,
    where: str = "config.guidance",
    *,
    conditions: Collection[str] = (),
) -> tuple[Guidance, WeakOptions | None]:
    """A guidance that is described apart from a config, and its worse model.

    Args:
        section: as ``config.guidance``.
        where: what holds it, for errors.
        conditions: the kinds that the model reads beside the text.

    Raises:
        UserError: an unknown name or field, a value out of range, or a guidance that does not fit the model.
    """
    options = read_section(GUIDANCE, section, where)
    check_guidance(options, where, conditions=conditions)
    return options.plan, options.weak


def check_guidance(
    options: GuidanceOptions, where: str = "config.guidance", *, conditions: Collection[str] = ()
) -> None:
    """What a guidance asks of the model; arguments as for `make_guidance`."""
    needed = options.plan.needs_condition
    if options.plan.needs_weak and options.weak is None:
        raise UserError(f"{where} needs {where}.weak, the worse model to go away from")
    if needed is not None and needed not in conditions:
        raise UserError(
            f"{where}.name = 'two_condition' needs a model that reads the image it edits (a checkpoint of"
            " InstructPix2Pix): choose another guidance"
        )
