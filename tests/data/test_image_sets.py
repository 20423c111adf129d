"""Images that are measured, from folders and arrays."""

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.data.image_sets import open_images

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)


def read(images):
    found = open_images(images, "--images")
    return [found.pixels(item) for item in found]


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    place = tmp_path / "pictures"
    for number, image in enumerate(IMAGES):
        path = place / f"{number // 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[: 3 + number]).save(path)
    return place


def test_a_folder_is_read_in_the_order_of_its_paths(folder):
    found = read(folder)
    assert len(open_images(folder, "--images")) == 5
    for number, image in enumerate(found):
        np.testing.assert_array_equal(image, IMAGES[number, : 3 + number])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_row_by_row(tmp_path, save):
    save(tmp_path / "samples.npz", IMAGES)
    np.testing.assert_array_equal(read(tmp_path / "samples.npz"), IMAGES)
    assert len(open_images(tmp_path / "samples.npz", "--images")) == 5


def test_arrays_and_npy_files(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    for given in (IMAGES, IMAGES / np.float32(255), tmp_path / "images.npy"):
        np.testing.assert_array_equal(read(given), IMAGES)


def test_a_fingerprint_is_of_the_contents_and_their_order(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    first = open_images(folder, "--images").fingerprint()
    assert open_images(copy, "--images").fingerprint() == first
    (copy / "0" / "0.png").rename(copy / "9.png")
    assert open_images(copy, "--images").fingerprint() != first


def test_what_pillow_shows_and_not_what_a_viewer_shows(tmp_path):
    """Orientation and opacity are left alone, as the packages that measure leave them."""
    from PIL import Image

    picture = Image.fromarray(IMAGES[0]).convert("RGBA")
    picture.putalpha(0)
    exif = Image.Exif()
    exif[274] = 6  # turned
    picture.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path)[0], IMAGES[0])


NAN = np.full((2, 4, 4, 3), 0.5, np.float32)
NAN[1, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (NAN, "the first is image 1"),
        (NAN[:1] + 1, "bring them to [0, 1]"),
        (IMAGES[0], "shape (6, 7, 3)"),
        (IMAGES[:0], "no image"),
        (IMAGES.astype(np.int32), "images of int32"),
        ("nowhere", "no such folder"),
    ],
)
def test_bad_images_are_one_line(given, says):
    with pytest.raises(UserError) as raised:
        open_images(given, "--images")
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"mu": np.zeros(3)}, "no images arr_0, only mu"),
        ({"arr_0": IMAGES.astype(np.float32)}, "float32"),
        ({"arr_0": IMAGES[..., 0]}, "(5, 6, 7)"),
        ({"arr_0": np.array([None, {}], object)}, "object"),
    ],
)
def test_bad_npz_files_are_one_line(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError) as raised:
        open_images(tmp_path / "a.npz", "--images")
    assert says in str(raised.value)


def test_damaged_files_are_one_line(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK no zip")
    (tmp_path / "b.npy").write_bytes(b"no array")
    for name in ("a.npz", "b.npy", "c.npz"):
        with pytest.raises(UserError, match=r"NumPy file|no such file"):
            open_images(tmp_path / name, "--images")
