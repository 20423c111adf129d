"""The scale that would be right: where the truth is known, the best one of each noise level by direct search.

The steps of a run are cut into bands of log-SNR. From the best constant scale the scale of each band alone is
varied, then all bands by coordinate descent. The table that comes out is compared with the schedules of the
literature, each at its own best scale, on prompts and noise that no search has seen.

Everything is arms of a sweep: the prompts and the noise are the same in all, and what is drawn is not drawn
again.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.core.types import UserError
from difflax.diffusion.schedules import NoiseLevel
from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.ablation.tables import write_tables
from difflax.evaluation.contrasts.coordinates import Line, Point, descend, lines_through
from difflax.evaluation.shapes.overlap import overlaps
from difflax.generation.settings import run_levels
from difflax.runs.methods import INTERVAL
from difflax.runs.studied import Studied

FOUND, CONSTANT = "found by search", "constant"
LITERATURE: dict[str, dict[str, Any]] = {
    "interval": {"guidance.interval": [*INTERVAL, "sigma"]},
    "linear": {"guidance.schedule": {"name": "linear"}},
    "cosine": {"guidance.schedule": {"name": "cosine"}},
    "power-cosine": {"guidance.schedule": {"name": "power_cosine"}},
}
"""Settings of a sweep by the name of a schedule; its scale comes beside."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleSearch:
    """What is tried.

    Attributes:
        bands: of log-SNR, each of about as many steps.
        constants: scales that are the same everywhere.
        of_literature: scales of each schedule of the literature, which for some stand for the most of a run.
        grid: scales of one band.
        passes: of coordinate descent, at most; 0: the bands' own best scales are put together.
    """

    bands: int = 6
    constants: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
    of_literature: tuple[float, ...] = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    grid: tuple[float, ...] = (1.0, 1.5, 2.5, 4.0, 6.0)
    passes: int = 1

    def __post_init__(self):
        for name in ("constants", "of_literature", "grid"):
            scales = getattr(self, name)
            if not scales or not np.isfinite(scales).all() or len(set(scales)) < len(scales):
                raise UserError(f"{name}={list(scales)}: give at least one scale, finite and each once")
        if self.passes < 0:
            raise UserError(f"passes={self.passes} must not be negative")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ScaleStudy:
    """What was found.

    Attributes:
        edges: log-SNRs between the bands.
        base: the best constant scale.
        alone: a line for each band whose scale alone was varied.
        path: the points of the descent, a scale a band; the last one is the schedule that was found.
        scales: of each schedule that is compared, its own best on the search's prompts; not the found one's.
        searches: every arm that the search drew.
        held_out: all of them on other prompts and other noise, arms in the order of ``names``.
        names: of the schedules, the constant one first and the found one last.
        levels: of the run.
    """

    edges: tuple[float, ...]
    base: float
    alone: tuple[Line, ...]
    path: tuple[Point, ...]
    scales: Mapping[str, float]
    searches: AblationResult
    held_out: AblationResult
    names: tuple[str, ...]

    levels: NoiseLevel

    @property
    def section(self) -> dict[str, Any]:
        """The schedule that was found, as ``config.guidance.schedule``."""
        return bands_section(self.edges, self.path[-1])


def bands_section(edges: Sequence[float], scales: Sequence[float]) -> dict[str, Any]:
    """A schedule of scales in bands, as ``config.guidance.schedule``."""
    return {"name": "bands", "edges": list(edges), "scales": list(scales)}


def band_edges(levels: NoiseLevel, bands: int) -> tuple[float, ...]:
    """The log-SNRs that cut a run's steps into bands of about as many steps, half-way between two steps in
    the noise angle.

    Raises:
        UserError: fewer steps than bands, or less than two bands.
    """
    angles = np.arctan2(np.asarray(levels.sigma, float), np.asarray(levels.alpha, float))[:-1]
    distinct = np.unique(angles)[::-1]
    if not 2 <= bands <= len(distinct):
        raise UserError(f"bands={bands}: give a number from 2 to the run's {len(distinct)} noise levels")
    starts = [part[0] for part in np.array_split(np.arange(len(distinct)), bands)[1:]]
    middles = [(distinct[start - 1] + distinct[start]) / 2 for start in starts]
    return tuple(round(float(-2 * np.log(np.tan(angle))), 3) for angle in middles)


def scales_study(
    subject: Studied,
    search: ScaleSearch,
    directory: epath.PathLike,
    *,
    held_out_prompts: int,
    sampler: str | None,
    num_steps: int | None,
) -> ScaleStudy:
    """The whole study; sweeps lie in ``search`` and ``held_out`` of ``directory``.

    Args:
        subject: with the prompts of both: the last ``held_out_prompts`` are kept out of the search.

    Raises:
        UserError: too few prompts, bands that the run's steps do not have, or scales that the guidance has
            not; nothing has been drawn then.
    """
    directory = epath.Path(directory)
    searched, kept_out = parted(subject, held_out_prompts)
    defaults = subject.pipeline.defaults
    levels = run_levels(subject.pipeline.model, defaults, num_steps or defaults.num_steps)
    edges = band_edges(levels, search.bands)
    drawn: dict[str, Arm] = {}

    def measure(arms: Sequence[Arm]) -> Float[np.ndarray, "a p"]:
        drawn.update({arm.key: arm for arm in arms})
        return overlaps(searched.compare(directory / "search", arms, sampler, num_steps))

    def measure_points(points: Sequence[Point]) -> Float[np.ndarray, "a p"]:
        return measure([arm_of_point(edges, point) for point in points])

    base = _best_scale(measure, {}, search.constants)
    start = (base,) * search.bands
    alone = lines_through(measure_points, start, search.grid)
    order = sorted(range(search.bands), key=lambda place: -_gained(alone[place]))
    path = descend(measure_points, start, search.grid, order, search.passes)
    if not search.passes:
        path.append(tuple(line.values[line.best] for line in alone))
    scales = {
        name: _best_scale(measure, settings, search.of_literature) for name, settings in LITERATURE.items()
    }
    searches = searched.compare(directory / "search", list(drawn.values()), sampler, num_steps)
    write_tables(searches, directory / "search")
    compared = {CONSTANT: _arm({"guidance.scale": base})}
    compared |= {name: _arm({**LITERATURE[name], "guidance.scale": scale}) for name, scale in scales.items()}
    compared[FOUND] = arm_of_point(edges, path[-1])
    held_out = kept_out.compare(directory / "held_out", list(compared.values()), sampler, num_steps)
    write_tables(held_out, directory / "held_out")
    return ScaleStudy(
        edges=edges,
        base=base,
        alone=tuple(alone),
        path=tuple(path),
        scales={CONSTANT: base, **scales},
        searches=searches,
        held_out=held_out,
        names=tuple(compared),
        levels=levels,
    )


def parted(subject: Studied, held_out_prompts: int) -> tuple[Studied, Studied]:
    """The subject with its first prompts, and with its last ones and noise that the first have not.

    Raises:
        UserError: fewer than two prompts are left for one of them.
    """
    prompts = subject.group.prompts
    number = len(prompts) - held_out_prompts
    if number < 2 or held_out_prompts < 2:
        raise UserError(
            f"{len(prompts)} prompts, {held_out_prompts} of them held out: the search and the comparison need"
            " at least 2 each"
        )
    # What is true of them is known by now; reading true pictures again at every sweep takes time.
    real = {"real_images": subject.group.real_images[:2], "real_prompts": subject.group.real_prompts[:2]}
    search = dataclasses.replace(subject.group, prompts=prompts[:number], **real)
    rest = dataclasses.replace(subject.group, prompts=prompts[number:])
    return (
        dataclasses.replace(subject, group=search),
        # Of the search no seed is as large, see `Design.seed`.
        dataclasses.replace(subject, group=rest, first_seed=number * subject.seeds),
    )


def _arm(settings: Mapping[str, Any]) -> Arm:
    return Arm(settings=dict(settings))


def arm_of_point(edges: Sequence[float], point: Point) -> Arm:
    """The arm of a scale a band."""
    return _arm({"guidance.schedule": bands_section(edges, point)})


def _best_scale(
    measure: Callable[[Sequence[Arm]], np.ndarray], settings: Mapping[str, Any], scales: Sequence[float]
) -> float:
    """The scale at which arms of these settings overlap most with the truth; the smallest of equals."""
    ordered = sorted(scales)
    found = measure([_arm({**settings, "guidance.scale": float(scale)}) for scale in ordered])
    return float(ordered[int(np.nanmean(found, axis=1).argmax())])


def _gained(line: Line) -> float:
    means = np.nanmean(line.scores, axis=1)
    return float(means.max() - means[line.base])
