"""Which times to train at: a quantile function of t, fed with uniform numbers.

``stratified`` replaces the independent uniform numbers of a batch by one shifted lattice, ``u_i = u + i / b
mod 1`` (Kingma et al., VDM, arXiv:2107.00630, appendix I.1): each is still uniform, and together they cover
[0, 1) evenly.
"""

import dataclasses
from typing import Annotated, ClassVar, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from difflax.core.bounds import Positive, Range
from difflax.diffusion.checks import require
from difflax.diffusion.schedules.base import NoiseSchedule, as_time, log_snr
from difflax.diffusion.time_shift import TimeShift


@runtime_checkable
class TimeSampler(Protocol):
    """A distribution over training times.

    Attributes:
        stratified: one low-discrepancy draw over the batch.
        follows_loss: whether it changes with the size of the loss.
    """

    stratified: bool
    follows_loss: bool

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        """The time below which a fraction ``u`` of the draws lies."""
        ...

    def begin(self) -> PyTree:
        """What it remembers before the first step; arrays, part of the training state."""
        ...

    def remembering(self, memory: PyTree) -> "TimeSampler":
        """The sampler of a step that starts with ``memory``."""
        ...

    def factor(self, t: Float[Array, " b"]) -> Float[Array, " b"]:
        """What the loss at ``t`` is multiplied by."""
        ...

    def update(self, t: Float[Array, " b"], loss: Float[Array, " b"]) -> PyTree:
        """The memory after a batch; ``loss`` without the factor."""
        ...


class Forgetful:
    """A time sampler that is the same at every step."""

    follows_loss: ClassVar[bool] = False

    def begin(self) -> PyTree:
        return ()

    def remembering(self, memory: PyTree) -> TimeSampler:
        return self

    def factor(self, t: Float[Array, " b"]) -> Float[Array, " b"]:
        return jnp.ones_like(t)

    def update(self, t: Float[Array, " b"], loss: Float[Array, " b"]) -> PyTree:
        return ()


def sample_times(sampler: TimeSampler, keys: Key[Array, " b"], schedule: NoiseSchedule) -> Float[Array, " b"]:
    """One time in (0, 1] for each key of the (global) batch; a stratified batch takes its shift from the
    first key.
    """
    if sampler.stratified:
        u = uniform(keys[0]) + as_time(jnp.arange(len(keys))) / len(keys)
        u = jnp.maximum(u - jnp.floor(u), jnp.finfo(u.dtype).eps)
    else:
        u = jax.vmap(uniform)(keys)
    # An extreme distribution rounds to 0, where there is no noise to predict.
    return jnp.clip(sampler.quantile(u, schedule), jnp.finfo(u.dtype).eps, 1)


def uniform(key: Key[Array, ""]) -> Float[Array, ""]:
    """One number in the open interval (0, 1): times of 0 have no noise to predict."""
    dtype = as_time(0.0).dtype
    return jax.random.uniform(key, (), dtype, minval=jnp.finfo(dtype).eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(Forgetful):
    """t uniform in (0, 1), or on the ``timesteps`` times ``1/T, 2/T, … 1``, which checkpoints of the Hub are
    trained on.

    Attributes:
        stratified: one stratified draw over the batch, so that it covers all times evenly.
        timesteps: how many discrete times there are; ``None``: continuous.
    """

    stratified: bool = False
    timesteps: int | None = None

    def __post_init__(self):
        require(
            self.timesteps is None or self.timesteps >= 1,
            f"time_sampler.timesteps must be at least 1, got {self.timesteps}",
        )

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        if self.timesteps is None:
            return u
        return jnp.minimum(jnp.floor(u * self.timesteps) + 1, self.timesteps) / self.timesteps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stratified(Uniform):
    """t uniform in (0, 1), one stratified draw a batch."""

    stratified: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitNormal(Forgetful):
    """``logit(t) ~ N(mean, std^2)`` (Esser et al., SD3, arXiv:2403.03206, eq. 19).

    Attributes:
        mean: of the logits; positive prefers noise.
        std: of the logits.
        stratified: one stratified draw over the batch, so that it covers all times evenly.
    """

    mean: float = 0.0
    std: Positive = 1.0
    stratified: bool = False

    def __post_init__(self):
        require(self.std > 0, f"time_sampler.std must be positive, got {self.std}")

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        return jax.nn.sigmoid(self.mean + self.std * jax.scipy.special.ndtri(u))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mode(Forgetful):
    """SD3's density with heavy tails: ``t = 1 - u - s (cos^2(pi u / 2) - 1 + u)`` (arXiv:2403.03206, eq. 20).

    ``scale`` in [-1, 2 / (pi - 2)]: positive prefers the middle, negative the ends.

    Attributes:
        scale: positive prefers the middle, negative the ends.
        stratified: one stratified draw over the batch, so that it covers all times evenly.
    """

    scale: float = 1.29
    stratified: bool = False

    def __post_init__(self):
        bound = 2 / (np.pi - 2)
        require(
            -1 <= self.scale <= bound, f"time_sampler.scale must lie in [-1, {bound:.4f}], got {self.scale}"
        )

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        # The published map falls from 1 to 0; 1 - u makes it a quantile function.
        return u - self.scale * (jnp.cos(jnp.pi / 2 * (1 - u)) ** 2 - u)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosMap(Forgetful):
    """The density that gives a flow the log-SNR of the cosine schedule: ``2 / (pi (1 - 2 t + 2 t^2))``
    (eq. 21).

    Attributes:
        stratified: one stratified draw over the batch, so that it covers all times evenly.
    """

    stratified: bool = False

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        # 1 - 1 / (tan(pi u / 2) + 1) in a form that is finite at u = 1.
        sine, cosine = jnp.sin(jnp.pi / 2 * u), jnp.cos(jnp.pi / 2 * u)
        return sine / (sine + cosine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shifted(Forgetful):
    """The times of another sampler, moved towards the noise, as checkpoints of flows are sampled and
    trained.
    """

    sampler: TimeSampler
    shift: TimeShift

    @property
    def stratified(self) -> bool:
        return self.sampler.stratified

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        return self.shift(self.sampler.quantile(u, schedule))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogNormalSigma(Forgetful):
    """EDM: ``log(sigma / alpha) ~ N(mean, std^2)`` (Karras et al., arXiv:2206.00364, table 1), within the
    noise levels that the schedule has: as if a draw outside them were drawn again.

    Attributes:
        mean: of ``log(sigma / alpha)``.
        std: of ``log(sigma / alpha)``.
        stratified: one stratified draw over the batch, so that it covers all times evenly.
    """

    mean: float = -1.2
    std: Positive = 1.2
    stratified: bool = False

    def __post_init__(self):
        require(self.std > 0, f"time_sampler.std must be positive, got {self.std}")

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        ends = -log_snr(schedule, jnp.array([0.0, 1.0])) / 2
        low, high = jax.scipy.special.ndtr((ends - self.mean) / self.std)
        u = jnp.clip(low + u * (high - low), jnp.finfo(u.dtype).tiny, 1 - jnp.finfo(u.dtype).epsneg)
        t = schedule.t_from_log_snr(-2 * (self.mean + self.std * jax.scipy.special.ndtri(u)))
        return jnp.clip(t, 0, 1)


@flax.struct.dataclass
class LossAwareTimes:
    """Importance sampling by the running loss (Nichol & Dhariwal, arXiv:2102.09672, section 3.3), over bins
    of t.

    A bin is drawn in proportion to the root of its running mean squared loss, and the loss divided by what
    that changes in density, so the expectation stays that of uniform t. Arrays only: a time sampler that is
    part of the training state.

    Attributes:
        squares: running mean of the squared loss in each bin, ``[bins]`` (like ``counts``, its shape or
            sharding in a tree of those).
        counts: examples seen by each bin; while there are bins with none the sampling is uniform.
        decay: of the running mean.
        floor: the share of the density that stays uniform.
        stratified: one low-discrepancy draw over the batch.
    """

    follows_loss: ClassVar[bool] = True

    squares: PyTree
    counts: PyTree
    decay: float = flax.struct.field(pytree_node=False, default=0.9)
    floor: float = flax.struct.field(pytree_node=False, default=1e-3)
    stratified: bool = flax.struct.field(pytree_node=False, default=False)

    def begin(self) -> "LossAwareTimes":
        return self

    def remembering(self, memory: "LossAwareTimes") -> "LossAwareTimes":
        return memory

    @property
    def density(self) -> Float[Array, " bins"]:
        """The probability of each bin."""
        root = jnp.sqrt(self.squares)
        ready = jnp.all(self.counts > 0) & (root.sum() > 0)
        share = jnp.where(ready, root / jnp.where(ready, root.sum(), 1), 1 / len(root))
        return (1 - self.floor) * share + self.floor / len(root)

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        density = self.density
        edges = jnp.concatenate([jnp.zeros(1), jnp.cumsum(density)])
        u = u * edges[-1]
        i = jnp.clip(jnp.searchsorted(edges, u, side="right") - 1, 0, len(density) - 1)
        t = (i + (u - edges[i]) / density[i]) / len(density)
        return jnp.clip(t, jnp.finfo(t.dtype).eps, 1)

    def factor(self, t: Float[Array, " b"]) -> Float[Array, " b"]:
        """What the loss at ``t`` is multiplied by, so that its expectation is that of uniform t."""
        return 1 / (self.density[self._bin(t)] * len(self.squares))

    def update(self, t: Float[Array, " b"], loss: Float[Array, " b"]) -> "LossAwareTimes":
        """The state after a batch; ``loss`` without the factor."""
        i = self._bin(t)
        seen = jnp.zeros_like(self.counts).at[i].add(1.0)
        mean = jnp.zeros_like(self.squares).at[i].add(loss**2) / jnp.maximum(seen, 1)
        moved = jnp.where(self.counts > 0, self.decay * self.squares + (1 - self.decay) * mean, mean)
        return self.replace(squares=jnp.where(seen > 0, moved, self.squares), counts=self.counts + seen)

    def _bin(self, t: Float[Array, " b"]) -> Int[Array, " b"]:
        return jnp.clip((t * len(self.squares)).astype(int), 0, len(self.squares) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningLoss(Uniform):
    """`LossAwareTimes` before the first step, when it is still uniform; ``begin`` makes its state.

    Attributes:
        bins: of time, each with its running loss.
        decay: of the running loss, in [0, 1).
        floor: the share of the density that stays uniform.
    """

    follows_loss: ClassVar[bool] = True

    bins: Annotated[int, Range(1, 100_000)] = 64
    decay: float = 0.9
    floor: float = 1e-3

    def __post_init__(self):
        require(self.timesteps is None, "time_sampler.timesteps: running_loss has bins, and no timesteps")
        require(self.bins >= 1, f"time_sampler.bins must be at least 1, got {self.bins}")
        require(0 <= self.decay < 1, f"time_sampler.decay must lie in [0, 1), got {self.decay}")
        require(0 < self.floor <= 1, f"time_sampler.floor must lie in (0, 1], got {self.floor}")

    def begin(self) -> LossAwareTimes:
        settings = {"decay": self.decay, "floor": self.floor, "stratified": self.stratified}
        return LossAwareTimes(jnp.zeros(self.bins), jnp.zeros(self.bins), **settings)

    def remembering(self, memory: LossAwareTimes | tuple[()]) -> TimeSampler:
        return memory or self.begin()


TIME_SAMPLERS = {
    "uniform": Uniform,
    "stratified": Stratified,
    "logit_normal": LogitNormal,
    "mode": Mode,
    "cosmap": CosMap,
    "log_normal_sigma": LogNormalSigma,
    "running_loss": RunningLoss,
}
