"""What is written into a PNG comes back, with its type."""

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.figures.png import read_metadata, save_png, to_uint8
from PIL import Image

METADATA = {
    "prompt": 'a "red" circle – czerwone koło 赤い円\nline two',
    "seed": 7,
    "guidance_scale": 7.5,
    "sampler": "ddim(eta=0.0)",
    "num_steps": 50,
    "negative_prompt": "",
    "versions": {"jax": "0.10"},
}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_and_metadata_round_trip(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    path = tmp_path / "new" / "image.png"
    save_png(path, image, METADATA)
    assert read_metadata(path) == METADATA
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), image)


def test_other_programs_read_each_entry(tmp_path):
    save_png(tmp_path / "a.png", np.zeros((2, 2, 3)), METADATA)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.text["prompt"] == METADATA["prompt"]
        assert picture.text["guidance_scale"] == "7.5"


def test_a_prompt_that_looks_like_a_number_stays_text(tmp_path):
    save_png(tmp_path / "a.png", np.zeros((2, 2, 3)), {"prompt": "7"})
    assert read_metadata(tmp_path / "a.png") == {"prompt": "7"}


def test_floats_round_to_the_nearest_byte_and_clip():
    np.testing.assert_array_equal(
        to_uint8(np.array([[[-0.5], [0.0019]], [[0.5], [1.2]]])).ravel(), [0, 0, 128, 255]
    )
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(to_uint8(levels / 255.0), levels)


@pytest.mark.parametrize("name", ["", "x" * 80, "difflax"])
def test_bad_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="text chunk"):
        save_png(tmp_path / "a.png", np.zeros((2, 2, 3)), {name: 1})
    assert not (tmp_path / "a.png").exists()


def test_a_foreign_png_is_a_user_error(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "foreign.png")
    with pytest.raises(UserError, match=r"foreign\.png"):
        read_metadata(tmp_path / "foreign.png")
