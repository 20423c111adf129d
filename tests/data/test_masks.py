"""Pictures and masks of Pillow as a pipeline takes them, against Pillow's own conversions."""

import io
import os

import numpy as np
import pytest
from absl import flags
from difflax.cli import sample
from difflax.core.types import UserError
from difflax.generation.images import read_images, read_masks
from PIL import Image

RNG = np.random.default_rng(0)
SIZE = 32


def square(inside, outside):
    values = np.full((SIZE, SIZE), outside, np.uint8)
    values[8:24, 8:24] = inside
    return values


def palette_mask():
    """Number 0 is white and 200 black: the numbers say the opposite of the colours."""
    mask = Image.fromarray(square(0, 200), "P")
    palette = [128] * 768
    palette[0:3], palette[600:603] = [255] * 3, [0] * 3
    mask.putpalette(palette)
    return mask


def turned_mask():
    """Stored lying on its side, as a phone does."""
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    stored = np.rot90(square(255, 0) | np.uint8([[255]] * 4 + [[0]] * (SIZE - 4)))
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    return Image.open(file)


WHITE_ON_CLEAR = np.dstack([np.full((SIZE, SIZE, 3), 255, np.uint8), square(255, 0)])

MASKS = {
    "palette": palette_mask(),
    "colours": palette_mask().convert("RGB"),
    "grey": Image.fromarray(square(255, 0)),
    "black and white": Image.fromarray(square(255, 0)).convert("1"),
    "16 bits": Image.fromarray(square(255, 0).astype(np.uint16) * 257),
    "floating point": Image.fromarray(square(255, 0).astype(np.float32) / 255),
    "white on nothing": Image.fromarray(WHITE_ON_CLEAR),
    "grey on nothing": Image.fromarray(WHITE_ON_CLEAR).convert("LA"),
    "array of colours": np.asarray(palette_mask().convert("RGB")),
    "array of colours and opacity": WHITE_ON_CLEAR,
    "array of levels": square(255, 0),
    "array of truth values": square(1, 0).astype(bool),
    "one in a batch": square(255, 0)[None],
    "one of colours in a batch": np.asarray(palette_mask().convert("RGB"))[None],
    "in a list": [palette_mask()],
}


@pytest.mark.parametrize("name", MASKS)
def test_what_is_white_is_made(name):
    made = read_masks(MASKS[name], 2, SIZE, SIZE)
    assert made.shape == (2, SIZE, SIZE, 1)
    np.testing.assert_array_equal(made[1, ..., 0], square(1, 0))


def test_a_mask_of_a_palette_is_its_grey():
    mask = palette_mask()
    right = np.asarray(mask.convert("L")) >= 128
    np.testing.assert_array_equal(read_masks(mask, 1, SIZE, SIZE)[0, ..., 0], right)


def test_colours_count_by_their_luma():
    colours = RNG.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    right = np.asarray(Image.fromarray(colours).convert("L")) >= 128
    for mask in (colours, Image.fromarray(colours), colours.astype(np.float32) / 255):
        made = read_masks(mask, 1, SIZE, SIZE)[0, ..., 0]
        assert np.mean(made != right) <= 2 / SIZE**2  # where the luma rounds to a half


def test_a_mask_three_pixels_wide_is_a_batch():
    masks = np.zeros((3, 3, 3), np.uint8)
    masks[:, 1] = 255
    assert read_masks(masks, 3, 3, 3).shape == (3, 3, 3, 1)


def test_masks_and_images_are_turned_as_exif_says():
    made = read_masks(turned_mask(), 1, SIZE, SIZE)[0, ..., 0]
    right = np.rot90(np.rot90(square(255, 0) | np.uint8([[255]] * 4 + [[0]] * (SIZE - 4))), -1) > 0
    np.testing.assert_array_equal(made, right)
    image = read_images(turned_mask(), 1, 3)[0]
    np.testing.assert_array_equal(image > 0, right[..., None].repeat(3, -1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA", "1"])
def test_images_of_pillow_in_every_mode(mode):
    picture = Image.fromarray(np.repeat(square(255, 0)[..., None], 3, -1)).convert(mode)
    image = read_images(picture, 2, 3)
    assert image.shape == (2, SIZE, SIZE, 3)
    np.testing.assert_array_equal(image[0], np.repeat(square(255, 0)[..., None], 3, -1) / 127.5 - 1)


def test_images_of_several_sizes_are_one_line():
    with pytest.raises(UserError, match=r"\(8, 8, 3\), \(9, 8, 3\): give equal ones"):
        read_images([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], 2, 3)


def values_of(*arguments):
    values = flags.FlagValues()
    sample.define_flags(values, [])
    values(["sample", *arguments])
    return values


def test_files_of_the_command_line(tmp_path):
    palette_mask().save(tmp_path / "mask.png")
    turned_mask().save(tmp_path / "image.jpg", exif=turned_mask().getexif(), quality=100)
    (tmp_path / "prompts.txt").write_bytes("a café\u2028 at night\r\n\r\ntwo".encode("utf-8-sig"))
    values = values_of(
        f"--mask={tmp_path / 'mask.png'}",
        f"--image={tmp_path / 'image.jpg'}",
        f"--prompts_file={tmp_path / 'prompts.txt'}",
        "--prompt=" + os.fsdecode("café".encode("cp1252")),
    )
    assert sample.read_prompts(values) == ["café", "a café\u2028 at night", "two"]
    given = sample.picture_arguments(values)
    np.testing.assert_array_equal(given["mask"] > 127, square(1, 0) > 0)
    right = np.rot90(np.rot90(square(255, 0) | np.uint8([[255]] * 4 + [[0]] * (SIZE - 4))), -1) > 0
    np.testing.assert_array_equal(given["image"][..., 1] > 127, right)


@pytest.mark.parametrize(
    ("name", "says"),
    [("none.png", "no such file"), ("folder", "is a folder"), ("a.png", "the file is empty")],
)
def test_files_that_are_no_pictures(name, says, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    for flag in ("image", "mask"):
        with pytest.raises(UserError, match=says) as raised:
            sample.picture_arguments(values_of(f"--{flag}={tmp_path / name}"))
        assert str(raised.value).startswith(f"--{flag}=")
