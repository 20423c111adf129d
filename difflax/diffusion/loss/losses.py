"""The training loss of one example: a weighted distance between a network's output and its target."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.core.types import Conditioning, Network
from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import NetworkInput, network_inputs
from difflax.diffusion.loss.weightings import Constant, Weighting
from difflax.diffusion.predictions import PredictionType, loss_space_factor, target
from difflax.diffusion.schedules.base import NoiseLevel, add_noise, expand


@runtime_checkable
class Penalty(Protocol):
    """What an error costs, element by element; 0 at 0."""

    def __call__(self, error: Float[Array, "..."]) -> Float[Array, "..."]:
        """The cost of each element."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanSquared:
    """``error^2``."""

    def __call__(self, error: Float[Array, "..."]) -> Float[Array, "..."]:
        return error**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Huber:
    """``error^2`` up to ``delta``, then linear: ``delta (2 |error| - delta)`` (Huber, 1964, times two).

    Attributes:
        delta: where the linear part starts.
    """

    delta: float = 1.0

    def __post_init__(self):
        require(self.delta > 0, f"penalty.delta must be positive, got {self.delta}")

    def __call__(self, error: Float[Array, "..."]) -> Float[Array, "..."]:
        size = jnp.abs(error)
        return jnp.where(size <= self.delta, error**2, self.delta * (2 * size - self.delta))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoHuber:
    """``2 delta (sqrt(error^2 + delta^2) - delta)``: ``error^2`` near 0 (Charbonnier; Song & Dhariwal,
    arXiv:2310.14189).

    Attributes:
        delta: about where the linear part starts.
    """

    delta: float = 0.1

    def __post_init__(self):
        require(self.delta > 0, f"penalty.delta must be positive, got {self.delta}")

    def __call__(self, error: Float[Array, "..."]) -> Float[Array, "..."]:
        # sqrt(e^2 + d^2) - d without the cancellation.
        return 2 * self.delta * error**2 / (jnp.sqrt(error**2 + self.delta**2) + self.delta)


PENALTIES = {"mean_squared": MeanSquared, "huber": Huber, "pseudo_huber": PseudoHuber}


def diffusion_loss(
    network: Network,
    prediction_type: PredictionType,
    x0: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    level: NoiseLevel,
    conditioning: Conditioning,
    *,
    weighting: Weighting = Constant(),
    penalty: Penalty = MeanSquared(),
    network_input: NetworkInput = NetworkInput(),
    mask: Float[Array, "b ..."] | None = None,
) -> Float[Array, " b"]:
    """The loss of every example, averaged over its own elements; the caller averages over examples.

    ``level`` is ``noise_level(schedule, t)`` with one t an example; ``mask`` (0 … 1, broadcast against
    ``x0``) averages over a part of each image.
    """
    x_in, time = network_inputs(add_noise(x0, eps, level), level, network_input)
    out = network(x_in, time, conditioning).astype(x0.dtype)
    error = out - target(prediction_type, x0, eps, level)
    return weighted_penalty(error, prediction_type, level, weighting=weighting, penalty=penalty, mask=mask)


def weighted_penalty(
    error: Float[Array, "b ..."],
    prediction_type: PredictionType,
    level: NoiseLevel,
    *,
    weighting: Weighting = Constant(),
    penalty: Penalty = MeanSquared(),
    mask: Float[Array, "b ..."] | None = None,
) -> Float[Array, " b"]:
    """The mean over each example of ``weight * penalty(error moved to the weighting's space)``."""
    if weighting.space is not None:
        factor = jnp.sqrt(loss_space_factor(prediction_type, weighting.space, level))
        error = error * expand(factor, error)
    cost, axes = penalty(error), tuple(range(1, error.ndim))
    if mask is None:
        per_example = cost.mean(axis=axes)
    else:
        mask = jnp.broadcast_to(mask, cost.shape)
        per_example = (mask * cost).sum(axis=axes) / jnp.maximum(mask.sum(axis=axes), 1e-6)
    return (weighting(level) * per_example).astype(error.dtype)
