"""Classifier-free guidance and its variants: the difference between a conditional and an unconditional
prediction.
"""

import dataclasses
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.core.filters import coarse, gaussian_blur
from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import Outcome
from difflax.diffusion.guidance.base import (
    Guidance,
    Strength,
    apart,
    check_number,
    extrapolate,
    per_example_sum,
    strength_at,
    together,
    with_x0,
)
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.schedules.base import NoiseLevel, expand


class Contrast(Guidance):
    """A guidance made of the two predictions of ``Guided``, both from one batch."""

    def evaluate(self, denoise, x, level, conditioning, memory):
        both = (conditioning.positive, conditioning.negative)
        cond, uncond = apart(denoise(*together(x, level, both)), 2)
        guided, memory = self.combine(cond, uncond, x, level, memory)
        return Outcome(guided, cond, memory)

    def combine(
        self, cond: Prediction, uncond: Prediction, x: Array, level: NoiseLevel, memory: Any
    ) -> tuple[Prediction, Any]:
        """The guided prediction and the new memory."""
        raise NotImplementedError


@flax.struct.dataclass
class ClassifierFreeGuidance(Contrast):
    """``uncond + s (cond - uncond)`` (Ho & Salimans, arXiv:2207.12598, eq. 6, with s = 1 + w).

    Acts alike in x0, eps, v and every other space, since all are affine in each other at one ``x_t``. A
    negative prompt stands in the place of the empty one.

    Attributes:
        scale: s; 1 is off, 0 unconditional.
    """

    scale: Strength = 7.5

    def __post_init__(self):
        check_number(self.scale, "scale")

    def combine(self, cond, uncond, x, level, memory):
        return extrapolate(uncond, cond, strength_at(self.scale, level, x)), memory


@flax.struct.dataclass
class CFGPlusPlus(Contrast):
    """CFG++ (Chung et al., arXiv:2406.08070, algorithm 2): x0 guided, the noise unconditional; scale in [0,
    1].

    The pair no longer lies on a line through ``x_t``: only samplers that step with the pair itself, as all
    here do, see the difference. Meant for first-order samplers.

    Attributes:
        scale: between unconditional (0) and conditional (1).
    """

    scale: Strength = 0.6

    def __post_init__(self):
        check_number(self.scale, "scale")

    def combine(self, cond, uncond, x, level, memory):
        guided = extrapolate(uncond, cond, strength_at(self.scale, level, x))
        return guided.replace(eps=uncond.eps), memory


@flax.struct.dataclass
class AdaptiveProjectedGuidance(Contrast):
    """APG (Sadat et al., arXiv:2410.02416, algorithm 1), in x0: ``cond + (s - 1) (orthogonal +
    parallel_weight parallel)``.

    The difference ``cond - uncond`` gets a running sum with ``momentum`` (negative: it pushes off from the
    past), is shortened to ``norm_threshold`` (0: not), and split along cond; the parallel part is what
    saturates.

    Attributes:
        scale: s; 1 is off.
        momentum: of the running difference, in [-1, 1].
        norm_threshold: largest norm of the difference; 0: no limit.
        parallel_weight: of the part of the difference along the conditional prediction.
    """

    scale: Strength = 7.5
    momentum: float | Float[Array, ""] = -0.5
    norm_threshold: float | Float[Array, ""] = 0.0
    parallel_weight: float | Float[Array, ""] = 0.0

    def __post_init__(self):
        check_number(self.scale, "scale")
        check_number(self.momentum, "momentum", -1.0, 1.0)
        check_number(self.norm_threshold, "norm_threshold", 0.0)
        check_number(self.parallel_weight, "parallel_weight")

    def begin(self, x):
        return jnp.zeros_like(x)

    def combine(self, cond, uncond, x, level, memory):
        difference = cond.x0 - uncond.x0 + self.momentum * memory
        running = difference.astype(x.dtype)
        norm = jnp.sqrt(per_example_sum(difference**2))
        limit = jnp.where(self.norm_threshold > 0, self.norm_threshold, jnp.inf)
        difference = difference * jnp.minimum(1.0, limit / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        size = jnp.maximum(per_example_sum(cond.x0**2), jnp.finfo(cond.x0.dtype).tiny)
        parallel = per_example_sum(difference * cond.x0) / size * cond.x0
        update = difference - parallel + self.parallel_weight * parallel
        return with_x0(cond, cond.x0 + (strength_at(self.scale, level, x) - 1) * update, level), running


@flax.struct.dataclass
class CFGZeroStar(Contrast):
    """CFG-Zero* (Fan et al., arXiv:2503.18886, algorithm 1), in the velocity ``eps - x0`` of rectified flow.

    The unconditional velocity is first scaled by its best fit to the conditional one; in the first
    ``zero_steps`` steps of a run the velocity is zero (the paper's zero-init, K = 1), and also where the
    noise's share ``sigma / (alpha + sigma)`` is above ``zero_above``.

    Attributes:
        scale: s; 1 is off.
        zero_above: the velocity is zero where the noise's share is above this, in [0, 1]; 1: nowhere.
        zero_steps: the velocity is zero in so many steps of a run, from its start; less than it has. They
            count once the levels of the run are known, see `Guidance.resolve`.
    """

    scale: Strength = 7.5
    zero_above: float | Float[Array, ""] = 1.0
    zero_steps: int = flax.struct.field(pytree_node=False, default=1)

    def __post_init__(self):
        check_number(self.scale, "scale")
        check_number(self.zero_above, "zero_above", 0.0, 1.0)
        check_number(self.zero_steps, "zero_steps", 0.0)

    def resolve(self, schedule, levels):
        if self.zero_steps == 0:
            return self
        share = np.asarray(levels.sigma / (levels.alpha + levels.sigma))
        require(
            self.zero_steps < len(share) - 1,
            f"guidance.zero_steps = {self.zero_steps} must be less than the run's {len(share) - 1} steps",
        )
        # Half-way to the next step, so that rounding cannot add or drop one.
        first = float(share[self.zero_steps - 1] + share[self.zero_steps]) / 2
        return dataclasses.replace(self, zero_above=jnp.minimum(self.zero_above, first))

    def combine(self, cond, uncond, x, level, memory):
        v_cond, v_uncond = cond.eps - cond.x0, uncond.eps - uncond.x0
        size = jnp.maximum(per_example_sum(v_uncond**2), jnp.finfo(x.dtype).tiny)
        v_uncond = per_example_sum(v_cond * v_uncond) / size * v_uncond
        scale = strength_at(self.scale, level, x)
        velocity = (1 - scale) * v_uncond + scale * v_cond
        silent = level.sigma / (level.alpha + level.sigma) > self.zero_above
        velocity = jnp.where(expand(silent, x), 0, velocity)
        # The pair of a velocity: x_t = alpha x0 + sigma eps and eps - x0 = velocity.
        alpha, sigma = expand(level.alpha, x), expand(level.sigma, x)
        x0, eps = (x - sigma * velocity) / (alpha + sigma), (x + alpha * velocity) / (alpha + sigma)
        return cond.replace(x0=x0.astype(x.dtype), eps=eps.astype(x.dtype)), memory


@flax.struct.dataclass
class FrequencyDecoupledGuidance(Contrast):
    """FDG (Sadat et al., arXiv:2506.19713): one scale for the low frequencies of the difference, one for the
    high; in x0.

    The two are the levels of the paper's Laplacian pyramid (algorithm 1): low is what comes back of an image
    that was halved (`coarse`), high the rest. A low scale for low frequencies keeps diversity, a high one for
    high frequencies sharpens.

    Attributes:
        low_scale: of the low frequencies.
        high_scale: of the high frequencies.
        blur: 0 for the pyramid; else a Gaussian of this standard deviation parts them, in pixels of the
            latent.
    """

    low_scale: Strength = 3.0
    high_scale: Strength = 7.5
    blur: float = flax.struct.field(pytree_node=False, default=0.0)

    def __post_init__(self):
        check_number(self.low_scale, "low_scale")
        check_number(self.high_scale, "high_scale")
        check_number(self.blur, "blur", 0.0)

    def combine(self, cond, uncond, x, level, memory):
        require(x.ndim == 4, "frequency-decoupled guidance needs images [b, h, w, c]")
        difference = cond.x0 - uncond.x0
        low = gaussian_blur(difference, self.blur) if self.blur else coarse(difference)
        low_gain = strength_at(self.low_scale, level, x) - 1
        high_gain = strength_at(self.high_scale, level, x) - 1
        return with_x0(cond, cond.x0 + low_gain * low + high_gain * (difference - low), level), memory


@flax.struct.dataclass
class Prompts:
    """Several prompts an image, and what they are compared with; one row an image in each."""

    prompts: tuple
    negative: Any

    @property
    def positive(self) -> Any:
        """The first prompt."""
        return self.prompts[0]


@flax.struct.dataclass
class ComposedGuidance(Guidance):
    """``uncond + sum_i w_i (cond_i - uncond)`` over ``Prompts``: AND with positive weights, NOT with negative
    ones.

    Liu et al., composable diffusion, arXiv:2206.01714, eq. 11 and 13. Affine, so alike in every space. One
    more evaluation for each prompt, all in one batch.

    Attributes:
        weights: of the prompts, one each.
    """

    weights: Any = (7.5,)

    def __post_init__(self):
        for i, weight in enumerate(jax.tree.leaves(self.weights)):
            check_number(weight, f"weights[{i}]")

    @property
    def prompts(self) -> int:
        """How many prompts an image has."""
        return len(self.weights)

    def arrange(self, positives, negative):
        return Prompts(tuple(positives), negative)

    def evaluate(self, denoise, x, level, conditioning, memory):
        count = len(conditioning.prompts)
        require(
            len(self.weights) == count,
            f"guidance.weights has {len(self.weights)} entries for {count} prompts",
        )
        every = (*conditioning.prompts, conditioning.negative)
        *conds, uncond = apart(denoise(*together(x, level, every)), len(every))
        guided = uncond
        for weight, cond in zip(self.weights, conds, strict=True):
            w = strength_at(weight, level, x)
            guided = jax.tree.map(
                lambda g, c, u, w=w: (g + w * (c - u)).astype(g.dtype), guided, cond, uncond
            )
        return Outcome(guided.replace(variance=conds[0].variance), conds[0], memory)


@flax.struct.dataclass
class TwoConditions:
    """Text and image together, the image alone, and neither (InstructPix2Pix); one row an image in each."""

    both: Any
    image: Any
    neither: Any

    @property
    def positive(self) -> Any:
        """Both conditions."""
        return self.both


@flax.struct.dataclass
class TwoConditionGuidance(Guidance):
    """InstructPix2Pix (Brooks et al., arXiv:2211.09800, eq. 3), in any space; three evaluations in one batch.

    ``neither + image_scale (image - neither) + text_scale (both - image)``.

    Attributes:
        text_scale: of the text; 1 is off.
        image_scale: of the image; 1 is off.
    """

    needs_condition: ClassVar[str] = "picture"

    text_scale: Strength = 7.5
    image_scale: Strength = 1.5

    def __post_init__(self):
        check_number(self.text_scale, "text_scale")
        check_number(self.image_scale, "image_scale")

    def arrange(self, positives, negative):
        require(
            negative.image is not None,
            "two_condition guidance goes with checkpoints that edit images (InstructPix2Pix): this one has no"
            " image as a condition",
        )
        neither = dataclasses.replace(negative, image=jnp.zeros_like(negative.image))
        return TwoConditions(both=positives[0], image=negative, neither=neither)

    @property
    def scale(self) -> Strength:
        """The text's."""
        return self.text_scale

    def with_scale(self, scale: Strength) -> "TwoConditionGuidance":
        """The same with another scale of the text."""
        return dataclasses.replace(self, text_scale=scale)

    def with_image_scale(self, scale: float) -> "TwoConditionGuidance":
        """The same with another scale of the image."""
        return dataclasses.replace(self, image_scale=scale)

    def evaluate(self, denoise, x, level, conditioning, memory):
        three = (conditioning.both, conditioning.image, conditioning.neither)
        both, image, neither = apart(denoise(*together(x, level, three)), 3)
        guided = extrapolate(neither, image, strength_at(self.image_scale, level, x))
        text = strength_at(self.text_scale, level, x)
        add = lambda g, b, i: (g + text * (b - i)).astype(g.dtype)  # noqa: E731
        guided = both.replace(x0=add(guided.x0, both.x0, image.x0), eps=add(guided.eps, both.eps, image.eps))
        return Outcome(guided, both, memory)
