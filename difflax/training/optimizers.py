"""Optimizers of optax with the schedule and clipping that a config names."""

import dataclasses
from typing import Literal

import jax
import optax

from difflax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter, https://arxiv.org/abs/1711.05101).

    Attributes:
        learning_rate: the highest, reached after ``warmup_steps`` of a straight rise from 0.
        schedule: what follows: ``"cosine"`` to ``final_fraction`` of it at the run's last step, or
            ``"constant"``.
        b1, b2, eps: Adam's.
        weight_decay: on arrays of two or more axes; norms, biases and tables that are not trained
            (``FIXED``) are left alone.
        clip_norm: the largest global norm of the gradient; ``None`` for no clipping.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    final_fraction: float = 0.0
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0

    def __post_init__(self):
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule must be 'cosine' or 'constant', got {self.schedule!r}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive or None, got {self.clip_norm}")

    def learning_rates(self, steps: int) -> optax.Schedule:
        """The learning rate of every step of a run of ``steps``."""
        if self.schedule == "constant" and self.warmup_steps == 0:
            return optax.constant_schedule(self.learning_rate)  # a rise of no steps stays at 0 in optax
        if self.schedule == "constant":
            return optax.warmup_constant_schedule(0.0, self.learning_rate, self.warmup_steps)
        return optax.warmup_cosine_decay_schedule(
            0.0,
            self.learning_rate,
            self.warmup_steps,
            max(steps, self.warmup_steps + 1),
            self.learning_rate * self.final_fraction,
        )

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation for a run of ``steps``."""
        clip = optax.identity() if self.clip_norm is None else optax.clip_by_global_norm(self.clip_norm)
        adamw = optax.adamw(
            self.learning_rates(steps),
            b1=self.b1,
            b2=self.b2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            mask=_decayed,
        )
        return optax.chain(clip, adamw)


FIXED = ("pos_embed",)
"""Names of parameters that are computed and not trained: no gradient reaches them."""


def _decayed(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p.ndim >= 2 and getattr(path[-1], "key", None) not in FIXED, params
    )


OPTIMIZERS = {"adamw": AdamW}
