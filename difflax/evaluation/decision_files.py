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
from difflax.figures.style import LIGHT, Theme, dress, look, new_figure, render, title
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
    """A ``Figure`` of how undecided each factor is against the log-SNR, pure noise at the left; below, where
    each is half decided, with its band.
    """
    figure = new_figure(theme, 8.0, 4.2 + 0.28 * len(decisions))
    curves, halves = figure.subplots(2, 1, sharex=True, height_ratios=(10, 1 + len(decisions)))
    places = np.array(log_snr_places(log_snr))
    for axes in (curves, halves):
        dress(axes, theme)
    for index, decision in enumerate(decisions):
        style = look(theme, index)
        value, low, high = (
            np.array([getattr(found, end) for found in decision.undecided])
            for end in ("value", "low", "high")
        )
        curves.fill_between(places, low, high, color=style["color"], alpha=0.06, linewidth=0)
        curves.plot(places, value, **style, linewidth=1.7, markersize=4, markeredgewidth=0)
        half = decision.half
        halves.plot((half.low, half.high), (index, index), color=style["color"], linewidth=1.7)
        halves.plot(half.value, index, **{**style, "linestyle": "none"}, markersize=7, markeredgewidth=1.5)
    curves.axhline(HALF, color=theme.quiet, linewidth=1, linestyle=(0, (1, 2)))
    curves.set_ylim(-0.02, 1.12)
    title(
        curves,
        theme,
        "When each factor is decided",
        "what differs among runs from one noisy picture, as a share of what the prompt leaves open",
    )
    said = [f"{each.name}, {show_log_snr(each.half.value)}" for each in decisions]
    halves.set_yticks(range(len(decisions)), said)
    halves.set_ylim(len(decisions) - 0.5, -0.5)
    halves.set_xlabel("log-SNR: pure noise at the left, the finished picture at the right")
    title(halves, theme, "Half decided at", "log-SNR, with 95 % bands over prompts")
    return figure
