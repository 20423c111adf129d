"""The interactive part of a report: all metrics along the sweep's axis, and any metric against any other."""

import math
from collections.abc import Mapping
from typing import Any

from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.ablation.values import words
from difflax.figures import html
from difflax.figures.html import Markup
from difflax.figures.interactive import chart, have_charts, library, lines_chart, scatter_chart

PALETTE = ("#3d8fd1", "#e0702f", "#21a57c", "#c765a0", "#c2971c", "#7d8ce0", "#8b9199")
"""Between the light and the dark series: one chart stands on both papers."""


def explore_section(result: AblationResult) -> list[Markup]:
    """The section, or a line that says how to get it."""
    if not have_charts():
        how = "Curves to point at come with Altair: pip install 'difflax[report]', then `difflax report`."
        return [html.tag("p", how, class_="lead")]
    names = list(result.by_metric(""))
    labels = [result.by_metric()[name][0].metric.label for name in names]
    order = sorted(range(len(names)), key=lambda n: names[n] != result.primary)
    curves = lines_chart(
        _points(result),
        along=result.along.title,
        numeric=result.along.numeric,
        metrics=[labels[n] for n in order],
        palette=PALETTE,
    )
    blocks = [chart("curves", curves)]
    if len(labels) > 1 and len(result.arms) > 1:
        triangle = [result.by_metric()[name][0].metric.label for name in result.triangle]
        up, across = (*triangle, *labels)[:2] if triangle else (labels[order[0]], labels[order[1]])
        arms = scatter_chart(_arms(result), metrics=labels, across=across, up=up, palette=PALETTE)
        blocks.append(chart("arms", arms))
    lead = "Point at a mark for its settings; click a name to see its line alone."
    return [html.section("Explore", library(), *blocks, lead=lead)]


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={words(value)}" for name, value in settings.items())


def _points(result: AblationResult) -> list[dict[str, Any]]:
    along = result.along
    rows = []
    for curves in result.by_metric("").values():
        for curve in curves:
            for place, tick, estimate in zip(curve.scales, curve.ticks, curve.estimates, strict=True):
                rows.append(
                    {
                        "line": curve.group,
                        "metric": curve.metric.label,
                        "place": place if along.numeric else tick,
                        "value": _finite(estimate.value),
                        "low": _finite(estimate.low),
                        "high": _finite(estimate.high),
                        "settings": f"{along.title} {tick}",
                    }
                )
    return rows


def _arms(result: AblationResult) -> list[dict[str, Any]]:
    return [
        {
            "group": group.name,
            "settings": _settings(arm.settings),
            **{
                each.metric.label: _finite(each.estimates[index].value)
                for each in result.measured
                if each.group == group.name and not each.metric.part_of
            },
        }
        for group in result.groups
        for index, arm in enumerate(result.arms)
    ]
