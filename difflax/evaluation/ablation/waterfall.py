"""An explanation as a waterfall: from one result to the other, a step for each cause, with its band."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from difflax.evaluation.ablation.explanation import Cause, ExplainedGap, Explanation
from difflax.evaluation.ablation.sections.curves import embedded
from difflax.evaluation.ablation.sections.found import digits_for, signed, signed_band
from difflax.figures import html
from difflax.figures.style import LIGHT, Theme, dress, new_figure, render, title

TOGETHER, REST = "causes together", "unexplained"


def steps(found: Sequence[Cause], each: Explanation) -> list[tuple[str, float, float, float]]:
    """Name, size and band of every step; what is exactly nothing by design is left out."""
    shares = each.attribution.shares
    made = [(c.name, s.value, s.low, s.high) for c, s in zip(found, shares, strict=True)]
    together = each.attribution.together
    if together.value or together.low or together.high:
        made.append((TOGETHER, together.value, together.low, together.high))
    if np.isfinite(each.rest):
        made.append((REST, each.rest, np.nan, np.nan))
    return made


def waterfall(found: Sequence[Cause], each: Explanation, names: tuple[str, str], theme: Theme = LIGHT) -> Any:
    """A ``Figure``: the first result, what each cause adds to it, and where that ends: at the second one."""
    parts = steps(found, each)
    figure = new_figure(theme, 2.4 + 1.05 * (len(parts) + 2), 4.2)
    axes = figure.subplots()
    dress(axes, theme)
    start = each.stored[0] if np.isfinite(each.stored[0]) else each.first
    level = start
    axes.bar(0, start, color=theme.quiet, width=0.62)
    for place, (name, size, low, high) in enumerate(parts, 1):
        colour = theme.quiet if name == REST else theme.series[2] if size >= 0 else theme.series[1]
        axes.bar(place, size, bottom=level, color=colour, width=0.62)
        axes.plot([place - 1 + 0.31, place + 0.31], [level, level], color=theme.quiet, linewidth=0.8)
        if np.isfinite(low):
            axes.plot([place, place], [level + low, level + high], color=theme.ink, linewidth=1.4)
        level += size
    axes.bar(len(parts) + 1, level, color=theme.quiet, width=0.62)
    ticks = [names[0], *(name for name, *_ in parts), names[1]]
    axes.set_xticks(range(len(ticks)), ticks, rotation=20, ha="right")
    tops = [start, level, *np.cumsum([start, *(size for _, size, _, _ in parts)])]
    room = 0.35 * (max(tops) - min(tops)) or 0.1
    floor, ceiling = min(tops) - room, max(tops) + room
    axes.set_ylim(max(floor, 0.0) if each.metric.bounds[0] == 0.0 else floor, ceiling)
    title(axes, theme, f"{each.metric.label}, {each.group}", "the line is the 95% band of a step")
    return figure


def table_rows(found: Sequence[Cause], each: Explanation) -> list[list[str]]:
    """A row a step: cause, from, to, share, band."""
    said = {cause.name: cause for cause in found}
    sizes = [size for _, size, _, _ in steps(found, each)]
    digits = digits_for(sizes)
    rows = []
    for name, size, low, high in steps(found, each):
        cause = said.get(name)
        ends = [cause.first, cause.second] if cause else ["", ""]
        band = signed_band(low, high, digits) if np.isfinite(low) else ""
        rows.append([name, *ends, signed(size, digits), band])
    gap = each.attribution.gap
    rows.append(["measured gap", "", "", signed(gap.value, digits), signed_band(gap.low, gap.high, digits)])
    rows.append(["gap of the stored results", "", "", signed(each.stored[1] - each.stored[0], digits), ""])
    return rows


def explanation_page(comparison: ExplainedGap) -> tuple[str, dict[str, bytes]]:
    """The page, and its plots as SVG and PDF by file name."""
    files: dict[str, bytes] = {}
    blocks = []
    found, names = comparison.causes, comparison.names
    for number, each in enumerate(comparison.explained):
        figure = waterfall(found, each, names)
        files[f"waterfall_{number}.svg"] = render(figure, "svg")
        files[f"waterfall_{number}.pdf"] = render(figure, "pdf")
        shown = html.figure(
            embedded(files[f"waterfall_{number}.svg"]),
            f"{each.metric.label} of {each.group} from {names[0]} to {names[1]}, a step for each cause",
        )
        columns = ["cause", *names, "share of the gap", "95% band"]
        rows = table_rows(found, each)
        table = html.table(columns, rows, text_columns=3, strong=frozenset({len(rows) - 2}))
        lead = f"{each.attribution.orders[0].upper()}{each.attribution.orders[1:]}."
        blocks.append(html.section(f"{each.metric.label}, {each.group}", shown, table, lead=lead))
    if comparison.untouched:
        rows = [[cause.name, cause.first, cause.second] for cause in comparison.untouched]
        lead = "They differ in this too, which nothing here swaps: it may be in what is unexplained."
        table = html.table(["what", *names], rows, text_columns=3)
        blocks.append(html.section("Not swapped", table, lead=lead))
    page = html.page(
        "Why do they differ?",
        f"{names[0]} against {names[1]}: things that were swapped: {len(found)}.",
        *blocks,
        html.section("The two results", *map(html.code, comparison.sources), lead=comparison.note),
        kicker="difflax · explain",
    )
    return page, files
