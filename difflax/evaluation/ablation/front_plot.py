"""The Pareto front as a picture: what guidance gains against each of its costs, every arm with its bands.

Up and to the right is better in every panel, so that axes of measures in which low values are good run
backwards. In a panel the arms that nobody beats in its two measures are joined. A mark is the fuller and the
larger the more often its arm is on the front of all measures when prompts are drawn again: how sure the front
is of it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from difflax.evaluation.ablation.findings import Front
from difflax.evaluation.ablation.formatting import named
from difflax.evaluation.ablation.plots import lowered
from difflax.evaluation.ablation.results import AblationResult, Measured
from difflax.evaluation.contrasts.ranking import pareto_front
from difflax.figures.style import LIGHT, Theme, dress, legend, new_figure, title

SMALLEST_MARK, LARGEST_MARK = 4.0, 10.0
"""Points across of the marks of arms that are on the front never and always."""
MOST_NAMED = 9
"""Arms of a panel that carry their name."""
LONGEST_ARM_NAME = 28
CROWDED = 0.045
"""Share of a panel's sides within which a second name would be written over the first."""
LEGEND_SHARES = {"never on the front": 0.0, "in half": 0.5, "always": 1.0}
"""Of the resamples in which an arm is on the front, in the legend."""


def front_name(result: AblationResult, front: Front) -> str:
    """What the plot of a front is called among the others."""
    return f"front_{[group.name for group in result.groups].index(front.group)}"


def front_figure(result: AblationResult, front: Front, theme: Theme = LIGHT) -> Any:
    """A ``Figure`` with a panel for each measure but the first of a front, which runs up in all of them."""
    up, *across = (result.of(front.group, name) for name in front.metrics)
    figure = new_figure(theme, 5.2 * max(len(across), 1), 4.7)
    panels = figure.subplots(1, len(across), squeeze=False)[0]
    names = [_short(named(result, arm)) for arm in result.arms]
    for axes, each in zip(panels, across, strict=True):
        _panel(axes, each, up, front, names, theme)
    legend(figure, _handles(front, theme), theme, columns=len(LEGEND_SHARES) + 2)
    return figure


def _panel(
    axes: Any, across: Measured, up: Measured, front: Front, names: Sequence[str], theme: Theme
) -> None:
    dress(axes, theme)
    axes.grid(axis="x", color=theme.rule, linewidth=0.8)
    ends = [_ends(each) for each in (across, up)]
    x, y = (values for values, _ in ends)
    signs = np.array([across.metric.sign, up.metric.sign])
    joined = pareto_front(np.stack([x, y], axis=-1) * signs)
    color = theme.series[0]
    order = np.flatnonzero(joined)[np.argsort(x[joined])]
    axes.plot(x[order], y[order], color=color, linewidth=1.4, zorder=2)
    for arm in np.flatnonzero(np.isfinite(x) & np.isfinite(y)):
        share = float(front.shares[arm])
        bars = [[[sides[0][arm]], [sides[1][arm]]] for _, sides in ends]
        axes.errorbar(
            *(x[arm], y[arm]),
            xerr=bars[0],
            yerr=bars[1],
            ecolor=theme.quiet,
            elinewidth=0.8,
            alpha=0.55,
            zorder=1.5,
        )
        axes.plot(x[arm], y[arm], **_mark(share, theme), zorder=3)
    for sign, invert in zip(signs, (axes.invert_xaxis, axes.invert_yaxis), strict=True):
        if sign < 0:
            invert()
    axes.margins(0.1)
    _names(axes, x, y, _to_name(joined, front.shares), names, theme)
    axes.set_xlabel(_axis(across))
    axes.set_ylabel(_axis(up))
    title(
        axes,
        theme,
        f"{up.metric.label} against {lowered(across.metric.label)}",
        f"{front.group}; better: up, right",
    )


def _ends(measured: Measured) -> tuple[Float[np.ndarray, " a"], tuple[np.ndarray, np.ndarray]]:
    """The values, and how far the band reaches below and above each; 0 where there is none."""
    value, low, high = (
        np.array([getattr(estimate, end) for estimate in measured.estimates])
        for end in ("value", "low", "high")
    )
    return value, (np.nan_to_num(np.maximum(value - low, 0)), np.nan_to_num(np.maximum(high - value, 0)))


def _mark(share: float, theme: Theme) -> dict[str, Any]:
    """How an arm is drawn that is on the front in a share of the resamples."""
    from matplotlib.colors import to_rgba

    color = theme.series[0]
    return {
        "marker": "o",
        "linestyle": "none",
        "markersize": SMALLEST_MARK + (LARGEST_MARK - SMALLEST_MARK) * share,
        "markerfacecolor": to_rgba(color, share),
        "markeredgecolor": color,
        "markeredgewidth": 1.2,
    }


def _to_name(joined: Bool[np.ndarray, " a"], shares: Float[np.ndarray, " a"]) -> list[int]:
    """The arms of a panel that carry their name: those on its line first, and of them the surest."""
    order = np.lexsort((-shares, ~joined))
    return [int(arm) for arm in order if joined[arm] or len(joined) <= MOST_NAMED][:MOST_NAMED]


def _names(
    axes: Any,
    x: Float[np.ndarray, " a"],
    y: Float[np.ndarray, " a"],
    arms: Sequence[int],
    names: Sequence[str],
    theme: Theme,
) -> None:
    from matplotlib.patheffects import withStroke

    corner, opposite = np.transpose([axes.get_xlim(), axes.get_ylim()])
    written: list[np.ndarray] = []
    for arm in arms:
        place = (np.array([x[arm], y[arm]]) - corner) / (opposite - corner)
        if any(np.all(np.abs(place - other) < CROWDED) for other in written):
            continue
        written.append(place)
        axes.annotate(
            names[arm],
            (x[arm], y[arm]),
            (6, 5),
            textcoords="offset points",
            color=theme.ink,
            fontsize=8.5,
            zorder=4,
            path_effects=[withStroke(linewidth=2.5, foreground=theme.paper)],
        )


def _axis(measured: Measured) -> str:
    backwards = ", falling" if measured.metric.sign < 0 else ""
    return f"{measured.metric.axis_label}{backwards}"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_ARM_NAME else f"{name[: LONGEST_ARM_NAME - 1]}…"


def _handles(front: Front, theme: Theme) -> list[Any]:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], **_mark(share, theme), label=said) for said, share in LEGEND_SHARES.items()]
    line = Line2D([], [], color=theme.series[0], linewidth=1.4, label="front of the two")
    band = Line2D([], [], color=theme.quiet, linewidth=0.8, alpha=0.55, label="95% bands")
    return [*marks, line, band]
