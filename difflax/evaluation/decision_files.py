"""When factors are decided, as files: a table, the numbers with their definition, and a plot."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from difflax.core.files import atomic_write
from difflax.evaluation.decisions import HALF, Decision
from difflax.evaluation.statistics import Estimate
from difflax.figures.style import LIGHT, Theme, dress, legend, look, new_figure, render, title
from difflax.figures.trajectory import log_snr_places, show_log_snr

DEFINITION = (
    "undecided: mean distance of a factor in two ends of one noisy picture over that in two runs of the same"
    " prompt that share nothing; half_decided_at_log_snr: where it last passes 1/2"
)


def write_decisions(
    decisions: Sequence[Decision],
    steps: Sequence[int],
    log_snr: Sequence[float],
    directory: str | os.PathLike[str],
    facts: Mapping[str, Any],
) -> None:
    """Writes ``decisions.csv``, ``decisions.json``, ``decisions.svg`` and ``decisions.png``.

    Args:
        steps, log_snr: of the noise levels.
        facts: how it was measured, JSON values.
    """
    directory = epath.Path(directory)
    figure = decision_figure(decisions, log_snr)
    made: dict[str, bytes] = {
        "decisions.csv": _table(decisions, steps, log_snr).encode(),
        "decisions.json": _document(decisions, steps, log_snr, facts).encode(),
        "decisions.svg": render(figure, "svg"),
        "decisions.png": render(figure, "png"),
    }
    for name, data in made.items():
        with atomic_write(directory / name) as file:
            file.write(data)


def _table(decisions: Sequence[Decision], steps: Sequence[int], log_snr: Sequence[float]) -> str:
    """One row a factor and noise level."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["factor", "step", "log_snr", "undecided", "low", "high", "runs", "prompts"])
    for decision in decisions:
        for step, level, found in zip(steps, log_snr, decision.undecided, strict=True):
            ends = (found.value, found.low, found.high, found.count, found.clusters)
            writer.writerow([decision.name, step, level, *ends])
    return out.getvalue()


def _document(
    decisions: Sequence[Decision],
    steps: Sequence[int],
    log_snr: Sequence[float],
    facts: Mapping[str, Any],
) -> str:
    factors = {
        decision.name: {
            "half_decided_at_log_snr": _ends(decision.half),
            "undecided": [_ends(found) for found in decision.undecided],
            "runs": decision.half.count,
            "prompts": decision.half.clusters,
            "band": decision.half.method,
        }
        for decision in decisions
    }
    document = {
        "definition": DEFINITION,
        **facts,
        "steps": list(steps),
        "log_snr": [_finite(level) for level in log_snr],
        "factors": factors,
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _ends(found: Estimate) -> dict[str, float | None]:
    return {name: _finite(getattr(found, name)) for name in ("value", "low", "high")}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def decision_figure(decisions: Sequence[Decision], log_snr: Sequence[float], theme: Theme = LIGHT) -> Any:
    """A ``Figure`` of how undecided each factor is against the log-SNR, pure noise at the left."""
    figure = new_figure(theme, 7.0, 4.6)
    axes = figure.subplots()
    dress(axes, theme)
    places = np.array(log_snr_places(log_snr))
    handles = []
    for index, decision in enumerate(decisions):
        style = look(theme, index)
        value, low, high = (
            np.array([getattr(found, end) for found in decision.undecided])
            for end in ("value", "low", "high")
        )
        axes.fill_between(places, low, high, color=style["color"], alpha=0.1, linewidth=0)
        shape = {"linewidth": 1.7, "markersize": 4, "markeredgewidth": 0}
        half = show_log_snr(decision.half.value)
        handles += axes.plot(places, value, **style, **shape, label=f"{decision.name} ({half})")
        ring = {"marker": "o", "markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.5}
        axes.plot(decision.half.value, HALF, markeredgecolor=style["color"], zorder=4, **ring)
    axes.axhline(HALF, color=theme.quiet, linewidth=1, linestyle=(0, (1, 2)))
    axes.set_ylim(-0.02, 1.12)
    axes.set_xlabel("log-SNR of the noisy picture: pure noise at the left, the finished picture at the right")
    title(
        axes,
        theme,
        "When each factor is decided",
        "what differs among runs from one noisy picture, as a share of what the prompt leaves open;"
        " in brackets: half decided",
    )
    if handles:
        legend(figure, handles, theme, columns=4)
    return figure
