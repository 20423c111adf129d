"""What Stable Diffusion XL's networks are told of an image's size and frame beside its text.

Podell et al. 2023 (https://arxiv.org/abs/2307.01952), section 2.2: every image was resized and cut to be
trained on, and the network is told from what: then small and badly cut images can be trained on without
teaching blur and cut heads, and a prompt asks for a large and whole one. The base reads six numbers, the
refiner five:

    original height, width, top, left of the cut, height, width of what is made
    original height, width, top, left of the cut, aesthetic score (about 1 to 10)

all in pixels; the cut's corner is measured in the resized image.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from difflax.core.types import Batch, UserError

SIZE_NUMBERS, SCORE_NUMBERS = 6, 5
"""How many numbers the base and the refiner read."""

NAMES = {SIZE_NUMBERS: "size", SCORE_NUMBERS: "size_and_score"}
"""The kinds of condition of networks with so many numbers."""

Pair = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicroConditioning:
    """The numbers of a call, by diffusers' names; heights before widths, in pixels.

    Attributes:
        original_size: height and width in pixels, of which a small one asks for the look of enlarged images;
            ``None``: the size that is made.
        crops_coords_top_left: pixels above and left of the cut; (0, 0) asks for a whole and centred object.
        target_size: height and width in pixels; ``None``: the size that is made.
        aesthetic_score: how good the image is to look, from 0 to 10; read by refiners alone.
        negative_original_size, negative_crops_coords_top_left, negative_target_size: what guidance goes away
            from, in pixels; ``None``: the same as without "negative".
        negative_aesthetic_score: the score that guidance goes away from; read by refiners alone.

    Raises:
        UserError: a size that is not two numbers, positive ones but for the corner.
    """

    original_size: Pair | None = None
    crops_coords_top_left: Pair = (0, 0)
    target_size: Pair | None = None
    aesthetic_score: float | int = 6.0
    negative_original_size: Pair | None = None
    negative_crops_coords_top_left: Pair | None = None
    negative_target_size: Pair | None = None
    negative_aesthetic_score: float | int = 2.5

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if "score" in field.name:
                if not np.isfinite(value):
                    raise UserError(f"{field.name} = {value}: give a finite number")
            elif len(value) != 2 or min(value) < (0 if "crops" in field.name else 1):
                raise UserError(f"{field.name} = {value}: give two numbers of pixels, height and width")

    def numbers(
        self, count: int, height: int, width: int
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """The numbers of the positive and of the negative condition, for a network that reads ``count``."""
        original, target = self.original_size or (height, width), self.target_size or (height, width)
        corner = self.crops_coords_top_left
        positive = (original, corner, target, self.aesthetic_score)
        negative = (
            self.negative_original_size or original,
            corner if self.negative_crops_coords_top_left is None else self.negative_crops_coords_top_left,
            self.negative_target_size or target,
            self.negative_aesthetic_score,
        )
        return _flat(count, *positive), _flat(count, *negative)


def _flat(count: int, original: Pair, corner: Pair, target: Pair, score: float | int) -> Any:
    last = (score,) if count == SCORE_NUMBERS else target
    return np.asarray([*original, *corner, *last], np.float32)


def reads_sizes(unet: Mapping[str, Any]) -> bool:
    """Whether a UNet of these options reads numbers of size and frame beside a pooled vector."""
    return unet.get("addition_embed_type") == "text_time"


def size_conditions(unet: Mapping[str, Any], pooled_width: int, where: str) -> tuple[str, ...]:
    """The kind of condition that a UNet of these options reads of sizes, beside a pooled vector of a width;
    none for most.

    Raises:
        UserError: its vector has room for another number of them.
    """
    if not reads_sizes(unet):
        return ()
    width, each = unet["projection_class_embeddings_input_dim"], unet["addition_time_embed_dim"]
    numbers, rest = divmod(width - pooled_width, each)
    if rest or numbers not in NAMES:
        raise UserError(
            f"{where} reads a vector of {width} (projection_class_embeddings_input_dim), which a pooled"
            f" vector of {pooled_width} and {SCORE_NUMBERS} or {SIZE_NUMBERS} numbers of {each}"
            " (addition_time_embed_dim) do not make: they do not belong together"
        )
    return (NAMES[numbers],)


def pooled_width(unet: Mapping[str, Any], *, scored: bool) -> int:
    """The width of the pooled vector that a UNet of these options reads beside the numbers; ``scored``:
    whether a score is one of them.
    """
    width = unet["projection_class_embeddings_input_dim"]
    if not reads_sizes(unet):
        return width
    return width - (SCORE_NUMBERS if scored else SIZE_NUMBERS) * unet["addition_time_embed_dim"]


def numbers_of(batch: Batch, count: int, target: Pair) -> Float[np.ndarray, "b k"]:
    """The numbers of a loader's batch of height and width ``target``, for a network that reads ``count``."""
    target = np.broadcast_to(target, batch["corner"].shape)
    last = batch["score"][:, None] if count == SCORE_NUMBERS else target
    return np.concatenate([batch["original_size"], batch["corner"], last], axis=1).astype(np.float32)
