"""How much each noise level counts in the loss: a weight on the squared error of a stated space.

Each weighting is written in a space where its weight is finite wherever the loss is;
``difflax.diffusion.loss.losses`` moves it to whatever the network predicts. Sources in each docstring state
theirs on x0 or eps; the two are ``SNR = alpha^2 / sigma^2`` apart.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.core.bounds import Width
from difflax.diffusion.checks import require
from difflax.diffusion.predictions import EDM, PREDICTIONS, Epsilon, FlowVelocity, PredictionType, V
from difflax.diffusion.schedules.base import NoiseLevel

Weights = Float[Array, "*n"]


@runtime_checkable
class Weighting(Protocol):
    """``weight(level)`` times the squared error in ``space`` (``None``: the network's own output)."""

    @property
    def space(self) -> PredictionType | None:
        """The space whose squared error the weight multiplies."""
        ...

    def __call__(self, level: NoiseLevel) -> Weights:
        """The weight at ``level``."""
        ...


def _inverse_snr(level: NoiseLevel) -> Weights:
    return (level.sigma / level.alpha) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """Weight 1 on the squared error of ``loss_space``: a prediction type's name; ``None`` is the output's
    own.

    Attributes:
        loss_space: whose squared error counts; ``None``: the output's own.
    """

    loss_space: str | None = None

    def __post_init__(self):
        known = [None, *PREDICTIONS]
        require(
            self.loss_space in known,
            f"weighting.loss_space must be one of {', '.join(map(str, known))}, got {self.loss_space!r}",
        )

    @property
    def space(self) -> PredictionType | None:
        return None if self.loss_space is None else PREDICTIONS[self.loss_space]()

    def __call__(self, level: NoiseLevel) -> Weights:
        return jnp.ones_like(level.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinSNR:
    """min-SNR-gamma: ``min(SNR, gamma)`` on x0 (Hang et al., arXiv:2303.09556, eq. 4 and section 3.4).

    That is ``min(SNR, gamma) / SNR`` on eps and ``min(SNR, gamma) / (SNR + 1)`` on v.

    Attributes:
        gamma: the largest weight on x0.
    """

    gamma: float = 5.0
    space = Epsilon()

    def __post_init__(self):
        require(self.gamma > 0, f"weighting.gamma must be positive, got {self.gamma}")

    def __call__(self, level: NoiseLevel) -> Weights:
        return jnp.minimum(1.0, self.gamma * _inverse_snr(level))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftMinSNR:
    """``SNR gamma / (SNR + gamma)`` on x0 (Crowson et al., HDiT, arXiv:2401.11605, section 3.4).

    Attributes:
        gamma: the largest weight on x0.
    """

    gamma: float = 5.0
    space = Epsilon()

    def __post_init__(self):
        require(self.gamma > 0, f"weighting.gamma must be positive, got {self.gamma}")

    def __call__(self, level: NoiseLevel) -> Weights:
        return self.gamma * level.sigma**2 / (level.alpha**2 + self.gamma * level.sigma**2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class P2:
    """``1 / (k + SNR)^gamma`` on eps (Choi et al., arXiv:2204.00227, eq. 8).

    Attributes:
        gamma: the exponent; 0 is off.
        k: added to the SNR.
    """

    gamma: float = 1.0
    k: float = 1.0
    space = Epsilon()

    def __post_init__(self):
        require(self.k > 0, f"weighting.k must be positive, got {self.k}")
        require(self.gamma >= 0, f"weighting.gamma must not be negative, got {self.gamma}")

    def __call__(self, level: NoiseLevel) -> Weights:
        return (level.sigma**2 / (self.k * level.sigma**2 + level.alpha**2)) ** self.gamma


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedSNR:
    """``max(SNR, 1)`` on x0 (Salimans & Ho, arXiv:2202.00512, section 4)."""

    space = V()

    def __call__(self, level: NoiseLevel) -> Weights:
        squares = level.alpha**2, level.sigma**2
        return jnp.maximum(*squares) / (squares[0] + squares[1]) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDMWeighting:
    """``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2`` on x0: 1 on EDM's F (arXiv:2206.00364, eq. 108).

    Attributes:
        sigma_data: standard deviation of the data.
    """

    sigma_data: float = 0.5

    def __post_init__(self):
        require(self.sigma_data > 0, f"weighting.sigma_data must be positive, got {self.sigma_data}")

    @property
    def space(self) -> PredictionType:
        return EDM(sigma_data=self.sigma_data)

    def __call__(self, level: NoiseLevel) -> Weights:
        return jnp.ones_like(level.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmoidWeighting:
    """``sigmoid(bias - log_snr)`` on eps, per unit of log-SNR (VDM++, Kingma & Gao, arXiv:2303.00848, section
    4.3).

    With ``per="log_snr"`` the weight carries ``-d log_snr / dt / 2``, so that with uniform t the loss does
    not depend on the schedule, as published; with ``per="t"`` it is left out.

    Attributes:
        bias: log-SNR at which the weight is a half.
        per: unit that the weight counts in, ``log_snr`` or ``t``.
    """

    bias: float = 2.0
    per: Literal["log_snr", "t"] = "log_snr"

    @property
    def space(self) -> PredictionType:
        return RATES[self.per][0]

    def __call__(self, level: NoiseLevel) -> Weights:
        return jax.nn.sigmoid(self.bias - level.log_snr) * RATES[self.per][1](level)


def _fall_of_log_snr(level: NoiseLevel) -> Weights:
    """``sigma_dot / sigma - alpha_dot / alpha`` on eps, which is infinite without signal, as a weight on v,
    which is not: times ``alpha^2 / (alpha^2 + sigma^2)^2``.
    """
    signal, noise = level.alpha**2, level.sigma**2
    # Where alpha is a root that ends at 0, its slope is infinite; such a process preserves variance.
    fall = jnp.where(
        jnp.isinf(level.alpha_dot), level.sigma * level.sigma_dot, -level.alpha * level.alpha_dot
    )
    return (signal * level.sigma_dot / level.sigma + fall) / (signal + noise) ** 2


RATES: dict[str, tuple[PredictionType, Callable[[NoiseLevel], Weights]]] = {
    "log_snr": (V(), _fall_of_log_snr),
    "t": (Epsilon(), lambda level: jnp.ones_like(level.alpha)),
}
"""How fast half of the log-SNR falls with time, and how fast time does, as weights on the errors of a
space."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowWeighting:
    """Weights on the flow velocity that SD3 compares (Esser et al., arXiv:2403.03206, section 3.1).

    ``"sigma_sqrt"``: ``sigma^-2``, LDM's eps-like weight; ``"cosmap"``: ``2 / (pi (1 - 2 sigma + 2
    sigma^2))``, the density that gives the flow a cosine schedule's emphasis; sigma is the noise's share
    ``sigma / (alpha + sigma)``.

    Attributes:
        scheme: which of the two weights.
    """

    scheme: Literal["sigma_sqrt", "cosmap"] = "cosmap"
    space = FlowVelocity()

    def __call__(self, level: NoiseLevel) -> Weights:
        return SCHEMES[self.scheme](level.sigma / (level.alpha + level.sigma))


SCHEMES = {
    "sigma_sqrt": lambda share: share**-2.0,
    "cosmap": lambda share: 2 / (jnp.pi * (1 - 2 * share + 2 * share**2)),
}
"""SD3's weights, of the noise's share."""


WEIGHTINGS = {
    "constant": Constant,
    "min_snr": MinSNR,
    "soft_min_snr": SoftMinSNR,
    "p2": P2,
    "truncated_snr": TruncatedSNR,
    "edm": EDMWeighting,
    "sigmoid": SigmoidWeighting,
    "flow": FlowWeighting,
}


@runtime_checkable
class Uncertainty(Protocol):
    """Rescales the loss of each noise level, perhaps by weights of its own that are trained along."""

    def init(self) -> Float[Array, " k"] | None:
        """The weights before training, ``None``: it has none."""
        ...

    def __call__(
        self, weights: Float[Array, " k"] | None, loss: Float[Array, " b"], level: NoiseLevel
    ) -> Float[Array, " b"]:
        """The loss of each example, rescaled."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedUncertainty:
    """EDM2's learned log-variance of the loss (Karras et al., arXiv:2312.02696, eq. 21 and appendix B.2).

    ``loss -> loss / exp(u) + u``, with u a linear map of random Fourier features of the level's ``log(sigma /
    alpha) / 4``, trained along with the network: the gradient that each noise level gives becomes of equal
    size. The map's weights are trained parameters; the features are the same in every run.

    Attributes:
        features: how many random Fourier features there are.
    """

    features: Width = 128

    def __post_init__(self):
        require(self.features >= 1, f"uncertainty.features must be at least 1, got {self.features}")

    def init(self) -> Float[Array, " k"]:
        """The weights before training: u = 0 everywhere."""
        return jnp.zeros(self.features)

    def log_variance(self, weights: Float[Array, " k"], level: NoiseLevel) -> Float[Array, " b"]:
        """u at each level."""
        first, second = jax.random.split(jax.random.key(0))
        frequencies = 2 * jnp.pi * jax.random.normal(first, (self.features,))
        phases = 2 * jnp.pi * jax.random.uniform(second, (self.features,))
        # Finite where no signal or no noise is left.
        noise = jnp.clip(-level.log_snr[:, None] / 8, -10, 10)
        features = jnp.sqrt(2.0) * jnp.cos(noise * frequencies + phases)
        return features @ weights / jnp.sqrt(self.features)

    def __call__(
        self, weights: Float[Array, " k"], loss: Float[Array, " b"], level: NoiseLevel
    ) -> Float[Array, " b"]:
        """The loss of each example, rescaled."""
        u = self.log_variance(weights, level)
        return (loss / jnp.exp(u) + u).astype(loss.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoUncertainty:
    """The loss as it is."""

    def init(self) -> None:
        return None

    def __call__(self, weights: None, loss: Float[Array, " b"], level: NoiseLevel) -> Float[Array, " b"]:
        """``loss``."""
        return loss


UNCERTAINTIES = {"none": NoUncertainty, "learned": LearnedUncertainty}
