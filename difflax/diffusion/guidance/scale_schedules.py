"""Scales that change with the noise level: one open form, the schedules of the literature, and tables.

Each comes to

    s(level) = max(least, gain(level) · s + offset(level))

of the guidance's own scale ``s``, so that a schedule of the literature may be asked for at any scale, and a
table, whose gain is 0, has its own. A run tabulates gain and offset at its levels: they are arrays, and one
program serves all schedules.

Schedules of the literature act on the excess ``w = s - 1``, which the papers call the guidance weight:
``s(p) = 1 + share(p) w`` over the run's progress ``p``, 0 at its first step and 1 at its last. The papers
state them in ``1 - t / T`` of evenly spaced timesteps, which is the same.
"""

import dataclasses
from typing import Annotated, Any, ClassVar

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.core.bounds import Range
from difflax.diffusion.checks import require
from difflax.diffusion.guidance.base import Guidance, Strength
from difflax.diffusion.guidance.intervals import SCALE_SHAPES, ScaleSchedule, scale_table
from difflax.diffusion.schedules.base import NoiseLevel

Column = Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleOverNoise:
    """A scale that changes with the noise level; see the module's docstring.

    Attributes:
        stretches: whether the guidance's own scale counts; ``False``: the schedule has its own.
    """

    stretches: ClassVar[bool] = True

    @property
    def least(self) -> float:
        """What the scale is at least."""
        return -np.inf

    def columns(self, log_snr: Column, progress: Column) -> tuple[Column, Column]:
        """Gain and offset at levels.

        Args:
            log_snr: of each level.
            progress: of the run at each level, from 0 to 1.
        """
        raise NotImplementedError

    def over(self, levels: NoiseLevel) -> tuple[ScaleSchedule, ScaleSchedule]:
        """Gain and offset over a run of these levels; between two of them, on a line in the noise angle."""
        log_snr = np.asarray(levels.log_snr, float)[:-1]
        return tuple(scale_table(levels, column) for column in self.columns(log_snr, _progress(log_snr)))


def _progress(log_snr: Column) -> Column:
    """How far a run is at each of its levels: their rank, so that one which comes again has it again."""
    distinct, rank = np.unique(log_snr, return_inverse=True)
    return rank / (len(distinct) - 1) if len(distinct) > 1 else np.full(len(log_snr), 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConstantScale(ScaleOverNoise):
    """``share = 1``: the guidance's own scale everywhere."""

    def columns(self, log_snr, progress):
        return _of_shares(np.ones_like(progress))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RampScale(ScaleOverNoise):
    """``share = 2 shape(p)``, whose mean over the steps is 1, and never below a floor.

    Wang et al., arXiv:2404.13040, section 3.2 and the clamped ones of section 5: ``w(p) = max(c, 2 shape(p)
    w)``; the mean is theirs, so that a run is guided as much in all as by a constant ``w``.

    Attributes:
        falling: whether it goes down along the run, from ``2 w`` to 0; ``False``: up.
        floor: the least excess ``s - 1``, c; ``None``: no floor.
    """

    shape: ClassVar[str]

    falling: bool = False
    floor: float | None = None

    @property
    def least(self) -> float:
        return -np.inf if self.floor is None else 1.0 + self.floor

    def columns(self, log_snr, progress):
        return _of_shares(2 * SCALE_SHAPES[self.shape](1 - progress if self.falling else progress))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScale(RampScale):
    """``share = 2 p`` (Wang et al., arXiv:2404.13040, "linear"; "clamp-linear" with a floor)."""

    shape: ClassVar[str] = "linear"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineScale(RampScale):
    """``share = 1 - cos(pi p)`` (Wang et al., arXiv:2404.13040, "cosine"; "clamp-cosine" with a floor)."""

    shape: ClassVar[str] = "cosine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerCosineScale(ScaleOverNoise):
    """``share = (1 - cos(pi p^power)) / 2``, from 0 to 1 and not normalised (Gao et al., MDT,
    arXiv:2303.14389, "power-cosine"; Wang et al. call it "pcs").

    Attributes:
        power: of the progress; the larger, the later guidance sets in. MDT has 4.
    """

    power: Annotated[float, Range(0.0, 100.0, above=True)] = 4.0

    def columns(self, log_snr, progress):
        return _of_shares(SCALE_SHAPES["cosine"](progress**self.power))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableScale(ScaleOverNoise):
    """Scales at log-SNRs, between them on straight lines, beyond them as at the ends. The guidance's own
    scale does not count.

    Attributes:
        log_snr: of each scale, increasing.
        scales: one each.
    """

    stretches: ClassVar[bool] = False

    log_snr: tuple[float, ...]
    scales: tuple[float, ...]

    def __post_init__(self):
        _check(self.log_snr, "log_snr", self.scales, 0)

    def columns(self, log_snr, progress):
        return np.zeros_like(log_snr), np.interp(log_snr, self.log_snr, self.scales)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandScale(ScaleOverNoise):
    """Scales in bands of log-SNR, each the same all over its band. The guidance's own scale does not count.

    Attributes:
        edges: log-SNRs between two bands, increasing; a level on an edge is in the band above it.
        scales: one a band, that of the highest noise first: one more than edges.
    """

    stretches: ClassVar[bool] = False

    edges: tuple[float, ...]
    scales: tuple[float, ...]

    def __post_init__(self):
        _check(self.edges, "edges", self.scales, 1)

    def columns(self, log_snr, progress):
        return np.zeros_like(log_snr), np.asarray(self.scales)[self.band(log_snr)]

    def band(self, log_snr: Column) -> np.ndarray:
        """The number of the band that a log-SNR is in."""
        return np.searchsorted(self.edges, log_snr, side="right")


def _of_shares(shares: Column) -> tuple[Column, Column]:
    """``share s + (1 - share)``: exactly s at 1 and exactly 1 at 0."""
    return shares, 1 - shares


def _check(places: tuple[float, ...], name: str, scales: tuple[float, ...], more: int) -> None:
    finite = np.isfinite([*places, *scales]).all()
    require(bool(finite), f"{name} and scales must be finite numbers, got {places} and {scales}")
    wanted = len(places) + more
    require(
        len(scales) == wanted and wanted > 0,
        f"scales has {len(scales)} entries, with {len(places)} {name} it needs {max(wanted, 1)}",
    )
    require(bool((np.diff(places) > 0).all()), f"{name} must be increasing, got {places}")


SCALE_SCHEDULES: dict[str, type[ScaleOverNoise]] = {
    "constant": ConstantScale,
    "linear": LinearScale,
    "cosine": CosineScale,
    "power_cosine": PowerCosineScale,
    "table": TableScale,
    "bands": BandScale,
}


@flax.struct.dataclass
class Scheduled(Guidance):
    """``guidance`` at a scale that changes with the noise level.

    Attributes:
        guidance: what acts, whatever its own scale is.
        scale: s, also one value an example.
        gain, offset: over the noise, see the module's docstring.
        least: what the scale is at least.
    """

    guidance: Any
    scale: Strength
    gain: ScaleSchedule
    offset: ScaleSchedule
    least: float | Float[Array, ""] = -np.inf

    def scale_at(self, level: NoiseLevel) -> Float[Array, "*n"]:
        """The scale at a noise level."""
        return jnp.maximum(self.least, self.gain(level) * self.scale + self.offset(level))

    def arrange(self, positives, negative):
        return self.guidance.arrange(positives, negative)

    def begin(self, x):
        return self.guidance.begin(x)

    def evaluate(self, denoise, x, level, conditioning, memory):
        guidance = self.guidance.with_scale(self.scale_at(level))
        return guidance.evaluate(denoise, x, level, conditioning, memory)


def scheduled(guidance: Guidance, schedule: ScaleOverNoise, levels: NoiseLevel) -> Scheduled:
    """``guidance`` with ``schedule`` over a run of these levels.

    Raises:
        ValueError: the guidance has no scale.
    """
    guidance = guidance.with_scale(guidance.scale if hasattr(guidance, "scale") else 1.0)
    gain, offset = schedule.over(levels)
    return Scheduled(guidance, guidance.scale, gain, offset, schedule.least)
