"""How an image becomes a network's input. The resizing decides a Fréchet distance in its first digits (Parmar
et al. 2022, "On Aliased Resizing"), so each is a reference implementation's and stands in the result.

Each takes an image uint8 ``[h, w, 3]`` and gives float32 ``[size, size, 3]`` in [0, 255].
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

Pixels = UInt8[np.ndarray, "h w 3"]
Input = Float[np.ndarray, "s s 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resize:
    """
    Attributes:
        name: in results.
        apply: ``apply(image, size)``.
    """

    name: str
    apply: Callable[[Pixels, int], Input]


def clean(image: Pixels, size: int) -> Input:
    """clean-fid's: each channel as a float image, bicubic with antialiasing, clipped and not rounded."""
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., channel], np.float32)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(channel).clip(0, 255) for channel in channels], axis=-1)


def tensorflow1(image: Pixels, size: int) -> Input:
    """TensorFlow 1's bilinear as torch-fidelity has it, bit for bit: corners are not aligned, pixels' centres
    neither, nothing is antialiased.
    """
    height, width, _ = image.shape

    def along(edge: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = np.arange(size, dtype=np.float32) * np.float32(edge / size)
        low = place.astype(np.int64)
        return low, np.minimum(low + 1, edge - 1), place - low.astype(np.float32)

    (top, bottom, down), (left, right, across) = along(height), along(width)
    pixels, across, down = image.astype(np.float32), across[:, None], down[:, None, None]
    upper, lower = pixels[top], pixels[bottom]
    above = upper[:, left] + (upper[:, right] - upper[:, left]) * across
    below = lower[:, left] + (lower[:, right] - lower[:, left]) * across
    return above + (below - above) * down


def _bicubic(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BICUBIC)


def square(image: Pixels, size: int) -> Input:
    """Pillow's bicubic with antialiasing to a square, in 8 bits: dgm-eval's for DINOv2, transformers' for
    SigLIP.
    """
    return np.asarray(_bicubic(Image.fromarray(image), size, size), np.float32)


def centre_square(image: Pixels, size: int) -> Input:
    """CMMD's: the middle square is cut out, then `square`."""
    height, width, _ = image.shape
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return square(image[top : top + edge, left : left + edge], size)


def shorter_edge(image: Pixels, size: int) -> Input:
    """CLIP's: the shorter edge becomes ``size`` (Pillow's bicubic in 8 bits), then the middle is cut out."""
    height, width, _ = image.shape
    edge = min(height, width)
    # Rounded down, as in torchvision.
    height, width = size * height // edge, size * width // edge
    resized = np.asarray(_bicubic(Image.fromarray(image), width, height), np.float32)
    top, left = (height - size) // 2, (width - size) // 2
    return resized[top : top + size, left : left + size]


RESIZES = {
    "clean": Resize(name="clean-fid: Pillow bicubic, float, not rounded", apply=clean),
    "legacy": Resize(name="torch-fidelity: TensorFlow 1 bilinear", apply=tensorflow1),
}
"""Of Inception, by the name that a user gives."""

SQUARE = Resize(name="Pillow bicubic to a square", apply=square)
CENTRE_SQUARE = Resize(name="centre square, Pillow bicubic", apply=centre_square)
SHORTER_EDGE = Resize(name="Pillow bicubic of the shorter edge, centre crop", apply=shorter_edge)
