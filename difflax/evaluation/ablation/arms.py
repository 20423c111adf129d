"""What a sweep compares: arms, each with a setting of every axis, and the designs that choose them.

An arm is known by its settings alone, so that what was measured of it is found again by whatever sweep asks
for it: one over more arms, in another order, or in another run.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from difflax.core.types import UserError
from difflax.evaluation.ablation.values import canonical, is_number, plain, words

GUIDANCE_SCALE = "guidance.scale"
"""The axis that a sweep has where nothing else is said."""

MAX_ARMS = 1_000_000
KEY_LENGTH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing that differs between arms.

    Attributes:
        name: as on the command line, ``guidance.scale``.
        values: JSON values, distinct, in the order in which they are shown.
        label: in words; the name's if empty.
    """

    name: str
    values: tuple[Any, ...]
    label: str = ""

    @property
    def title(self) -> str:
        """What plots and tables call it."""
        return self.label or self.name.replace(".", " ").replace("_", " ")

    @functools.cached_property
    def numeric(self) -> bool:
        """Whether all its values are numbers, so that it can be drawn to scale."""
        return all(is_number(value) for value in self.values)

    def place(self, value: Any) -> float:
        """Where a value stands along the axis: itself where all are numbers, else its place in the order."""
        if self.numeric:
            return float(value)
        return float([canonical(each) for each in self.values].index(canonical(value)))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """One cell of a sweep; two of the same settings are the same.

    Attributes:
        settings: JSON values by the names of axes, in the order of the axes. What is missing is as the model
            has it.
    """

    settings: Mapping[str, Any]

    @functools.cached_property
    def key(self) -> str:
        """A hash of the settings, whatever their order: the name of its files."""
        return hashlib.sha256(canonical(self.settings).encode()).hexdigest()[:KEY_LENGTH]

    @property
    def label(self) -> str:
        """The settings in words."""
        return said(self.settings)

    def without(self, axis: str) -> dict[str, Any]:
        """The settings of all other axes."""
        return {name: value for name, value in self.settings.items() if name != axis}


def said(settings: Mapping[str, Any]) -> str:
    """Settings in words: ``scale=2, interval=(0.28, 2.9, sigma)``."""
    return ", ".join(f"{name.rpartition('.')[2]}={words(value)}" for name, value in settings.items())


def arms_of_scales(scales: Sequence[float | int]) -> list[Arm]:
    """One arm a guidance scale, in increasing order.

    Raises:
        UserError: no scales, the same one twice, or one that is not finite.
    """
    if not scales or not np.all(np.isfinite(scales)) or len(set(scales)) < len(scales):
        raise UserError(f"guidance_scales={list(scales)}: give at least one scale, finite and each once")
    return [Arm(settings={GUIDANCE_SCALE: scale}) for scale in sorted(float(scale) for scale in scales)]


def grid(axes: Sequence[Axis]) -> list[Arm]:
    """Every value of every axis with every value of the others, the last axis changing fastest.

    Raises:
        UserError: an axis without values or with one twice, or too many arms.
    """
    _check(axes)
    total = int(np.prod([float(len(axis.values)) for axis in axes]))
    if total > MAX_ARMS:
        raise UserError(f"{total:,} arms, {MAX_ARMS:,} are the most: give fewer values, or a random design")
    names = [axis.name for axis in axes]
    return [
        Arm(settings=dict(zip(names, values, strict=True)))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def random_design(axes: Sequence[Axis], number: int, seed: int = 0) -> list[Arm]:
    """``number`` arms of the grid, drawn without repetition; a larger number adds arms to those of a smaller
    one.

    Raises:
        UserError: as for `grid`, or more arms than the grid has.
    """
    _check(axes)
    sizes = [len(axis.values) for axis in axes]
    total = float(np.prod([float(size) for size in sizes]))
    if not 1 <= number <= min(total, MAX_ARMS):
        raise UserError(f"arms={number}: the grid has {total:,.0f} arms: give a number from 1 to that")
    rng = np.random.default_rng(seed)
    chosen: dict[tuple[int, ...], None] = {}
    while len(chosen) < number:
        chosen.setdefault(tuple(int(rng.integers(size)) for size in sizes))
    return [
        Arm(settings={axis.name: axis.values[index] for axis, index in zip(axes, indices, strict=True)})
        for indices in chosen
    ]


def _check(axes: Sequence[Axis]) -> None:
    names = [axis.name for axis in axes]
    if not axes or len(set(names)) < len(names):
        raise UserError(f"axes {names}: give at least one, each once")
    for axis in axes:
        check_axis(axis, axis.name)


def check_axis(axis: Axis, where: str) -> None:
    """Refuses an axis without values, or with one twice.

    Raises:
        UserError: in one line that begins with ``where``.
    """
    if not axis.values:
        raise UserError(f"{where}: the axis is empty, give at least one value")
    twice = _twice([canonical(value) for value in axis.values])
    if twice is not None:
        raise UserError(f"{where}: {words(axis.values[twice])} is there twice, give each value once")


def check_arms(arms: Sequence[Arm]) -> None:
    """Refuses arms that are none, or the same one twice.

    Raises:
        UserError: in one line.
    """
    if not arms:
        raise UserError("the sweep has no arms: give at least one")
    twice = _twice([arm.key for arm in arms])
    if twice is not None:
        raise UserError(f"the arm {arms[twice].label or '{}'!r} is there twice: give each once")


def _twice(keys: Sequence[str]) -> int | None:
    """The index of the first that was there before."""
    seen: set[str] = set()
    for index, key in enumerate(keys):
        if key in seen:
            return index
        seen.add(key)
    return None


def axes_of(arms: Sequence[Arm], labels: Mapping[str, str] | None = None) -> tuple[Axis, ...]:
    """The axes of arms, each with the values that it has in them: numbers in their order, others as they
    come.

    Args:
        labels: of axes, by name.
    """
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        for name, value in arm.settings.items():
            found.setdefault(name, {}).setdefault(canonical(value), plain(value))
    axes = []
    for name, by_text in found.items():
        values = list(by_text.values())
        if all(is_number(value) for value in values):
            values.sort()
        axes.append(Axis(name=name, values=tuple(values), label=(labels or {}).get(name, "")))
    return tuple(axes)
