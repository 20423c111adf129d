"""The plots of a report: each metric along the axis of the sweep, and what one costs in another."""

from collections.abc import Mapping, Sequence

from difflax.evaluation.ablation.arms import GUIDANCE_SCALE
from difflax.evaluation.ablation.frechet import BIAS_NOTE
from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.metrics import FRECHET_DISTANCE, Metric
from difflax.figures import html
from difflax.figures.html import Embedded, Markup
from difflax.figures.style import adaptive


def trade_offs(result: AblationResult) -> list[tuple[str, str]]:
    """Pairs of metrics worth seeing against each other: what the text gains and what the picture loses."""
    if result.triangle:
        gain, *costs = result.triangle
        return [(cost, gain) for cost in costs]
    measured = set(result.by_metric())
    gains = [name for name in ("accuracy", "clip_score") if name in measured][:1]
    costs = [n for n in ("frechet_distance", "feature_diversity", "pixel_diversity") if n in measured]
    return [(cost, gain) for gain in gains for cost in costs[:2]]


def embedded(svg: bytes) -> Embedded:
    """A plot for both papers."""
    return Embedded(data=adaptive(svg), kind="image/svg+xml")


def triangle_section(result: AblationResult, vectors: Mapping[str, bytes]) -> Sequence[Markup]:
    """What guidance gains and costs, side by side."""
    if not result.triangle:
        return []
    said = {name: aspect for aspect, name in result.aspects.items()}
    aspects = ", ".join(said[name] for name in result.triangle)
    caption = " ".join(result.by_metric()[name][0].metric.definition for name in result.triangle)
    shown = html.figure(embedded(vectors["triangle"]), f"{aspects} against {result.along.title}", caption)
    lead = f"What guidance gains and what it costs: {aspects}."
    return [html.section("The triangle", shown, lead=lead)]


def curve_section(result: AblationResult, vectors: Mapping[str, bytes]) -> Markup:
    """Every metric along the axis of the sweep."""
    shown = [
        html.figure(
            embedded(vectors[name]),
            f"{curves[0].metric.label} against {result.along.title}",
            _caption(result, curves[0].metric),
        )
        for name, curves in result.by_metric("").items()
    ]
    whole = {name: curves[0].metric.label for name, curves in result.by_metric().items()}
    details: dict[bool, list[Markup]] = {True: [], False: []}
    for name in result.detailed:
        detail = html.figure(
            embedded(vectors[f"{name}_parts"]),
            f"{whole[name]} in detail, against {result.along.title}",
            f"{whole[name]} in detail",
        )
        details[len(result.by_metric(name)) == 1].append(detail)
    # A single panel is as wide as the curves above it.
    shown += details[True]
    over_scale = result.along.name == GUIDANCE_SCALE
    lead = "Scale 0 ignores the text, scale 1 is the model without guidance." if over_scale else ""
    return html.section(f"Against the {result.along.title}", html.figures(*shown), *details[False], lead=lead)


def _caption(result: AblationResult, metric: Metric) -> str:
    """The definition, and of the Fréchet distance what its number of images does to it."""
    biased = metric.name == FRECHET_DISTANCE.name and BIAS_NOTE in result.method
    return f"{metric.definition} {result.method[BIAS_NOTE]}" if biased else metric.definition


def trade_off_section(result: AblationResult, vectors: Mapping[str, bytes]) -> Sequence[Markup]:
    """What is gained against what is lost."""
    shown = [
        html.figure(embedded(vectors[f"{up}_against_{across}"]), f"{up} against {across}")
        for across, up in trade_offs(result)
    ]
    lead = f"One point a value of {result.along.title}, joined in order; some points carry it."
    return [html.section("What it buys and what it costs", html.figures(*shown), lead=lead)] if shown else []


def maps_section(vectors: Mapping[str, bytes], names: Mapping[str, str]) -> list[Markup]:
    """Two axes at once.

    Args:
        names: what each map shows, by the name of its plot.
    """
    shown = [html.figure(embedded(vectors[name]), text) for name, text in names.items()]
    lead = "One cell an arm. Where further axes differ, they are as the best arm has them."
    return [html.section("Two axes at once", html.figures(*shown), lead=lead)] if shown else []
