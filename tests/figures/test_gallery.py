"""The gallery: as large as its parts, every picture in its place, smooth."""

import numpy as np
import pytest
from difflax.figures.gallery import Block, GalleryStyle, gallery
from PIL import Image

STYLE = GalleryStyle(tile=64, gap=6, aisle=20, margin=30, text_size=14, caption_width=100)
COLOURS = np.linspace(0.1, 0.9, 10).reshape(2, 5)


def flat(values):
    """Pictures of one grey each."""
    return np.broadcast_to(values[..., None, None, None], (*values.shape, 8, 8, 3)).astype(np.float32)


def blocks():
    return [
        Block(heading="seeds", columns=["0", "1"], images=flat(COLOURS[:, :2])),
        Block(heading="scales", columns=["0", "1", "2"], images=flat(COLOURS[:, 2:]), marked=1),
    ]


def places():
    """Left and top of every picture, by row and column."""
    lefts = [150, 220, 304, 374, 444]
    return [[(left, row) for left in lefts] for row in (0, 1)]


def test_it_is_as_large_as_its_parts():
    made = gallery(["a", "b"], blocks(), style=STYLE)
    assert made.width == 30 + 100 + 20 + (2 * 64 + 6) + 20 + (3 * 64 + 2 * 6) + 30
    one = gallery(["a"], [Block(heading="", columns=["0"], images=flat(COLOURS[:1, :1]))], style=STYLE)
    assert made.height - one.height == 64 + 6


def test_every_picture_hangs_in_its_place():
    made = np.asarray(gallery(["a", "b"], blocks(), style=STYLE))
    bottom = made.shape[0] - 30
    for row, line in enumerate(places()):
        top = bottom - (2 - row) * 64 - (1 - row) * 6
        for column, (left, _) in enumerate(line):
            grey = round(COLOURS[row, column] * 255)
            inner = made[top + 8 : top + 56, left + 8 : left + 56]
            assert np.all(abs(inner.astype(int) - grey) <= 1), (row, column)
            assert np.all(made[top, left] > 250)  # the paper shows at a round corner


def test_an_edge_is_smooth():
    """Lanczos' filter leaves values between those of both sides, where squares of pixels would not."""
    half = np.zeros((1, 1, 8, 8, 3), np.float32)
    half[..., 4:, :] = 0.5
    made = np.asarray(gallery(["a"], [Block(heading="", columns=["0"], images=half)], style=STYLE))
    across = made[made.shape[0] - 30 - 32, 150:214, 0].astype(int)
    assert np.sum((across > 10) & (across < 118)) >= 3


def test_captions_and_marked_words_are_written():
    with_text = np.asarray(gallery(["a", "b"], blocks(), style=STYLE)).astype(int)
    without = np.asarray(gallery(["", "b"], blocks(), style=STYLE)).astype(int)
    rows, columns = np.nonzero(np.any(with_text != without, -1))
    assert len(rows) and columns.max() < 130 and rows.max() < with_text.shape[0] - 30 - 70
    unmarked = [blocks()[0], Block(heading="scales", columns=["0", "1", "2"], images=flat(COLOURS[:, 2:]))]
    other = np.asarray(gallery(["a", "b"], unmarked, style=STYLE)).astype(int)
    _, columns = np.nonzero(np.any(with_text != other, -1))
    assert columns.min() >= 374 and columns.max() < 374 + 64


@pytest.mark.parametrize("captions", [[], ["a"]])
def test_rows_without_a_caption_are_refused(captions):
    with pytest.raises(ValueError, match="captions"):
        gallery(captions, blocks())


def test_the_usual_sizes_make_one_picture_for_a_page():
    made = gallery(["a"] * 6, [Block(heading="", columns=["0"] * 9, images=flat(np.full((6, 9), 0.5)))])
    assert isinstance(made, Image.Image) and GalleryStyle().tile >= 64 and made.width < 1800
