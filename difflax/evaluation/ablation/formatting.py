"""How results are said: arms, numbers and bands in words."""

import math

from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.ablation.results import AblationResult, Curve, Measured
from difflax.evaluation.ablation.values import words
from difflax.evaluation.statistics import Estimate
from difflax.figures import html
from difflax.figures.html import Markup

ARMS_NAMED = 6  # of the arms that are as good as the best


def slug(name: str) -> str:
    """A file name of a group's name: letters and digits, the rest underscores."""
    kept = "".join(letter if letter.isalnum() else "_" for letter in name.lower())
    return "_".join(part for part in kept.split("_") if part)[:60]


def named(result: AblationResult, arm: Arm) -> str:
    """What an arm is called: the value of the only axis, or all its settings."""
    if len(result.axes) == 1:
        return ", ".join(words(value) for value in arm.settings.values())
    return arm.label


def axes_in_words(result: AblationResult) -> str:
    """What differs between the arms."""
    return " × ".join(axis.title for axis in result.axes)


def decimals(curve: Curve | Measured) -> int:
    """How many digits behind the point to show: three significant ones of the largest value."""
    if curve.metric.bounds == (0.0, 1.0):
        return 2
    sizes = [abs(e.value) for e in curve.estimates if e.value and math.isfinite(e.value)]
    return min(max(2 - math.floor(math.log10(max(sizes))), 0), 8) if sizes else 2


def number(value: float, digits: int) -> str:
    """The value with ``digits`` behind the point, or an en dash for what was not measured."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def band(estimate: Estimate, digits: int) -> str:
    """The confidence band as text; empty where there is none."""
    if math.isnan(estimate.low):
        return ""
    return f"{number(estimate.low, digits)}–{number(estimate.high, digits)}"


def with_band(estimate: Estimate, digits: int) -> Markup:
    """An estimate and, in small print, its band."""
    return html.join([number(estimate.value, digits), html.tag("small", band(estimate, digits))], "")


def near_best(result: AblationResult, measured: Measured) -> str:
    """The arms beside the best one that cannot be told from it, as text."""
    kind = "scale" if result.over_scales else "arm"
    near = [arm for arm, close in zip(result.arms, measured.near_best, strict=True) if close]
    others = [named(result, arm) for arm in near if arm is not result.arms[measured.best]]
    if not others:
        return f"no other {kind} as good"
    more = f" and {len(others) - ARMS_NAMED} others" if len(others) > ARMS_NAMED else ""
    between = ", " if result.over_scales else "; "
    return f"as good within noise: {between.join(others[:ARMS_NAMED])}{more}"
