"""The numbers of a report: the best arm of each group on cards, and every estimate in tables."""

import math
from collections.abc import Sequence

from difflax.evaluation.ablation.formatting import band, decimals, named, near_best, number, with_band
from difflax.evaluation.ablation.results import AblationResult
from difflax.figures import html
from difflax.figures.html import Headline, Markup


def headlines(result: AblationResult) -> list[Headline]:
    """The best arm of each group, and the likelihood."""
    cards = []
    for each in result.measured:
        if each.metric.name != result.primary or each.best is None:
            continue
        estimate, digits = each.estimates[each.best], decimals(each)
        parts = [f"95% band {band(estimate, digits)}"] if band(estimate, digits) else []
        if "chance" in each.references:
            parts.append(f"chance {number(each.references['chance'], digits)}")
        if any(each.near_best):
            parts.append(near_best(result, each))
        at = f"at {'scale ' if result.over_scales else ''}{named(result, result.arms[each.best])}"
        cards.append(
            Headline(
                label=f"{each.metric.label}, {each.group}",
                value=number(estimate.value, digits),
                detail="; ".join([at, *parts]),
            )
        )
    found = result.likelihood
    if found is not None:
        cards.append(
            Headline(
                label="Bits per dimension, real test images",
                value=f"{found.bits_per_dimension:.3f}",
                detail=f"standard error {found.standard_error:.3f}, {found.images} images; {found.method}",
            )
        )
    return cards


def numbers(result: AblationResult) -> Sequence[Markup]:
    """A table of each group, and under them, folded, those of the details of a metric."""
    groups = [group.name for group in result.groups]
    tables = [_table(result, group, "") for group in groups]
    for name in result.detailed:
        label = result.by_metric()[name][0].metric.label
        measured = {each.group for each in result.measured if each.metric.part_of == name}
        parts = [_table(result, group, name) for group in groups if group in measured]
        tables.append(html.details(f"{label} in detail", html.join(parts, "")))
    return tables


def _table(result: AblationResult, group: str, part_of: str) -> Markup:
    curves = [each for each in result.measured if (each.group, each.metric.part_of) == (group, part_of)]
    rows = [
        [named(result, arm), *(with_band(each.estimates[index], decimals(each)) for each in curves)]
        for index, arm in enumerate(result.arms)
    ]
    levels = list(dict.fromkeys(name for curve in curves for name in curve.references))
    rows += [
        [name, *(number(curve.references.get(name, math.nan), decimals(curve)) for curve in curves)]
        for name in levels
    ]
    best = result.of(group, result.primary).best
    columns = ["scale" if result.over_scales else "arm", *(curve.metric.label for curve in curves)]
    strong = frozenset() if best is None else frozenset({best})
    return html.table(columns, rows, caption=group, strong=strong)
