"""PNG files that know how they were made: text chunks with prompt, seed, scale, sampler and steps.

Every entry is written twice: as a text chunk of its own, for people and image viewers, and inside one JSON
chunk named ``difflax``, from which it is read back with its type.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image, PngImagePlugin

from difflax.core.files import atomic_write
from difflax.core.types import UserError

JSON_CHUNK = "difflax"


def to_uint8(images: Float[np.ndarray, "... h w c"]) -> UInt8[np.ndarray, "... h w c"]:
    """Images in [0, 1] as bytes, rounded to nearest; values outside are clipped."""
    return np.round(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)


def to_picture(image: Image.Image | Float[np.ndarray, "h w c"] | UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """A PIL image of a float image in [0, 1] or of bytes, with 1, 3 or 4 channels."""
    if isinstance(image, Image.Image):
        return image
    pixels = image if image.dtype == np.uint8 else to_uint8(image)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def save_png(
    path: str | os.PathLike[str],
    image: Image.Image | Float[np.ndarray, "h w c"] | UInt8[np.ndarray, "h w c"],
    metadata: Mapping[str, Any],
) -> None:
    """Writes one PNG with ``metadata`` (JSON values by name) in its text chunks; makes the folder if needed.

    Raises ValueError for an empty name, one over 79 characters, or the reserved name ``difflax`` (PNG
    specification, § 11.3.4), and TypeError for a value that is not JSON.
    """
    chunks = PngImagePlugin.PngInfo()
    for name, value in metadata.items():
        if not 0 < len(name) < 80 or name == JSON_CHUNK:
            raise ValueError(f"{name!r} cannot be the name of a PNG text chunk")
        chunks.add_itxt(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    chunks.add_itxt(JSON_CHUNK, json.dumps(dict(metadata), ensure_ascii=False))
    with atomic_write(path) as file:
        to_picture(image).save(file, format="PNG", pnginfo=chunks)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`save_png` wrote beside the image. Raises UserError if the file is no such PNG."""
    with epath.Path(path).open("rb") as file, Image.open(file, formats=("PNG",)) as picture:
        picture.load()
        chunks = getattr(picture, "text", {})
    if JSON_CHUNK not in chunks:
        raise UserError(f"{os.fspath(path)}: no {JSON_CHUNK!r} text chunk; give a PNG that difflax wrote")
    return json.loads(chunks[JSON_CHUNK])
