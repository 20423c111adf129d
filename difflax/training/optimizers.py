"""Optimizers of optax with the learning-rate schedule and clipping that a config names."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree
from optax import contrib

from difflax.core.types import Params

MomentType = Literal["float32", "bfloat16"]


def _constant(peak: float, end: float, steps: int) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _cosine(peak: float, end: float, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(peak, steps, end / peak)


def _linear(peak: float, end: float, steps: int) -> optax.Schedule:
    return optax.linear_schedule(peak, end, steps)


def _exponential(peak: float, end: float, steps: int) -> optax.Schedule:
    return optax.exponential_decay(peak, steps, end / peak)


LEARNING_RATE_SCHEDULES: dict[str, Callable[[float, float, int], optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "exponential": _exponential,
}
"""From a peak to an end over some steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What every optimizer has.

    Attributes:
        learning_rate: the highest, reached after ``warmup_steps`` of a straight rise from 0.
        schedule: what follows: ``"cosine"``, ``"linear"`` or ``"exponential"`` to ``final_fraction`` of it at
            the run's last step, or ``"constant"``.
        weight_decay: decoupled, on arrays of two or more axes; norms, biases and tables that are not trained
            (``FIXED``) are left alone.
        clip_norm: the largest global norm of the gradient; ``None`` for no clipping.
        warmup_steps: of the straight rise.
        final_fraction: of the highest rate at the run's last step.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    schedule: Literal["cosine", "constant", "linear", "exponential"] = "cosine"
    final_fraction: float = 0.0
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0

    def __post_init__(self):
        if self.schedule == "exponential" and self.final_fraction <= 0:
            raise ValueError("schedule 'exponential' never reaches 0: set final_fraction above it")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive or None, got {self.clip_norm}")
        for name in ("b1", "b2", "beta"):
            if not 0 <= getattr(self, name, 0) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def learning_rates(self, steps: int) -> optax.Schedule:
        """The learning rate of every step of a run of ``steps``."""
        rest = max(steps - self.warmup_steps, 1)
        after = LEARNING_RATE_SCHEDULES[self.schedule](
            self.learning_rate, self.learning_rate * self.final_fraction, rest
        )
        if self.warmup_steps == 0:
            return after
        rise = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        return optax.join_schedules([rise, after], [self.warmup_steps])

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation for a run of ``steps``."""
        clip = optax.identity() if self.clip_norm is None else optax.clip_by_global_norm(self.clip_norm)
        return optax.chain(clip, self.updates(self.learning_rates(steps)))

    def updates(self, learning_rates: optax.Schedule) -> optax.GradientTransformation:
        """The transformation itself, without clipping."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter, https://arxiv.org/abs/1711.05101).

    Attributes:
        b1, b2, eps: Adam's.
        moments: of the first moment; the second stays in float32, whose small numbers bfloat16 loses.
    """

    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    moments: MomentType = "float32"

    def updates(self, learning_rates: optax.Schedule) -> optax.GradientTransformation:
        return optax.adamw(
            learning_rates,
            b1=self.b1,
            b2=self.b2,
            eps=self.eps,
            mu_dtype=jnp.dtype(self.moments),
            weight_decay=self.weight_decay,
            mask=_decayed,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Second moments as the product of a row and a column (Shazeer & Stern,
    https://arxiv.org/abs/1804.04235): hardly any optimizer state.

    Attributes:
        decay_rate: the exponent of its averages' decay.
        factored_from: arrays whose two longest axes are at least so long are factored.
        momentum: of the updates; ``None`` for none, which needs no state.
        moments: type of the momentum's numbers.
    """

    decay_rate: float = 0.8
    factored_from: int = 128
    momentum: float | None = None
    moments: MomentType = "float32"

    def updates(self, learning_rates: optax.Schedule) -> optax.GradientTransformation:
        factored = optax.adafactor(
            None,
            min_dim_size_to_factor=self.factored_from,
            decay_rate=self.decay_rate,
            multiply_by_parameter_scale=False,
            momentum=self.momentum,
            dtype_momentum=jnp.dtype(self.moments),
        )
        # optax's own decay would not be multiplied by the learning rate.
        return optax.chain(
            factored,
            optax.scale(-1.0),
            optax.add_decayed_weights(self.weight_decay, _decayed),
            optax.scale_by_learning_rate(learning_rates),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """The sign of a moment (Chen et al., https://arxiv.org/abs/2302.06675): one moment where Adam has two.
    Its learning rate is three to ten times smaller than Adam's, its decay as much larger.

    Attributes:
        b1: of the update.
        b2: of the moment.
        moments: type of the moment's numbers.
    """

    b1: float = 0.9
    b2: float = 0.99
    moments: MomentType = "float32"

    def updates(self, learning_rates: optax.Schedule) -> optax.GradientTransformation:
        return optax.lion(
            learning_rates,
            b1=self.b1,
            b2=self.b2,
            mu_dtype=jnp.dtype(self.moments),
            weight_decay=self.weight_decay,
            mask=_decayed,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Orthogonalised momentum for matrices and convolutions (Jordan et al.,
    https://kellerjordan.github.io/posts/muon/; a convolution as the matrix from all its inputs to its
    outputs); Adam for the rest. Both with Nesterov's momentum.

    Attributes:
        beta: of the momentum.
        rms: each matrix's update has this root mean square before the learning rate, so that Adam's learning
            rates fit (Liu et al., https://arxiv.org/abs/2502.16982, 0.2).
        b1, b2: Adam's.
        moments: type of the momentum's numbers.
    """

    beta: float = 0.95
    rms: float = 0.2
    b1: float = 0.9
    b2: float = 0.99
    moments: MomentType = "float32"

    def updates(self, learning_rates: optax.Schedule) -> optax.GradientTransformation:
        return contrib.muon(
            learning_rates,
            beta=self.beta,
            weight_decay=self.weight_decay,
            mu_dtype=jnp.dtype(self.moments),
            adam_b1=self.b1,
            adam_b2=self.b2,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=self.rms,
        )


def at_step(opt_state: PyTree, step: Int[Array, ""]) -> PyTree:
    """An optimizer's state whose learning rate is that of ``step``, counted from 0: the count of its updates
    alone stands still when a step is skipped.
    """

    def scheduled(part: Any) -> bool:
        return isinstance(part, optax.ScaleByScheduleState)

    return jax.tree.map(
        lambda part: part._replace(count=step) if scheduled(part) else part, opt_state, is_leaf=scheduled
    )


FIXED = ("pos_embed",)
"""Names of parameters that are computed and not trained: no gradient reaches them."""


def _decayed(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p.ndim >= 2 and getattr(path[-1], "key", None) not in FIXED, params
    )


def _matrices(params: Params) -> Params:
    """Of arrays of two or more axes, the last is the output."""

    def axes(p: Any) -> contrib.MuonDimensionNumbers | None:
        if p.ndim < 2:
            return None
        return contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1)

    return jax.tree.map(axes, params)


OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor, "lion": Lion, "muon": Muon}
