"""Two models in one run: Stable Diffusion XL's base makes the picture, its refiner the last details.

An ensemble of expert denoisers (Balaji et al. 2022, https://arxiv.org/abs/2211.01324): each is trained for
its own range of noise, and the run changes from one to the other at a noise level, without noising anew.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from difflax.core.types import UserError
from difflax.diffusion.samplers.base import Sampler
from difflax.generation.pipeline import Pipeline
from difflax.models.size_conditioning import MicroConditioning


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """A base and its refiner.

    Attributes:
        handover: the share of the run that the base makes, in (0, 1).

    Raises:
        UserError: the base is a refiner or the refiner none, or their latents are of different kinds.
    """

    base: Pipeline
    refiner: Pipeline
    handover: float = 0.8

    def __post_init__(self):
        if self.base.refines:
            raise UserError(
                "a refiner is given as the base: it makes no image from noise, give the base model"
            )
        if not self.refiner.refines:
            raise UserError("a base model is given as the refiner: give one that reads an aesthetic score")
        if not 0 < self.handover < 1:
            raise UserError(f"handover={self.handover} must lie in (0, 1)")
        shapes = [
            p.autoencoder.latent_shape(self.base.height, self.base.width) for p in (self.base, self.refiner)
        ]
        if shapes[0] != shapes[1]:
            raise UserError(f"base and refiner do not belong together: their latents are {shapes}")

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float | int | None = None,
        num_steps: int | None = None,
        sampler: str | Sampler | None = None,
        seed: int | Sequence[int] = 0,
        latents: Float[Array | np.ndarray, "b lh lw lc"] | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        num_images: int = 1,
        weighted: bool = False,
        chunked: bool = False,
        micro: MicroConditioning | None = None,
    ) -> Float[np.ndarray, "b h w c"]:
        """Images of prompts; arguments as for a pipeline's call. What is not given is each
        model's own, the number of steps and the size the base's.

        Raises:
            UserError: also where both models do not step on the same noise levels.
        """
        steps = self.base.num_steps if num_steps is None else num_steps
        self._check_levels(steps)
        height, width = height or self.base.height, width or self.base.width
        common = {
            "guidance_scale": guidance_scale,
            "num_steps": steps,
            "sampler": sampler,
            "height": height,
            "width": width,
            "weighted": weighted,
            "chunked": chunked,
            "micro": micro,
        }
        made = self.base(
            prompt,
            negative_prompt,
            seed=seed,
            latents=latents,
            num_images=num_images,
            denoising_end=self.handover,
            **common,
        )
        return self.refiner(
            _repeated(prompt, num_images),
            _repeated(negative_prompt, num_images),
            seed=_seeds(seed, num_images),
            latents=made,
            denoising_start=self.handover,
            **common,
        )

    def _check_levels(self, steps: int) -> None:
        end = self.base.part_of(self.base.levels(steps), None, self.handover)[-1]
        start = self.refiner.part_of(self.refiner.levels(steps), self.handover, None)[0]
        if not np.isclose(end.log_snr, start.log_snr, atol=1e-3):
            raise UserError(
                f"the base ends at log-SNR {float(end.log_snr):.3f}, the refiner starts at"
                f" {float(start.log_snr):.3f}: give both the same scheduler"
            )


def _repeated(prompt: str | Sequence[str] | None, count: int) -> str | list[str] | None:
    if prompt is None:
        return None
    prompts = [prompt] if isinstance(prompt, str) else prompt
    return [one for one in prompts for _ in range(count)]


def _seeds(seed: int | Sequence[int], count: int) -> int | list[int]:
    """Those of the base's images: successive for the images of a prompt."""
    if isinstance(seed, int):
        return seed
    return [one + i for one in seed for i in range(count)]
