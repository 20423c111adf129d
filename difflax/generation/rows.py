"""What a run makes, one row an image: the arguments of a `Request` once they are checked."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float, UInt32

from difflax.core.spelling import shown
from difflax.core.types import UserError

Begins = Literal["noise", "image", "inversion", "latents"]
"""What a run starts from: noise, the noised picture, the picture's DDIM inversion, or latents that another
run handed over.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """The checked arguments of a call, one row an image.

    Attributes:
        prompts, negatives: ``None`` for no negative prompt, which is the condition of dropped captions.
        parts: how many prompts, joined by " AND ", a prompt holds.
        seeds: of the noise.
        scales: of the guidance, where each image has its own.
        latents: the noise or the latents to start from, ``None`` to draw noise.
        height, width: of the images, in pixels.
        shape: of one latent.
        image, mask: in [-1, 1], and 1 where the image is made anew.
        source: the prompt that describes ``image``, under which it is inverted.
        strength: the share of the steps that is taken.
        begins: what the run starts from.
        start, end: the share of the run that is left to another model before and after.
        options: what the kinds of condition are given beside this, by the kind's name.
    """

    prompts: Sequence[str]
    negatives: Sequence[str] | None
    parts: int
    seeds: UInt32[np.ndarray, " b"]
    latents: Float[Array, "b lh lw lc"] | None
    height: int
    width: int
    shape: tuple[int, int, int]
    image: Float[np.ndarray, "b h w c"] | None = None
    mask: Float[np.ndarray, "b h w 1"] | None = None
    source: str | None = None
    strength: float | int = 1.0
    begins: Begins = "noise"
    start: float | None = None
    end: float | None = None
    scales: Float[np.ndarray, " b"] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def latent_mask(self) -> Float[np.ndarray, "b lh lw 1"]:
        """The mask at the latents' size."""
        height, width, _ = self.shape
        edge_h, edge_w = self.mask.shape[1] // height, self.mask.shape[2] // width
        return self.mask[:, ::edge_h, ::edge_w]

    def of_source(self) -> "Rows":
        """The same images as they are described before they are edited."""
        return dataclasses.replace(self, prompts=[self.source] * len(self.prompts), negatives=None, parts=1)


def _is_scalar(value: Any, *kinds: str) -> bool:
    """Whether NumPy counts a value's type, an array's without axes too, among ``kinds`` of numbers, see
    `numpy.isdtype`.
    """
    kind = value.dtype if getattr(value, "shape", None) == () else type(value)
    return np.isdtype(np.dtype(kind), kinds)


def finite(value: Any, name: str) -> float:
    """A number of a request.

    Raises:
        UserError: it is no finite real number of float32, in which networks and guidances compute.
    """
    try:
        number = float(value) if _is_scalar(value, "integral", "real floating") else math.nan
    except OverflowError:
        number = math.inf
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise UserError(f"{name}={shown(value)}: give a finite number")
    return number


def whole(value: Any, name: str, low: int, high: int = 2**31 - 1) -> int:
    """A whole number of a request, from ``low`` to ``high``.

    Raises:
        UserError: it is none.
    """
    if not _is_scalar(value, "integral") or not low <= value <= high:
        least = f"at least {low}" if high == 2**31 - 1 else f"from {low} to {high}"
        raise UserError(f"{name}={shown(value)} must be a whole number, {least}")
    return int(value)
