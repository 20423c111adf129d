"""What was found, in sentences that claim no more than the paired bands hold."""

from collections.abc import Mapping, Sequence

import numpy as np

from difflax.evaluation.ablation.findings import Finding, Front
from difflax.evaluation.ablation.formatting import named, number
from difflax.evaluation.ablation.front_plot import front_name
from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.ablation.sections.curves import embedded
from difflax.evaluation.contrasts.power import Needed
from difflax.figures import html
from difflax.figures.html import Markup

SHOWN = 12
"""Rows of a long table that are not folded away."""


def digits_of(finding: Finding) -> int:
    """How many digits behind the point the differences of a finding are shown with."""
    return digits_for([pair.estimate.value for pair in finding.pairs])


def digits_for(values: Sequence[float]) -> int:
    """How many digits behind the point show three significant ones of the largest value."""
    sizes = [abs(value) for value in values if np.isfinite(value) and value]
    return int(np.clip(2 - np.floor(np.log10(max(sizes))), 2, 8)) if sizes else 2


def signed(value: float, digits: int) -> str:
    """A difference with its sign, a true minus; an en dash for what was not measured."""
    if not np.isfinite(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else f"{'−' if value < 0 else '+'}{text}"


def signed_band(low: float, high: float, digits: int) -> str:
    """The band of a difference in words."""
    return f"{signed(low, digits)} to {signed(high, digits)}"


def asked_more(needs: Needed | None) -> str:
    """What would decide a difference, in words."""
    if needs is None:
        return ""
    ways = [f"{needs.prompts:,} prompts in all"] if needs.prompts is not None else []
    ways += [f"{needs.seeds:,} seeds in all"] if needs.seeds is not None else []
    return " or ".join(ways) if ways else "no number that can be drawn"


def sentence(result: AblationResult, finding: Finding) -> str:
    """A finding in two or three sentences."""
    metric, group = finding.scores.metric, finding.scores.group
    digits, lead = digits_of(finding), named(result, result.arms[finding.lead])
    where = f"{metric.label}, {group}: "
    smallest = number(finding.detectable, digits)
    said = f"The smallest difference that this design finds four times in five is {smallest}."
    if finding.named:
        best = f"{lead} is the best of {len(result.arms)} arms"
        return f"{where}{best}; its lead over every other one is decided. {said}"
    if finding.rival is None:
        return f"{where}nothing can be compared."
    pair = finding.pairs[finding.rival]
    rival = named(result, result.arms[pair.second])
    gap, band = (
        signed(pair.estimate.value, digits),
        signed_band(pair.estimate.low, pair.estimate.high, digits),
    )
    if not pair.moved:
        reason = f"{rival} measures exactly the same"
    elif pair.decided:
        reason = (
            f"its difference to {rival} ({gap}, {band}) is decided, but not its lead over all others together"
        )
    else:
        reason = f"the band of its difference to {rival} ({gap}, {band}) holds 0 or rests on too few prompts"
    more = asked_more(finding.needed(finding.rival))
    decide = f" {more[0].upper()}{more[1:]} would decide a difference of this size." if more else ""
    share = f"{lead} is best in {finding.shares[finding.lead]:.0%} of the resamples"
    return f"{where}no winner is named. {share}; {reason}.{decide} {said}"


def found_section(
    result: AblationResult, findings: Sequence[Finding], fronts: Sequence[Front]
) -> list[Markup]:
    """The front of the report; empty where nothing can be compared."""
    said = [html.tag("li", sentence(result, finding)) for finding in findings]
    for front in fronts:
        safe = [named(result, result.arms[i]) for i in np.flatnonzero(front.shares > 0.95)]
        text = f"Pareto front, {front.group}: arms on it: {int(front.on.sum())} of {len(front.on)}"
        said.append(html.tag("li", f"{text}; in more than 95% of the resamples: {len(safe)}."))
    lead = (
        "A winner is named only where the paired bands, widened for all pairs of arms together, leave out 0"
        " and six prompts or more moved."
    )
    return [html.section("What was found", html.tag("ul", *said), lead=lead)] if said else []


def differences_section(result: AblationResult, findings: Sequence[Finding]) -> list[Markup]:
    """Every arm against the leading one."""
    tables = [_differences_table(result, finding) for finding in findings]
    lead = (
        "Each arm against the one that leads, image by image: the same prompts, the same noise. The share is"
        " that of the resamples of prompts in which the arm is best. All pairs are in differences.csv."
    )
    return [html.section("Paired differences", *tables, lead=lead)] if tables else []


def _differences_table(result: AblationResult, finding: Finding) -> Markup:
    digits = digits_of(finding)
    order = sorted(
        range(len(finding.pairs)),
        key=lambda i: (
            -np.nan_to_num(finding.scores.metric.sign * finding.pairs[i].estimate.value, nan=-np.inf)
        ),
    )
    rows = [
        [named(result, result.arms[finding.lead]), "leads", "", f"{finding.shares[finding.lead]:.0%}", "", ""]
    ]
    for index in order:
        pair = finding.pairs[index]
        rows.append(
            [
                named(result, result.arms[pair.second]),
                signed(pair.estimate.value, digits),
                signed_band(pair.estimate.low, pair.estimate.high, digits),
                f"{finding.shares[pair.second]:.0%}",
                "yes" if pair.decided else "no",
                asked_more(finding.needed(index)),
            ]
        )
    columns = ["arm", "difference", "95% band", "best in", "decided", "would decide it"]
    title = f"{finding.scores.metric.label}, {finding.scores.group}"
    first = html.table(columns, rows[:SHOWN], caption=title, strong=frozenset({0}))
    if len(rows) <= SHOWN:
        return first
    return html.join([first, html.details(f"{len(rows) - SHOWN} more", html.table(columns, rows[SHOWN:]))])


def front_section(
    result: AblationResult, fronts: Sequence[Front], vectors: Mapping[str, bytes]
) -> list[Markup]:
    """The arms that nobody beats in everything: a plot and a table of each group."""
    shown = []
    for front in fronts:
        shown += [_front_plot(front, vectors[front_name(result, front)]), _front_table(result, front)]
    lead = (
        "An arm is on the front where no other is as good in everything and better in something. The"
        " share is that of the resamples of prompts in which it is: how much the front hangs on the prompts."
    )
    return [html.section("Pareto front", *shown, lead=lead)] if shown else []


def _front_plot(front: Front, svg: bytes) -> Markup:
    caption = (
        f"{front.group}: up and to the right is better. The line joins the arms that nobody beats in the two"
        " measures of a panel; the fuller and larger a mark, the more often its arm is on the front of all"
        " measures together when prompts are drawn again. Bars: 95% bands."
    )
    alt = f"Pareto front of {', '.join(front.metrics)}, {front.group}"
    return html.figure(embedded(svg), alt, caption)


def _front_table(result: AblationResult, front: Front) -> Markup:
    measured = [result.of(front.group, name) for name in front.metrics]
    order = sorted(range(len(result.arms)), key=lambda arm: (-front.shares[arm], not front.on[arm]))
    rows = [
        [
            named(result, result.arms[arm]),
            *(f"{each.estimates[arm].value:.3g}" for each in measured),
            "yes" if front.on[arm] else "no",
            f"{front.shares[arm]:.0%}",
        ]
        for arm in order
    ]
    columns = ["arm", *(each.metric.label for each in measured), "on the front", "on it in"]
    strong = frozenset(n for n, arm in enumerate(order) if front.on[arm])
    head = html.table(
        columns, rows[:SHOWN], caption=front.group, strong=frozenset(n for n in strong if n < SHOWN)
    )
    if len(rows) <= SHOWN:
        return head
    more = frozenset(n - SHOWN for n in strong if n >= SHOWN)
    return html.join(
        [head, html.details(f"{len(rows) - SHOWN} more", html.table(columns, rows[SHOWN:], strong=more))]
    )


def design_section(findings: Sequence[Finding]) -> list[Markup]:
    """What this design could have seen."""
    rows = []
    for finding in findings:
        parts = [each for each in finding.parts if each is not None]
        if not parts:
            continue
        digits = digits_of(finding) + 1
        between = float(np.median([each.between for each in parts]))
        within = float(np.median([each.within for each in parts]))
        rows.append(
            [
                finding.scores.metric.label,
                finding.scores.group,
                f"{parts[0].prompts}",
                f"{parts[0].seeds:g}",
                number(between**0.5, digits),
                number(within**0.5, digits),
                number(finding.detectable, digits),
            ]
        )
    columns = [
        "metric",
        "group",
        "prompts",
        "values a prompt",
        "sd between prompts",
        "sd between seeds",
        "smallest difference",
    ]
    lead = (
        "The smallest true difference between the leading arm and another that a paired t test at 5% finds"
        " with 80% power, from the variances of the measured differences (medians over the pairs). Four"
        " times the prompts halve it; more seeds take away only what differs between seeds."
    )
    shown = html.table(columns, rows, text_columns=2)
    return [html.section("What this design could have seen", shown, lead=lead)] if rows else []
