"""The picture that is edited, as further channels (InstructPix2Pix, Brooks et al., arXiv:2211.09800)."""

import dataclasses
from typing import ClassVar

from difflax.core.types import UserError
from difflax.diffusion.guidance import Guidance
from difflax.generation.conditions.base import Condition, Encoders, Told
from difflax.generation.rows import Rows, finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How the picture counts.

    Attributes:
        image_guidance_scale: of ``two_condition`` guidance: how much an edited image is kept, 1 is off;
            ``None`` for the guidance's own.
    """

    image_guidance_scale: float | int | None = None


@dataclasses.dataclass(frozen=True)
class Picture(Condition):
    """The latents of the picture in the encoder's own numbers, as the network was trained: not scaled to unit
    variance.
    """

    name: ClassVar[str] = "picture"
    Options: ClassVar[type] = PictureOptions
    takes_image: ClassVar[bool] = True

    def check(self, request) -> None:
        if request.image is None:
            raise UserError("this checkpoint edits images: give image, and as the prompt what to change")
        for name, value in (("mask", request.mask), ("strength", request.strength)):
            if value is not None:
                raise UserError(
                    f"{name} does not go with a checkpoint that edits images: image_guidance_scale says how"
                    " much of the image is kept"
                )

    def encode(self, told: Told, rows: Rows, encoders: Encoders) -> Told:
        return told.with_fields(image=encoders.autoencoder.unscale(encoders.encode_images(rows.image)))

    def guide(self, guidance: Guidance, rows: Rows) -> Guidance:
        scale = rows.options[self.name].image_guidance_scale
        return guidance if scale is None else guidance.with_image_scale(finite(scale, "image_guidance_scale"))
