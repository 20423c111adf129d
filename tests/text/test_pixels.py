"""Preparing images, against CLIP's own image processor."""

import jax.numpy as jnp
import numpy as np
import pytest
from difflax.text.pixels import CLIP_MEAN, CLIP_STD, PixelConfig, preprocess_images


def smooth_image(height, width):
    y, x = np.mgrid[:height, :width] / 20
    return np.stack([np.sin(x + y), np.cos(x - 2 * y), np.sin(3 * x)], -1).astype(np.float32) / 2 + 0.5


@pytest.mark.parametrize(
    ("height", "width", "size"), [(64, 64, 32), (50, 91, 32), (75, 40, 32), (20, 24, 32)]
)
def test_resize_and_crop_as_clips_image_processor(height, width, size):
    from PIL import Image

    image = np.round(smooth_image(height, width) * 255).astype(np.uint8)
    scale = size / min(height, width)
    edges = (size, int(width * scale)) if height <= width else (int(height * scale), size)
    resized = np.asarray(Image.fromarray(image).resize(edges[::-1], Image.Resampling.BICUBIC)) / 255
    top, left = (edges[0] - size) // 2, (edges[1] - size) // 2
    expected = (resized[top : top + size, left : left + size] - CLIP_MEAN) / CLIP_STD
    ours = preprocess_images(jnp.asarray(image[None] / 255, jnp.float32), size)[0]
    # One step of eight bits, which the reference rounds to between its two passes.
    np.testing.assert_allclose(ours, expected, atol=1.1 / 255 / min(CLIP_STD))


@pytest.mark.parity
@pytest.mark.parametrize(("height", "width"), [(60, 91), (75, 47)])
def test_agrees_with_transformers(height, width):
    pytest.importorskip("torch")
    from transformers import CLIPImageProcessorPil

    config = PixelConfig(size=32)
    image = np.round(smooth_image(height, width) * 255).astype(np.uint8)
    theirs = CLIPImageProcessorPil(**config.to_config())(image, return_tensors="np")["pixel_values"]
    ours = preprocess_images(
        jnp.asarray(image[None] / 255, jnp.float32), config.size, config.mean, config.std
    )
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), atol=1.1 / 255 / min(CLIP_STD))


def test_an_image_of_the_right_size_is_only_normalised():
    image = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    out = preprocess_images(jnp.asarray(image), 8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    np.testing.assert_allclose(out, 2 * image - 1, atol=1e-6)


def test_what_the_cubic_kernel_overshoots_is_clipped():
    step = jnp.zeros((1, 16, 16, 3)).at[:, :, 8:].set(1.0)
    out = preprocess_images(step, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert (out.min(), out.max()) == (0, 1)


def test_config_is_written_and_read_again():
    config = PixelConfig(size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert PixelConfig.from_config(config.to_config()) == config


def test_old_files_state_the_crop_as_a_number():
    assert PixelConfig.from_config({"crop_size": 224}) == PixelConfig(size=224)
