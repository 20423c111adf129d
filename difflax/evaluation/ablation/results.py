"""The result of a guidance ablation: curves with bands, the raw records behind them, and where they came
from.

A result knows its arms; a line along any of its axes is made of them when it is asked for.
"""

import dataclasses
import functools
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from difflax.core.spelling import choose
from difflax.core.version import __version__
from difflax.evaluation import metrics as m
from difflax.evaluation.ablation.arms import GUIDANCE_SCALE, Arm, Axis, said
from difflax.evaluation.ablation.values import canonical, words
from difflax.evaluation.statistics import Estimate

VERSIONED = ("jax", "jaxlib", "flax", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Versions of what decides the numbers, and the platform."""
    found = {"difflax": __version__} | {package: metadata.version(package) for package in VERSIONED}
    return found | {"python": platform.python_version(), "platform": platform.platform()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the images come from: what someone needs to make the same ones.

    Attributes:
        command: the command line, to be run again.
        checkpoint: the weights, exactly: workdir and step, or Hub id and revision.
        sampler: the sampler with its options.
        num_steps: sampling steps.
        negative_prompt: the negative prompt ("" is the null condition).
        judge: the judge and its version ("" for none).
        config: the resolved config, JSON values.
        fingerprint: of all that decides an image and is not named here, see `Pipeline.fingerprint`.
        versions: of the packages; filled in by default.
    """

    command: str
    checkpoint: str
    sampler: str
    num_steps: int
    negative_prompt: str = ""
    judge: str = ""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fingerprint: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=versions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric of one prompt group in every arm.

    Attributes:
        estimates: one for each arm, in their order.
        references: level lines by name ("chance", "real images", "truth").
        near_best: for each arm, whether it cannot be told from the best one (paired, image by image); all
            False where a metric has no best or no paired comparison.
    """

    group: str
    metric: m.Metric
    estimates: tuple[Estimate, ...]
    references: Mapping[str, float] = dataclasses.field(default_factory=dict)
    near_best: tuple[bool, ...] = ()

    @property
    def best(self) -> int | None:
        """The index of the best arm (the first of equals); ``None`` if there is no good direction."""
        return best_index(self.metric, np.array([e.value for e in self.estimates]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric along one axis: a line of a plot.

    Attributes:
        group: the line's name: the prompt group, and the settings of the other axes.
        scales: places along the axis, increasing: guidance scales, or what else the line runs along.
        estimates: one for each place.
        references: as of `Measured`.
        near_best: for each place, whether it cannot be told from the best one; empty where the line is a part
            of a sweep.
        words: what stands at the places, where those are not the values themselves.
    """

    group: str
    metric: m.Metric
    scales: tuple[float, ...]
    estimates: tuple[Estimate, ...]
    references: Mapping[str, float] = dataclasses.field(default_factory=dict)
    near_best: tuple[bool, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def best(self) -> int | None:
        """The index of the best place (the smallest of equals); ``None`` if there is no good direction."""
        return best_index(self.metric, np.array([e.value for e in self.estimates]))

    @property
    def ticks(self) -> tuple[str, ...]:
        """The places in words."""
        return self.words or tuple(f"{scale:g}" for scale in self.scales)


def best_index(metric: m.Metric, values: Float[np.ndarray, " s"]) -> int | None:
    """Where ``values`` are best in the metric's own direction, or ``None``."""
    if not metric.sign or np.all(np.isnan(values)):
        return None
    return int(np.nanargmax(metric.sign * values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupInfo:
    """One group of prompts: ``count`` images an arm; ``real`` images stood for the real distribution."""

    name: str
    prompts: tuple[str, ...]
    count: int
    real: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How well the model predicts real images; of the model itself, so of no guidance scale.

    Attributes:
        bits_per_dimension: the mean over ``images`` of them, and its ``standard_error``.
        method: how it was measured, in words.
    """

    bits_per_dimension: float
    standard_error: float
    images: int
    method: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AblationResult:
    """A whole sweep.

    Attributes:
        arms: what was compared, in the order of the design.
        axes: what differs between them.
        measured: every metric of every prompt group.
        records: columns of equal length, one entry an image: ``arm`` (its key), ``group``, ``prompt``,
            ``seed`` and one column a per-image metric (NaN: not asked).
        samples: for the image grids: ``[arm, prompt, h, w, c]`` bytes by group, the first prompts at the
            first seed.
        method: how things were measured, in words by name (features and resize, subset sizes, bands).
        by_prompt: metrics of all images of a prompt together, by name: a value an arm and prompt (of all
            groups, in their order), NaN where there is none.
        likelihood: ``None`` where it was not asked for.
        aspects: the metrics that tell the whole story side by side, see `measurement.Judge`.
    """

    arms: tuple[Arm, ...]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    groups: tuple[GroupInfo, ...]
    measured: tuple[Measured, ...]
    records: Mapping[str, np.ndarray]
    samples: Mapping[str, UInt8[np.ndarray, "s p h w c"]]
    provenance: Provenance
    method: Mapping[str, str]
    by_prompt: Mapping[str, Float[np.ndarray, "a q"]] = dataclasses.field(default_factory=dict)
    likelihood: Likelihood | None = None
    aspects: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def over_scales(self) -> bool:
        """Whether nothing but the guidance scale differs."""
        return [axis.name for axis in self.axes] == [GUIDANCE_SCALE]

    @property
    def scales(self) -> tuple[float, ...]:
        """The places along the axis that plots are drawn over."""
        return tuple(self.along.place(value) for value in self.along.values)

    @functools.cached_property
    def along(self) -> Axis:
        """What plots are drawn over where nothing else is said: the guidance scale if there are several, else
        the axis of numbers with the most values, else the axis with the most.
        """
        several = [axis for axis in self.axes if len(axis.values) > 1] or list(self.axes)
        ranked = [(axis.name == GUIDANCE_SCALE, axis.numeric, len(axis.values)) for axis in several]
        return several[ranked.index(max(ranked))]

    def axis(self, name: str) -> Axis:
        """The axis of a name.

        Raises:
            UserError: there is none.
        """
        return choose({axis.name: axis for axis in self.axes}, name, "along")

    def lines(self, along: str | None = None) -> list[str]:
        """The names of all lines along an axis (`along` by default): groups, and in each the settings of the
        other axes.
        """
        lines = self._lines(self.along if along is None else self.axis(along))
        return [self._name(group.name, others) for group in self.groups for others, _ in lines]

    def _lines(self, along: Axis) -> list[tuple[str, list[int]]]:
        """The settings of the other axes in words, and the arms of that line in the order of their places."""
        found: dict[str, list[int]] = {}
        for index, arm in enumerate(self.arms):
            if along.name in arm.settings:
                found.setdefault(canonical(arm.without(along.name)), []).append(index)
        differ = [axis.name for axis in self.axes if axis is not along and self._differs(axis)]
        lines = []
        for indices in found.values():
            settings = self.arms[indices[0]].settings
            others = {name: settings[name] for name in differ if name in settings}
            place = lambda index: along.place(self.arms[index].settings[along.name])  # noqa: E731
            lines.append((said(others), sorted(indices, key=place)))
        return lines

    def _differs(self, axis: Axis) -> bool:
        """Whether not all arms have one setting of it."""
        return len(axis.values) > 1 or any(axis.name not in arm.settings for arm in self.arms)

    def _name(self, group: str, others: str) -> str:
        """What a line is called."""
        shown = [group] if len(self.groups) > 1 or not others else []
        return ": ".join([*shown, others] if others else shown)

    def curves(self, along: str | None = None) -> list[Curve]:
        """Every metric along an axis (`along` by default): a line for each group and each setting of the
        other axes that occurs.

        Raises:
            UserError: there is no such axis.
        """
        axis = self.along if along is None else self.axis(along)
        lines = self._lines(axis)
        made = []
        for each in self.measured:
            for others, indices in lines:
                values = [self.arms[index].settings[axis.name] for index in indices]
                whole = len(indices) == len(self.arms) and len(each.near_best) == len(self.arms)
                made.append(
                    Curve(
                        group=self._name(each.group, others),
                        metric=each.metric,
                        scales=tuple(axis.place(value) for value in values),
                        estimates=tuple(each.estimates[index] for index in indices),
                        references=each.references,
                        near_best=tuple(each.near_best[index] for index in indices) if whole else (),
                        words=() if axis.numeric else tuple(words(value) for value in values),
                    )
                )
        return made

    def curve(self, line: str, metric: str, along: str | None = None) -> Curve:
        """The curve of a line of `lines`.

        Raises:
            KeyError: that was not measured.
        """
        for curve in self.curves(along):
            if (curve.group, curve.metric.name) == (line, metric):
                return curve
        raise KeyError(f"no curve of {metric!r} for {line!r}")

    def of(self, group: str, metric: str) -> Measured:
        """A metric of a prompt group in every arm.

        Raises:
            KeyError: that was not measured.
        """
        for each in self.measured:
            if (each.group, each.metric.name) == (group, metric):
                return each
        raise KeyError(f"{metric!r} was not measured of {group!r}")

    def by_metric(self, part_of: str | None = None, along: str | None = None) -> dict[str, list[Curve]]:
        """The curves of each metric along an axis, in the order measured: of all, or of the details of one,
        "" being the metrics that are no detail.
        """
        table: dict[str, list[Curve]] = {}
        for curve in self.curves(along):
            if part_of in (None, curve.metric.part_of):
                table.setdefault(curve.metric.name, []).append(curve)
        return table

    @property
    def detailed(self) -> list[str]:
        """The metrics that have details, in the order measured."""
        parents = {each.metric.part_of for each in self.measured}
        return [name for name in self.by_metric() if name in parents]

    @property
    def triangle(self) -> list[str]:
        """The metrics of ``aspects`` that were measured; none where there are not two to compare."""
        measured = self.by_metric()
        found = [name for name in self.aspects.values() if name in measured]
        return found if len(found) > 1 else []

    @functools.cached_property
    def primary(self) -> str:
        """What decides the best scale: the first of ``aspects`` that was measured, else accuracy, CLIP score,
        Fréchet distance, else the first of all.
        """
        measured = list(self.by_metric())
        wanted = (*self.aspects.values(), "accuracy", "clip_score", "frechet_distance")
        return next((name for name in wanted if name in measured), measured[0])


def describe_scale(scale: float) -> str:
    """What a special scale means: 0 is no text, 1 is no guidance; else ""."""
    return {0.0: "no text", 1.0: "guidance off"}.get(scale, "")


def in_words(curve: Curve, along: str = "guidance scale") -> str:
    """A curve in one line of text, and its best place in a second one.

    Args:
        along: what it runs along, in words.
    """
    rows = [f"{tick}: {e.value:.3f}" for tick, e in zip(curve.ticks, curve.estimates, strict=True)]
    label = curve.metric.label[0].lower() + curve.metric.label[1:]
    text = f"{label} by {along} {', '.join(rows)}"
    if curve.best is None:
        return text
    return f"{text}\n  best {curve.estimates[curve.best].value:.3f} at {curve.ticks[curve.best]}"


def arms_in_words(result: AblationResult, measured: Measured) -> str:
    """How far a metric goes over all arms, and its best arm, in a line of text each."""
    values = np.array([estimate.value for estimate in measured.estimates])
    label = measured.metric.label[0].lower() + measured.metric.label[1:]
    text = f"{label} of {len(result.arms)} arms: {np.nanmin(values):.3f} to {np.nanmax(values):.3f}"
    if measured.best is None:
        return text
    others = sum(measured.near_best) - 1
    near = f" ({others} others as good within noise)" if others > 0 else ""
    return f"{text}\n  best {values[measured.best]:.3f} at {result.arms[measured.best].label}{near}"


def command_line() -> str:
    """The running command, as it would be typed again."""
    return shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
