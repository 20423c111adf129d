"""What a guidance is: a denoiser in, a denoiser out, so that the sampler cannot tell.

A guidance is a pytree: its strengths are leaves, and changing one does not compile again. Guidances nest in
the order in which they are written, the innermost first:

    Interval(Corrected(ClassifierFreeGuidance(4.0), (Rescale(0.7),)), ...).wrap(denoise)
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.core.types import Conditioning
from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import Denoiser, MemoryDenoiser
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule, expand

Strength = Any
"""A number, a traced scalar, one value an example ``[b]``, or a ``ScaleSchedule``."""


@flax.struct.dataclass
class Guided:
    """What to go towards and what to go away from (the empty or the negative prompt); one row an image."""

    positive: Any
    negative: Any


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


class Guidance:
    """Wraps a denoiser into a guided one. A subclass is a ``flax.struct.dataclass`` with ``evaluate``."""

    @property
    def reads(self) -> type:
        """The kind of conditioning that ``evaluate`` is given."""
        return Guided

    def with_scale(self, scale: float) -> "Guidance":
        """The same with another scale.

        Raises:
            ValueError: it has none, or this is no finite number.
        """
        names = {field.name for field in dataclasses.fields(self)}
        require("scale" in names, f"{type(self).__name__} has no scale")
        return dataclasses.replace(self, scale=scale)

    def with_image_scale(self, scale: float) -> "Guidance":
        """The same with another scale of an image that is a condition beside the text.

        Raises:
            ValueError: there is none in it.
        """
        raise ValueError(f"{type(self).__name__} has no image_scale, only two_condition guidance has")

    def resolve(self, schedule: NoiseSchedule, levels: NoiseLevel) -> "Guidance":
        """The guidance of a run over ``levels``, where it depends on them."""
        return self

    def begin(self, x: Float[Array, "b ..."]) -> Any:
        """The memory at the start of a run."""
        return ()

    def evaluate(
        self,
        denoise: Denoiser,
        weak: Denoiser | None,
        x: Float[Array, "b ..."],
        level: NoiseLevel,
        conditioning: Any,
        memory: Any,
    ) -> Outcome:
        """The guided prediction at ``x``."""
        raise NotImplementedError

    def wrap(self, denoise: Denoiser, weak: Denoiser | None = None) -> MemoryDenoiser:
        """The guided denoiser.

        ``weak`` is the second, worse denoiser of autoguidance and perturbation guidance: an earlier EMA
        snapshot, a smaller model, or the same network with a perturbation.
        """

        def advance(x, level, conditioning, memory):
            outcome = self.evaluate(denoise, weak, x, level, conditioning, memory)
            return outcome.guided, outcome.memory

        return MemoryDenoiser(begin=self.begin, advance=advance)


def check_number(value: Any, name: str, low: float = -np.inf, high: float = np.inf) -> None:
    """Refuses a concrete setting that is not a finite number in [low, high]; traced values pass."""
    if isinstance(value, int | float | np.ndarray | np.generic):
        require(bool(np.all(np.isfinite(value))), f"guidance.{name} must be a finite number, got {value}")
        inside = bool(np.all((value >= low) & (value <= high)))
        require(inside, f"guidance.{name} must lie in [{low:g}, {high:g}], got {value}")


def strength_at(strength: Strength, level: NoiseLevel, x: Float[Array, "b ..."]) -> Float[Array, "..."]:
    """A strength's value at ``level``, ready to multiply ``x``."""
    value = strength(level) if callable(strength) else jnp.asarray(strength)
    return expand(value, x)


def extrapolate(reference: Prediction, towards: Prediction, scale: Float[Array, "..."]) -> Prediction:
    """``reference + scale (towards - reference)``: exactly ``towards`` at 1 and exactly ``reference`` at
    0.
    """
    mix = lambda r, p: ((1 - scale) * r + scale * p).astype(r.dtype)  # noqa: E731
    return towards.replace(x0=mix(reference.x0, towards.x0), eps=mix(reference.eps, towards.eps))


def with_x0(prediction: Prediction, x0: Array, level: NoiseLevel) -> Prediction:
    """``prediction`` with another x0, and the noise that goes with it at the same ``x_t``."""
    ratio = expand(level.alpha / level.sigma, x0)
    eps = prediction.eps - ratio * (x0 - prediction.x0)
    return prediction.replace(x0=x0.astype(prediction.x0.dtype), eps=eps.astype(prediction.eps.dtype))


def evaluate_together(
    denoise: Denoiser, x: Float[Array, "b ..."], level: NoiseLevel, conditionings: list[Any]
) -> list[Prediction]:
    """The predictions at ``x`` under several conditionings, from one call on the joined batch."""
    count, rows = len(conditionings), x.shape[0]
    if count == 1:
        return [denoise(x, level, conditionings[0])]
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *conditionings)
    if level.t.ndim:
        level = jax.tree.map(lambda a: jnp.concatenate([a] * count), level)
    together = denoise(jnp.concatenate([x] * count), level, joined)
    return [jax.tree.map(lambda a, i=i: a[i * rows : (i + 1) * rows], together) for i in range(count)]


def per_example_sum(a: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """The sum over all axes but the first, kept as axes of size 1."""
    return a.sum(axis=tuple(range(1, a.ndim)), keepdims=True)


@flax.struct.dataclass
class NoGuidance(Guidance):
    """The conditional denoiser itself: one evaluation, the negative prompt unread."""

    def evaluate(self, denoise, weak, x, level, conditioning, memory):
        prediction = denoise(x, level, positive_of(conditioning))
        return Outcome(prediction, prediction, memory)


def positive_of(conditioning: Any) -> Conditioning:
    """The condition that an unguided model would be given."""
    return conditioning.positive if hasattr(conditioning, "positive") else conditioning
