"""From a network to a denoiser: ``(x, level, conditioning) -> (x0, eps)``.

A denoiser is all that guidance and samplers ever see. It knows the schedule that its network was trained
under, so it may be asked at any noise level: a level's time is taken from the level, or found from its
log-SNR where the level has none, and an image on another path (another schedule, variance-exploding
coordinates) is rescaled onto the network's own. The answer ``(x0, eps)`` is the same on every path. What is
signal and what is noise is the level's to say, also where the network is told another time (`StepPlan`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.core.types import Network
from difflax.diffusion.checks import require
from difflax.diffusion.predictions import Prediction, PredictionType, to_prediction
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule, expand, noise_level

Denoiser = Callable[[Array, NoiseLevel, Any], Prediction]
"""``denoise(x, level, conditioning) -> Prediction``; ``level`` is one level for the whole batch or one an
example.
"""


TIMES: dict[str, Callable[[NoiseLevel], Array]] = {
    "t": lambda level: level.shown,
    "sigma": lambda level: level.sigma,
    "log_sigma": lambda level: jnp.log(level.sigma) - jnp.log(level.alpha),
}
"""What a network's time is made of, see `NetworkInput`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkInput:
    """How a noisy image and its level are shown to the network; the same in training and in sampling.

    Attributes:
        time: what the network's time is made of: ``"t"``, ``"sigma"`` (flow networks: ``t'`` after the
            shift), or ``"log_sigma"``, which is ``log(sigma / alpha)`` (EDM: with ``time_scale`` 0.25).
        time_scale: factor on it. With ``time_offset``: 1000 and 0 for networks of this project and for flow
            checkpoints; T and -1 for checkpoints trained on the discrete timesteps 0 … T - 1.
        time_offset: added to it.
        sigma_data: if set, the network sees ``x_t / sqrt(alpha^2 sigma_data^2 + sigma^2)`` (EDM's c_in).
    """

    time: Literal["t", "sigma", "log_sigma"] = "t"
    time_scale: float = 1000.0
    time_offset: float = 0.0
    sigma_data: float | None = None

    def __post_init__(self):
        require(self.sigma_data is None or self.sigma_data > 0, "network_input.sigma_data must be positive")

    def boundary(self, share: float) -> float:
        """The time at which a run is ``share`` done, on the whole steps that the network counts its time in
        (diffusers' ``denoising_end``), less what rounding may take from a grid's time.
        """
        if self.time != "t":
            return 1 - share
        steps = round(self.time_scale - share * self.time_scale)
        return (steps - self.time_offset) / self.time_scale - 1e-6


def network_inputs(
    x_t: Float[Array, "b ..."], level: NoiseLevel, network_input: NetworkInput = NetworkInput()
) -> tuple[Float[Array, "b ..."], Float[Array, " b"]]:
    """The image and the time that the network is shown of ``x_t`` at ``level`` of its own schedule."""
    time = TIMES[network_input.time](level)
    time = time * network_input.time_scale + network_input.time_offset
    x_in = x_t
    if network_input.sigma_data is not None:
        x_in = x_t / expand(jnp.hypot(level.alpha * network_input.sigma_data, level.sigma), x_t)
    return x_in.astype(x_t.dtype), jnp.broadcast_to(time, x_t.shape[:1])


def make_denoiser(
    network: Network,
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    *,
    network_input: NetworkInput = NetworkInput(),
) -> Denoiser:
    """The denoiser of a network trained under ``schedule`` to predict ``prediction_type``.

    ``network`` is ``(x, time [b], conditioning) -> out``; an output of twice the channels of ``x`` has a
    variance in its second half, see `split_variance`. A perturbed network (perturbed attention, skipped
    layers) is another network and makes another denoiser; see ``difflax.diffusion.guidance``.
    """

    def denoise(x: Array, level: NoiseLevel, conditioning) -> Prediction:
        own = noise_level(schedule, time_of(schedule, level))
        # The ratio of the two paths' lengths is finite at both ends, where alpha or sigma is zero.
        scale = jnp.hypot(own.alpha, own.sigma) / jnp.hypot(level.alpha, level.sigma)
        # The level says how much noise there is, the time only what the network is told of it.
        own = own.replace(alpha=scale * level.alpha, sigma=scale * level.sigma, plan=level.plan)
        x_own = (x * expand(scale, x)).astype(x.dtype)
        x_in, time = network_inputs(x_own, own, network_input)
        out = network(x_in, time, conditioning).astype(x.dtype)
        out, variance = split_variance(out, x_own)
        return to_prediction(prediction_type, out, x_own, own).replace(variance=variance)

    return denoise


def split_variance(
    out: Float[Array, "b ... co"], x: Float[Array, "b ... c"]
) -> tuple[Float[Array, "b ... c"], Float[Array, "b ... c"] | None]:
    """A network's output for ``x``, and `Prediction.variance` of a network with channels for it: those beyond
    the image's, which say -1 for the posterior's variance and 1 for the forward step's (Nichol & Dhariwal,
    arXiv:2102.09672, eq. 15).
    """
    channels = x.shape[-1]
    if out.shape[-1] != 2 * channels:
        return out, None
    return out[..., :channels], (out[..., channels:] + 1) / 2


def time_shown(schedule: NoiseSchedule, level: NoiseLevel) -> Float[Array, "*n"]:
    """The time that a network trained under ``schedule`` is told at ``level``."""
    return jnp.where(jnp.isnan(level.shown), schedule.t_from_log_snr(level.log_snr), level.shown)


def time_of(schedule: NoiseSchedule, level: NoiseLevel) -> Float[Array, "*n"]:
    """The level's time, found from its log-SNR where it has none."""
    return jnp.where(jnp.isnan(level.t), schedule.t_from_log_snr(level.log_snr), level.t)


@dataclasses.dataclass(frozen=True)
class WithWeak:
    """A denoiser with a worse one beside it, which some guidances go away from.

    Attributes:
        denoise: what is called.
        weak: an earlier snapshot of the averaged parameters, a smaller model, or the same network with a
            perturbation.
    """

    denoise: Denoiser
    weak: Denoiser

    def __call__(self, x: Array, level: NoiseLevel, conditioning) -> Prediction:
        """The better one's prediction."""
        return self.denoise(x, level, conditioning)


@flax.struct.dataclass
class Outcome:
    """What one evaluation of a guidance gives.

    Attributes:
        guided: the guided prediction.
        conditional: the prediction of the positive condition alone, which corrections compare with.
        memory: what the guidance remembers.
    """

    guided: Prediction
    conditional: Prediction
    memory: Any = ()


@dataclasses.dataclass(frozen=True)
class MemoryDenoiser:
    """A denoiser that remembers something from step to step (the momentum of a guidance).

    Attributes:
        begin: ``x -> memory``, at the start of a run.
        advance: ``(x, level, conditioning, memory) -> Outcome``, with the new memory in it.
    """

    begin: Callable[[Array], Any]
    advance: Callable[[Array, NoiseLevel, Any, Any], Outcome]

    def __call__(self, x: Array, level: NoiseLevel, conditioning) -> Prediction:
        """One evaluation without a past."""
        return self.advance(x, level, conditioning, self.begin(x)).guided


def with_memory(denoise: Denoiser) -> MemoryDenoiser:
    """``denoise`` itself if it has a memory, else the same with an empty one."""
    if isinstance(denoise, MemoryDenoiser):
        return denoise

    def advance(x: Array, level: NoiseLevel, conditioning: Any, memory: Any) -> Outcome:
        prediction = denoise(x, level, conditioning)
        return Outcome(prediction, prediction, memory)

    return MemoryDenoiser(begin=lambda x: (), advance=advance)
