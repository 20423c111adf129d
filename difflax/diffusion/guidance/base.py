"""What a guidance is: a denoiser in, a denoiser out, so that the sampler cannot tell.

A guidance is a pytree: its strengths are leaves, and changing one does not compile again. Guidances nest in
the order in which they are written, the innermost first:

    Interval(Corrected(ClassifierFreeGuidance(4.0), (Rescale(0.7),)), ...).wrap(denoise)
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.core.types import Conditioning
from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import Denoiser, MemoryDenoiser, Outcome
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule, expand

Strength = Any
"""A number, a traced scalar, one value an example ``[b]``, or a ``ScaleSchedule``."""


@flax.struct.dataclass
class Guided:
    """What to go towards and what to go away from (the empty or the negative prompt); one row an image."""

    positive: Any
    negative: Any


class Guidance:
    """Wraps a denoiser into a guided one. A subclass is a ``flax.struct.dataclass`` with ``evaluate``.

    Attributes:
        needs_weak: whether it goes away from a worse model, which comes to ``wrap`` as a `WithWeak`.
        needs_condition: the kind of condition, beside the text, that it cannot be without; ``None``: none.
    """

    needs_weak: ClassVar[bool] = False
    needs_condition: ClassVar[str | None] = None

    @property
    def prompts(self) -> int:
        """How many prompts an image has."""
        return 1

    def arrange(self, positives: Sequence[Conditioning], negative: Conditioning) -> Any:
        """The conditioning that ``evaluate`` is given.

        Args:
            positives: what to go towards, one for each of `prompts`.
            negative: what to go away from.

        Raises:
            ValueError: the conditions are not those that this guidance reads.
        """
        return Guided(positive=positives[0], negative=negative)

    def with_scale(self, scale: Strength) -> "Guidance":
        """The same with another scale, also one that is traced or has one value an example.

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
        self, denoise: Denoiser, x: Float[Array, "b ..."], level: NoiseLevel, conditioning: Any, memory: Any
    ) -> Outcome:
        """The guided prediction at ``x``."""
        raise NotImplementedError

    def wrap(self, denoise: Denoiser) -> MemoryDenoiser:
        """The guided denoiser; guidances that go away from a worse one take a `WithWeak`."""
        return MemoryDenoiser(begin=self.begin, advance=functools.partial(self.evaluate, denoise))


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


def together(
    x: Float[Array, "b ..."], level: NoiseLevel, conditionings: Sequence[Any]
) -> tuple[Array, NoiseLevel, Any]:
    """What a denoiser is called with to see ``x`` under several conditionings in one batch; see `apart`."""
    count = len(conditionings)
    if level.t.ndim:
        level = jax.tree.map(lambda a: jnp.concatenate([a] * count), level)
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *conditionings)
    return jnp.concatenate([x] * count), level, joined


def apart(prediction: Prediction, count: int) -> list[Prediction]:
    """The predictions of the ``count`` conditionings that `together` joined."""
    return [jax.tree.map(lambda a, i=i: jnp.split(a, count)[i], prediction) for i in range(count)]


def per_example_sum(a: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """The sum over all axes but the first, kept as axes of size 1."""
    return a.sum(axis=tuple(range(1, a.ndim)), keepdims=True)


@flax.struct.dataclass
class NoGuidance(Guidance):
    """The conditional denoiser itself: one evaluation, the negative prompt unread."""

    def evaluate(self, denoise, x, level, conditioning, memory):
        prediction = denoise(x, level, positive_of(conditioning))
        return Outcome(prediction, prediction, memory)


def positive_of(conditioning: Any) -> Conditioning:
    """The condition that an unguided model would be given."""
    return conditioning.positive if hasattr(conditioning, "positive") else conditioning
