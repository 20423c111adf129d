"""What a pipeline is asked for: the arguments of a call, checked, one row an image."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from difflax.core.types import UserError
from difflax.diffusion.schedules.base import NoiseLevel
from difflax.diffusion.time_grids.sequences import levels_from
from difflax.generation.images import read_images, read_masks
from difflax.models.size_conditioning import MicroConditioning

if typing.TYPE_CHECKING:
    from difflax.generation.pipeline import Pipeline


Begins = Literal["noise", "image", "latents"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """The checked arguments of a call, one row an image.

    Attributes:
        shape: of one latent.
        image, mask: [b, h, w, c] in [-1, 1] and [b, h, w, 1].
        strength: the share of the steps that is taken.
        begins: what the run starts from: noise, the noised image, or the latents that another run handed
            over.
        start, end: the share of the run that is left to another model before and after.
        time_ids: of the positive and of the negative condition; ``None`` for a network that reads none.
    """

    prompts: list[str]
    negatives: list[str] | None
    seeds: np.ndarray
    latents: Any
    height: int
    width: int
    shape: tuple[int, int, int]
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    strength: float = 1.0
    begins: Begins = "noise"
    start: float | None = None
    end: float | None = None
    time_ids: tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]] | None = None

    @property
    def latent_mask(self) -> Float[np.ndarray, "b lh lw 1"]:
        """The mask at the latents' size."""
        height, width, _ = self.shape
        edge_h, edge_w = self.mask.shape[1] // height, self.mask.shape[2] // width
        return self.mask[:, ::edge_h, ::edge_w]

    @classmethod
    def make(
        cls,
        pipeline: "Pipeline",
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None,
        seed: int | Sequence[int],
        num_images: int,
        latents: Any,
        height: int | None,
        width: int | None,
    ) -> "Request":
        """The text-to-image part; arguments as for a pipeline's call."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise UserError("prompt: the list of prompts is empty, give at least one")
        if num_images < 1:
            raise UserError(f"num_images={num_images} must be at least 1")
        seeds = np.asarray(_each(seed, len(prompts), "seed"), np.uint32)
        negatives = None
        if negative_prompt is not None:
            negatives = np.repeat(
                _each(negative_prompt, len(prompts), "negative_prompt"), num_images
            ).tolist()
        height, width = height or pipeline.height, width or pipeline.width
        shape = pipeline.autoencoder.latent_shape(height, width)
        count = len(prompts) * num_images
        if latents is not None and tuple(latents.shape) != (count, *shape):
            raise UserError(f"latents have shape {tuple(latents.shape)}, {(count, *shape)} is needed")
        return cls(
            prompts=[prompt for prompt in prompts for _ in range(num_images)],
            negatives=negatives,
            seeds=(seeds[:, None] + np.arange(num_images, dtype=np.uint32)).ravel(),
            latents=None if latents is None else jnp.asarray(latents, jnp.float32),
            height=height,
            width=width,
            shape=shape,
        )

    def with_image(self, pipeline: "Pipeline", image: Any, mask: Any, strength: float | None) -> "Request":
        """The same with the picture to start from."""
        if pipeline.fills_masks and (image is None or mask is None):
            raise UserError("this checkpoint fills masks in: give image and mask")
        if pipeline.edits_images:
            self._check_edit(image, mask, strength)
        if pipeline.refines and image is None and self.begins == "noise":
            raise UserError(
                "this checkpoint is a refiner, which makes no image from noise: give image, or the base's"
                " latents and denoising_start"
            )
        if image is not None and self.begins == "latents":
            raise UserError("denoising_start goes on from latents: leave image out")
        if image is None:
            for name, value in (("mask", mask), ("strength", strength)):
                if value is not None:
                    raise UserError(f"{name} is given without an image")
            return self
        if strength is not None and not 0 < strength <= 1:
            raise UserError(f"strength={strength} must lie in (0, 1]")
        images = read_images(image, len(self.prompts), pipeline.autoencoder.channels)
        if images.shape[1:3] != (self.height, self.width):
            raise UserError(
                f"image is {images.shape[1]} × {images.shape[2]} pixels, {self.height} × {self.width} are"
                " wanted: resize it, or give height and width"
            )
        masks = None if mask is None else read_masks(mask, len(self.prompts), self.height, self.width)
        whole = mask is not None or pipeline.edits_images
        share = (1.0 if whole else pipeline.strength) if strength is None else strength
        return dataclasses.replace(
            self,
            image=images,
            mask=masks,
            strength=share,
            # A mask at full strength leaves nothing of what was under it.
            begins="noise" if whole and share == 1 else "image",
        )

    def _check_edit(self, image: Any, mask: Any, strength: float | None) -> None:
        """A checkpoint that edits images starts from noise, and reads the image beside it."""
        if image is None:
            raise UserError("this checkpoint edits images: give image, and as the prompt what to change")
        for name, value in (("mask", mask), ("strength", strength)):
            if value is not None:
                raise UserError(
                    f"{name} does not go with a checkpoint that edits images: image_guidance_scale says how"
                    " much of the image is kept"
                )

    def with_part(self, start: float | None, end: float | None) -> "Request":
        """The same for a part of the run alone."""
        for name, value in (("denoising_start", start), ("denoising_end", end)):
            if value is not None and not 0 < value < 1:
                raise UserError(f"{name}={value} must lie in (0, 1)")
        if start is not None and self.latents is None:
            raise UserError("denoising_start goes on from the latents of another run: give latents")
        if None not in (start, end) and start >= end:
            raise UserError(f"denoising_start={start} must be less than denoising_end={end}")
        begins = self.begins if start is None else "latents"
        return dataclasses.replace(self, start=start, end=end, begins=begins)

    def with_micro(self, pipeline: "Pipeline", micro: MicroConditioning | None) -> "Request":
        """The same with the numbers that the network reads beside the text."""
        if not pipeline.sizes:
            if micro is not None:
                raise UserError("micro is given, but this network reads no sizes: only XL's do")
            return self
        given = MicroConditioning() if micro is None else micro
        return dataclasses.replace(self, time_ids=given.numbers(pipeline.sizes, self.height, self.width))

    def levels(self, pipeline: "Pipeline", levels: NoiseLevel) -> NoiseLevel:
        """The part of a run that is taken.

        Raises:
            UserError: there is no step in it.
        """
        if self.strength < 1:
            levels = levels_from(levels, self.strength)
        levels = pipeline.part_of(levels, self.start, self.end)
        if self.mask is None or pipeline.fills_masks:
            return levels
        return pipeline.options.repainting(levels)


def _each(value: Any, count: int, name: str) -> list:
    """One value for all, or a list with one for each."""
    if isinstance(value, str | int | np.integer):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise UserError(f"{name}: {len(values)} given for {count} prompts")
    return values
