"""The types that every room of the house shares.

Images are NHWC, float in [-1, 1] inside and uint8 or [0, 1] at the door; time runs from ``t = 0`` (data)
to ``t = 1`` (noise).
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

Params = PyTree
"""A network's parameters, a nested mapping of arrays whose paths mirror the weights of the Hub."""


@flax.struct.dataclass
class Conditioning:
    """What a network is told beside the noisy image; a field that a network does not use stays ``None``.

    Attributes:
        context: token embeddings for cross- or joint attention.
        context_mask: which tokens may be attended to (True: attend); ``None`` attends to all, as Stable
            Diffusion does.
        pooled: one text vector an example (SDXL, SD3).
        time_ids: micro-conditioning numbers (SDXL: original size, crop, target size), in pixels.
        class_labels: class indices for class-conditional networks.
        image: channels concatenated to the noisy image (inpainting, editing).
    """

    context: Float[Array | np.ndarray, "b n d"] | None = None
    context_mask: Bool[Array | np.ndarray, "b n"] | None = None
    pooled: Float[Array | np.ndarray, "b p"] | None = None
    time_ids: Float[Array | np.ndarray, "b k"] | None = None
    class_labels: Int[Array | np.ndarray, " b"] | None = None
    image: Float[Array | np.ndarray, "b h w ci"] | None = None

    def joined(self, other: "Conditioning") -> "Conditioning":
        """The same with what ``other`` says."""
        return self.replace(**{name: value for name, value in vars(other).items() if value is not None})


Network = Callable[[Float[Array, "b h w c"], Float[Array, " b"], Conditioning], Float[Array, "b h w co"]]
"""``network(x, time, conditioning) -> out``: an NNX module with its parameters, or any such function."""

Batch = dict[str, Any]
"""One batch of the loader, by field name: ``image`` ``[b, h, w, c]``, ``caption`` strings or token ids, …"""


class UserError(Exception):
    """Bad input from the user: one line that says what is wrong, where, and what to do.

    The command line prints the line and exits with status 2; nothing has been written when it is raised.
    What a long text says between its beginning and its end is counted and not said.
    """

    LONGEST = 500

    def __init__(self, text: str):
        line = " ".join(str(text).splitlines())
        left = len(line) - self.LONGEST
        if left > 0:
            cut = left + 40
            line = f"{line[:300]} … ({cut:,} characters left out) … {line[300 + cut :]}"
        super().__init__(line)


class BadExample(UserError):
    """An example that cannot be used: its key and what is wrong. Training goes on without a few of them."""


REQUEUE = 75
"""Exit status of a run that is to be started again: EX_TEMPFAIL of BSD's sysexits.h."""


CTRL_C = 130
"""Exit status after Ctrl-C: 128 and the signal's number, as shells have it."""


class Interrupted(Exception):
    """A run that ended early, as the machine was wanted back or a part of it was lost; it goes on from its
    newest checkpoint.

    The command line prints the line and exits with ``status``: `REQUEUE`, or `CTRL_C` where a person asked.
    """

    def __init__(self, message: str, status: int = REQUEUE):
        super().__init__(message)
        self.status = status
