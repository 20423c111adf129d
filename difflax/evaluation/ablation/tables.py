"""A result as files: ``results.json`` (everything but the raw records), ``table.csv`` (one row a group and
arm), ``records.csv`` (one row an image) and ``prompts.csv`` (one row an arm and prompt).

A sweep over the guidance scale alone names its arms by their scales, any other by their keys.
"""

import csv
import dataclasses
import io
import json
import math
import os
from typing import Any

import numpy as np
from etils import epath

from difflax.core.files import atomic_write
from difflax.evaluation.ablation.arms import GUIDANCE_SCALE, Arm
from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.ablation.values import words

RESULT_FORMATS = {True: "difflax-guidance-ablation-1", False: "difflax-ablation-2"}
"""By whether nothing but the guidance scale differs."""

SCALE_COLUMN = "guidance_scale"
"""What a sweep over the scale alone has in place of the arm."""


def without_nan(document: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: an absent number is null."""
    return json.loads(json.dumps(document, default=dict), parse_constant=lambda name: None)


def cell(value: float) -> str:
    """A number in a CSV file; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.6g}"


def table_csv(result: AblationResult) -> str:
    """One row a group and arm, with a column for each axis; three columns a metric: the estimate and both
    ends of its band.
    """
    names = list(dict.fromkeys(each.metric.name for each in result.measured))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    arms = [SCALE_COLUMN] if result.over_scales else ["arm", *(axis.name for axis in result.axes)]
    writer.writerow(["group", *arms, "images", "prompts", *header])
    for group in result.groups:
        mine = {each.metric.name: each for each in result.measured if each.group == group.name}
        for index, arm in enumerate(result.arms):
            cells: list[str] = []
            for name in names:
                estimate = mine[name].estimates[index] if name in mine else None
                cells += (
                    [cell(v) for v in (estimate.value, estimate.low, estimate.high)] if estimate else [""] * 3
                )
            writer.writerow([group.name, *_settings(result, arm), group.count, len(group.prompts), *cells])
    return out.getvalue()


def _settings(result: AblationResult, arm: Arm) -> list[str]:
    """The cells that say which arm a row is of; empty where it is as the model has it."""
    if result.over_scales:
        return [words(arm.settings[GUIDANCE_SCALE])]
    names = [axis.name for axis in result.axes]
    return [arm.key, *(words(arm.settings[name]) if name in arm.settings else "" for name in names)]


def records_csv(result: AblationResult) -> str:
    """One row an image; an empty cell where the judge was not asked."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    records = dict(result.records)
    if result.over_scales:
        scale = {arm.key: arm.settings[GUIDANCE_SCALE] for arm in result.arms}
        records = {SCALE_COLUMN: np.array([scale[key] for key in records.pop("arm")], np.float64), **records}
    writer.writerow(records)
    columns = [
        map(cell, column.tolist()) if np.issubdtype(column.dtype, np.floating) else column
        for column in records.values()
    ]
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue()


def prompts_csv(result: AblationResult) -> str:
    """One row an arm and prompt: the metrics of all images of a prompt together, every digit of them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "group", "prompt", *result.by_prompt])
    prompts = [(group.name, prompt) for group in result.groups for prompt in group.prompts]
    for index, arm in enumerate(result.arms):
        for number, where in enumerate(prompts):
            values = [float(column[index, number]) for column in result.by_prompt.values()]
            writer.writerow([arm.key, *where, *("" if math.isnan(v) else repr(v) for v in values)])
    return out.getvalue()


def results_json(result: AblationResult) -> str:
    """Everything but the raw records and the images, with the definition of each metric."""
    best = {
        each.group: {**_named(result, each.best), **dataclasses.asdict(each.estimates[each.best])}
        for each in result.measured
        if each.metric.name == result.primary and each.best is not None
    }
    described = {each.metric.name: dataclasses.asdict(each.metric) for each in result.measured}
    curves = [
        {
            "group": each.group,
            "metric": each.metric.name,
            "references": dict(each.references),
            "near_best": list(each.near_best),
            "estimates": [
                {**_named(result, index), **dataclasses.asdict(estimate)}
                for index, estimate in enumerate(each.estimates)
            ],
        }
        for each in result.measured
    ]
    document = {
        "format": RESULT_FORMATS[result.over_scales],
        "provenance": dataclasses.asdict(result.provenance),
        "method": dict(result.method),
        **({"guidance_scales": list(result.scales)} if result.over_scales else {}),
        "axes": [dataclasses.asdict(axis) for axis in result.axes],
        "arms": [{"key": arm.key, "settings": dict(arm.settings)} for arm in result.arms],
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


def _named(result: AblationResult, index: int) -> dict[str, Any]:
    """Which arm an estimate is of."""
    arm = result.arms[index]
    return ({SCALE_COLUMN: arm.settings[GUIDANCE_SCALE]} if result.over_scales else {}) | {"arm": arm.key}


def write_tables(result: AblationResult, directory: str | os.PathLike[str]) -> None:
    """Writes ``table.csv``, ``records.csv``, ``prompts.csv`` and ``results.json`` into ``directory``."""
    directory = epath.Path(directory)
    makers = {
        "table.csv": table_csv,
        "records.csv": records_csv,
        **({"prompts.csv": prompts_csv} if result.by_prompt else {}),
        "results.json": results_json,
    }
    for name, make in makers.items():
        with atomic_write(directory / name, "w") as file:
            file.write(make(result))
