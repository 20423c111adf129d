"""Pictures and masks at the door: from what users hold to what networks read."""

from typing import Any

import numpy as np
from jaxtyping import Float

from difflax.core.types import UserError


def read_images(images: Any, count: int, channels: int) -> Float[np.ndarray, "b h w c"]:
    """``count`` images in [-1, 1] from one ``[h, w, c]`` or several ``[b, h, w, c]``.

    Args:
        images: uint8, or floating point in [0, 1]; arrays, or pictures of Pillow (or a list of them).
        count: one image serves all.

    Raises:
        UserError: of another shape, number or range.
    """
    array = _array(images)
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[-1] != channels:
        raise UserError(
            f"image has shape {array.shape}: give [height, width, {channels}], or a batch of them"
        )
    if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= 0 and array.max() <= 1):
        raise UserError("image must be uint8, or floating point in [0, 1]")
    return _rows(array.astype(np.float32) * 2 - 1, count, "image")


def read_masks(masks: Any, count: int, height: int, width: int) -> Float[np.ndarray, "b h w 1"]:
    """``count`` masks, 1 where the image is to be made and 0 where it is kept.

    Args:
        masks: ``[h, w]``, or several: truth values, uint8 (white is made), or floating point in [0, 1]; more
            than a half is made.
        count: one mask serves all.

    Raises:
        UserError: of another size, number or range, or nothing to make in it.
    """
    array = _array(masks)
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    array = array.astype(np.float32)
    if array.ndim == 2:
        array = array[None]
    if array.ndim == 4 and array.shape[-1] in (1, 3):
        array = array.mean(-1)
    if array.ndim != 3 or array.shape[1:] != (height, width):
        raise UserError(f"mask has shape {array.shape}: it must be as large as the image, {height} × {width}")
    if not (array.min() >= 0 and array.max() <= 1):
        raise UserError("mask must hold truth values, uint8, or floating point in [0, 1]")
    array = (array >= 0.5).astype(np.float32)[..., None]
    if not array.any(axis=(1, 2, 3)).all():
        raise UserError("mask: nothing in it is above a half, so there is nothing to make")
    return _rows(array, count, "mask")


def _array(value: Any) -> np.ndarray:
    if isinstance(value, list | tuple):
        return np.stack([np.asarray(item) for item in value])
    return np.asarray(value)


def _rows(array: np.ndarray, count: int, name: str) -> np.ndarray:
    if len(array) not in (1, count):
        raise UserError(f"{name}: {len(array)} given for {count} images")
    return np.broadcast_to(array, (count, *array.shape[1:]))
