"""The guidance ablation as files: tables, plots, image grids and one HTML report that joins them."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from PIL import Image

from difflax.evaluation.ablation import plots
from difflax.evaluation.ablation.arms import GUIDANCE_SCALE
from difflax.evaluation.ablation.ballots import read_votes, with_votes
from difflax.evaluation.ablation.benchmarks import with_scores
from difflax.evaluation.ablation.exports import DIFFERENCES, differences_csv, have_parquet, write_parquet
from difflax.evaluation.ablation.findings import Certified, certified_metrics, findings, fronts
from difflax.evaluation.ablation.formatting import axes_in_words, named, slug
from difflax.evaluation.ablation.front_plot import front_figure, front_name
from difflax.evaluation.ablation.heatmaps import heatmap, map_axes
from difflax.evaluation.ablation.pictures import PICTURE_FOLDER, PICTURE_MANIFEST, Pictures, read_pictures
from difflax.evaluation.ablation.results import AblationResult, GroupInfo, describe_scale
from difflax.evaluation.ablation.sections.curves import (
    curve_section,
    maps_section,
    trade_off_section,
    trade_offs,
    triangle_section,
)
from difflax.evaluation.ablation.sections.explore import explore_section
from difflax.evaluation.ablation.sections.found import (
    design_section,
    differences_section,
    found_section,
    front_section,
)
from difflax.evaluation.ablation.sections.numbers import headlines, numbers
from difflax.evaluation.ablation.sections.sources import (
    asked_section,
    cite_section,
    manifest_section,
    method_section,
    raw_section,
)
from difflax.evaluation.ablation.sections.steps import trajectory_section
from difflax.evaluation.ablation.sections.tiles import TILE_STYLE, tiles
from difflax.evaluation.ablation.tables import records_csv, table_csv, write_tables
from difflax.evaluation.ablation.trajectories import Trajectory, read_trajectories
from difflax.figures import html
from difflax.figures.grids import GridStyle, labelled_grid
from difflax.figures.html import Embedded, Markup
from difflax.figures.interactive import CHART_STYLE
from difflax.figures.png import save_png
from difflax.figures.style import DARK, render

LARGEST_TILE = 256
PHOTO_WIDTH = 128


def write_ablation(
    result: AblationResult,
    directory: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    pdf: bool = False,
    warning: Sequence[Markup] = (),
) -> epath.Path:
    """Writes everything about the sweep into ``directory`` and returns the path of the report.

    ``report.html``, ``results.json``, ``table.csv``, ``records.csv``, ``differences.csv`` and, with pyarrow,
    ``records.parquet`` and ``table.parquet``; ``plots/`` (an SVG of each metric, of the details of one, of
    two axes at once, of each trade-off and of each Pareto front; ``triangle.png`` and ``triangle_dark.png``
    of what the judge says is the whole story, ``overview.png`` of all metrics) and ``grids/`` (a PNG of each
    prompt group).
    Votes of ``difflax view`` become a metric, and so do the scores of a benchmark.

    Args:
        source: the folder that holds the votes, the images and the trajectories of the sweep, ``directory``
            by default.
        pdf: write every plot as PDF too.
        warning: what stands at the top of the report.
    """
    directory = epath.Path(directory)
    source = directory if source is None else epath.Path(source)
    result = with_votes(with_scores(result, source), read_votes(source))
    certified = Certified(findings=findings(result), fronts=fronts(result))
    write_tables(result, directory)
    (directory / DIFFERENCES).write_text(differences_csv(result, certified.findings))
    if have_parquet():
        write_parquet(result, directory)
    maps = map_names(result)
    vectors = _write_plots(result, directory / "plots", maps, certified, pdf)
    grids = {name: grid(result, name) for name in result.samples}
    for index, (name, picture) in enumerate(grids.items()):
        save_png(directory / "grids" / f"{index}_{slug(name)}.png", picture, facts(result))
    path = directory / "report.html"
    page = ablation_page(
        result,
        vectors,
        grids,
        maps={name: text for name, (_, _, text) in maps.items()},
        certified=certified,
        pictures=read_pictures(source) if (source / PICTURE_FOLDER / PICTURE_MANIFEST).exists() else None,
        trajectories=read_trajectories(source, result),
        warning=warning,
    )
    path.write_text(page)
    return path


def _write_plots(
    result: AblationResult,
    folder: epath.Path,
    maps: Mapping[str, tuple[str, str, str]],
    certified: Certified,
    pdf: bool,
) -> dict[str, bytes]:
    """Writes all plots; the SVG of each, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors: dict[str, bytes] = {}
    drawn = draw_all(result)
    drawn |= {name: heatmap(result, group, metric) for name, (group, metric, _) in maps.items()}
    drawn |= {front_name(result, each): front_figure(result, each) for each in certified.fronts}
    for name, figure in drawn.items():
        vectors[name] = render(figure, "svg")
        (folder / f"{name}.svg").write_bytes(vectors[name])
        if pdf:
            (folder / f"{name}.pdf").write_bytes(render(figure, "pdf"))
    pictures = {"overview": plots.overview_figure(result)}
    if result.triangle:
        pictures |= {"triangle": drawn["triangle"], "triangle_dark": plots.triangle_figure(result, DARK)}
    for name, figure in pictures.items():
        (folder / f"{name}.png").write_bytes(render(figure, "png", dpi=130))
    return vectors


def map_names(result: AblationResult) -> dict[str, tuple[str, str, str]]:
    """The maps of two axes by the names of their plots: group, metric, and what it shows in words."""
    axes = map_axes(result)
    if axes is None:
        return {}
    order = [group.name for group in result.groups]
    return {
        f"map_{order.index(each.group)}_{each.metric.name}": (
            each.group,
            each.metric.name,
            f"{each.metric.label} by {axes[0].title} and {axes[1].title}, {each.group}",
        )
        for each in result.measured
        if each.metric.name in certified_metrics(result)
    }


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
    return labelled_grid(rows, info.prompts[: len(rows)], labels, corner=axes_in_words(result), style=style)


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


def _embedded_grid(picture: Image.Image, photo: bool) -> Embedded:
    out = io.BytesIO()
    if photo:
        picture.save(out, format="JPEG", quality=90)
        return Embedded(data=out.getvalue(), kind="image/jpeg")
    picture.save(out, format="PNG")
    return Embedded(data=out.getvalue(), kind="image/png")


def ablation_page(
    result: AblationResult,
    vectors: Mapping[str, bytes],
    grids: Mapping[str, Image.Image],
    *,
    maps: Mapping[str, str],
    certified: Certified,
    pictures: Pictures | None = None,
    trajectories: Sequence[Trajectory] = (),
    warning: Sequence[Markup] = (),
) -> str:
    """The report as one HTML document.

    Args:
        vectors: the plots (SVG, named as in `draw_all`).
        grids: an image table of each group.
        maps: what each map of two axes shows, by the name of its plot.
        certified: what may be said of the result.
        pictures: the images of the sweep, where they were kept.
        trajectories: how some of them came about.
        warning: what stands at the top of the page.
    """
    per_arm = sum(group.count for group in result.groups)
    number_of_prompts = sum(len(group.prompts) for group in result.groups)
    kind = "guidance scales" if result.over_scales else "arms"
    subtitle = (
        f"{len(result.arms)} {kind} × {number_of_prompts} prompts × {len(result.seeds)} seeds: "
        f"{len(result.arms) * per_arm:,} images of {result.provenance.checkpoint}, "
        f"sampled by {result.provenance.sampler} in {result.provenance.num_steps} steps."
    )
    return html.page(
        "What does guidance do here?",
        subtitle,
        *warning,
        html.headlines(headlines(result)),
        *found_section(result, certified.findings, certified.fronts),
        *triangle_section(result, vectors),
        curve_section(result, vectors),
        *explore_section(result),
        *maps_section(vectors, maps),
        *trade_off_section(result, vectors),
        *front_section(result, certified.fronts, vectors),
        *_images_section(result, grids, pictures),
        *trajectory_section(result, trajectories),
        *differences_section(result, certified.findings),
        *design_section(certified.findings),
        html.section("Numbers", *numbers(result)),
        asked_section(result),
        method_section(result),
        manifest_section(result),
        raw_section(
            {
                "table.csv": table_csv(result),
                "records.csv": records_csv(result),
                DIFFERENCES: differences_csv(result, certified.findings),
            }
        ),
        *cite_section(result),
        kicker="difflax · guidance ablation",
        footer="Everything in numbers is in results.json and the CSV and Parquet files beside this page.",
        style=TILE_STYLE + CHART_STYLE,
    )


def _images_section(
    result: AblationResult, grids: Mapping[str, Image.Image], pictures: Pictures | None
) -> Sequence[Markup]:
    shown = []
    for group in result.groups:
        block = tiles(result, group, pictures)
        if block is None and group.name in grids:
            block = _grid_figure(result, group, grids[group.name])
        shown += [] if block is None else [block]
    lead = f"Along a row the noise is the same: {axes_in_words(result)} alone changes."
    heading = "Prompts and scales" if result.over_scales else "Prompts and arms"
    return [html.section(heading, *shown, lead=lead)] if shown else []


def _grid_figure(result: AblationResult, group: GroupInfo, picture: Image.Image) -> Markup:
    _, shown, _, width, _ = result.samples[group.name].shape
    caption = f"{group.name}: the first {shown} of {len(group.prompts)} prompts"
    embedded = _embedded_grid(picture, photo=width >= PHOTO_WIDTH)
    return html.figure(embedded, f"images by prompt and arm, {group.name}", caption, wide=True)
