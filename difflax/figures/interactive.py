"""Charts that answer to the pointer, by Vega-Lite through Altair, inside one page that opens offline.

The library is put into the page once (vl-convert has it); the charts are drawn as SVG, whose colours the
page's own style sheet sets, so that they follow light and dark. Both packages are optional.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from difflax.figures.html import Markup, tag

CHART_STYLE = """
.chart { overflow-x: auto; }
.chart svg text { fill: var(--ink) !important; }
.chart svg .role-axis-title text, .chart svg .role-axis-label text { fill: var(--quiet) !important; }
.chart svg .role-axis-grid line { stroke: var(--rule) !important; }
.chart svg .role-axis-domain line, .chart svg .role-axis-tick line { stroke: var(--quiet) !important; }
.chart .vega-bindings { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; margin: .5rem 0;
  font-size: .88rem; }
.chart select { font: inherit; background: var(--card); color: var(--ink); border: 1px solid var(--quiet);
  border-radius: .4rem; padding: .15rem .4rem; max-width: 16rem; }
#vg-tooltip-element { background: var(--card) !important; color: var(--ink) !important;
  border-color: var(--rule) !important; max-width: 26rem; }
#vg-tooltip-element td.key { color: var(--quiet) !important; }
@media print { .chart .vega-bindings { display: none; } }
"""


def have_charts() -> bool:
    """Whether Altair and vl-convert are installed."""
    try:
        import altair
        import vl_convert
    except ImportError:
        return False
    return bool(altair.__version__ and vl_convert.__version__)


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that defines ``vegaEmbed``."""
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    return vl_convert.javascript_bundle(vl_version=version)


def library() -> Markup:
    """The script that `chart` blocks need, once a page, before them."""
    return Markup("<script>" + _library().replace("</script", "<\\/script") + "</script>")


def chart(name: str, drawn: Any) -> Markup:
    """An Altair chart as a block of a page.

    Args:
        name: of the block, letters alone, each once a page.
        drawn: an Altair chart.
    """
    spec = json.dumps(drawn.to_dict()).replace("<", "\\u003c")
    options = json.dumps({"renderer": "svg", "actions": False})
    call = f'vegaEmbed("#{name}", {spec}, {options}).catch(console.error);'
    return Markup(f"{tag('div', id=name, class_='chart')}<script>{call}</script>")


def _theme(drawn: Any) -> Any:
    return (
        drawn.configure(background="transparent", font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=11, titleFontSize=11, titleFontWeight="normal")
        .configure_legend(labelFontSize=11, titleFontSize=11, labelLimit=320)
    )


def lines_chart(
    rows: Sequence[Mapping[str, Any]],
    *,
    along: str,
    numeric: bool,
    metrics: Sequence[str],
    palette: Sequence[str],
) -> Any:
    """Curves with bands, one metric at a time by a menu; a click on the legend shows one line alone.

    Args:
        rows: one a point, with ``line``, ``metric``, ``place``, ``value``, ``low``, ``high``, ``settings``.
        along: the axis in words.
        numeric: whether the places are numbers.
        metrics: their labels, in the order of the menu.
        palette: of the lines.
    """
    import altair as alt

    menu = alt.binding_select(options=list(metrics), name="metric ")
    metric = alt.selection_point(fields=["metric"], bind=menu, value=metrics[0])
    line = alt.selection_point(fields=["line"], bind="legend")
    kind = "quantitative" if numeric else "nominal"
    place = alt.X(
        "place", type=kind, title=along, sort=None, scale=alt.Scale(nice=False) if numeric else alt.Scale()
    )
    lines = list(dict.fromkeys(row["line"] for row in rows))
    colour = alt.Color(
        "line:N",
        sort=lines,
        scale=alt.Scale(range=list(palette)),
        legend=alt.Legend(title=None, orient="top", columns=2, symbolOpacity=1),
    )
    base = alt.Chart(alt.Data(values=list(rows))).transform_filter(metric).encode(x=place, color=colour)
    shown = alt.condition(line, alt.value(1.0), alt.value(0.12))
    band = base.mark_area(clip=True).encode(
        y=alt.Y("low:Q", title=None),
        y2="high:Q",
        opacity=alt.condition(line, alt.value(0.16), alt.value(0.02)),
    )
    curve = base.mark_line().encode(
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)), opacity=shown
    )
    points = base.mark_point(filled=True, size=45).encode(
        y="value:Q",
        opacity=shown,
        tooltip=[
            alt.Tooltip("settings:N"),
            alt.Tooltip("line:N"),
            alt.Tooltip("metric:N"),
            *(alt.Tooltip(f"{end}:Q", format=".4g") for end in ("value", "low", "high")),
        ],
    )
    layers = alt.layer(band, curve, points).add_params(metric, line)
    return _theme(layers.properties(width=760, height=320))


def scatter_chart(
    rows: Sequence[Mapping[str, Any]], *, metrics: Sequence[str], across: str, up: str, palette: Sequence[str]
) -> Any:
    """Arms as points, any metric against any other by two menus.

    Args:
        rows: one an arm and group, with ``group``, ``settings`` and a number by the label of each metric.
        metrics: the labels.
        across, up: what is drawn at first.
        palette: of the groups.
    """
    import altair as alt

    def menu(name: str, first: str) -> Any:
        return alt.param(
            name=name, value=first, bind=alt.binding_select(options=list(metrics), name=f"{name} ")
        )

    x, y = menu("across", across), menu("up", up)
    groups = list(dict.fromkeys(row["group"] for row in rows))
    drawn = (
        alt.Chart(alt.Data(values=list(rows)))
        .transform_calculate(x=f"datum[{x.name}]", y=f"datum[{y.name}]")
        .mark_point(filled=True, size=60, opacity=0.85)
        .encode(
            x=alt.X("x:Q", title="across", scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", title="up", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "group:N",
                sort=groups,
                scale=alt.Scale(range=list(palette)),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip=[
                alt.Tooltip("settings:N"),
                alt.Tooltip("group:N"),
                alt.Tooltip("x:Q", title="across", format=".4g"),
                alt.Tooltip("y:Q", title="up", format=".4g"),
            ],
        )
        .add_params(x, y)
    )
    return _theme(drawn.properties(width=560, height=340))
