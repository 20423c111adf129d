"""The raw numbers for other programs: all paired differences as CSV, and every table as Parquet."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from difflax.core.files import atomic_write
from difflax.evaluation.ablation.findings import Finding, pairs_of
from difflax.evaluation.ablation.formatting import named
from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.ablation.tables import cell

DIFFERENCES = "differences.csv"


def differences_csv(result: AblationResult, findings: Iterable[Finding]) -> str:
    """A row a pair of arms and metric: what the second has beyond the first, with its band."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["group", "metric", "first", "second", "difference", "low", "high", "prompts", "moved", "decided"]
    )
    for finding in findings:
        for pair in pairs_of(finding):
            one, other = (named(result, result.arms[arm]) for arm in (pair.first, pair.second))
            numbers = [cell(v) for v in (pair.estimate.value, pair.estimate.low, pair.estimate.high)]
            counts = [pair.estimate.clusters, pair.moved, "yes" if pair.decided else "no"]
            where = [finding.scores.group, finding.scores.metric.name]
            writer.writerow([*where, one, other, *numbers, *counts])
    return out.getvalue()


def have_parquet() -> bool:
    """Whether pyarrow is installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        return False
    return bool(pyarrow.parquet.__name__)


def write_parquet(result: AblationResult, directory: epath.PathLike) -> None:
    """Writes ``records.parquet`` (a row an image) and ``table.parquet`` (a row an arm, group and metric),
    with every digit and with a column for each axis.
    """
    folder = epath.Path(directory)
    keys = result.records["arm"]
    places = {arm.key: index for index, arm in enumerate(result.arms)}
    index = np.array([places[key] for key in keys])
    axes = {axis.name: _axis_column(result, axis.name)[index] for axis in result.axes}
    _write(folder / "records.parquet", {**result.records, **axes})
    rows = [
        (each, number, estimate) for each in result.measured for number, estimate in enumerate(each.estimates)
    ]
    arms = np.array([number for _, number, _ in rows])
    table: dict[str, Any] = {
        "group": [each.group for each, _, _ in rows],
        "metric": [each.metric.name for each, _, _ in rows],
        "arm": [result.arms[number].key for _, number, _ in rows],
        **{axis.name: _axis_column(result, axis.name)[arms] for axis in result.axes},
        **{end: [getattr(estimate, end) for _, _, estimate in rows] for end in ("value", "low", "high")},
        "count": [estimate.count for _, _, estimate in rows],
        "clusters": [estimate.clusters for _, _, estimate in rows],
    }
    _write(folder / "table.parquet", table)


def _axis_column(result: AblationResult, name: str) -> np.ndarray:
    """The setting of each arm: numbers as they are, anything else as JSON text; missing ones are null."""
    from difflax.evaluation.ablation.values import canonical

    values = [arm.settings.get(name) for arm in result.arms]
    if result.axis(name).numeric:
        return np.array([np.nan if value is None else float(value) for value in values])
    missing = [name not in arm.settings for arm in result.arms]
    texts = [None if absent else canonical(value) for value, absent in zip(values, missing, strict=True)]
    return np.array(texts, dtype=object)


def _write(path: epath.Path, columns: Mapping[str, Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({name: pyarrow.array(list(values)) for name, values in columns.items()})
    with atomic_write(path) as file:
        pyarrow.parquet.write_table(table, file)
