"""How much each noise level counts in the loss, stated as a weight on the squared error of a named space."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.levels import NoiseLevel
from difflax.diffusion.predictions import PREDICTIONS, Epsilon, PredictionType


@runtime_checkable
class Weighting(Protocol):
    """``weight(level)`` times the squared error in ``space`` (``None``: the network's own output)."""

    @property
    def space(self) -> PredictionType | None:
        """The space whose squared error the weight multiplies."""
        ...

    def __call__(self, level: NoiseLevel) -> Float[Array, "*n"]:
        """The weight at ``level``."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """Weight 1 on the squared error of ``loss_space``: a prediction type's name, or ``None`` for the output
    itself.
    """

    loss_space: str | None = None

    def __post_init__(self):
        known = [None, *PREDICTIONS]
        require(
            self.loss_space in known,
            f"weighting.loss_space must be one of {', '.join(map(str, known))}, got {self.loss_space!r}",
        )

    @property
    def space(self) -> PredictionType | None:
        return None if self.loss_space is None else PREDICTIONS[self.loss_space]()

    def __call__(self, level: NoiseLevel) -> Float[Array, "*n"]:
        return jnp.ones_like(level.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinSNR:
    """min-SNR-gamma (Hang et al., arXiv:2303.09556, eq. 4 and section 3.4): ``min(SNR, gamma)`` on the error
    of x0.

    Stated on the noise, ``min(1, gamma / SNR)``, it is finite at both ends of time; the loss moves it to the
    network's own space, which gives the paper's ``min(SNR, gamma) / (SNR + 1)`` for v.
    """

    gamma: float = 5.0

    def __post_init__(self):
        require(self.gamma > 0, f"weighting.gamma must be positive, got {self.gamma}")

    @property
    def space(self) -> PredictionType:
        return Epsilon()

    def __call__(self, level: NoiseLevel) -> Float[Array, "*n"]:
        return jnp.minimum(1.0, self.gamma * (level.sigma / level.alpha) ** 2)


WEIGHTINGS = {
    "constant": Constant,
    "min_snr": MinSNR,
}
