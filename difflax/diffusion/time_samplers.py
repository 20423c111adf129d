"""Which times to train at: a quantile function of t, fed with uniform numbers.

``stratified`` replaces the independent uniform numbers of a batch by one shifted lattice, ``u_i = u + i / b
mod 1`` (Kingma et al., VDM, arXiv:2107.00630, appendix I.1): each is still uniform, and together they cover
[0, 1) evenly.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from difflax.diffusion.checks import require
from difflax.diffusion.levels import NoiseSchedule, as_time


@runtime_checkable
class TimeSampler(Protocol):
    """A distribution over training times."""

    stratified: bool

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        """The time below which a fraction ``u`` of the draws lies."""
        ...


def sample_times(sampler: TimeSampler, keys: Key[Array, " b"], schedule: NoiseSchedule) -> Float[Array, " b"]:
    """One time for each key of the (global) batch; a stratified batch takes its shift from the first key."""
    if sampler.stratified:
        u = uniform(keys[0]) + as_time(jnp.arange(len(keys))) / len(keys)
        u = u - jnp.floor(u)
    else:
        u = jax.vmap(uniform)(keys)
    return sampler.quantile(u, schedule)


def uniform(key: Key[Array, ""]) -> Float[Array, ""]:
    """One number in the open interval (0, 1): times of 0 have no noise to predict."""
    dtype = as_time(0.0).dtype
    return jax.random.uniform(key, (), dtype, minval=jnp.finfo(dtype).eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform:
    """t uniform in (0, 1)."""

    stratified: bool = False

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        return u


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stratified(Uniform):
    """t uniform in (0, 1), one stratified draw a batch."""

    stratified: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitNormal:
    """``logit(t) ~ N(mean, std^2)`` (Esser et al., SD3, arXiv:2403.03206, eq. 19)."""

    mean: float = 0.0
    std: float = 1.0
    stratified: bool = False

    def __post_init__(self):
        require(self.std > 0, f"time_sampler.std must be positive, got {self.std}")

    def quantile(self, u: Float[Array, "*n"], schedule: NoiseSchedule) -> Float[Array, "*n"]:
        return jax.nn.sigmoid(self.mean + self.std * jax.scipy.special.ndtri(u))


TIME_SAMPLERS = {
    "uniform": Uniform,
    "stratified": Stratified,
    "logit_normal": LogitNormal,
}
