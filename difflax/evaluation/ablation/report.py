"""The guidance ablation as files: tables, plots, image grids and one HTML report that joins them."""

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from PIL import Image

from difflax.evaluation.ablation import plots
from difflax.evaluation.ablation.arms import GUIDANCE_SCALE, Arm
from difflax.evaluation.ablation.results import AblationResult, Curve, Measured, describe_scale
from difflax.evaluation.ablation.tables import write_tables
from difflax.evaluation.ablation.values import words
from difflax.evaluation.statistics import Estimate
from difflax.figures import html
from difflax.figures.grids import GridStyle, labelled_grid
from difflax.figures.html import Embedded, Headline, Markup
from difflax.figures.png import save_png
from difflax.figures.style import DARK, adaptive, render

LARGEST_TILE = 256
PHOTO_WIDTH = 128
ARMS_NAMED = 40  # of the arms that are as good as the best


def write_ablation(result: AblationResult, directory: str | os.PathLike[str]) -> epath.Path:
    """Writes everything about the sweep into ``directory`` and returns the path of the report.

    ``report.html``, ``results.json``, ``table.csv``, ``records.csv``, ``plots/`` (an SVG of each metric, of
    the details of one, and of each trade-off; ``triangle.png`` and ``triangle_dark.png`` of what the judge
    says is the whole story, ``overview.png`` of all metrics) and ``grids/`` (a PNG of each prompt group).
    """
    directory = epath.Path(directory)
    write_tables(result, directory)
    (directory / "plots").mkdir(parents=True, exist_ok=True)
    vectors: dict[str, bytes] = {}
    drawn = draw_all(result)
    for name, figure in drawn.items():
        vectors[name] = render(figure, "svg")
        (directory / "plots" / f"{name}.svg").write_bytes(vectors[name])
    pictures = {"overview": plots.overview_figure(result)}
    if result.triangle:
        pictures |= {
            "triangle": drawn["triangle"],
            "triangle_dark": plots.triangle_figure(result, DARK),
        }
    for name, figure in pictures.items():
        (directory / "plots" / f"{name}.png").write_bytes(render(figure, "png", dpi=130))
    grids = {group.name: grid(result, group.name) for group in result.groups}
    for index, (name, picture) in enumerate(grids.items()):
        save_png(directory / "grids" / f"{index}_{slug(name)}.png", picture, facts(result))
    path = directory / "report.html"
    path.write_text(ablation_page(result, vectors, grids))
    return path


def slug(name: str) -> str:
    """A file name of a group's name: letters and digits, the rest underscores."""
    kept = "".join(letter if letter.isalnum() else "_" for letter in name.lower())
    return "_".join(part for part in kept.split("_") if part)[:60]


def facts(result: AblationResult) -> dict[str, Any]:
    """What an image of the sweep carries in its PNG text."""
    return {
        "command": result.provenance.command,
        "checkpoint": result.provenance.checkpoint,
        "sampler": result.provenance.sampler,
        "num_steps": result.provenance.num_steps,
        "negative_prompt": result.provenance.negative_prompt,
        **(
            {"guidance_scales": list(result.scales)}
            if result.over_scales
            else {"arms": [dict(arm.settings) for arm in result.arms]}
        ),
    }


def named(result: AblationResult, arm: Arm) -> str:
    """What an arm is called: the value of the only axis, or all its settings."""
    if len(result.axes) == 1:
        return ", ".join(words(value) for value in arm.settings.values())
    return arm.label


def grid(result: AblationResult, group: str) -> Image.Image:
    """The image table of a group: a row a prompt, a column an arm, all at the first seed."""
    info = next(info for info in result.groups if info.name == group)
    images = result.samples[group]
    if result.over_scales:
        scales = [arm.settings[GUIDANCE_SCALE] for arm in result.arms]
        labels = [f"{scale:g}\n{describe_scale(scale)}".rstrip("\n") for scale in scales]
    else:
        labels = [named(result, arm).replace(", ", "\n") for arm in result.arms]
    rows = [[_shrunk(image) for image in column] for column in images.swapaxes(0, 1)]
    style = GridStyle(tile=96)
    return labelled_grid(rows, info.prompts[: len(rows)], labels, corner=_axes_in_words(result), style=style)


def _axes_in_words(result: AblationResult) -> str:
    """What differs between the arms."""
    return " × ".join(axis.title for axis in result.axes)


def _shrunk(image: Any) -> Any:
    """Large images are reduced, so that a table of them still opens fast."""
    import numpy as np

    factor = math.ceil(max(image.shape[:2]) / LARGEST_TILE)
    if factor == 1:
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).reduce(factor)
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def draw_all(result: AblationResult) -> dict[str, Any]:
    """A figure of each metric, by its name, of the details of one, named ``metric_parts``, of each trade-off,
    named ``gain_against_cost``, and the ``triangle``.
    """
    drawn = {name: plots.metric_figure(result, name) for name in result.by_metric("")}
    drawn |= {
        f"{name}_parts": plots.panels_figure(result, list(result.by_metric(name))) for name in result.detailed
    }
    if result.triangle:
        drawn["triangle"] = plots.triangle_figure(result)
    pairs = {f"{up}_against_{across}": (across, up) for across, up in trade_offs(result)}
    return drawn | {name: plots.tradeoff_figure(result, across, up) for name, (across, up) in pairs.items()}


def trade_offs(result: AblationResult) -> list[tuple[str, str]]:
    """Pairs of metrics worth seeing against each other: what the text gains and what the picture loses."""
    if result.triangle:
        gain, *costs = result.triangle
        return [(cost, gain) for cost in costs]
    measured = set(result.by_metric())
    gains = [name for name in ("accuracy", "clip_score") if name in measured][:1]
    costs = [n for n in ("frechet_distance", "feature_diversity", "pixel_diversity") if n in measured]
    return [(cost, gain) for gain in gains for cost in costs[:2]]


def _embedded(svg: bytes) -> Embedded:
    return Embedded(data=adaptive(svg), kind="image/svg+xml")


def _embedded_grid(picture: Image.Image, photo: bool) -> Embedded:
    out = io.BytesIO()
    if photo:
        picture.save(out, format="JPEG", quality=90)
        return Embedded(data=out.getvalue(), kind="image/jpeg")
    picture.save(out, format="PNG")
    return Embedded(data=out.getvalue(), kind="image/png")


def decimals(curve: Curve | Measured) -> int:
    """How many digits behind the point to show: three significant ones of the largest value."""
    if curve.metric.bounds == (0.0, 1.0):
        return 2
    sizes = [abs(e.value) for e in curve.estimates if e.value and math.isfinite(e.value)]
    return min(max(2 - math.floor(math.log10(max(sizes))), 0), 8) if sizes else 2


def number(value: float, digits: int) -> str:
    """The value with ``digits`` behind the point, or an en dash for what was not measured."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def band(estimate: Estimate, digits: int) -> str:
    """The confidence band as text; empty where there is none."""
    if math.isnan(estimate.low):
        return ""
    return f"{number(estimate.low, digits)}–{number(estimate.high, digits)}"


def with_band(estimate: Estimate, digits: int) -> Markup:
    """An estimate and, in small print, its band."""
    return html.join([number(estimate.value, digits), html.tag("small", band(estimate, digits))], "")


def near_best(result: AblationResult, measured: Measured) -> str:
    """The arms beside the best one that cannot be told from it, as text."""
    kind = "scale" if result.over_scales else "arm"
    near = [arm for arm, close in zip(result.arms, measured.near_best, strict=True) if close]
    others = [named(result, arm) for arm in near if arm is not result.arms[measured.best]]
    if not others:
        return f"no other {kind} as good"
    more = f" and {len(others) - ARMS_NAMED} others" if len(others) > ARMS_NAMED else ""
    between = ", " if result.over_scales else "; "
    return f"as good within noise: {between.join(others[:ARMS_NAMED])}{more}"


def ablation_page(
    result: AblationResult, vectors: Mapping[str, bytes], grids: Mapping[str, Image.Image]
) -> str:
    """The report as one HTML document, from the plots (SVG, named as in :func:`draw_all`) and grids."""
    per_scale = sum(group.count for group in result.groups)
    number_of_prompts = sum(len(group.prompts) for group in result.groups)
    kind = "guidance scales" if result.over_scales else "arms"
    subtitle = (
        f"{len(result.arms)} {kind} × {number_of_prompts} prompts × {len(result.seeds)} seeds: "
        f"{len(result.arms) * per_scale:,} images of {result.provenance.checkpoint}, "
        f"sampled by {result.provenance.sampler} in {result.provenance.num_steps} steps."
    )
    return html.page(
        "What does guidance do here?",
        subtitle,
        html.headlines(_headlines(result)),
        *_triangle_section(result, vectors),
        _curve_section(result, vectors),
        *_trade_off_section(result, vectors),
        html.section(
            "Prompts and scales" if result.over_scales else "Prompts and arms",
            *_grids(result, grids),
            lead=f"Along a row the noise is the same: {_axes_in_words(result)} alone changes.",
        ),
        html.section("Numbers", *_numbers(result)),
        html.section(
            "What was asked",
            html.code(result.provenance.command),
            html.definitions(_asked(result)),
            html.details("The whole config", html.code(_pretty(result.provenance.config))),
        ),
        html.section("How it was measured", *_method(result)),
        kicker="difflax · guidance ablation",
        footer="The raw numbers are in results.json, table.csv and records.csv beside this page.",
    )


def _headlines(result: AblationResult) -> list[Headline]:
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


def _triangle_section(result: AblationResult, vectors: Mapping[str, bytes]) -> Sequence[Markup]:
    if not result.triangle:
        return []
    said = {name: aspect for aspect, name in result.aspects.items()}
    aspects = ", ".join(said[name] for name in result.triangle)
    caption = " ".join(result.by_metric()[name][0].metric.definition for name in result.triangle)
    shown = html.figure(_embedded(vectors["triangle"]), f"{aspects} against {result.along.title}", caption)
    lead = f"What guidance gains and what it costs: {aspects}."
    return [html.section("The triangle", shown, lead=lead)]


def _curve_section(result: AblationResult, vectors: Mapping[str, bytes]) -> Markup:
    shown = [
        html.figure(
            _embedded(vectors[name]),
            f"{curves[0].metric.label} against {result.along.title}",
            curves[0].metric.definition,
        )
        for name, curves in result.by_metric("").items()
    ]
    whole = {name: curves[0].metric.label for name, curves in result.by_metric().items()}
    details = [
        html.figure(
            _embedded(vectors[f"{name}_parts"]),
            f"{whole[name]} in detail, against {result.along.title}",
            f"{whole[name]} in detail",
        )
        for name in result.detailed
    ]
    over_scale = result.along.name == GUIDANCE_SCALE
    lead = "Scale 0 ignores the text, scale 1 is the model without guidance." if over_scale else ""
    return html.section(f"Against the {result.along.title}", html.figures(*shown), *details, lead=lead)


def _asked(result: AblationResult) -> dict[str, str]:
    source = result.provenance
    negative = repr(source.negative_prompt) if source.negative_prompt else "none (the null condition)"
    return {
        "Checkpoint": source.checkpoint,
        "Sampler": f"{source.sampler}, {source.num_steps} steps",
        "Negative prompt": negative,
        **{axis.title.capitalize(): ", ".join(map(words, axis.values)) for axis in result.axes},
        "Seeds": ", ".join(map(str, result.seeds)),
        "Prompt groups": "; ".join(f"{group.name} ({len(group.prompts)} prompts)" for group in result.groups),
        "Versions": ", ".join(f"{name} {version}" for name, version in source.versions.items()),
    }


def _pretty(config: Any) -> str:
    return json.dumps(dict(config), indent=2, ensure_ascii=False, sort_keys=True)


def _trade_off_section(result: AblationResult, vectors: Mapping[str, bytes]) -> Sequence[Markup]:
    shown = [
        html.figure(_embedded(vectors[f"{up}_against_{across}"]), f"{up} against {across}")
        for across, up in trade_offs(result)
    ]
    lead = f"One point a value of {result.along.title}, joined in order; some points carry it."
    return [html.section("What it buys and what it costs", html.figures(*shown), lead=lead)] if shown else []


def _grids(result: AblationResult, grids: Mapping[str, Image.Image]) -> Sequence[Markup]:
    blocks = []
    for group in result.groups:
        _, shown, _, width, _ = result.samples[group.name].shape
        picture = _embedded_grid(grids[group.name], photo=width >= PHOTO_WIDTH)
        caption = f"{group.name}: the first {shown} of {len(group.prompts)} prompts"
        blocks.append(html.figure(picture, f"images by prompt and arm, {group.name}", caption, wide=True))
    return blocks


def _numbers(result: AblationResult) -> Sequence[Markup]:
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


def _method(result: AblationResult) -> Sequence[Markup]:
    metrics = {
        metric.label: f"{metric.definition} {metric.note} Source: {metric.source}."
        for metric in (curves[0].metric for curves in result.by_metric().values())
    }
    words = {name[0].upper() + name[1:]: text for name, text in result.method.items()}
    judge = {"Judge": result.provenance.judge} if result.provenance.judge else {}
    prompts = [
        html.details(f"All prompts: {group.name}", html.code("\n".join(group.prompts)))
        for group in result.groups
    ]
    return [html.definitions(words | judge), html.definitions(metrics), *prompts]
