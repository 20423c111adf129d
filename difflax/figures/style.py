"""One look for every plot: colours that colour-blind readers can tell apart, on light and on dark paper.

Series differ by colour, marker and dash together, so that a plot also reads in grey.
"""

import dataclasses
import io
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theme:
    """The colours of one paper; ``series`` is the palette of Okabe and Ito (2008), tuned to the paper."""

    name: Literal["light", "dark"]
    paper: str
    ink: str
    quiet: str
    rule: str
    series: tuple[str, ...]


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1c1e21",
    quiet="#646b73",
    rule="#e4e6ea",
    series=("#0072b2", "#d55e00", "#009e73", "#a8457f", "#b98a00", "#3d9bd6", "#3a3f45"),
)
DARK = Theme(
    name="dark",
    paper="#17191d",
    ink="#e8eaed",
    quiet="#9aa1aa",
    rule="#2d3138",
    series=("#56b4e9", "#f0904a", "#2fc79a", "#e094c3", "#f0d24a", "#8fb6ff", "#cfd3d8"),
)
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), (0, (8, 2)))


def look(theme: Theme, index: int) -> dict[str, Any]:
    """Line properties of the series ``index``; past seven, colours repeat with another marker and dash."""
    turn = index // len(theme.series)
    return {
        "color": theme.series[index % len(theme.series)],
        "marker": MARKERS[(index + turn) % len(MARKERS)],
        "linestyle": DASHES[(index + turn) % len(DASHES)],
    }


def new_figure(theme: Theme, width: float, height: float) -> Any:
    """An empty matplotlib ``Figure`` of ``width × height`` inches that touches no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=theme.paper, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Any, theme: Theme) -> None:
    """Quiet axes: no box, horizontal hairlines, small grey numbers."""
    axes.set_facecolor(theme.paper)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set(color=theme.quiet, linewidth=0.8)
    axes.grid(axis="y", color=theme.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.quiet, labelsize=8.5, length=0, pad=5)
    axes.tick_params(axis="x", which="major", length=3)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.xaxis.label.set(color=theme.quiet, fontsize=9)
    axes.yaxis.label.set(color=theme.quiet, fontsize=9)


def title(axes: Any, theme: Theme, text: str, quiet: str = "") -> None:
    """A bold heading at the left edge, and the unit in grey on the lines under it."""
    pad = 8 + 14 * len(quiet.splitlines())
    axes.set_title(text, loc="left", color=theme.ink, fontsize=11, fontweight="bold", pad=pad)
    if quiet:
        axes.annotate(
            quiet,
            (0, 1),
            (0, 8),
            xycoords="axes fraction",
            textcoords="offset points",
            color=theme.quiet,
            fontsize=9,
        )


def legend(figure: Any, handles: list[Any], theme: Theme, columns: int) -> None:
    """A frameless legend above the axes, in fewer columns where its words are long."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    # About 0.075 inches a letter at 9 points, and the line with the space around it.
    columns = max(1, min(columns, int(figure.get_figwidth() / (0.8 + 0.075 * longest))))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        labelcolor=theme.ink,
        fontsize=9,
        handlelength=2.6,
        columnspacing=1.8,
        borderaxespad=0.2,
    )


def adaptive(svg: bytes) -> bytes:
    """A light SVG that turns dark by itself where the reader prefers dark, also inside an ``<img>``."""
    pairs = dict(zip(_colours(LIGHT), _colours(DARK), strict=True))
    text = svg.decode()
    for index, light in enumerate(pairs):
        text = text.replace(light, f"var(--c{index})")
    light_rules = "".join(f"--c{index}:{light};" for index, light in enumerate(pairs))
    dark_rules = "".join(f"--c{index}:{dark};" for index, dark in enumerate(pairs.values()))
    dark_query = f"@media (prefers-color-scheme:dark){{:root{{{dark_rules}}}}}"
    opening = text.index(">", text.index("<svg")) + 1
    return f"{text[:opening]}<style>:root{{{light_rules}}}{dark_query}</style>{text[opening:]}".encode()


def _colours(theme: Theme) -> tuple[str, ...]:
    return (theme.paper, theme.ink, theme.quiet, theme.rule, *theme.series)


def render(figure: Any, kind: Literal["png", "svg", "pdf"], dpi: int = 160) -> bytes:
    """The figure as a file; the same figure gives the same bytes."""
    import matplotlib

    out = io.BytesIO()
    stamp = {"svg": {"Date": None}, "png": {"Software": "difflax"}, "pdf": {"CreationDate": None}}[kind]
    with matplotlib.rc_context({"svg.hashsalt": "difflax", "svg.fonttype": "path", "pdf.fonttype": 42}):
        # A layout is worth computing once, not once a file.
        if figure.get_layout_engine() is not None:
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        figure.savefig(out, format=kind, dpi=dpi, facecolor=figure.get_facecolor(), metadata=stamp)
    return out.getvalue()
