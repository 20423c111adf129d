"""The moving averages of the parameters that a run keeps."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from difflax.core.bounds import Count, Share
from difflax.core.types import Params
from difflax.training.power_averages import EMA_LENGTHS, Length, follow


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMA:
    """``ema <- d ema + (1 - d) params`` after every step, and power-function averages beside it.

    Attributes:
        decay: d in [0, 1); 0 keeps no average.
        warmup: start with ``d = (1 + step) / (10 + step)`` where that is less, so that the first random
            parameters are forgotten early in short runs (the rule of TensorFlow's moving average).
        profiles: lengths (sigma_rel) of the power-function averages that are kept as well, ``(0.05, 0.10)``
            in the paper; an average of any length is rebuilt from their snapshots. Empty: none.
        snapshot_every: steps from one snapshot of these to the next; the last step has one too.
    """

    decay: Share = 0.999
    warmup: bool = True
    profiles: tuple[Length, ...] = ()
    snapshot_every: Count = 1000

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")
        for length in self.profiles:
            EMA_LENGTHS.check(length, "profiles")
        if len(set(self.profiles)) < len(self.profiles):
            raise ValueError(f"profiles = {self.profiles}: give each length once")

    def update(self, ema: Params, params: Params, step: Int[Array, ""]) -> Params:
        """The average after step number ``step`` (the first is 1)."""
        decay = jnp.asarray(self.decay, jnp.float32)
        if self.warmup:
            decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
        return jax.tree.map(lambda e, p: p + decay * (e - p), ema, params)

    def follow(
        self, profiles: tuple[Params, ...], params: Params, step: Int[Array, ""]
    ) -> tuple[Params, ...]:
        """The averages of ``profiles`` after step number ``step``."""
        averages = zip(profiles, self.profiles, strict=True)
        return tuple(follow(average, params, length, step) for average, length in averages)
