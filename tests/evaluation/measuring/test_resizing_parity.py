"""Resizing against the packages whose it is."""

import numpy as np
import pytest
from difflax.evaluation.measuring import resizing
from PIL import Image

from tests.fixtures.inception import pictures

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

IMAGES = [*pictures(0, 5), *pictures(1, 1, (299, 300)), *pictures(2, 2, (310, 480))]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: "x".join(map(str, image.shape[:2])))
def test_clean_is_clean_fids(image):
    module = pytest.importorskip("cleanfid.resize")
    expected = module.make_resizer("PIL", False, "bicubic", (299, 299))(image)
    np.testing.assert_array_equal(resizing.RESIZES["clean"].apply(image, 299), expected)


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: "x".join(map(str, image.shape[:2])))
def test_legacy_is_torch_fidelitys(image):
    module = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    tensor = torch.tensor(image).permute(2, 0, 1)[None].float()
    expected = module.interpolate_bilinear_2d_like_tensorflow1x(tensor, (299, 299), align_corners=False)
    found = resizing.RESIZES["legacy"].apply(image, 299)
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0), atol=2e-5)


@pytest.mark.parametrize("image", IMAGES[:5], ids=lambda image: "x".join(map(str, image.shape[:2])))
def test_dinos_and_clips_are_torchvisions(image):
    from torchvision import transforms as t

    picture, bicubic = Image.fromarray(image), t.InterpolationMode.BICUBIC
    to_square = t.Resize((48, 48), bicubic)
    np.testing.assert_array_equal(resizing.square(image, 48), np.asarray(to_square(picture)))
    to_crop = t.Compose([t.Resize(40, bicubic), t.CenterCrop(40)])
    edges = np.asarray(t.Resize(40, bicubic)(picture)).shape[:2]
    found, expected = resizing.shorter_edge(image, 40), np.asarray(to_crop(picture))
    if (max(edges) - 40) % 2 == 0:  # torchvision rounds half a pixel to even, CLIP's processor down
        np.testing.assert_array_equal(found, expected)
    assert found.shape == (40, 40, 3)


def test_cmmds_is_a_crop_and_pillows_bicubic():
    for image in IMAGES[:3]:
        height, width, _ = image.shape
        edge = min(height, width)
        left, top = (width - edge) // 2, (height - edge) // 2
        picture = Image.fromarray(image).crop((left, top, left + edge, top + edge))
        expected = picture.resize((33, 33), Image.BICUBIC)
        np.testing.assert_array_equal(resizing.centre_square(image, 33), np.asarray(expected))
