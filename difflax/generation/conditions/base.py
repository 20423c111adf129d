"""What a kind of condition is: what it asks of a request, and what it tells the network.

To add one, write its class in a file of its own and its line in `CONDITIONS`; a family of checkpoints whose
network reads it names it. Nothing else knows it: its options become arguments of a call and flags of the
command line by themselves.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float

from difflax.core.types import Batch, Conditioning
from difflax.diffusion.guidance import Guidance
from difflax.generation.rows import Rows
from difflax.models.autoencoder import Autoencoder
from difflax.text.prompts import PromptEncoder


@dataclasses.dataclass(frozen=True)
class Told:
    """What the network is told, one row an image.

    Attributes:
        positives: what to go towards, one for each prompt that the guidance reads.
        negative: what to go away from.
    """

    positives: tuple[Conditioning, ...]
    negative: Conditioning

    def with_fields(self, **fields: Any) -> "Told":
        """The same with other fields of every `Conditioning`."""
        positives = tuple(dataclasses.replace(positive, **fields) for positive in self.positives)
        return Told(positives, dataclasses.replace(self.negative, **fields))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoders:
    """The parts of a model that turn what a request holds into arrays.

    Attributes:
        null: the condition of dropped captions, one row; ``null_is_zero`` where it is no encoded text.
        encode_images: images [b, h, w, c] in [-1, 1] to latents.
    """

    text: PromptEncoder
    null: Conditioning
    null_is_zero: bool
    autoencoder: Autoencoder
    encode_images: Callable[[Float[np.ndarray, "b h w c"]], Float[Array, "b lh lw lc"]]


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a kind that has none."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """A kind of condition that a network reads beside the noisy image.

    Attributes:
        name: how families name it.
        Options: a frozen dataclass of the arguments of a call that are this kind's own, with their defaults;
            its docstring says what they mean.
        takes_image, takes_mask: whether the network itself reads the picture or the mask of a request. The
            run then starts from noise unless a strength below 1 is given.
        begun: whether the network only goes on from what another model, or a picture, begins.
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    takes_image: ClassVar[bool] = False
    takes_mask: ClassVar[bool] = False
    begun: ClassVar[bool] = False

    def check(self, request: Any) -> None:
        """Refuses a `Request` that lacks what this kind needs, or has what does not go with it.

        Raises:
            UserError: in one line.
        """

    def encode(self, told: Told, rows: Rows, encoders: Encoders) -> Told:
        """``told`` with this kind's part."""
        return told

    def guide(self, guidance: Guidance, rows: Rows) -> Guidance:
        """The guidance at the strengths that are this kind's options."""
        return guidance

    def check_data(self, source: Any) -> None:
        """Refuses data to train on that lack what this kind needs.

        Raises:
            UserError: in one line.
        """

    def of_batch(self, conditioning: Conditioning, batch: Batch, size: tuple[int, int]) -> Conditioning:
        """``conditioning`` with this kind's part, from a batch of the loader, in training.

        Args:
            size: height and width of the batch's images, in pixels.
        """
        return conditioning
