"""Building blocks of a report: one static HTML page that opens from disk, without scripts or outside assets.

A block is a piece of :class:`Markup`. Plain strings are text and are escaped wherever they enter; only
``Markup`` passes as it is, so what a user typed can never become part of the page's structure. Pictures are
embedded.

No template engine (Jinja2) or HTML builder (dominate): the elements are some forty lines over the standard
library's ``html.escape``, the rest is the style sheet and the report's own blocks, which every one of them
would leave to us; templates would also take the structure out of reach of the linter and the type checks.
"""

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence

from difflax.figures.style import DARK, LIGHT

VOID = ("br", "img", "input")
"""Elements that have no inside and no end."""


class Markup(str):
    """HTML that is already safe."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """``text`` as HTML; ``Markup`` is returned as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(text))


def join(blocks: Sequence[str], separator: str = "\n") -> Markup:
    """Blocks and plain texts after each other."""
    return Markup(separator.join(escape(block) for block in blocks))


def tag(name: str, /, *inside: str, **attributes: str) -> Markup:
    """``<name attributes>inside</name>``, everything escaped; ``class_`` stands for ``class``."""
    pairs = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{pairs}>")
    return Markup(f"<{name}{pairs}>{join(inside)}</{name}>")


def code(text: str) -> Markup:
    """A block of code or a command; long lines scroll by themselves."""
    return tag("pre", tag("code", text))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """One number at the top of the page: what it is, its value, and a line of small print."""

    label: str
    value: str
    detail: str = ""


def headlines(items: Sequence[Headline]) -> Markup:
    """A row of numbers that wraps on narrow screens."""
    cards = [
        tag(
            "div",
            tag("div", item.label, class_="label"),
            tag("div", item.value, class_="value"),
            tag("div", item.detail, class_="detail"),
            class_="card",
        )
        for item in items
    ]
    return tag("div", *cards, class_="cards")


def section(heading: str, *blocks: str, lead: str = "") -> Markup:
    """A headed part of the page; ``lead`` is one sentence under the heading."""
    return tag(
        "section",
        tag("h2", heading),
        *([tag("p", lead, class_="lead")] if lead else []),
        *map(escape, blocks),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded:
    """An encoded picture of MIME type ``kind`` ("image/png", "image/svg+xml")."""

    data: bytes
    kind: str

    @property
    def uri(self) -> str:
        return f"data:{self.kind};base64,{base64.b64encode(self.data).decode()}"


def figure(picture: Embedded, alt: str, caption: str = "", *, wide: bool = False) -> Markup:
    """A picture with a caption.

    Args:
        alt: what the picture shows, for those who cannot see it.
        wide: let it keep its own width and scroll on a narrow screen, for tables of images.
    """
    shown = f'<img src="{picture.uri}" alt="{html.escape(alt)}" loading="lazy">'
    inside = [tag("div", Markup(shown), class_="frame")]
    return tag(
        "figure",
        *inside,
        *([tag("figcaption", caption)] if caption else []),
        class_="wide" if wide else "plain",
    )


def figures(*items: Markup) -> Markup:
    """Figures side by side, as many as fit."""
    return tag("div", *items, class_="figures")


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    text_columns: int = 1,
    strong: frozenset[int] = frozenset(),
) -> Markup:
    """A table whose first ``text_columns`` columns are text and the others numbers, set right.

    ``strong`` names the rows that are set apart (the best one, say). Raises ValueError for a row of another
    length.
    """
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"a row does not have {len(columns)} cells")

    def cell(kind: str, index: int, text: str) -> Markup:
        return tag(kind, text, class_="text" if index < text_columns else "number")

    head = tag("tr", *(cell("th", index, text) for index, text in enumerate(columns)))
    body = [
        tag(
            "tr",
            *(cell("td", i, text) for i, text in enumerate(row)),
            class_="strong" if n in strong else "row",
        )
        for n, row in enumerate(rows)
    ]
    title = [tag("caption", caption)] if caption else []
    return tag("div", tag("table", *title, tag("thead", head), tag("tbody", *body)), class_="scroll")


def definitions(items: Mapping[str, str]) -> Markup:
    """Terms with their explanations."""
    return tag("dl", *(tag("div", tag("dt", term), tag("dd", text)) for term, text in items.items()))


def details(summary: str, *blocks: str) -> Markup:
    """Blocks that are folded away under a line to click."""
    return tag("details", tag("summary", summary), *map(escape, blocks))


STYLE = f"""
:root {{
  color-scheme: light dark;
  --paper: {LIGHT.paper}; --card: #f6f7f9; --ink: {LIGHT.ink}; --quiet: {LIGHT.quiet};
  --rule: {LIGHT.rule}; --accent: {LIGHT.series[0]}; --strong: #eaf3f9;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --paper: {DARK.paper}; --card: #1f2227; --ink: {DARK.ink}; --quiet: {DARK.quiet};
    --rule: {DARK.rule}; --accent: {DARK.series[0]}; --strong: #1d2c37;
  }}
}}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{
  margin: 0 auto; padding: clamp(1.25rem, 4vw, 3.5rem) clamp(1rem, 4vw, 2.5rem); max-width: 72rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}}
header {{ margin-bottom: 2rem; }}
.kicker {{ color: var(--accent); font-size: .8rem; font-weight: 600; letter-spacing: .06em; }}
h1 {{ font-size: clamp(1.7rem, 4.5vw, 2.5rem); line-height: 1.15; letter-spacing: -.015em; margin: .3rem 0
.6rem; }} h2 {{ font-size: 1.3rem; line-height: 1.3; letter-spacing: -.01em; margin: 0 0 .4rem; }}
section {{ margin-top: 2.75rem; padding-top: 1.75rem; border-top: 1px solid var(--rule); }}
p {{ margin: .5rem 0 1rem; max-width: 44rem; }}
.subtitle, .lead {{ color: var(--quiet); max-width: 44rem; }}
.subtitle {{ font-size: 1.08rem; margin: 0; }}
.cards {{ display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(13.5rem, 1fr)); }}
.card {{ background: var(--card); border-radius: .7rem; padding: 1rem 1.15rem; }}
.label {{ color: var(--quiet); font-size: .84rem; }}
.value {{ font-size: 2rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }}
.detail {{ color: var(--quiet); font-size: .84rem; line-height: 1.45; }}
.figures {{ display: grid; gap: 1.75rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%),
1fr)); }} figure {{ margin: 0 0 1.25rem; min-width: 0; }}
figure img {{ display: block; max-width: 100%; height: auto; }}
figure.plain img {{ width: 100%; }}
.wide .frame {{ overflow-x: auto; background: #fff; border: 1px solid var(--rule); border-radius: .7rem; }}
.wide img {{ margin: 0 auto; }}
figcaption {{ color: var(--quiet); font-size: .88rem; margin-top: .55rem; max-width: 44rem; }}
.scroll {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding-bottom: .5rem; }}
th {{ color: var(--quiet); font-weight: 500; vertical-align: bottom; border-bottom: 1px solid var(--quiet); }}
th, td {{ padding: .42rem .9rem .42rem 0; text-align: left; }}
td {{ border-bottom: 1px solid var(--rule); vertical-align: top; white-space: nowrap; }}
.number {{ text-align: right; }}
td small {{ display: block; color: var(--quiet); font-size: .82em; font-weight: 400; line-height: 1.3; }}
.strong td {{ background: var(--strong); font-weight: 600; }}
.strong td:first-child {{ box-shadow: inset 3px 0 var(--accent); }}
td:first-child, th:first-child {{ padding-left: .6rem; }}
pre {{ background: var(--card); border-radius: .6rem; padding: .85rem 1rem; overflow-x: auto; margin: .6rem 0
1rem; }} code {{ font: .86rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
monospace; }} dl {{ margin: 1rem 0; }}
dl > div {{ display: grid; grid-template-columns: minmax(9rem, 14rem) 1fr; gap: .2rem 1.5rem; padding: .55rem
0;
  border-bottom: 1px solid var(--rule); }}
dt {{ font-weight: 600; }}
dd {{ margin: 0; max-width: 46rem; overflow-wrap: anywhere; }}
details {{ margin: .75rem 0; }}
summary {{ cursor: pointer; color: var(--accent); }}
footer {{ margin-top: 3rem; color: var(--quiet); font-size: .85rem; }}
@media (max-width: 40rem) {{
  dl > div {{ grid-template-columns: 1fr; }}
  .wide img {{ max-width: none; }}
}}
@media print {{ section {{ break-inside: avoid; }} body {{ max-width: none; }} }}
"""


def page(
    title: str, subtitle: str, *blocks: str, kicker: str = "difflax", footer: str = "", style: str = ""
) -> str:
    """The whole HTML document; ``style`` is added to the style sheet."""
    head = join(
        [
            Markup('<meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", title),
            Markup(f"<style>{STYLE}{style}</style>"),
        ]
    )
    header = tag(
        "header",
        tag("div", kicker, class_="kicker"),
        tag("h1", title),
        tag("p", subtitle, class_="subtitle"),
    )
    foot = [tag("footer", footer)] if footer else []
    body = join([header, *map(escape, blocks), *foot])
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'
