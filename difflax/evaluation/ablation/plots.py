"""Plots of a guidance ablation: each metric against the scale, and what one metric costs in another.

The scale runs on a signed square-root axis: it spreads the small scales, where most happens, keeps 0 and
negative scales, and needs no threshold as a logarithm would.

Drawn by matplotlib. Altair and Plotly draw in the browser: each page would carry megabytes of script, or an
engine to make SVG of it would have to be installed (vl-convert, Kaleido), for plots that nobody zooms.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from difflax.evaluation.ablation.arms import GUIDANCE_SCALE, Axis
from difflax.evaluation.ablation.results import AblationResult, Curve, describe_scale
from difflax.evaluation.ablation.values import words
from difflax.figures.style import LIGHT, Theme, dress, legend, look, new_figure, title

SCALE_LABEL = "guidance scale (square-root spacing)"
AxisStyle = Callable[[Any, Sequence[float], Theme], None]
"""Dresses the horizontal axis of matplotlib axes for the places that lines have along it."""

LEVEL_DASH = {"chance": (0, (1, 2)), "real images": (0, (4, 3)), "truth": (0, (9, 2, 1, 2))}


def signed_sqrt(scale: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """``sign(s) √|s|``: where a scale stands on the axis."""
    return np.asarray(np.sign(scale) * np.sqrt(np.abs(scale)))


def signed_square(position: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The inverse of :func:`signed_sqrt`."""
    return np.asarray(np.sign(position) * position**2)


def tick_scales(scales: Sequence[float], least_gap: float = 0.055) -> list[float]:
    """The scales with a number on the axis: 0, 1 and the ends, then all that leave ``least_gap`` of it."""
    spots = {scale: float(signed_sqrt(np.array(scale))) for scale in scales}
    width = (max(spots.values()) - min(spots.values())) or 1.0
    kept: list[float] = []
    special = [scale for scale in (0.0, 1.0, min(scales), max(scales)) if scale in spots]
    for scale in [*special, *scales]:
        if all(abs(spots[scale] - spots[other]) >= least_gap * width for other in kept):
            kept.append(scale)
    return sorted(kept)


def scale_axis(axes: Any, scales: Sequence[float], theme: Theme) -> None:
    """The axis of guidance scales, a line at 1."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("function", functions=(signed_sqrt, signed_square))
    spots = signed_sqrt(np.array(scales))
    margin = 0.04 * (float(np.ptp(spots)) or 1.0)
    ends = signed_square(np.array([spots.min() - margin, spots.max() + margin]))
    axes.set_xlim(*ends)
    axes.xaxis.set_major_locator(FixedLocator(tick_scales(scales)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(SCALE_LABEL)
    if 1.0 in scales and len(scales) > 1:
        from matplotlib.patheffects import withStroke

        axes.axvline(1.0, color=theme.rule, linewidth=1.2, zorder=0.5)
        axes.annotate(
            describe_scale(1.0),
            (1.0, 1.0),
            (3, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            color=theme.quiet,
            fontsize=7.5,
            path_effects=[withStroke(linewidth=2.5, foreground=theme.paper)],
        )


def number_axis(axis: Axis) -> AxisStyle:
    """The style of an axis of numbers, to scale."""

    def style(axes: Any, places: Sequence[float], theme: Theme) -> None:
        from matplotlib.ticker import MaxNLocator

        margin = 0.04 * ((max(places) - min(places)) or abs(places[0]) or 1.0)
        axes.set_xlim(min(places) - margin, max(places) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(8))
        axes.set_xlabel(axis.title)

    return style


def words_axis(axis: Axis) -> AxisStyle:
    """The style of an axis whose values are no numbers: they stand side by side."""

    def style(axes: Any, places: Sequence[float], theme: Theme) -> None:
        axes.set_xlim(-0.5, len(axis.values) - 0.5)
        texts = [text if len(text) <= 24 else f"{text[:23]}…" for text in map(words, axis.values)]
        axes.set_xticks(range(len(axis.values)), texts, rotation=20, ha="right", fontsize=8)
        axes.set_xlabel(axis.title)

    return style


def style_of(axis: Axis) -> AxisStyle:
    """How an axis of a sweep is drawn."""
    if axis.name == GUIDANCE_SCALE and axis.numeric:
        return scale_axis
    return number_axis(axis) if axis.numeric else words_axis(axis)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Room for every estimate, band and level line; a bound of the metric near the data is shown."""
    ends = [v for c in curves for e in c.estimates for v in (e.value, e.low, e.high)]
    ends += [level for c in curves for level in c.references.values()]
    known = [end for end in ends if np.isfinite(end)] or [0.0, 1.0]
    low, high = min(known), max(known)
    room = 0.08 * (high - low or abs(high) or 1.0)
    floor, ceiling = curves[0].metric.bounds
    if (floor, ceiling) == (0.0, 1.0) and high - low > 0.4:
        return -0.02, 1.12  # room for a word above the line of all
    bottom = 0.0 if floor == 0.0 and (low < 0.5 * high or low < room) else low - room
    return bottom, high + room if ceiling is None else min(high + room, ceiling + 0.5 * room)


def draw_metric(
    axes: Any,
    curves: Sequence[Curve],
    groups: Sequence[str],
    theme: Theme,
    axis: AxisStyle = scale_axis,
    rings: bool = True,
) -> None:
    """One metric on given axes: lines with bands, level lines, and with ``rings`` the best scale of each
    group ringed.

    ``groups`` are all groups of the sweep: a group looks the same in every plot, also where another has no
    curve. ``axis`` is what the curves' scales lie along.
    """
    metric = curves[0].metric
    dress(axes, theme)
    for curve in curves:
        style = look(theme, groups.index(curve.group))
        values, low, high = (
            np.array([getattr(estimate, end) for estimate in curve.estimates])
            for end in ("value", "low", "high")
        )
        axes.fill_between(curve.scales, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(curve.scales, values, **style, linewidth=1.8, markersize=4.5, markeredgewidth=0)
        for name, level in curve.references.items():
            # The truth, and where all groups have the same prompts every level, is one for all.
            shared = len({other.references.get(name) for other in curves}) == 1
            color = theme.quiet if shared else style["color"]
            axes.axhline(
                level, color=color, linestyle=LEVEL_DASH[name], linewidth=1.1, alpha=0.75, zorder=1.5
            )
        if rings and curve.best is not None:
            axes.plot(
                curve.scales[curve.best],
                values[curve.best],
                marker="o",
                markersize=11,
                markerfacecolor="none",
                markeredgecolor=style["color"],
                markeredgewidth=1.6,
                clip_on=False,
                zorder=4,
            )
    axis(axes, sorted({scale for curve in curves for scale in curve.scales}), theme)
    axes.set_ylim(*_limits(curves))
    arrow = {"higher": "higher is better", "lower": "lower is better", "neither": ""}[metric.better]
    title(axes, theme, metric.label, ", ".join(part for part in (metric.unit, arrow) if part))


def legend_handles(
    curves: Sequence[Curve], groups: Sequence[str], theme: Theme, rings: bool = True
) -> list[Any]:
    """Legend entries of the groups, the band, the level lines and the ring that occur in ``curves``."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    present = {curve.group for curve in curves}
    handles: list[Any] = [
        Line2D([], [], **look(theme, index), linewidth=1.8, markersize=4.5, markeredgewidth=0, label=group)
        for index, group in enumerate(groups)
        if group in present
    ]
    handles.append(Patch(facecolor=theme.quiet, alpha=0.25, linewidth=0, label="95% band"))
    for name, dash in LEVEL_DASH.items():
        if any(name in curve.references for curve in curves):
            handles.append(Line2D([], [], color=theme.quiet, linestyle=dash, linewidth=1.2, label=name))
    if rings and any(curve.best is not None for curve in curves):
        ring = {"markerfacecolor": "none", "markeredgecolor": theme.quiet, "markeredgewidth": 1.4}
        handles.append(Line2D([], [], linestyle="none", marker="o", markersize=9, label="best scale", **ring))
    return handles


def metric_figure(result: AblationResult, metric: str, theme: Theme = LIGHT) -> Any:
    """A ``Figure`` of one metric, by name, along the sweep's axis, see `AblationResult.lines`.

    ``difflax.figures.style.render`` turns it into a PNG or SVG.
    """
    figure = new_figure(theme, 6.0, 4.0)
    curves, lines = result.by_metric()[metric], result.lines()
    draw_metric(figure.subplots(), curves, lines, theme, style_of(result.along))
    legend(figure, legend_handles(curves, lines, theme), theme, columns=3)
    return figure


def panels_figure(
    result: AblationResult, metrics: Sequence[str], theme: Theme = LIGHT, *, columns: int = 3
) -> Any:
    """A ``Figure`` with a panel for each of these metrics, and one legend."""
    measured, lines = result.by_metric(), result.lines()
    tables = [measured[name] for name in metrics]
    columns = min(columns, len(tables))
    rows = -(-len(tables) // columns)
    figure = new_figure(theme, 4.6 * columns, 3.4 * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, curves in zip(panels, tables, strict=False):
        draw_metric(axes, curves, lines, theme, style_of(result.along))
    for axes in panels[len(tables) :]:
        axes.set_visible(False)
    figure.get_layout_engine().set(wspace=0.06, hspace=0.08)
    handles = legend_handles([curve for curves in tables for curve in curves], lines, theme)
    legend(figure, handles, theme, columns=min(len(handles), round(2.5 * columns)))
    return figure


def overview_figure(result: AblationResult, theme: Theme = LIGHT) -> Any:
    """A ``Figure`` of every metric that is no detail of another."""
    return panels_figure(result, list(result.by_metric("")), theme)


def triangle_figure(result: AblationResult, theme: Theme = LIGHT) -> Any:
    """A ``Figure`` of what guidance gains and what it costs, side by side: `AblationResult.aspects`."""
    return panels_figure(result, result.triangle, theme, columns=len(result.triangle))


def tradeoff_figure(result: AblationResult, across: str, up: str, theme: Theme = LIGHT) -> Any:
    """A ``Figure`` of metric ``up`` against metric ``across``, see `draw_tradeoff`."""
    tables = result.by_metric()
    figure = new_figure(theme, 6.0, 4.4)
    axes = figure.subplots()
    special = (0.0, 1.0) if result.along.name == GUIDANCE_SCALE else ()
    draw_tradeoff(axes, tables[across], tables[up], result.lines(), theme, special)
    legend(figure, axes.get_legend_handles_labels()[0], theme, columns=3)
    return figure


def draw_tradeoff(
    axes: Any,
    across: Sequence[Curve],
    up: Sequence[Curve],
    groups: Sequence[str],
    theme: Theme,
    special: Collection[float] = (0.0, 1.0),
) -> None:
    """One metric against another on given axes, one point a scale, joined in order of scale.

    So Ho and Salimans (2022) and Saharia et al. (2022) show what guidance buys and what it costs. The first
    and the last scale, the best one of ``up`` and the ``special`` ones carry their number.
    """
    from matplotlib.patheffects import withStroke

    dress(axes, theme)
    axes.grid(axis="x", color=theme.rule, linewidth=0.8)
    measured = {curve.group: curve for curve in up}
    for first in across:
        if first.group not in measured:
            continue
        second = measured[first.group]
        x = np.array([estimate.value for estimate in first.estimates])
        y = np.array([estimate.value for estimate in second.estimates])
        style = look(theme, groups.index(first.group))
        axes.plot(x, y, **style, linewidth=1.6, markersize=5, markeredgewidth=0, label=first.group)
        marked = {*special, first.scales[0], first.scales[-1]}
        marked |= {second.scales[second.best]} if second.best is not None else set()
        for scale, tick, spot_x, spot_y in zip(first.scales, first.ticks, x, y, strict=True):
            if scale in marked:
                axes.annotate(
                    tick,
                    (spot_x, spot_y),
                    (5, 4),
                    textcoords="offset points",
                    color=style["color"],
                    fontsize=8.5,
                    fontweight="bold",
                    path_effects=[withStroke(linewidth=2.5, foreground=theme.paper)],
                )
    axes.margins(0.08)
    axes.set_xlabel(across[0].metric.axis_label)
    heading = f"{up[0].metric.label} against {lowered(across[0].metric.label)}"
    title(axes, theme, heading, "one point a scale, joined in their order")
    axes.set_ylabel(up[0].metric.axis_label)


def lowered(label: str) -> str:
    """A label inside a sentence; "CLIP" and "Fréchet" keep their capital."""
    return label if label.startswith(("CLIP", "Fréchet")) else label[0].lower() + label[1:]
