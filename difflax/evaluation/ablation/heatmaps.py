"""Two axes at once: a metric as a map of colours, a cell an arm."""

from typing import Any

import numpy as np

from difflax.evaluation.ablation.arms import Axis
from difflax.evaluation.ablation.formatting import decimals, number
from difflax.evaluation.ablation.results import AblationResult, Measured
from difflax.evaluation.ablation.values import canonical, words
from difflax.figures.style import LIGHT, Theme, dress, new_figure, title

LIGHT_INK, DARK_INK = "#fdfdfd", "#0d0d0d"
"""On a cell's colour, whatever the paper: no colours of a theme, which change with it."""
MOST_CELLS_WITH_NUMBERS = 150


def map_axes(result: AblationResult) -> tuple[Axis, Axis] | None:
    """The two axes of the maps, across and up: the one of the plots, and of the others the one with the most
    values; ``None`` where nothing but one axis differs.
    """
    others = [axis for axis in result.axes if axis is not result.along and len(axis.values) > 1]
    if not others or len(result.along.values) < 2:
        return None
    return result.along, max(others, key=lambda axis: len(axis.values))


def heatmap(result: AblationResult, group: str, metric: str, theme: Theme = LIGHT) -> Any:
    """A ``Figure`` of one metric of a group over the two axes of `map_axes`; where still others differ, in
    the settings that the best arm has of them. The best cell is framed; what was not measured stays empty.

    Raises:
        ValueError: the sweep has one axis.
    """
    axes_of_map = map_axes(result)
    if axes_of_map is None:
        raise ValueError("a map needs two axes")
    across, up = axes_of_map
    measured = result.of(group, metric)
    places = _cells(result, measured, across, up)
    values = np.full((len(up.values), len(across.values)), np.nan)
    for (row, column), arm in places.items():
        values[row, column] = measured.estimates[arm].value
    figure = new_figure(theme, 1.9 + 0.62 * max(len(across.values), 5), 1.7 + 0.42 * max(len(up.values), 3))
    axes = figure.subplots()
    dress(axes, theme)
    axes.grid(visible=False)
    colours = "cividis" if measured.metric.sign >= 0 else "cividis_r"
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, aspect="auto", origin="lower")
    for axis, set_ticks in ((across, axes.set_xticks), (up, axes.set_yticks)):
        set_ticks(range(len(axis.values)), [_short(words(value)) for value in axis.values])
    axes.tick_params(axis="x", rotation=0 if across.numeric else 20)
    axes.set_xlabel(across.title)
    axes.set_ylabel(up.title)
    if values.size <= MOST_CELLS_WITH_NUMBERS:
        _numbers(axes, image, values, decimals(measured))
    best = next((place for place, arm in places.items() if arm == measured.best), None)
    if best is not None:
        from matplotlib.patches import Rectangle

        corner = (best[1] - 0.5, best[0] - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=theme.series[1], linewidth=2.4))
    arrow = {"higher": "higher is better", "lower": "lower is better", "neither": ""}[measured.metric.better]
    title(axes, theme, f"{measured.metric.label}, {group}", ", ".join(filter(None, [arrow, "best framed"])))
    return figure


def _cells(result: AblationResult, measured: Measured, across: Axis, up: Axis) -> dict[tuple[int, int], int]:
    """The arm of each cell, by row and column."""
    columns = {canonical(value): place for place, value in enumerate(across.values)}
    rows = {canonical(value): place for place, value in enumerate(up.values)}

    def others(index: int) -> str:
        settings = result.arms[index].settings
        return canonical({k: v for k, v in settings.items() if k not in (across.name, up.name)})

    wanted = others(measured.best or 0)
    return {
        (rows[canonical(arm.settings[up.name])], columns[canonical(arm.settings[across.name])]): index
        for index, arm in enumerate(result.arms)
        if others(index) == wanted and up.name in arm.settings and across.name in arm.settings
    }


def _numbers(axes: Any, image: Any, values: np.ndarray, digits: int) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            ink = DARK_INK if bright else LIGHT_INK
            axes.text(column, row, number(value, digits), ha="center", va="center", fontsize=7.5, color=ink)


def _short(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}…"
