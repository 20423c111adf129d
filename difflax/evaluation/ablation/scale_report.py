"""The scales that a search found as tables and a plot: each band alone, and schedules on held-out prompts."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.core.files import atomic_write
from difflax.evaluation import statistics as st
from difflax.evaluation.ablation.formatting import band, number
from difflax.evaluation.ablation.tables import without_nan
from difflax.evaluation.contrasts.coordinates import Line
from difflax.evaluation.contrasts.pairs import PairDifference, differences_to, leads_over
from difflax.evaluation.metrics import Metric
from difflax.figures.style import DARK, LIGHT, Theme, dress, look, new_figure, render, title

FORMAT_OF_SCALES = "difflax-scales-1"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ScaleTables:
    """What is shown of a search.

    Attributes:
        edges: log-SNRs between the bands.
        lines: a line for each band whose scale alone was varied.
        found: the scale of each band in the end.
        names: of the schedules that are compared; the others are held against the first.
        scales: of each at every step, by name.
        log_snr: of every step.
        metrics: what is compared.
        values: a value a schedule and prompt of each metric, by its name.
        guidance: the section of ``config.guidance`` with the schedule that was found.
        facts: how it was measured, JSON values.
    """

    edges: tuple[float, ...]
    lines: tuple[Line, ...]
    found: tuple[float, ...]
    names: tuple[str, ...]
    scales: Mapping[str, Float[np.ndarray, " steps"]]
    log_snr: Float[np.ndarray, " steps"]
    metrics: tuple[Metric, ...]
    values: Mapping[str, Float[np.ndarray, "a p"]]
    guidance: Mapping[str, Any]
    facts: Mapping[str, Any]

    def estimates(self, metric: str) -> list[st.Estimate]:
        """The mean of each schedule."""
        values = self.values[metric]
        rows = [row[~np.isnan(row)] for row in values]
        return [st.mean(row, np.arange(len(row))) if len(row) else st.NOTHING for row in rows]

    def differences(self, metric: str) -> list[PairDifference]:
        """Every other schedule less the first, prompt by prompt."""
        values = self.values[metric]
        return differences_to(values, np.arange(values.shape[1]), 0)

    def winner(self, metric: Metric, pair: PairDifference) -> str:
        """Which of the two is better, by bands that hold for all pairs of schedules together."""
        values = self.values[metric.name]
        prompts = np.arange(values.shape[1])
        if not pair.decided or not leads_over(values, prompts, pair.second, pair.first):
            return "no winner"
        return self.names[pair.second if metric.sign * pair.estimate.value > 0 else pair.first]


def bounds_in_words(edges: Sequence[float], place: int) -> str:
    """The log-SNRs of a band."""
    if place == 0:
        return f"below {edges[0]:.2g}"
    if place == len(edges):
        return f"above {edges[-1]:.2g}"
    return f"{edges[place - 1]:.2g} to {edges[place]:.2g}"


def scales_markdown(tables: ScaleTables) -> str:
    """Three tables: the best scale of each band, what was measured of all its scales, and the schedules."""
    base = tables.lines[0].values[tables.lines[0].base]
    out = ["# The scale that would be right", "", *_bands(tables, base), "", *_curves(tables), ""]
    out += _schedules(tables)
    out += ["", "In brackets: 95% bands.", ""]
    out += [f"- {metric.label}: {metric.definition} {metric.note}".rstrip() for metric in tables.metrics]
    out += [f"- {name.replace('_', ' ')}: {value}" for name, value in tables.facts.items()]
    return "\n".join(out) + "\n"


def _bands(tables: ScaleTables, base: float) -> list[str]:
    heads = [
        "log-SNR",
        "steps",
        "best scale alone",
        f"gain over {base:g} everywhere",
        "winner",
        "scale found",
    ]
    out = [_row(heads), "|---|" + "---:|" * (len(heads) - 1)]
    counts = np.bincount(np.searchsorted(tables.edges, tables.log_snr, side="right"))
    for place, line in enumerate(tables.lines):
        low, high = line.range
        best = f"{line.values[line.best]:g} ({low:g}–{high:g})"
        won = f"{line.values[line.best]:g}" if line.decided else "no winner"
        gain = "none" if line.best == line.base else _with_band(line.gain.estimate, 3, signed=True)
        cells = [
            bounds_in_words(tables.edges, place),
            str(counts[place]),
            best,
            gain,
            won,
            f"{tables.found[place]:g}",
        ]
        out.append(_row(cells))
    return out


def _curves(tables: ScaleTables) -> list[str]:
    """What was measured where one band alone has another scale."""
    values = sorted({value for line in tables.lines for value in line.values})
    out = [_row(["scale of one band alone", *(f"{value:g}" for value in values)])]
    out.append("|---|" + "---:|" * len(values))
    for place, line in enumerate(tables.lines):
        means = dict(zip(line.values, np.nanmean(line.scores, axis=1), strict=True))
        cells = [number(means.get(value, np.nan), 3) for value in values]
        out.append(_row([f"log-SNR {bounds_in_words(tables.edges, place)}", *cells]))
    return out


def _schedules(tables: ScaleTables) -> list[str]:
    first = tables.names[0]
    heads = ["schedule, held out", *(metric.axis_label for metric in tables.metrics)]
    heads += [f"{tables.metrics[0].label} less {first}'s", "winner"]
    out = [_row(heads), "|---|" + "---:|" * (len(heads) - 1)]
    estimates = {metric.name: tables.estimates(metric.name) for metric in tables.metrics}
    differences = {pair.second: pair for pair in tables.differences(tables.metrics[0].name)}
    for index, name in enumerate(tables.names):
        cells = [_with_band(estimates[metric.name][index], _digits(metric)) for metric in tables.metrics]
        pair = differences.get(index)
        against = ["", ""]
        if pair is not None:
            won = tables.winner(tables.metrics[0], pair)
            against = [_with_band(pair.estimate, 3, signed=True), won]
        out.append(_row([name, *cells, *against]))
    return out


def _digits(metric: Metric) -> int:
    return 1 if metric.unit == "dB" else 3


def _with_band(estimate: st.Estimate, digits: int, signed: bool = False) -> str:
    value = number(estimate.value, digits)
    value = f"+{value}" if signed and estimate.value > 0 else value
    ends = band(estimate, digits) if not signed else _signed_band(estimate, digits)
    return f"{value} ({ends})" if ends else value


def _signed_band(estimate: st.Estimate, digits: int) -> str:
    return "" if np.isnan(estimate.low) else f"{estimate.low:+.{digits}f} to {estimate.high:+.{digits}f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def scales_json(tables: ScaleTables) -> str:
    """Everything with every digit; the schedule that was found as a section of a config."""
    lines = [
        {
            "log_snr": bounds_in_words(tables.edges, place),
            "scales": list(line.values),
            "overlap": [float(mean) for mean in np.nanmean(line.scores, axis=1)],
            "best": line.values[line.best],
            "best_band": list(line.range),
            "gain": dataclasses.asdict(line.gain.estimate),
            "decided": line.decided,
        }
        for place, line in enumerate(tables.lines)
    ]
    held_out = {
        metric.name: {
            "estimates": {
                name: dataclasses.asdict(estimate)
                for name, estimate in zip(tables.names, tables.estimates(metric.name), strict=True)
            },
            f"less_{tables.names[0]}": {
                tables.names[pair.second]: dataclasses.asdict(pair.estimate)
                | {"winner": tables.winner(metric, pair)}
                for pair in tables.differences(metric.name)
            },
        }
        for metric in tables.metrics
    }
    document = {
        "format": FORMAT_OF_SCALES,
        "facts": dict(tables.facts),
        "bands": lines,
        "guidance": dict(tables.guidance),
        "log_snr": [float(value) if np.isfinite(value) else None for value in tables.log_snr],
        "scales": {name: [float(value) for value in column] for name, column in tables.scales.items()},
        "held_out": held_out,
    }
    return json.dumps(without_nan(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def scales_figure(tables: ScaleTables, theme: Theme = LIGHT) -> Any:
    """A ``Figure``: the schedules over the noise, and what each measures less the first one."""
    figure = new_figure(theme, 5.0 + 2.6 * len(tables.metrics), 4.2)
    widths = [5.0, *[2.4] * len(tables.metrics)]
    first, *rest = figure.subplots(1, len(widths), width_ratios=widths)
    _draw_scales(first, tables, theme)
    for index, (axes, metric) in enumerate(zip(rest, tables.metrics, strict=True)):
        _draw_differences(axes, tables, metric, theme, named=index == 0)
    return figure


def _draw_scales(axes: Any, tables: ScaleTables, theme: Theme) -> None:
    dress(axes, theme)
    shown = np.isfinite(tables.log_snr)
    for index, name in enumerate(tables.names):
        style = look(theme, index)
        axes.plot(tables.log_snr[shown], tables.scales[name][shown], **style, markersize=3.5, label=name)
    for edge in tables.edges:
        axes.axvline(edge, color=theme.rule, linewidth=0.8, zorder=0.5)
    axes.set_xlabel("log-SNR: noise at the left, the finished picture at the right")
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=8)
    title(axes, theme, "Scale", "each at its own best; bands between the lines")


def _draw_differences(axes: Any, tables: ScaleTables, metric: Metric, theme: Theme, *, named: bool) -> None:
    dress(axes, theme)
    axes.axvline(0.0, color=theme.quiet, linewidth=1.0)
    for pair in tables.differences(metric.name):
        style, estimate = look(theme, pair.second), pair.estimate
        axes.plot([estimate.low, estimate.high], [pair.second] * 2, color=style["color"], linewidth=1.8)
        axes.plot([estimate.value], [pair.second], color=style["color"], marker=style["marker"], markersize=6)
    axes.set_ylim(len(tables.names) - 0.4, 0.4)
    axes.set_yticks(
        range(1, len(tables.names)), tables.names[1:] if named else [""] * (len(tables.names) - 1)
    )
    arrow = {"higher": "higher is better", "lower": "lower is better", "neither": ""}[metric.better]
    unit = f" in {metric.unit}" if metric.unit == "dB" else ""
    axes.set_xlabel(f"less the {tables.names[0]} scale's{unit}")
    title(axes, theme, metric.label.partition(":")[2].strip() or metric.label, arrow)


def write_scales(tables: ScaleTables, directory: str | os.PathLike[str]) -> None:
    """Writes ``table.md``, ``results.json``, ``guidance.txt`` (the section for ``--guidance``), ``plot.svg``,
    ``plot.png`` and ``plot_dark.png`` into ``directory``.
    """
    directory = epath.Path(directory)
    drawn = scales_figure(tables)
    made: dict[str, bytes] = {
        "table.md": scales_markdown(tables).encode(),
        "results.json": scales_json(tables).encode(),
        "guidance.txt": f"{dict(tables.guidance)}\n".encode(),
        "plot.svg": render(drawn, "svg"),
        "plot.png": render(drawn, "png"),
        "plot_dark.png": render(scales_figure(tables, DARK), "png"),
    }
    for name, data in made.items():
        with atomic_write(directory / name) as file:
            file.write(data)
