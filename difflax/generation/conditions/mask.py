"""A mask and the image under it, as further channels (inpainting checkpoints)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from difflax.core.types import UserError
from difflax.generation.conditions.base import Condition, Encoders, Told
from difflax.generation.rows import Rows


@dataclasses.dataclass(frozen=True)
class Mask(Condition):
    """The mask at the latents' size, then the latents of the image without what is made anew."""

    name: ClassVar[str] = "mask"
    takes_image: ClassVar[bool] = True
    takes_mask: ClassVar[bool] = True

    def check(self, request) -> None:
        if request.image is None or request.mask is None:
            raise UserError("this checkpoint fills masks in: give image and mask")

    def encode(self, told: Told, rows: Rows, encoders: Encoders) -> Told:
        under = encoders.encode_images(rows.image * (1 - rows.mask))
        return told.with_fields(image=jnp.concatenate([rows.latent_mask, under], axis=-1))
