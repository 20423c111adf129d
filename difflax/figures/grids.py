"""Pictures made of many images: captioned samples, and tables of images with named rows and columns.

Small images are enlarged by a whole factor without smoothing, so that every pixel stays a sharp square.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from difflax.figures.png import to_picture

Pixels = Float[np.ndarray, "h w c"] | UInt8[np.ndarray, "h w c"]

PAPER, INK, QUIET, RULE = "#ffffff", "#1c1e21", "#6b7178", "#e4e6ea"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridStyle:
    """Sizes in pixels of the finished picture.

    Attributes:
        tile: the least width of an image after enlarging by a whole factor; larger images are left as they
            are.
        gap: the space between images.
        margin: the space around everything.
        text_size: the height of the letters.
        caption_lines: how many lines a caption may take before it is cut with an ellipsis.
    """

    tile: int = 128
    gap: int = 10
    margin: int = 24
    text_size: int = 14
    caption_lines: int = 3


@functools.lru_cache
def letters(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The letters of all pictures, ``size`` pixels high."""
    # matplotlib brings DejaVu, which knows far more letters than Pillow's own font: prompts come in any
    # language.
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)


def enlarge(image: Pixels, tile: int) -> Image.Image:
    """The image as RGB, enlarged by the smallest whole factor that makes it at least ``tile`` wide."""
    picture = to_picture(image).convert("RGB")
    factor = max(1, math.ceil(tile / picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` pixels; what does not fit becomes an ellipsis."""
    rows: list[str] = []
    row = ""
    pending = text.split()
    while pending:
        word = pending.pop(0)
        joined = f"{row} {word}".strip()
        if font.getlength(joined) <= width:
            row = joined
        elif row:
            rows.append(row)
            row = ""
            pending.insert(0, word)
        else:
            cut = max(1, next((n for n in range(len(word), 1, -1) if font.getlength(word[:n]) <= width), 1))
            rows.append(word[:cut])
            pending[:0] = [word[cut:]] if word[cut:] else []
    rows += [row] if row else []
    if len(rows) > lines:
        last = rows[lines - 1]
        while last and font.getlength(f"{last}…") > width:
            last = last[:-1]
        rows = [*rows[: lines - 1], f"{last.rstrip()}…"]
    return rows


def line_height(size: int) -> int:
    """Pixels from one line of such letters to the next."""
    return round(size * 1.35)


def _write(
    draw: ImageDraw.ImageDraw,
    rows: Sequence[str],
    place: tuple[int, int],
    size: int,
    *,
    fill: str = INK,
    bold: bool = False,
    anchor: str = "la",
) -> None:
    x, y = place
    for number, row in enumerate(rows):
        draw.text(
            (x, y + number * line_height(size)), row, fill=fill, font=letters(size, bold), anchor=anchor
        )


def _place(sheet: Image.Image, tile: Image.Image, x: int, y: int) -> None:
    # The hairline shows where a white image ends.
    ImageDraw.Draw(sheet).rectangle((x - 1, y - 1, x + tile.width, y + tile.height), outline=RULE)
    sheet.paste(tile, (x, y))


def captioned_grid(
    images: Sequence[Pixels] | Float[np.ndarray, "n h w c"] | UInt8[np.ndarray, "n h w c"],
    captions: Sequence[str],
    *,
    columns: int | None = None,
    style: GridStyle = GridStyle(),
) -> Image.Image:
    """Images in reading order, each with its caption below.

    Args:
        images: ``n`` ≥ 1 images of one size, float in [0, 1] or bytes, 1 or 3 channels.
        captions: one for each image; "" for none.
        columns: how many a row; by default nearly square, a little wider than high.
    """
    if not len(images) or len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions")
    tiles = [enlarge(image, style.tile) for image in images]
    width, height = tiles[0].size
    columns = columns or min(len(tiles), math.ceil(math.sqrt(1.3 * len(tiles))))
    font = letters(style.text_size)
    wrapped = [wrap(caption, font, width, style.caption_lines) for caption in captions]
    line, rows = line_height(style.text_size), math.ceil(len(tiles) / columns)
    text = [max(map(len, wrapped[r * columns : (r + 1) * columns])) * line for r in range(rows)]
    step_x, tail = width + 2 * style.gap, style.gap // 2
    tops = [style.margin + sum(height + tail + t + 2 * style.gap for t in text[:r]) for r in range(rows)]
    size = (
        2 * style.margin + columns * step_x - 2 * style.gap,
        tops[-1] + height + (tail + text[-1] if text[-1] else 0) + style.margin,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (tile, rows_of_text) in enumerate(zip(tiles, wrapped, strict=True)):
        x, y = style.margin + number % columns * step_x, tops[number // columns]
        _place(sheet, tile, x, y)
        _write(draw, rows_of_text, (x, y + height + tail), style.text_size)
    return sheet


def labelled_grid(
    images: Sequence[Sequence[Pixels]]
    | Float[np.ndarray, "rows columns h w c"]
    | UInt8[np.ndarray, "rows columns h w c"],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    corner: str = "",
    style: GridStyle = GridStyle(),
) -> Image.Image:
    """A table of images: row labels on the left, column labels on top (``\\n`` starts a quieter second line).

    Args:
        images: by row, then by column; one size, float in [0, 1] or bytes.
        corner: what the columns are, written above the row labels ("guidance scale →").
    """
    if len(images) != len(row_labels) or any(len(row) != len(column_labels) for row in images):
        raise ValueError(
            f"{len(row_labels)} row labels and {len(column_labels)} column labels do not fit the images"
        )
    if not row_labels or not column_labels:
        raise ValueError("an image table needs a row and a column")
    tiles = [[enlarge(image, style.tile) for image in row] for row in images]
    width, height = tiles[0][0].size
    size, line = style.text_size, line_height(style.text_size)
    label_width = 0
    if any(row_labels) or corner:
        longest = max(letters(size).getlength(label) for label in [*row_labels, corner])
        label_width = math.ceil(min(longest, 13.5 * size)) + 2 * style.gap
    rows_of_text = [
        wrap(label, letters(size), label_width - 2 * style.gap, height // line) for label in row_labels
    ]
    head = max(label.count("\n") + 1 for label in column_labels) * line + style.gap
    left, top = style.margin + label_width, style.margin + head
    sheet = Image.new(
        "RGB",
        (
            left + len(column_labels) * (width + style.gap) - style.gap + style.margin,
            top + len(row_labels) * (height + style.gap) - style.gap + style.margin,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    _write(draw, [corner], (style.margin, style.margin), size, fill=QUIET)
    for column, label in enumerate(column_labels):
        middle = left + column * (width + style.gap) + width // 2
        first, *more = label.split("\n")
        _write(draw, [first], (middle, style.margin), size, bold=True, anchor="ma")
        _write(draw, more, (middle, style.margin + line), size, fill=QUIET, anchor="ma")
    for row, (row_tiles, text) in enumerate(zip(tiles, rows_of_text, strict=True)):
        y = top + row * (height + style.gap)
        _write(draw, text, (style.margin, y + max(0, (height - len(text) * line) // 2)), size)
        for column, tile in enumerate(row_tiles):
            _place(sheet, tile, left + column * (width + style.gap), y)
    return sheet
