"""Tables of images show every pixel of every image, in its place, and text that fits."""

import numpy as np
import pytest
from difflax.figures.grids import GridStyle, captioned_grid, enlarge, labelled_grid, letters, wrap
from hypothesis import given, settings
from hypothesis import strategies as st


def colours(*shape):
    """Images of one distinct colour each."""
    count = int(np.prod(shape))
    flat = np.stack([np.full((4, 4, 3), [40 + 7 * n % 200, 31 * n % 256, 200]) for n in range(count)])
    return flat.reshape(*shape, 4, 4, 3).astype(np.uint8)


def places(sheet, image):
    """Top left corner and size of the area in the image's colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == image[0, 0]).all(-1))
    return rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1, len(rows)


@pytest.mark.parametrize(
    ("size", "tile", "expected"), [(32, 128, 128), (32, 100, 128), (8, 96, 96), (512, 128, 512)]
)
def test_enlarging_keeps_pixels_sharp(size, tile, expected):
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    factor = expected // size
    large = np.asarray(enlarge(image, tile))
    assert large.shape == (expected, expected, 3)
    np.testing.assert_array_equal(large, np.kron(image, np.ones((factor, factor, 1), np.uint8)))


def test_captioned_images_stand_in_reading_order_without_overlap():
    images = colours(7)
    sheet = captioned_grid(
        images, ["short", "a caption that is much longer than its image"] * 3 + [""], columns=3
    )
    found = [places(sheet, image) for image in images]
    assert all((h, w, n) == (128, 128, 128 * 128) for _, _, h, w, n in found)
    assert [top for top, *_ in found[:3]] == [found[0][0]] * 3
    assert found[0][1] < found[1][1] < found[2][1]
    assert found[3][0] > found[0][0] + 128 and found[3][1] == found[0][1]
    assert found[6][0] + 128 < sheet.height


def test_table_cells_stand_in_their_row_and_column():
    images = colours(2, 3)
    sheet = labelled_grid(images, ["first", "second"], ["0\nno text", "1", "2"], corner="scale")
    found = np.array([[places(sheet, image) for image in row] for row in images])
    assert (found[..., 4] == 128 * 128).all()
    assert (found[:, :, 0] == found[:, :1, 0]).all() and (found[:, :, 1] == found[:1, :, 1]).all()
    assert (np.diff(found[:, 0, 0]) > 128).all() and (np.diff(found[0, :, 1]) > 128).all()


def test_float_and_grey_images_are_accepted():
    grey = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 4, 4, 1)
    assert captioned_grid(grey, ["grey"], style=GridStyle(tile=4)).mode == "RGB"


def test_mismatched_labels_are_refused():
    with pytest.raises(ValueError, match="2 images and 1 captions"):
        captioned_grid(colours(2), ["one"])
    with pytest.raises(ValueError, match="do not fit"):
        labelled_grid(colours(2, 2), ["a", "b"], ["only one"])


@given(st.text(alphabet=st.sampled_from("abcdefgWMil  żółć円"), max_size=120), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_wrapped_lines_fit_and_lose_nothing(text, lines):
    font, width = letters(14), 90
    rows = wrap(text, font, width, lines)
    assert len(rows) <= lines
    assert all(font.getlength(row) <= width for row in rows)
    whole = "".join(text.split())
    shown = "".join(rows).replace(" ", "")
    assert shown == whole or (shown.endswith("…") and whole.startswith(shown[:-1]))
