"""The training loss of one example: a weighted distance between a network's output and its target."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.core.types import Conditioning, Network, UserError
from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import NetworkInput, network_inputs, split_variance
from difflax.diffusion.loss.time_samplers import TimeSampler
from difflax.diffusion.loss.variational import VariationalBound
from difflax.diffusion.loss.weightings import Constant, Weighting
from difflax.diffusion.predictions import (
    PredictionType,
    determinant,
    loss_space_factor,
    target,
    to_prediction,
)
from difflax.diffusion.schedules.base import (
    NoiseLevel,
    NoiseSchedule,
    add_noise,
    as_time,
    expand,
    noise_level,
)


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
    bound: VariationalBound | None = None,
) -> Float[Array, " b"]:
    """The loss of every example, averaged over its own elements; the caller averages over examples.

    ``level`` is ``noise_level(schedule, t)`` with one t an example; ``mask`` (0 … 1, broadcast against
    ``x0``) averages over a part of each image; ``bound`` is added for a network that predicts a variance.

    Raises:
        UserError: there is a bound and the network predicts no variance.
    """
    x_t = add_noise(x0, eps, level)
    x_in, time = network_inputs(x_t, level, network_input)
    out, variance = split_variance(network(x_in, time, conditioning).astype(x0.dtype), x0)
    error = out - target(prediction_type, x0, eps, level)
    loss = weighted_penalty(error, prediction_type, level, weighting=weighting, penalty=penalty, mask=mask)
    if bound is None:
        return loss
    if variance is None:
        raise UserError(
            "config.loss.vlb_weight trains a variance, and this network predicts none: set it to 0"
        )
    prediction = to_prediction(prediction_type, out, x_t, level).replace(variance=variance)
    return loss + _mean(bound(prediction, x0, eps, level), mask).astype(loss.dtype)


def weighted_penalty(
    error: Float[Array, "b ..."],
    prediction_type: PredictionType,
    level: NoiseLevel,
    *,
    weighting: Weighting = Constant(),
    penalty: Penalty = MeanSquared(),
    mask: Float[Array, "b ..."] | None = None,
) -> Float[Array, " b"]:
    """The mean over each example of ``weight * penalty(error moved to the weighting's space)``; infinite
    where no signal is left and the error's way to that space has no bound, see `check_weight`.
    """
    if weighting.space is None:
        return (weighting(level) * _mean(penalty(error), mask)).astype(error.dtype)
    factor = jnp.sqrt(loss_space_factor(prediction_type, weighting.space, level))
    cost = weighting(level) * _mean(penalty(error * expand(factor, error)), mask)
    return jnp.where(jnp.isinf(factor), jnp.inf, cost).astype(error.dtype)


def check_weight(
    weighting: Weighting,
    prediction_type: PredictionType,
    schedule: NoiseSchedule,
    time_sampler: TimeSampler,
    vlb_weight: float = 0.0,
) -> None:
    """Refuses a loss that is not finite at the largest time that is drawn: each step that draws it would be
    skipped.

    Args:
        vlb_weight: of the variational bound, which reads x0 from the output; 0: none.

    Raises:
        UserError: with what to choose.
    """
    largest = time_sampler.quantile(as_time(np.nextafter(np.float32(1), 0)), schedule)
    level = noise_level(schedule, largest[None])
    if vlb_weight and determinant(prediction_type, level)[0] == 0:
        raise UserError(
            f"config.loss.vlb_weight = {vlb_weight}: at t = {float(largest):g} the schedule leaves no signal,"
            f" and {type(prediction_type).__name__} says nothing of the image there: choose the prediction v,"
            " or 0"
        )
    if not jnp.isfinite(weighted_penalty(jnp.ones((1, 1)), prediction_type, level, weighting=weighting))[0]:
        raise UserError(
            f"config.loss.weighting ({type(weighting).__name__}) is infinite at t = {float(largest):g}, which"
            f" config.loss.time_sampler draws and where the schedule leaves no signal, for a network that"
            f" predicts {type(prediction_type).__name__}: choose the prediction v, another weighting"
            " (min_snr, constant), or a schedule that ends with some signal"
        )


def _mean(cost: Float[Array, "b ..."], mask: Float[Array, "b ..."] | None) -> Float[Array, " b"]:
    """The mean of each example's elements, or of those that ``mask`` shows."""
    axes = tuple(range(1, cost.ndim))
    if mask is None:
        return cost.mean(axis=axes)
    mask = jnp.broadcast_to(mask, cost.shape)
    return (mask * cost).sum(axis=axes) / jnp.maximum(mask.sum(axis=axes), 1e-6)
