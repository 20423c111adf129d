"""A gallery of made pictures: prompts down, and side by side blocks of columns, each under its heading.

Pictures of few pixels are enlarged by Lanczos' filter, which a reader's screen would do less well; the tables
of `difflax.figures.grids` keep every pixel a square.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from difflax.figures.grids import INK, PAPER, QUIET, letters, line_height, wrap
from difflax.figures.png import to_picture

SMOOTHER = 4
"""By how much corners are drawn larger, and then shrunk, so that they are smooth."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GalleryStyle:
    """Sizes in pixels of the finished picture.

    Attributes:
        tile: the width of a picture.
        gap: between the pictures of a block.
        aisle: between blocks, and between captions and pictures.
        margin: around everything.
        text_size: of captions and headings.
        caption_width: of the captions' column.
        corner: radius of the pictures' corners.
    """

    tile: int = 112
    gap: int = 10
    aisle: int = 44
    margin: int = 48
    text_size: int = 19
    caption_width: int = 260
    corner: int = 8


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Some columns of pictures.

    Attributes:
        heading: over all of them.
        columns: a word over each; "" for none.
        images: in [0, 1].
        marked: the column whose word stands out; ``None`` for none.
    """

    heading: str
    columns: Sequence[str]
    images: Float[np.ndarray, "rows columns h w c"]
    marked: int | None = None

    def __post_init__(self):
        if len(self.columns) != self.images.shape[1]:
            raise ValueError(f"{len(self.columns)} words over {self.images.shape[1]} columns")


def gallery(
    captions: Sequence[str], blocks: Sequence[Block], *, style: GalleryStyle = GalleryStyle()
) -> Image.Image:
    """The gallery, on light paper.

    Args:
        captions: of the rows, wrapped beside their pictures.
        blocks: each with as many rows.
    """
    if not captions or any(len(block.images) != len(captions) for block in blocks):
        raise ValueError(f"{len(captions)} captions and {[len(b.images) for b in blocks]} rows of pictures")
    line = line_height(style.text_size)
    heights = [block.images.shape[2] / block.images.shape[3] for block in blocks]
    height = round(style.tile * max(heights))
    top = style.margin + round(2.6 * line)
    lefts = [style.margin + style.caption_width + style.aisle]
    for block in blocks:
        lefts.append(lefts[-1] + len(block.columns) * (style.tile + style.gap) - style.gap + style.aisle)
    width = lefts.pop() - style.aisle + style.margin
    below = top + len(captions) * (height + style.gap) - style.gap + style.margin
    sheet = Image.new("RGB", (width, below), PAPER)
    draw = ImageDraw.Draw(sheet)
    for left, block in zip(lefts, blocks, strict=True):
        _head(draw, block, left, style, line)
        for row, images in enumerate(block.images):
            for column, image in enumerate(images):
                place = left + column * (style.tile + style.gap), top + row * (height + style.gap)
                _hang(sheet, image, place, style)
    for row, caption in enumerate(captions):
        rows = wrap(caption, letters(style.text_size), style.caption_width, height // line)
        y = top + row * (height + style.gap) + (height - len(rows) * line) // 2
        for number, text in enumerate(rows):
            draw.text((style.margin, y + number * line), text, fill=INK, font=letters(style.text_size))
    return sheet


def _head(draw: ImageDraw.ImageDraw, block: Block, left: int, style: GalleryStyle, line: int) -> None:
    """Heading and columns' words of a block."""
    draw.text((left, style.margin), block.heading, fill=INK, font=letters(style.text_size, True))
    for number, word in enumerate(block.columns):
        middle = left + number * (style.tile + style.gap) + style.tile // 2
        bold = number == block.marked
        place = (middle, style.margin + round(1.35 * line))
        draw.text(
            place, word, fill=INK if bold else QUIET, font=letters(style.text_size - 2, bold), anchor="ma"
        )


def _hang(
    sheet: Image.Image, image: Float[np.ndarray, "h w c"], place: tuple[int, int], style: GalleryStyle
) -> None:
    """A picture, enlarged smoothly and with round corners."""
    picture = to_picture(image).convert("RGB")
    size = style.tile, round(style.tile * picture.height / picture.width)
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    mask = Image.new("L", (size[0] * SMOOTHER, size[1] * SMOOTHER), 0)
    corner = (0, 0, mask.width - 1, mask.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(corner, radius=style.corner * SMOOTHER, fill=255)
    sheet.paste(picture, place, mask.resize(size, Image.Resampling.BOX))
