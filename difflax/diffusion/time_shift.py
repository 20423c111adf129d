"""How far the times of a flow are moved towards the noise.

Larger images need more noise to lose their structure, so flows are trained and sampled at times ``t' = s t /
(1 + (s - 1) t)`` (Esser et al., SD3, arXiv:2403.03206, eq. 23), which adds ``-2 log(s)`` to the log-SNR at
every t. Schedules, time grids and time samplers say how far with a `TimeShift`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Array

from difflax.diffusion.checks import require

OF_MU: dict[str, Callable[[float], float]] = {"exponential": np.exp, "linear": float}
"""The shift s of a mu in each kind, diffusers' ``time_shift_type``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeShift:
    """A constant ``s``, or one that grows with the image through mu, which is linear in its number of tokens.

    The defaults of ``tokens`` are FLUX's, whose mu is 0.5 and 1.15 there (black-forest-labs/flux,
    ``get_schedule``).

    Attributes:
        shift: s of every image, positive; 1 moves nothing.
        mu: at both numbers of ``tokens``, in place of ``shift``; a line through them for all other numbers.
        kind: s is ``exp(mu)`` ("exponential") or mu itself ("linear"), diffusers' ``time_shift_type``.
    """

    shift: float = 1.0
    mu: tuple[float, float] | None = None
    tokens: tuple[int, int] = (256, 4096)
    kind: Literal["exponential", "linear"] = "exponential"

    def __post_init__(self):
        require(0 < self.shift < np.inf, f"shift must be positive, got {self.shift}")
        require(self.tokens[0] < self.tokens[1], f"base_tokens must be below max_tokens, got {self.tokens}")

    def of(self, tokens: int) -> "TimeShift":
        """The constant shift of an image of so many tokens."""
        if self.mu is None:
            return self
        (low, high), (first, last) = self.mu, self.tokens
        mu = low + (tokens - first) / (last - first) * (high - low)
        return TimeShift(shift=float(OF_MU[self.kind](mu)))

    def __call__(self, t: float | np.ndarray | Array) -> float | np.ndarray | Array:
        """Where the times ``t`` in [0, 1] go.

        Raises:
            ValueError: the shift is of no image yet, see `of`.
        """
        require(self.mu is None, "this shift follows the image: take that of a number of tokens")
        return self.shift * t / (1 + (self.shift - 1) * t)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolutionShift:
    """The `TimeShift` of images of one size, in the words of a config: ``exp(mu)``, mu linear in tokens.

    Attributes:
        tokens: of an image.
        base_tokens: at which mu is ``base_mu``.
        max_tokens: at which mu is ``max_mu``.
        base_mu: the shift's logarithm at ``base_tokens``.
        max_mu: the shift's logarithm at ``max_tokens``.
    """

    tokens: int = 1024
    base_tokens: int = 256
    max_tokens: int = 4096
    base_mu: float = 0.5
    max_mu: float = 1.15

    def __post_init__(self):
        require(self.tokens > 0, f"tokens must be positive, got {self.tokens}")
        require(self.base_tokens < self.max_tokens, "base_tokens must be below max_tokens")

    @property
    def time_shift(self) -> TimeShift:
        line = TimeShift(mu=(self.base_mu, self.max_mu), tokens=(self.base_tokens, self.max_tokens))
        return line.of(self.tokens)
