"""The size and the frame of an image (Stable Diffusion XL's micro-conditioning)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from difflax.core.types import Batch, Conditioning, UserError
from difflax.generation.conditions.base import Condition, Encoders, Told
from difflax.generation.rows import Rows
from difflax.models.size_conditioning import SCORE_NUMBERS, SIZE_NUMBERS, MicroConditioning, numbers_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """What the network is told of size and frame.

    Attributes:
        micro: ``None`` for the numbers of a whole image of the size that is made.
    """

    micro: MicroConditioning | None = None


@dataclasses.dataclass(frozen=True)
class Size(Condition):
    """Original size, corner of the cut and size that is made: XL's base."""

    name: ClassVar[str] = "size"
    Options: ClassVar[type] = SizeOptions
    count: ClassVar[int] = SIZE_NUMBERS

    def encode(self, told: Told, rows: Rows, encoders: Encoders) -> Told:
        micro = rows.options[self.name].micro or MicroConditioning()
        positive, negative = (
            jnp.broadcast_to(numbers, (len(rows.prompts), len(numbers)))
            for numbers in micro.numbers(self.count, rows.height, rows.width)
        )
        return Told(
            tuple(dataclasses.replace(p, time_ids=positive) for p in told.positives),
            dataclasses.replace(told.negative, time_ids=negative),
        )

    def of_batch(self, conditioning: Conditioning, batch: Batch, size: tuple[int, int]) -> Conditioning:
        return dataclasses.replace(conditioning, time_ids=numbers_of(batch, self.count, size))


@dataclasses.dataclass(frozen=True)
class SizeAndScore(Size):
    """Original size, corner of the cut and aesthetic score: XL's refiner, which goes on from what another
    model made.
    """

    name: ClassVar[str] = "size_and_score"
    begun: ClassVar[bool] = True
    count: ClassVar[int] = SCORE_NUMBERS

    def check(self, request) -> None:
        if request.image is None and request.denoising_start is None:
            raise UserError(
                "this checkpoint is a refiner, which makes no image from noise: give image, or the base's"
                " latents and denoising_start"
            )

    def check_data(self, source) -> None:
        if not getattr(source, "score_key", ""):
            raise UserError(
                f"the network reads {SCORE_NUMBERS} numbers, the last an aesthetic score, but config.data"
                f" has no scores: name their key (config.data.score_key) or a network that reads"
                f" {SIZE_NUMBERS} numbers"
            )
