"""Guidance away from a worse denoiser: autoguidance, and perturbations of the same network."""

import flax.struct

from difflax.diffusion.checks import require
from difflax.diffusion.guidance.base import (
    Guidance,
    Outcome,
    Strength,
    check_number,
    evaluate_together,
    extrapolate,
    positive_of,
    strength_at,
)


@flax.struct.dataclass
class Autoguidance(Guidance):
    """``weak + s (strong - weak)``, both conditional (Karras et al., arXiv:2406.02507, eq. 3); in any space.

    The weak denoiser is given to ``wrap``: an EMA snapshot from earlier in training, or a smaller network.
    Under ``Guided`` the negative condition is not read.
    """

    scale: Strength = 2.0

    def __post_init__(self):
        check_number(self.scale, "scale")

    def evaluate(self, denoise, weak, x, level, conditioning, memory):
        require(weak is not None, "autoguidance needs a second denoiser: guidance.wrap(denoise, weak)")
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
    """

    scale: Strength = 7.5
    perturbation_scale: Strength = 3.0
    classifier_free: bool = flax.struct.field(pytree_node=False, default=True)

    def __post_init__(self):
        check_number(self.scale, "scale")
        check_number(self.perturbation_scale, "perturbation_scale")

    def evaluate(self, denoise, weak, x, level, conditioning, memory):
        require(
            weak is not None,
            "perturbation guidance needs the perturbed denoiser: guidance.wrap(denoise, weak)",
        )
        positive = positive_of(conditioning)
        if self.classifier_free:
            cond, uncond = evaluate_together(denoise, x, level, [positive, conditioning.negative])
            guided = extrapolate(uncond, cond, strength_at(self.scale, level, x))
        else:
            cond = guided = denoise(x, level, positive)
        worse = weak(x, level, positive)
        push = strength_at(self.perturbation_scale, level, x)
        add = lambda g, c, w: (g + push * (c - w)).astype(g.dtype)  # noqa: E731
        guided = guided.replace(
            x0=add(guided.x0, cond.x0, worse.x0), eps=add(guided.eps, cond.eps, worse.eps)
        )
        return Outcome(guided, cond, memory)
