"""Decoding and fitting."""

import io

import numpy as np
import pytest
from difflax.data import transforms
from difflax.types import UserError
from PIL import Image


def encoded(picture, kind="png"):
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_decodes_to_the_same_pixels(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    np.testing.assert_array_equal(transforms.decode(encoded(picture), "x"), image)


def test_transparency_is_laid_over_white():
    colours = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    image = transforms.decode(encoded(Image.fromarray(colours)), "x")
    np.testing.assert_array_equal(image, [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]])


def test_palettes_and_black_and_white_decode():
    palette = Image.new("RGB", (4, 4), (255, 0, 0)).convert("P")
    np.testing.assert_array_equal(transforms.decode(encoded(palette), "x"), np.full((4, 4, 3), (255, 0, 0)))
    white = transforms.decode(encoded(Image.new("1", (4, 4), 1)), "x")
    np.testing.assert_array_equal(white, np.full((4, 4, 1), 255))


@pytest.mark.parametrize("cut", [0, 20, 60])
def test_broken_bytes_name_the_record(cut):
    data = encoded(Image.new("RGB", (16, 16), "red"))
    with pytest.raises(UserError, match=r"holiday\.png"):
        transforms.decode(data[:cut], "holiday.png")


def test_fitting_keeps_the_middle_and_the_mean():
    # Left third black, middle grey, right third white; a square cut of the middle third is grey.
    image = np.repeat(np.array([0, 120, 255], np.uint8), 30)[None, :, None] * np.ones((30, 1, 3), np.uint8)
    np.testing.assert_array_equal(transforms.fit(image, 10, 10, 3)[:, 2:8], np.full((10, 6, 3), 120))
    # Same aspect ratio: nothing is cut, so the mean stays.
    whole = transforms.fit(image, 10, 30, 3)
    assert whole.mean() == pytest.approx(image.mean(), abs=0.5)


def test_fitting_has_no_aliasing():
    # A checkerboard of single pixels is above the new resolution's limit: it must become even grey.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    small = transforms.fit(board, 16, 16, 1)[2:-2, 2:-2]
    assert np.abs(small.astype(float) - 127.5).max() < 4


def test_channels_convert():
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    np.testing.assert_array_equal(transforms.fit(grey, 4, 4, 3), np.repeat(grey, 3, -1))
    np.testing.assert_array_equal(transforms.fit(np.repeat(grey, 3, -1), 4, 4, 1), grey)
    np.testing.assert_array_equal(transforms.fit(grey, 4, 4, 1), grey)
