"""Guidance away from a worse denoiser: autoguidance, and perturbations of the same network."""

from typing import ClassVar

import flax.struct
import jax

from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import Denoiser, Outcome
from difflax.diffusion.guidance.base import (
    Guidance,
    Strength,
    apart,
    check_number,
    extrapolate,
    positive_of,
    strength_at,
    together,
)
from difflax.diffusion.guidance.intervals import Bounds, interval, noise_angle
from difflax.diffusion.predictions import Prediction


@flax.struct.dataclass
class Autoguidance(Guidance):
    """``weak + s (strong - weak)``, both conditional (Karras et al., arXiv:2406.02507, eq. 3); in any space.

    The weak denoiser comes to ``wrap`` as a `WithWeak`: an EMA snapshot from earlier in training, or a
    smaller network. Under ``Guided`` the negative condition is not read.

    Attributes:
        scale: s; 1 is off.
    """

    needs_weak: ClassVar[bool] = True

    scale: Strength = 2.0

    def __post_init__(self):
        check_number(self.scale, "scale")

    def evaluate(self, denoise, x, level, conditioning, memory):
        weak = weak_of(denoise)
        strong = denoise(x, level, positive_of(conditioning))
        worse = weak(x, level, positive_of(conditioning))
        return Outcome(extrapolate(worse, strong, strength_at(self.scale, level, x)), strong, memory)


@flax.struct.dataclass
class PerturbationGuidance(Guidance):
    """``uncond + s (cond - uncond) + p (cond - perturbed)``, affine, so alike in every space.

    The weak denoiser given to ``wrap`` is the same network with a perturbation: self-attention replaced by
    the identity (PAG, Ahn et al., arXiv:2403.17377, eq. 16), its scores blurred (SEG, Hong,
    arXiv:2408.00760), or layers skipped (Stability AI's SD3.5, skip-layer guidance). Without
    ``classifier_free`` the first difference is left out, and with it one evaluation.

    Attributes:
        within: where the second difference acts, and is evaluated; ``None``: everywhere. SD3.5-medium's
            layers are skipped from 1% to 20% of the steps: of 28, ``Bounds(low=1, high=5, unit="step")``.
        angles: the same as noise angles, once ``resolve`` knows the run.
        scale: s of the classifier-free difference; 1 is off.
        perturbation_scale: p of the other difference; 0 is off.
        classifier_free: whether the first difference is there.
    """

    needs_weak: ClassVar[bool] = True

    scale: Strength = 7.5
    perturbation_scale: Strength = 3.0
    classifier_free: bool = flax.struct.field(pytree_node=False, default=True)
    within: Bounds | None = flax.struct.field(pytree_node=False, default=None)
    angles: tuple[Strength, Strength] | None = None

    def __post_init__(self):
        check_number(self.scale, "scale")
        check_number(self.perturbation_scale, "perturbation_scale")

    def resolve(self, schedule, levels):
        if self.within is None:
            return self
        low, high, unit = self.within.low, self.within.high, self.within.unit
        found = interval(self, low, high, unit, schedule=schedule, levels=levels)
        return self.replace(angles=(found.low, found.high))

    def evaluate(self, denoise, x, level, conditioning, memory):
        weak = weak_of(denoise)
        positive = positive_of(conditioning)
        if self.classifier_free:
            cond, uncond = apart(denoise(*together(x, level, (positive, conditioning.negative))), 2)
            guided = extrapolate(uncond, cond, strength_at(self.scale, level, x))
        else:
            cond = guided = denoise(x, level, positive)

        def pushed() -> Prediction:
            worse = weak(x, level, positive)
            push = strength_at(self.perturbation_scale, level, x)
            add = lambda g, c, w: (g + push * (c - w)).astype(g.dtype)  # noqa: E731
            return guided.replace(
                x0=add(guided.x0, cond.x0, worse.x0), eps=add(guided.eps, cond.eps, worse.eps)
            )

        if self.within is None:
            return Outcome(pushed(), cond, memory)
        require(self.angles is not None, "guidance.within needs the run's levels: guidance.resolve(...)")
        require(level.t.ndim == 0, "guidance.within needs one noise level for the whole batch")
        low, high = self.angles
        angle = noise_angle(level)
        inside = (angle >= low) & (angle <= high)
        return Outcome(jax.lax.cond(inside, pushed, lambda: guided), cond, memory)


def weak_of(denoise: Denoiser) -> Denoiser:
    """The worse denoiser beside ``denoise``.

    Raises:
        ValueError: there is none.
    """
    try:
        return denoise.weak
    except AttributeError as error:
        raise ValueError(
            "this guidance goes away from a worse denoiser: guidance.wrap(WithWeak(denoise, weak))"
        ) from error
