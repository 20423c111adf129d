"""What is done to a guided prediction after its combination: rescaling and thresholding of x0."""

from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.diffusion.guidance.base import Guidance, check_number, with_x0
from difflax.diffusion.predictions import PREDICTIONS, Prediction, target, to_prediction
from difflax.diffusion.schedules.base import NoiseLevel


@runtime_checkable
class Correction(Protocol):
    """A change of the guided prediction; implementations are pytrees."""

    def __call__(
        self, guided: Prediction, conditional: Prediction, x: Float[Array, "b ..."], level: NoiseLevel
    ) -> Prediction:
        """The corrected prediction."""
        ...


@flax.struct.dataclass
class Corrected(Guidance):
    """``guidance`` followed by ``corrections`` in their order."""

    guidance: Any
    corrections: tuple[Correction, ...] = ()

    def with_scale(self, scale):
        return self.replace(guidance=self.guidance.with_scale(scale))

    def begin(self, x):
        return self.guidance.begin(x)

    def evaluate(self, denoise, x, level, conditioning, memory):
        outcome = self.guidance.evaluate(denoise, x, level, conditioning, memory)
        guided = outcome.guided
        for correction in self.corrections:
            guided = correction(guided, outcome.conditional, x, level)
        return outcome.replace(guided=guided)


@flax.struct.dataclass
class Rescale:
    """Gives the guided output the standard deviation of the conditional one, by the share ``strength``.

    Lin et al., arXiv:2305.08891, eq. 15 and 16. Acts in ``space``, the network's own in the paper (v, or
    eps).

    Attributes:
        strength: share of the change, in [0, 1].
        space: the space whose deviation counts, a prediction type's name.
    """

    strength: float | Float[Array, ""] = 0.7
    space: str = flax.struct.field(pytree_node=False, default="v")

    def __post_init__(self):
        check_number(self.strength, "rescale.strength", 0.0, 1.0)
        if self.space not in PREDICTIONS:
            raise ValueError(
                f"guidance.rescale.space must be one of {', '.join(PREDICTIONS)}, got {self.space!r}"
            )

    def __call__(self, guided, conditional, x, level):
        kind = PREDICTIONS[self.space]()
        out = target(kind, guided.x0, guided.eps, level)
        reference = target(kind, conditional.x0, conditional.eps, level)
        axes = tuple(range(1, x.ndim))
        ratio = reference.std(axis=axes, keepdims=True) / jnp.maximum(
            out.std(axis=axes, keepdims=True), jnp.finfo(out.dtype).tiny
        )
        out = out * (self.strength * ratio + 1 - self.strength)
        return to_prediction(kind, out.astype(x.dtype), x, level).replace(variance=guided.variance)


@flax.struct.dataclass
class StaticThreshold:
    """x0 clipped to ``[-limit, limit]``, and the noise that goes with it (Imagen, arXiv:2205.11487,
    section 2.3).

    Attributes:
        limit: of the absolute values of x0.
    """

    limit: float | Float[Array, ""] = 1.0

    def __post_init__(self):
        check_number(self.limit, "threshold.limit", 0.0)

    def __call__(self, guided, conditional, x, level):
        return with_x0(guided, jnp.clip(guided.x0, -self.limit, self.limit), level)


@flax.struct.dataclass
class DynamicThreshold:
    """x0 clipped to the ``quantile`` of its absolute values and divided by it (Imagen, section 2.3).

    The quantile is an image's own; it counts as at least ``limit`` and at most ``maximum``, and the result is
    scaled to ``limit``.

    Attributes:
        quantile: of the absolute values of x0, in [0, 1].
        limit: the range that x0 is brought to; smaller ones are left.
        maximum: the largest value that the quantile may have.
    """

    quantile: float | Float[Array, ""] = 0.995
    limit: float | Float[Array, ""] = 1.0
    maximum: float | Float[Array, ""] = jnp.inf

    def __post_init__(self):
        check_number(self.quantile, "threshold.quantile", 0.0, 1.0)
        check_number(self.limit, "threshold.limit", 0.0)

    def __call__(self, guided, conditional, x, level):
        magnitude = jnp.abs(guided.x0).reshape(x.shape[0], -1)
        bound = jnp.clip(jnp.quantile(magnitude, self.quantile, axis=1), self.limit, self.maximum)
        bound = bound.reshape(-1, *[1] * (x.ndim - 1))
        x0 = jnp.clip(guided.x0, -bound, bound) * (self.limit / bound)
        return with_x0(guided, x0, level)


CORRECTIONS = {
    "rescale": Rescale,
    "static_threshold": StaticThreshold,
    "dynamic_threshold": DynamicThreshold,
}
