"""The result of a guidance ablation: curves with bands, the raw records behind them, and where they came
from.

A result is written as ``results.json`` (everything but the raw records), ``table.csv`` (one row a group and
scale) and ``records.csv`` (one row an image).
"""

import csv
import dataclasses
import functools
import io
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from difflax.core.files import atomic_write
from difflax.core.version import __version__
from difflax.evaluation import metrics as m
from difflax.evaluation.statistics import Estimate

FORMAT = "difflax-guidance-ablation-1"
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
class Curve:
    """One metric of one prompt group against the guidance scale.

    Attributes:
        estimates: one for each scale, in the order of ``scales``.
        references: level lines by name ("chance", "real images", "truth").
        near_best: for each scale, whether it cannot be told from the best one (paired, image by image); all
            False where a metric has no best or no paired comparison.
    """

    group: str
    metric: m.Metric
    scales: tuple[float, ...]
    estimates: tuple[Estimate, ...]
    references: Mapping[str, float] = dataclasses.field(default_factory=dict)
    near_best: tuple[bool, ...] = ()

    @property
    def best(self) -> int | None:
        """The index of the best scale (the smallest of equals); ``None`` if there is no good direction."""
        return best_index(self.metric, np.array([e.value for e in self.estimates]))


def best_index(metric: m.Metric, values: Float[np.ndarray, " s"]) -> int | None:
    """Where ``values`` are best in the metric's own direction, or ``None``."""
    if not metric.sign or np.all(np.isnan(values)):
        return None
    return int(np.nanargmax(metric.sign * values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupInfo:
    """One group of prompts: ``count`` images a scale; ``real`` images stood for the real distribution."""

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
        records: columns of equal length, one entry an image: ``scale``, ``group``, ``prompt``, ``seed`` and
            one column a per-image metric (NaN: not asked).
        samples: for the image grids: ``[scale, prompt, h, w, c]`` bytes by group, the first prompts at the
            first seed.
        method: how things were measured, in words by name (features and resize, subset sizes, bands).
        likelihood: ``None`` where it was not asked for.
        aspects: the metrics that tell the whole story side by side, see `measurement.Judge`.
    """

    scales: tuple[float, ...]
    seeds: tuple[int, ...]
    groups: tuple[GroupInfo, ...]
    curves: tuple[Curve, ...]
    records: Mapping[str, np.ndarray]
    samples: Mapping[str, UInt8[np.ndarray, "s p h w c"]]
    provenance: Provenance
    method: Mapping[str, str]
    likelihood: Likelihood | None = None
    aspects: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def curve(self, group: str, metric: str) -> Curve:
        """Raises KeyError if the group or metric was not measured."""
        for curve in self.curves:
            if (curve.group, curve.metric.name) == (group, metric):
                return curve
        raise KeyError(f"no curve of {metric!r} for {group!r}")

    def by_metric(self, part_of: str | None = None) -> dict[str, list[Curve]]:
        """The curves of each metric, in the order measured: of all, or of the details of one, "" being the
        metrics that are no detail.
        """
        table: dict[str, list[Curve]] = {}
        for curve in self.curves:
            if part_of in (None, curve.metric.part_of):
                table.setdefault(curve.metric.name, []).append(curve)
        return table

    @property
    def detailed(self) -> list[str]:
        """The metrics that have details, in the order measured."""
        parents = {curve.metric.part_of for curve in self.curves}
        return [name for name in self.by_metric() if name in parents]

    @property
    def triangle(self) -> list[str]:
        """The metrics of ``aspects`` that were measured; none where there are not two to compare."""
        measured = self.by_metric()
        found = [name for name in self.aspects.values() if name in measured]
        return found if len(found) > 1 else []

    @functools.cached_property
    def primary(self) -> str:
        """What decides the best scale: accuracy, else CLIP score, else Fréchet distance, else the first."""
        measured = list(self.by_metric())
        return next(
            (name for name in ("accuracy", "clip_score", "frechet_distance") if name in measured), measured[0]
        )


def without_nan(document: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: an absent number is null."""
    return json.loads(json.dumps(document, default=dict), parse_constant=lambda name: None)


def cell(value: float) -> str:
    """A number in a CSV file; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.6g}"


def table_csv(result: AblationResult) -> str:
    """One row a group and scale; three columns a metric: the estimate and both ends of its band."""
    names = list(result.by_metric())
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    writer.writerow(["group", "guidance_scale", "images", "prompts", *header])
    for group in result.groups:
        mine = {c.metric.name: c for c in result.curves if c.group == group.name}
        for index, scale in enumerate(result.scales):
            cells: list[str] = []
            for name in names:
                estimate = mine[name].estimates[index] if name in mine else None
                cells += (
                    [cell(v) for v in (estimate.value, estimate.low, estimate.high)] if estimate else [""] * 3
                )
            writer.writerow([group.name, f"{scale:g}", group.count, len(group.prompts), *cells])
    return out.getvalue()


def records_csv(result: AblationResult) -> str:
    """One row an image; an empty cell where the judge was not asked."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(result.records)
    columns = [
        map(cell, column.tolist()) if np.issubdtype(column.dtype, np.floating) else column
        for column in result.records.values()
    ]
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue()


def results_json(result: AblationResult) -> str:
    """Everything but the raw records and the images, with the definition of each metric."""
    best = {
        curve.group: {
            "guidance_scale": curve.scales[curve.best],
            **dataclasses.asdict(curve.estimates[curve.best]),
        }
        for curve in result.by_metric()[result.primary]
        if curve.best is not None
    }
    described = {curve.metric.name: dataclasses.asdict(curve.metric) for curve in result.curves}
    curves = [
        {
            "group": curve.group,
            "metric": curve.metric.name,
            "references": dict(curve.references),
            "near_best": list(curve.near_best),
            "estimates": [
                {"guidance_scale": scale, **dataclasses.asdict(estimate)}
                for scale, estimate in zip(curve.scales, curve.estimates, strict=True)
            ],
        }
        for curve in result.curves
    ]
    document = {
        "format": FORMAT,
        "provenance": dataclasses.asdict(result.provenance),
        "method": dict(result.method),
        "guidance_scales": list(result.scales),
        "seeds": list(result.seeds),
        "groups": [dataclasses.asdict(group) for group in result.groups],
        "aspects": dict(result.aspects),
        "best_by": result.primary,
        "best": best,
        "metrics": described,
        "curves": curves,
    }
    if result.likelihood is not None:
        document["likelihood"] = dataclasses.asdict(result.likelihood)
    return json.dumps(without_nan(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_tables(result: AblationResult, directory: str | os.PathLike[str]) -> None:
    """Writes ``table.csv``, ``records.csv`` and ``results.json`` into ``directory``."""
    directory = epath.Path(directory)
    makers = {"table.csv": table_csv, "records.csv": records_csv, "results.json": results_json}
    for name, make in makers.items():
        with atomic_write(directory / name, "w") as file:
            file.write(make(result))


def describe_scale(scale: float) -> str:
    """What a special scale means: 0 is no text, 1 is no guidance; else ""."""
    return {0.0: "no text", 1.0: "guidance off"}.get(scale, "")


def in_words(curve: Curve) -> str:
    """A curve in one line of text, and its best scale in a second one."""
    rows = [f"{scale:g}: {e.value:.3f}" for scale, e in zip(curve.scales, curve.estimates, strict=True)]
    label = curve.metric.label[0].lower() + curve.metric.label[1:]
    text = f"{label} by guidance scale {', '.join(rows)}"
    if curve.best is None:
        return text
    return f"{text}\n  best {curve.estimates[curve.best].value:.3f} at {curve.scales[curve.best]:g}"


def command_line() -> str:
    """The running command, as it would be typed again."""
    return shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
