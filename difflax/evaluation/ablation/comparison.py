"""Sweeps side by side: lines of the metrics that tell the whole story, as one table and one plot.

A line is a sweep with a name: a way to guide, a sampler, a kind of prompts. What runs along it is the
guidance scale, the number of steps, or anything else that is a number. Every point keeps the band that its
own sweep gave it.
"""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from difflax.core.files import atomic_write
from difflax.evaluation.ablation.formatting import band, decimals, number
from difflax.evaluation.ablation.plots import (
    AxisStyle,
    draw_metric,
    draw_tradeoff,
    legend_handles,
)
from difflax.evaluation.ablation.results import AblationResult, Curve
from difflax.evaluation.ablation.tables import cell, without_nan
from difflax.evaluation.statistics import NOTHING
from difflax.figures.style import DARK, LIGHT, Theme, legend, new_figure, render

FORMAT_OF_COMPARISON = "difflax-comparison-1"


def step_axis(axes: Any, places: Sequence[float], theme: Theme) -> None:
    """The axis of numbers of steps: a doubling is everywhere as wide."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xlim(places[0] / 1.3, places[-1] * 1.3)
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("number of steps (log spacing)")


def share_axis(axes: Any, places: Sequence[float], theme: Theme) -> None:
    """The axis of shares of long captions in training, in percent."""
    from matplotlib.ticker import FixedLocator

    axes.set_xlim(-4, 104)
    axes.xaxis.set_major_locator(FixedLocator(places))
    # Beside each other, 95 and 100 would touch.
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_xlabel("long captions in training (%)")


def log_snr_axis(axes: Any, places: Sequence[float], theme: Theme) -> None:
    """The axis of noise levels, pure noise at the left."""
    margin = 0.04 * (places[-1] - places[0]) or 1.0
    axes.set_xlim(places[0] - margin, places[-1] + margin)
    axes.set_xlabel("log-SNR: pure noise at the left, the finished picture at the right")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Lines side by side.

    Attributes:
        title: a heading in words.
        of: what a line is, in one word ("method"), a column of the table.
        along: what runs along a line ("guidance scale"), the next column.
        axis: how that is drawn.
        rings: whether the best place of a line says something: it is ringed in the plot.
        curves: one for each line and metric; ``group`` is the line's name, ``scales`` are the places along
            it. Lines need not have the same places.
        trade_off: metrics that are also drawn against each other, across and up; ``None`` for none.
        facts: how it was measured, JSON values.
    """

    title: str
    of: str
    along: str
    axis: AxisStyle
    rings: bool = False
    curves: tuple[Curve, ...]
    trade_off: tuple[str, str] | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """The names of the lines, in order."""
        return list(dict.fromkeys(curve.group for curve in self.curves))

    def by_metric(self) -> dict[str, list[Curve]]:
        """The curves of each metric, metrics and lines in their order."""
        table: dict[str, list[Curve]] = {}
        for curve in self.curves:
            table.setdefault(curve.metric.name, []).append(curve)
        return table


def line(name: str, result: AblationResult) -> list[Curve]:
    """A sweep of one prompt group as a line along its guidance scales: what was measured of its aspects."""
    measured = result.by_metric()
    return [
        dataclasses.replace(curve, group=name)
        for metric in result.aspects.values()
        for curve in measured.get(metric, ())
    ]


def line_across(name: str, results: Mapping[float | int, AblationResult], scale: float | int) -> list[Curve]:
    """Several sweeps of one prompt group as a line: of each the point at one of its guidance scales.

    Args:
        results: the sweeps, by their places along the line.
    """
    points = {
        place: {curve.metric.name: curve for curve in line(name, result)} for place, result in results.items()
    }
    found = []
    for metric in dict.fromkeys(metric for curves in points.values() for metric in curves):
        own = {place: curves[metric] for place, curves in points.items() if metric in curves}
        first = next(iter(own.values()))
        found.append(
            Curve(
                group=name,
                metric=first.metric,
                scales=tuple(float(place) for place in points),
                estimates=tuple(
                    own[place].estimates[own[place].scales.index(scale)] if place in own else NOTHING
                    for place in points
                ),
                references=first.references,
            )
        )
    # In the order of the aspects, whatever the first sweep was too poor to measure.
    order = list(next(iter(results.values())).aspects.values())
    return sorted(found, key=lambda curve: order.index(curve.metric.name))


def comparison_figure(comparison: Comparison, theme: Theme = LIGHT) -> Any:
    """A ``Figure`` with a panel for each metric, all lines in it, and one for the trade-off."""
    tables = comparison.by_metric()
    across, up = (tables.get(name) for name in comparison.trade_off or ("", ""))
    panels = len(tables) + bool(across and up)
    columns = panels if panels < 4 else 2 if panels == 4 else 4
    rows = -(-panels // columns)
    handles = legend_handles(comparison.curves, comparison.lines, theme, comparison.rings)
    legend_columns = min(len(handles), round(2.4 * columns))
    legend_rows = -(-len(handles) // legend_columns)
    figure = new_figure(theme, 5.2 * columns, 3.9 * rows + 0.25 * legend_rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, curves in zip(axes, tables.values(), strict=False):
        draw_metric(panel, curves, comparison.lines, theme, comparison.axis, comparison.rings)
    if across and up:
        draw_tradeoff(axes[-1], across, up, comparison.lines, theme, special=())
    figure.get_layout_engine().set(wspace=0.06, hspace=0.08)
    legend(figure, handles, theme, columns=legend_columns)
    return figure


def _rows(comparison: Comparison) -> list[tuple[str, float, dict[str, tuple[Curve, int]]]]:
    """Name and place of each row of the table, and by metric which curve's which point stands in it."""
    rows = []
    for name in comparison.lines:
        own = [curve for curve in comparison.curves if curve.group == name]
        for place in own[0].scales:
            points = {curve.metric.name: (curve, curve.scales.index(place)) for curve in own}
            rows.append((name, place, points))
    return rows


def comparison_markdown(comparison: Comparison) -> str:
    """The table in Markdown, the best value of each line in bold, its band in brackets; under it the levels
    of real images and of the truth, and what the metrics are.
    """
    tables = comparison.by_metric()
    metrics = [curves[0].metric for curves in tables.values()]
    heads = [comparison.of, comparison.along, *(metric.axis_label for metric in metrics)]
    out = [f"# {comparison.title}", "", _row(heads), "|---|" + "---:|" * (len(heads) - 1)]
    for name, place, points in _rows(comparison):
        cells = [_cell(*points[metric]) if metric in points else "–" for metric in tables]
        out.append(_row([name, f"{place:g}", *cells]))
    levels = dict.fromkeys(level for curve in comparison.curves for level in curve.references)
    for level in levels:
        shown = [_level(curves, level) for curves in tables.values()]
        out.append(_row([level, "", *shown]))
    out += ["", "In brackets: 95% bands. Bold: the best of a line.", ""]
    out += [f"- {metric.label}: {metric.definition} {metric.note}".rstrip() for metric in metrics]
    out += [f"- {name.replace('_', ' ')}: {value}" for name, value in comparison.facts.items()]
    return "\n".join(out) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(curve: Curve, index: int) -> str:
    estimate, digits = curve.estimates[index], decimals(curve)
    value = number(estimate.value, digits)
    ends = band(estimate, digits)
    return (f"**{value}**" if index == curve.best else value) + (f" ({ends})" if ends else "")


def _level(curves: Sequence[Curve], name: str) -> str:
    """A level that all lines share."""
    found = {curve.references[name] for curve in curves if name in curve.references}
    return number(found.pop(), decimals(curves[0])) if len(found) == 1 else "–"


def comparison_csv(comparison: Comparison) -> str:
    """One row a line and place; three columns a metric: the estimate and both ends of its band."""
    names = list(comparison.by_metric())
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    writer.writerow([_key(comparison.of), _key(comparison.along), "images", "prompts", *columns])
    for name, place, points in _rows(comparison):
        estimates = [
            points[metric][0].estimates[points[metric][1]] if metric in points else NOTHING
            for metric in names
        ]
        counts = max(e.count for e in estimates), max(e.clusters for e in estimates)
        values = [cell(end) for e in estimates for end in (e.value, e.low, e.high)]
        writer.writerow([name, f"{place:g}", *counts, *values])
    return out.getvalue()


def _key(words: str) -> str:
    return words.replace(" ", "_")


def comparison_json(comparison: Comparison) -> str:
    """The same with how it was measured and the definitions of the metrics."""
    metrics = {curve.metric.name: dataclasses.asdict(curve.metric) for curve in comparison.curves}
    curves = [
        {
            _key(comparison.of): curve.group,
            "metric": curve.metric.name,
            "references": dict(curve.references),
            "best": None if curve.best is None else curve.scales[curve.best],
            "estimates": [
                {_key(comparison.along): place, **dataclasses.asdict(estimate)}
                for place, estimate in zip(curve.scales, curve.estimates, strict=True)
            ],
        }
        for curve in comparison.curves
    ]
    document = {
        "format": FORMAT_OF_COMPARISON,
        "title": comparison.title,
        "facts": dict(comparison.facts),
        "metrics": metrics,
        "curves": curves,
    }
    return json.dumps(without_nan(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_comparison(comparison: Comparison, directory: str | os.PathLike[str]) -> None:
    """Writes ``table.md``, ``table.csv``, ``results.json``, ``plot.svg``, ``plot.png`` and ``plot_dark.png``
    into ``directory``.
    """
    directory = epath.Path(directory)
    drawn = comparison_figure(comparison)
    made: dict[str, bytes] = {
        "table.md": comparison_markdown(comparison).encode(),
        "table.csv": comparison_csv(comparison).encode(),
        "results.json": comparison_json(comparison).encode(),
        "plot.svg": render(drawn, "svg"),
        "plot.png": render(drawn, "png"),
        "plot_dark.png": render(comparison_figure(comparison, DARK), "png"),
    }
    for name, data in made.items():
        with atomic_write(directory / name) as file:
            file.write(data)
