"""A result read back from the files of its folder, see `difflax.evaluation.ablation.tables`.

Estimates come from ``results.json`` as they are; what is read off single images and prompts from
``records.csv`` and ``prompts.csv``; the images of the grid from ``cells/``, where those are kept.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from difflax.core.documents import read_json
from difflax.core.types import UserError
from difflax.evaluation.ablation.arms import GUIDANCE_SCALE, Arm, Axis, axes_of
from difflax.evaluation.ablation.results import AblationResult, GroupInfo, Likelihood, Measured, Provenance
from difflax.evaluation.ablation.tables import RESULT_FORMATS, SCALE_COLUMN
from difflax.evaluation.metrics import Metric
from difflax.evaluation.statistics import Estimate

TEXT_COLUMNS = ("arm", "group", "prompt")
REPAIR = "run the sweep again with the same --output, which keeps its cells"


def read_result(directory: epath.PathLike) -> AblationResult:
    """The result in a folder that `difflax ablate` or `difflax evaluate` wrote.

    Raises:
        UserError: there is none, it is damaged, or another format.
    """
    folder = epath.Path(directory)
    document = read_json(folder / "results.json", hint=REPAIR)
    if document.get("format") not in RESULT_FORMATS.values():
        raise UserError(f"{folder / 'results.json'} is no result of a sweep (its format is not known)")
    try:
        return _result(folder, document)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        said = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder}: the result is damaged ({said}): {REPAIR}") from error


def _result(folder: epath.Path, document: Mapping[str, Any]) -> AblationResult:
    arms = _arms(document)
    axes = tuple(
        Axis(name=axis["name"], values=tuple(axis["values"]), label=axis["label"])
        for axis in document.get("axes", ())
    ) or axes_of(arms)
    groups = tuple(GroupInfo(**{**group, "prompts": tuple(group["prompts"])}) for group in document["groups"])
    metrics = {
        name: Metric(**{**said, "bounds": tuple(said["bounds"])})
        for name, said in document["metrics"].items()
    }
    measured = tuple(
        Measured(
            group=curve["group"],
            metric=metrics[curve["metric"]],
            estimates=tuple(_estimate(each) for each in curve["estimates"]),
            references=curve["references"],
            near_best=tuple(curve["near_best"]),
        )
        for curve in document["curves"]
    )
    if any(len(each.estimates) != len(arms) for each in measured):
        raise ValueError("a curve does not have a value for each arm")
    likelihood = document.get("likelihood")
    return AblationResult(
        arms=arms,
        axes=axes,
        seeds=tuple(document["seeds"]),
        groups=groups,
        measured=measured,
        records=_records(folder, arms),
        samples=_samples(folder, arms, groups),
        provenance=Provenance(**document["provenance"]),
        method=document["method"],
        by_prompt=_by_prompt(folder, len(arms)),
        likelihood=None if likelihood is None else Likelihood(**likelihood),
        aspects=document.get("aspects", {}),
    )


def _arms(document: Mapping[str, Any]) -> tuple[Arm, ...]:
    """Results of earlier versions name scales alone."""
    if "arms" in document:
        return tuple(Arm(settings=arm["settings"]) for arm in document["arms"])
    return tuple(Arm(settings={GUIDANCE_SCALE: scale}) for scale in document["guidance_scales"])


def _estimate(said: Mapping[str, Any]) -> Estimate:
    def number(name: str) -> float:
        return math.nan if said[name] is None else float(said[name])

    return Estimate(
        value=number("value"),
        low=number("low"),
        high=number("high"),
        count=said["count"],
        clusters=said["clusters"],
        method=said["method"],
    )


def _columns(path: epath.Path) -> dict[str, list[str]]:
    with path.open("r") as file:
        head, *rows = csv.reader(file)
    if any(len(row) != len(head) for row in rows):
        raise ValueError(f"{path.name} has a row of another length")
    return {name: [row[index] for row in rows] for index, name in enumerate(head)}


def _floats(texts: Sequence[str]) -> np.ndarray:
    return np.array([float(text) if text else math.nan for text in texts], np.float64)


def _records(folder: epath.Path, arms: Sequence[Arm]) -> dict[str, np.ndarray]:
    path = folder / "records.csv"
    if not path.exists():
        raise UserError(f"no records.csv in {folder}: the folder is incomplete")
    columns = _columns(path)
    count = len(columns["seed"])
    if not count or count % len(arms):
        raise ValueError("records.csv does not have as many images for each arm")
    # The images of one arm stand together, the arms in their order; scales are rounded in the file.
    keys = np.repeat(np.array([arm.key for arm in arms]), count // len(arms))
    if "arm" in columns and columns["arm"] != keys.tolist():
        raise ValueError("records.csv holds other arms")
    columns.pop(SCALE_COLUMN, None)
    records: dict[str, np.ndarray] = {"arm": keys}
    for name, texts in columns.items():
        if name == "seed":
            records[name] = np.array(texts, np.int64)
        elif name not in TEXT_COLUMNS:
            records[name] = _floats(texts)
        elif name != "arm":
            records[name] = np.array(texts)
    return records


def _by_prompt(folder: epath.Path, arms: int) -> dict[str, np.ndarray]:
    path = folder / "prompts.csv"
    if not path.exists():
        return {}
    columns = _columns(path)
    return {
        name: _floats(texts).reshape(arms, -1) for name, texts in columns.items() if name not in TEXT_COLUMNS
    }


def _samples(folder: epath.Path, arms: Sequence[Arm], groups: Sequence[GroupInfo]) -> dict[str, np.ndarray]:
    """The images of the grids; none where not every arm's cell is there."""
    paths = [folder / "cells" / f"{arm.key}.npz" for arm in arms]
    identity = folder / "cells" / "sweep.json"
    if not all(path.exists() for path in (*paths, identity)):
        return {}
    images = []
    for path in paths:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            images.append(stored["samples"])
    shown = read_json(identity, hint=REPAIR)["grid_prompts"]
    ends = np.cumsum([min(shown, len(group.prompts)) for group in groups])
    parts = np.split(np.stack(images), ends[:-1], axis=1)
    return {group.name: part for group, part in zip(groups, parts, strict=True)}
