"""Pictures and masks at the door: from what users hold to what networks read."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from difflax.core.types import UserError
from difflax.data.pictures import mask_pixels, picture_pixels


def read_images(images: Any, count: int, channels: int) -> Float[np.ndarray, "b h w c"]:
    """``count`` images in [-1, 1] from one ``[h, w, c]`` or several ``[b, h, w, c]``.

    Args:
        images: uint8, or floating point in [0, 1]; arrays, or pictures of Pillow (or a list of them).
        count: one image serves all.

    Raises:
        UserError: of another shape, number or range.
    """
    array = _array(images, lambda picture: _in_channels(picture_pixels(picture, "image"), channels))
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
            than a half is made. Or pictures of Pillow, or with colours ``[h, w, 3]`` or ``[h, w, 4]``, of
            which the luma counts, and what is transparent is kept.
        count: one mask serves all.

    Raises:
        UserError: of another size, number or range, or nothing to make in it.
    """
    array = _array(masks, lambda picture: mask_pixels(picture, "mask"))
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    array = array.astype(np.float32)
    if array.ndim == 4 or (array.ndim == 3 and array.shape[:2] == (height, width) != array.shape[1:]):
        array = _luma(array)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[1:] != (height, width):
        raise UserError(f"mask has shape {array.shape}: it must be as large as the image, {height} × {width}")
    if not (array.min() >= 0 and array.max() <= 1):
        raise UserError("mask must hold truth values, uint8, or floating point in [0, 1]")
    array = (array >= 0.5).astype(np.float32)[..., None]
    if not array.any(axis=(1, 2, 3)).all():
        raise UserError("mask: nothing in it is above a half, so there is nothing to make")
    return _rows(array, count, "mask")


@functools.singledispatch
def _array(value: Any, decode: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """What a user holds as an array, pictures of Pillow by ``decode``."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"a picture is given as {type(value).__name__}: {error}") from error
    if array.dtype.kind not in "buif" or not array.size:
        raise UserError(
            f"a picture is given as {type(value).__name__} of shape {array.shape}, {array.dtype}:"
            " give an array of numbers, or a picture of Pillow"
        )
    return array


@_array.register
def _(picture: Image.Image, decode: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    return decode(picture)


@_array.register(list)
@_array.register(tuple)
def _(values: Sequence, decode: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    arrays = [_array(value, decode) for value in values]
    if len({array.shape for array in arrays}) != 1:
        raise UserError(
            f"images of the shapes {', '.join(str(a.shape) for a in arrays[:8])}: give equal ones"
        )
    return np.stack(arrays)


def _in_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """A grey picture in as many equal channels."""
    return np.repeat(pixels, channels, axis=-1) if pixels.shape[-1] == 1 else pixels


def _luma(array: np.ndarray) -> np.ndarray:
    """Grey levels of colours by ITU-R 601, over black where there is an opacity."""
    if array.shape[-1] not in (3, 4):
        return array[..., 0] if array.shape[-1] == 1 else array
    grey = array[..., :3] @ np.array([0.299, 0.587, 0.114], array.dtype)
    return grey if array.shape[-1] == 3 else grey * array[..., 3]


def _rows(array: np.ndarray, count: int, name: str) -> np.ndarray:
    if len(array) not in (1, count):
        raise UserError(f"{name}: {len(array)} given for {count} images")
    return np.broadcast_to(array, (count, *array.shape[1:]))
