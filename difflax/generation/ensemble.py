"""Two models in one run: Stable Diffusion XL's base makes the picture, its refiner the last details.

An ensemble of expert denoisers (Balaji et al. 2022, https://arxiv.org/abs/2211.01324): each is trained for
its own range of noise, and the run changes from one to the other at a noise level, without noising anew.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from difflax.core.several import several
from difflax.core.types import UserError
from difflax.diffusion.schedules import NoiseLevel
from difflax.generation.pipeline import Pipeline
from difflax.generation.request import Request, takes_request
from difflax.generation.settings import part_of, run_levels

ALONE = ("image", "mask", "strength", "invert", "denoising_start", "denoising_end", "trajectory")
"""Arguments of a call that do not go with two models."""


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
        if _refines(self.base):
            raise UserError(
                "a refiner is given as the base: it makes no image from noise, give the base model"
            )
        if not _refines(self.refiner):
            raise UserError("a base model is given as the refiner: give one that reads an aesthetic score")
        if not 0 < self.handover < 1:
            raise UserError(f"handover={self.handover} must lie in (0, 1)")
        size = (self.base.defaults.height, self.base.defaults.width)
        shapes = [p.model.autoencoder.latent_shape(*size) for p in (self.base, self.refiner)]
        if shapes[0] != shapes[1]:
            raise UserError(f"base and refiner do not belong together: their latents are {shapes}")

    @takes_request
    def __call__(self, *arguments: Any, **named: Any) -> Float[np.ndarray, "b h w c"]:
        """Images of a `Request`. What is not given is each model's own, the number of steps and the size the
        base's.

        Raises:
            UserError: also where both models do not step on the same noise levels.
        """
        request = Request.of(*arguments, **named)
        for name in ALONE:
            if getattr(request, name) not in (None, False):
                raise UserError(f"{name} does not go with a refiner: refine an image with the refiner alone")
        usual = self.base.defaults
        request = dataclasses.replace(
            request,
            num_steps=usual.num_steps if request.num_steps is None else request.num_steps,
            height=usual.height if request.height is None else request.height,
            width=usual.width if request.width is None else request.width,
        )
        self._check_levels(request.num_steps)
        made = self.base(dataclasses.replace(request, denoising_end=self.handover))
        return self.refiner(
            dataclasses.replace(
                request,
                **_one_an_image(request),
                latents=made,
                denoising_start=self.handover,
            )
        )

    def _check_levels(self, steps: int) -> None:
        end = self._part(self.base, steps, None, self.handover)[-1]
        start = self._part(self.refiner, steps, self.handover, None)[0]
        if not np.isclose(end.log_snr, start.log_snr, atol=1e-3):
            raise UserError(
                f"the base ends at log-SNR {float(end.log_snr):.3f}, the refiner starts at"
                f" {float(start.log_snr):.3f}: give both the same scheduler"
            )

    def _part(self, pipeline: Pipeline, steps: int, start: float | None, end: float | None) -> NoiseLevel:
        levels = run_levels(pipeline.model, pipeline.defaults, steps)
        return part_of(levels, pipeline.model, pipeline.defaults, start, end)


def _refines(pipeline: Pipeline) -> bool:
    return any(condition.begun for condition in pipeline.model.conditions)


def _one_an_image(request: Request) -> dict[str, Any]:
    """The prompts and seeds of the base's images, which are successive for the images of a prompt."""
    prompts, images = several(request.prompt), range(request.num_images)
    named: dict[str, Any] = {"prompt": [one for one in prompts for _ in images], "num_images": 1}
    if request.negative_prompt is not None:
        negatives = several(request.negative_prompt, len(prompts))
        named["negative_prompt"] = [one for one in negatives for _ in images]
    seeds = several(request.seed, len(prompts))
    return named | {"seed": [(int(one) + i) % 2**32 for one in seeds for i in images]}
