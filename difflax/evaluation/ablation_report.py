"""The guidance ablation as files: tables, plots, image grids and one HTML report that joins them."""

import io
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath
from PIL import Image

from difflax.evaluation import plots, report
from difflax.evaluation.grids import GridStyle, labelled_grid
from difflax.evaluation.png import save_png
from difflax.evaluation.report import Headline, Markup, Picture
from difflax.evaluation.results import AblationResult, Curve, describe_scale, write_tables
from difflax.evaluation.statistics import Estimate
from difflax.evaluation.style import DARK, LIGHT, Theme, render

LARGEST_TILE = 256
PHOTO_WIDTH = 128


def write_ablation(result: AblationResult, directory: str | os.PathLike[str]) -> epath.Path:
    """Writes everything about the sweep into ``directory`` and returns the path of the report.

    ``report.html``, ``results.json``, ``table.csv``, ``records.csv``, ``plots/*.png`` (a metric each and the
    overview), ``plots/*.svg`` and ``grids/*.png`` (one a prompt group).
    """
    directory = epath.Path(directory)
    write_tables(result, directory)
    (directory / "plots").mkdir(parents=True, exist_ok=True)
    for name, draw in _plots(result).items():
        drawn = draw(LIGHT)
        (directory / "plots" / f"{name}.png").write_bytes(render(drawn, "png"))
        (directory / "plots" / f"{name}.svg").write_bytes(render(drawn, "svg"))
    overview = plots.overview_figure(result)
    (directory / "plots" / "overview.png").write_bytes(render(overview, "png", dpi=150))
    for index, group in enumerate(result.groups):
        save_png(
            directory / "grids" / f"{index}_{slug(group.name)}.png", grid(result, group.name), facts(result)
        )
    path = directory / "report.html"
    path.write_text(ablation_page(result))
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
        "guidance_scales": list(result.scales),
        "seed": result.seeds[0],
    }


def grid(result: AblationResult, group: str) -> Image.Image:
    """The image table of a group: a row a prompt, a column a scale, all at the first seed."""
    info = next(info for info in result.groups if info.name == group)
    images = result.samples[group]
    labels = [f"{scale:g}\n{describe_scale(scale)}".rstrip("\n") for scale in result.scales]
    rows = [[_shrunk(image) for image in column] for column in images.swapaxes(0, 1)]
    style = GridStyle(tile=96)
    return labelled_grid(rows, info.prompts[: len(rows)], labels, corner="guidance scale", style=style)


def _shrunk(image: Any) -> Any:
    """Large images are reduced, so that a table of them still opens fast."""
    import numpy as np

    factor = math.ceil(max(image.shape[:2]) / LARGEST_TILE)
    if factor == 1:
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).reduce(factor)
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _plots(result: AblationResult) -> dict[str, Callable[[Theme], Any]]:
    drawers: dict[str, Callable[[Theme], Any]] = {}
    for name in result.by_metric():
        drawers[name] = lambda theme, name=name: plots.metric_figure(result, name, theme)
    for across, up in trade_offs(result):
        drawers[f"{up}_against_{across}"] = lambda theme, across=across, up=up: plots.tradeoff_figure(
            result, across, up, theme
        )
    return drawers


def trade_offs(result: AblationResult) -> list[tuple[str, str]]:
    """Pairs of metrics worth seeing against each other: what the text gains and what the picture loses."""
    measured = set(result.by_metric())
    gains = [name for name in ("accuracy", "clip_score") if name in measured][:1]
    costs = [n for n in ("frechet_distance", "feature_diversity", "pixel_diversity") if n in measured]
    return [(cost, gain) for gain in gains for cost in costs[:2]]


def _embedded(draw: Callable[[Theme], Any]) -> Picture:
    return Picture(data=render(draw(LIGHT), "svg"), kind="image/svg+xml", dark=render(draw(DARK), "svg"))


def _embedded_grid(picture: Image.Image, photo: bool) -> Picture:
    out = io.BytesIO()
    if photo:
        picture.save(out, format="JPEG", quality=90)
        return Picture(data=out.getvalue(), kind="image/jpeg")
    picture.save(out, format="PNG", optimize=True)
    return Picture(data=out.getvalue(), kind="image/png")


def number(value: float) -> str:
    """Three significant digits, or an en dash for what was not measured."""
    if math.isnan(value):
        return "–"
    return f"{value:.2f}" if 0.1 <= abs(value) < 10 else f"{value:.3g}"


def with_band(estimate: Estimate) -> Markup:
    """An estimate and its band in small print."""
    band = f" {number(estimate.low)}–{number(estimate.high)}" if not math.isnan(estimate.low) else ""
    return Markup(f"{number(estimate.value)}<small>{band}</small>")


def scale_range(curve: Curve) -> str:
    """The scales around the best one that cannot be told from it, as text."""
    near = [scale for scale, close in zip(curve.scales, curve.near_best, strict=True) if close]
    if len(near) < 2:
        return "no other scale comes as close"
    return "as good within noise: " + ", ".join(
        f"{scale:g}" for scale in near if scale != curve.scales[curve.best]
    )


def ablation_page(result: AblationResult) -> str:
    """The report as one HTML document."""
    described = result.by_metric()
    primary = described[result.primary]
    shown = [curve for curve in primary if curve.best is not None]
    per_scale = sum(group.count for group in result.groups)
    subtitle = (
        f"{len(result.scales)} guidance scales × {sum(len(g.prompts) for g in result.groups)} prompts × "
        f"{len(result.seeds)} seeds: {len(result.scales) * per_scale:,} images of "
        f"{result.provenance.checkpoint}, "
        f"sampled by {result.provenance.sampler} in {result.provenance.num_steps} steps."
    )
    return report.page(
        "What does guidance do here?",
        subtitle,
        report.headlines([_headline(curve) for curve in shown]),
        report.section(
            "What was asked",
            report.code(result.provenance.command),
            report.definitions(_asked(result)),
            report.details("The whole config", report.code(_pretty(result.provenance.config))),
        ),
        report.section(
            "Against the guidance scale",
            report.figures(
                *(
                    report.figure(
                        _embedded(lambda theme, name=name: plots.metric_figure(result, name, theme)),
                        f"{curves[0].metric.label} against guidance scale",
                        curves[0].metric.definition,
                    )
                    for name, curves in described.items()
                )
            ),
            lead="Scale 0 ignores the text, scale 1 is the model without guidance. Bands are 95% confidence.",
        ),
        *_trade_off_section(result),
        report.section(
            "Prompts and scales",
            *_grids(result),
            lead=(
                f"Every row shares one seed ({result.seeds[0]}), so from left to right guidance alone "
                "changes."
            ),
        ),
        report.section("Numbers", *(_table(result, group.name) for group in result.groups)),
        report.section("How it was measured", *_method(result)),
        kicker="difflax · guidance ablation",
        footer="The raw numbers are in results.json, table.csv and records.csv beside this page.",
    )


def _headline(curve: Curve) -> Headline:
    assert curve.best is not None
    estimate = curve.estimates[curve.best]
    band = f"95% band {number(estimate.low)}–{number(estimate.high)}"
    chance = f", chance {number(curve.references['chance'])}" if "chance" in curve.references else ""
    near = f"; {scale_range(curve)}" if any(curve.near_best) else ""
    return Headline(
        label=f"{curve.metric.label}, {curve.group}",
        value=number(estimate.value),
        detail=f"at scale {curve.scales[curve.best]:g}; {band}{chance}{near}",
    )


def _asked(result: AblationResult) -> dict[str, str]:
    source = result.provenance
    negative = repr(source.negative_prompt) if source.negative_prompt else "none (the null condition)"
    return {
        "Checkpoint": source.checkpoint,
        "Sampler": f"{source.sampler}, {source.num_steps} steps",
        "Negative prompt": negative,
        "Guidance scales": ", ".join(f"{scale:g}" for scale in result.scales),
        "Seeds": ", ".join(map(str, result.seeds)),
        "Prompt groups": "; ".join(f"{group.name} ({len(group.prompts)} prompts)" for group in result.groups),
        "Versions": ", ".join(f"{name} {version}" for name, version in source.versions.items()),
    }


def _pretty(config: Any) -> str:
    return json.dumps(dict(config), indent=2, ensure_ascii=False, sort_keys=True)


def _trade_off_section(result: AblationResult) -> Sequence[Markup]:
    pairs = trade_offs(result)
    if not pairs:
        return []
    drawn = [
        report.figure(
            _embedded(lambda theme, a=across, u=up: plots.tradeoff_figure(result, a, u, theme)),
            f"{up} against {across}",
        )
        for across, up in pairs
    ]
    lead = "One point a scale, joined in order; some points carry their scale."
    return [report.section("What it buys and what it costs", report.figures(*drawn), lead=lead)]


def _grids(result: AblationResult) -> Sequence[Markup]:
    blocks = []
    for group in result.groups:
        photo = result.samples[group.name].shape[3] >= PHOTO_WIDTH
        picture = _embedded_grid(grid(result, group.name), photo)
        shown = result.samples[group.name].shape[1]
        caption = f"{group.name}: the first {shown} of {len(group.prompts)} prompts"
        blocks.append(
            report.figure(
                picture, f"images by prompt and scale, {group.name}", caption, sharp=not photo, wide=True
            )
        )
    return blocks


def _table(result: AblationResult, group: str) -> Markup:
    curves = [curve for curve in result.curves if curve.group == group]
    rows = [
        [f"{scale:g}", *(with_band(curve.estimates[index]) for curve in curves)]
        for index, scale in enumerate(result.scales)
    ]
    levels = list(dict.fromkeys(name for curve in curves for name in curve.references))
    rows += [
        [name, *(number(curve.references[name]) if name in curve.references else "" for curve in curves)]
        for name in levels
    ]
    best = next(curve.best for curve in curves if curve.metric.name == result.primary)
    columns = ["scale", *(curve.metric.label for curve in curves)]
    strong = frozenset() if best is None else frozenset({best})
    return report.table(columns, rows, caption=group, strong=strong)


def _method(result: AblationResult) -> Sequence[Markup]:
    metrics = {
        curves[0].metric.label: f"{curves[0].metric.definition} Source: {curves[0].metric.source}."
        for curves in result.by_metric().values()
    }
    words = {name[0].upper() + name[1:]: text for name, text in result.method.items()}
    judge = {"Judge": result.provenance.judge} if result.provenance.judge else {}
    prompts = [
        report.details(f"All prompts: {group.name}", report.code("\n".join(group.prompts)))
        for group in result.groups
    ]
    return [report.definitions(words | judge), report.definitions(metrics), *prompts]
