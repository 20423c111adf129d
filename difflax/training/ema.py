"""The exponential moving average of the parameters."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from difflax.core.bounds import Share
from difflax.core.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMA:
    """``ema <- d ema + (1 - d) params`` after every step.

    Attributes:
        decay: d in [0, 1); 0 keeps no average.
        warmup: start with ``d = (1 + step) / (10 + step)`` where that is less, so that the first random
            parameters are forgotten early in short runs (the rule of TensorFlow's moving average).
    """

    decay: Share = 0.999
    warmup: bool = True

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")

    def update(self, ema: Params, params: Params, step: Int[Array, ""]) -> Params:
        """The average after step number ``step`` (the first is 1)."""
        decay = jnp.asarray(self.decay, jnp.float32)
        if self.warmup:
            decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
        return jax.tree.map(lambda e, p: p + decay * (e - p), ema, params)
