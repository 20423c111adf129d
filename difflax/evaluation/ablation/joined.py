"""Several results in one report.

Results that were measured alike (the same prompts, seeds, judge, features and code) become one, whose arms
are compared in pairs as if one sweep had drawn them; where they are of different models or settings, which
result an arm is from is an axis of its own. Results that were measured differently are only shown side by
side, under a warning.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from difflax.core.types import UserError
from difflax.evaluation.ablation.arms import Arm, axes_of
from difflax.evaluation.ablation.comparison import Comparison, comparison_figure
from difflax.evaluation.ablation.manifests import differing, measured_differently
from difflax.evaluation.ablation.plots import style_of
from difflax.evaluation.ablation.results import AblationResult, Curve, Measured
from difflax.evaluation.ablation.scores import scores
from difflax.evaluation.ablation.sections.curves import embedded
from difflax.evaluation.ablation.sections.numbers import numbers
from difflax.evaluation.contrasts.pairs import differences_to
from difflax.figures import html
from difflax.figures.html import Markup
from difflax.figures.style import render

RESULT_AXIS = "result"
WARNING_STYLE = """
.warning { border: 2px solid #d55e00; border-radius: .7rem; padding: .4rem 1.1rem; margin-bottom: 1.5rem; }
"""


def join(results: Mapping[str, AblationResult]) -> AblationResult:
    """One result of several that were measured alike.

    Args:
        results: by their names.

    Raises:
        UserError: they were measured differently, or measured the same arm and disagree.
    """
    everything = list(results.values())
    differences = differing(everything)
    apart = measured_differently(differences)
    if apart:
        raise UserError(f"these results differ in {', '.join(apart)}: they cannot be joined into one")
    renamed = [_renamed(name, result) for name, result in results.items()] if differences else everything
    first = renamed[0]
    chosen = _arms(renamed)
    names = [(each.group, each.metric.name) for each in first.measured]
    shared = [where for where in names if all(_has(result, where) for result in renamed)]
    arms = [renamed[number].arms[index] for number, index in chosen]
    labels = {axis.name: axis.label for result in renamed for axis in result.axes if axis.label}
    joined = dataclasses.replace(
        first,
        arms=tuple(arms),
        axes=axes_of(arms, labels),
        measured=tuple(_measured(renamed, chosen, where) for where in shared),
        records=_records(renamed, chosen),
        by_prompt={
            name: np.stack([renamed[number].by_prompt[name][index] for number, index in chosen])
            for name in first.by_prompt
            if all(name in result.by_prompt for result in renamed)
        },
        samples={
            name: np.stack([renamed[number].samples[name][index] for number, index in chosen])
            for name in first.samples
            if all(name in result.samples for result in renamed)
        },
        provenance=dataclasses.replace(
            first.provenance,
            command="\n".join(result.provenance.command for result in everything),
            checkpoint="; ".join(dict.fromkeys(result.provenance.checkpoint for result in everything)),
        ),
        likelihood=None,
    )
    return dataclasses.replace(joined, measured=tuple(_compared(joined, each) for each in joined.measured))


def _renamed(name: str, result: AblationResult) -> AblationResult:
    """The same with its name as one more setting of every arm."""
    arms = tuple(Arm(settings={RESULT_AXIS: name, **arm.settings}) for arm in result.arms)
    keys = {old.key: new.key for old, new in zip(result.arms, arms, strict=True)}
    records = {**result.records, "arm": np.array([keys[key] for key in result.records["arm"]])}
    return dataclasses.replace(result, arms=arms, records=records)


def _arms(results: Sequence[AblationResult]) -> list[tuple[int, int]]:
    """Each arm once: the number of its result, and its place there."""
    found: dict[str, tuple[int, int]] = {}
    for number, result in enumerate(results):
        for index, arm in enumerate(result.arms):
            if arm.key not in found:
                found[arm.key] = (number, index)
            elif not _agree(results[found[arm.key][0]], found[arm.key][1], result, index):
                raise UserError(
                    f"two results measured the arm {arm.label!r} under one manifest and disagree:"
                    " run `difflax report --verify=1` on each"
                )
    return list(found.values())


def _agree(one: AblationResult, first: int, other: AblationResult, second: int) -> bool:
    """Whether the metrics that both measured of an arm have the same values."""
    return all(
        np.array_equal(
            [each.estimates[first].value],
            [other.of(each.group, each.metric.name).estimates[second].value],
            equal_nan=True,
        )
        for each in one.measured
        if _has(other, (each.group, each.metric.name))
    )


def _has(result: AblationResult, where: tuple[str, str]) -> bool:
    return any((each.group, each.metric.name) == where for each in result.measured)


def _measured(
    results: Sequence[AblationResult], chosen: Sequence[tuple[int, int]], where: tuple[str, str]
) -> Measured:
    each = results[0].of(*where)
    estimates = tuple(results[number].of(*where).estimates[index] for number, index in chosen)
    return dataclasses.replace(each, estimates=estimates, near_best=())


def _records(results: Sequence[AblationResult], chosen: Sequence[tuple[int, int]]) -> dict[str, np.ndarray]:
    count = len(results[0].records["arm"]) // len(results[0].arms)
    return {
        name: np.concatenate(
            [results[number].records[name][index * count : (index + 1) * count] for number, index in chosen]
        )
        for name in results[0].records
        if all(name in result.records for result in results)
    }


def _compared(result: AblationResult, each: Measured) -> Measured:
    """With the arms that cannot be told from the best one."""
    values = scores(result, each.group, each.metric.name)
    if values is None or each.best is None:
        return dataclasses.replace(each, near_best=(False,) * len(result.arms))
    near = [True] * len(result.arms)
    for pair in differences_to(values.values, values.prompts, each.best):
        # A NaN fails the comparison.
        edge = pair.estimate.high if each.metric.sign > 0 else -pair.estimate.low
        near[pair.second] = bool(edge >= 0)
    return dataclasses.replace(each, near_best=tuple(near))


def warning_of(results: Mapping[str, AblationResult]) -> list[Markup]:
    """What is not the same in the results, and whether it makes them different measures; empty where all
    is.
    """
    differences = differing(list(results.values()))
    if not differences:
        return []
    apart = measured_differently(differences)
    rows = [[name, *said] for name, said in differences.items()]
    strong = frozenset(n for n, (name, *_) in enumerate(rows) if name in apart)
    table = html.table(["", *results], rows, text_columns=1 + len(results), strong=strong)
    if apart:
        said = (
            f"Warning: these results were measured differently ({', '.join(apart)}). Their numbers are not"
            " the same measure: a gap between them may come from that alone."
        )
    else:
        said = "These results were measured alike, of different models or settings; see the axis “result”."
    return [html.tag("div", html.tag("p", html.tag("strong", said)), table, class_="warning")]


def side_by_side(results: Mapping[str, AblationResult]) -> tuple[str, dict[str, bytes]]:
    """A page of results that were measured differently, and its plot as SVG and PDF by file name."""
    curves = [curve for name, result in results.items() for curve in _lines(name, result)]
    first = next(iter(results.values()))
    comparison = Comparison(
        title="Results side by side",
        of="result",
        along=first.along.title,
        axis=style_of(first.along),
        curves=tuple(curves),
    )
    figure = comparison_figure(comparison)
    files = {"plots/side_by_side.svg": render(figure, "svg"), "plots/side_by_side.pdf": render(figure, "pdf")}
    shown = html.figure(
        embedded(files["plots/side_by_side.svg"]),
        f"metrics of each result against {first.along.title}",
        "Measured differently: see the warning above.",
    )
    tables = [html.section(f"Numbers of {name}", *numbers(result)) for name, result in results.items()]
    page = html.page(
        "Results side by side",
        f"{len(results)} results that were measured differently.",
        *warning_of(results),
        html.section("Under the warning above", shown),
        *tables,
        kicker="difflax · report",
        style=WARNING_STYLE,
    )
    return page, files


def _lines(name: str, result: AblationResult) -> list[Curve]:
    """The metrics that tell the story, each line with the name of its result."""
    wanted = result.triangle or [result.primary]
    several = len(result.lines()) > 1
    return [
        dataclasses.replace(curve, group=f"{name}: {curve.group}" if several else name)
        for curve in result.curves()
        if curve.metric.name in wanted
    ]
