"""The training loss of one example: a weighted distance between a network's output and its target."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.diffusion.denoisers import NetworkInput, network_output
from difflax.diffusion.levels import NoiseLevel, add_noise, expand
from difflax.diffusion.predictions import PredictionType, loss_space_factor, target
from difflax.diffusion.weightings import Constant, Weighting
from difflax.types import Conditioning, Network, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanSquared:
    """The squared error."""

    def __call__(self, error: Float[Array, "..."]) -> Float[Array, "..."]:
        return error**2


def diffusion_loss(
    network: Network,
    params: Params,
    prediction_type: PredictionType,
    x0: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    level: NoiseLevel,
    conditioning: Conditioning,
    *,
    weighting: Weighting = Constant(),
    penalty: MeanSquared = MeanSquared(),
    network_input: NetworkInput = NetworkInput(),
) -> Float[Array, " b"]:
    """The loss of every example, averaged over its own elements; the caller averages over examples.

    ``level`` is ``noise_level(schedule, t)`` with one t an example. The error of the output is moved to the
    weighting's space (``loss_space_factor``), the penalty taken there, and the result weighted.
    """
    out = network_output(network, params, add_noise(x0, eps, level), level, conditioning, network_input)
    error = out - target(prediction_type, x0, eps, level)
    return weighted_penalty(error, prediction_type, level, weighting, penalty)


def weighted_penalty(
    error: Float[Array, "b ..."],
    prediction_type: PredictionType,
    level: NoiseLevel,
    weighting: Weighting = Constant(),
    penalty: MeanSquared = MeanSquared(),
) -> Float[Array, " b"]:
    """The mean over each example of ``weight * penalty(error moved to the weighting's space)``."""
    if weighting.space is not None:
        factor = jnp.sqrt(loss_space_factor(prediction_type, weighting.space, level))
        error = error * expand(factor, error)
    per_example = penalty(error).reshape(error.shape[0], -1).mean(axis=1)
    return (weighting(level) * per_example).astype(error.dtype)
