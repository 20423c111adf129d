"""The ways to guide that a study compares, each with scales of its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from difflax.config.embedded import find_workdir
from difflax.training.runtime.averages import trained_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A way to guide, with the scales that say something about it.

    Attributes:
        label: its name in plots and tables.
        section: as ``config.guidance``.
        scales: at which it is measured.
    """

    label: str
    section: Mapping[str, Any]
    scales: tuple[float, ...]


USUAL_SCALES = (0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
WIDE_SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 14.0, 20.0)
"""Of methods that were made for high scales."""
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of CFG++, whose scale lies between the unconditional and the conditional model."""

INTERVAL = (0.56, 5.8)
"""Kynkäänniemi et al. (arXiv:2404.07724, section 4) guide EDM2-XXL from sigma 0.28 to 2.9, where the data
have the standard deviation 0.5; so this is for data of unit variance.
"""


def guidance_methods(
    weak_step: int | None, interval: tuple[float, float] = INTERVAL, rescale: float = 0.7
) -> dict[str, Method]:
    """The ways to guide that are compared, by name.

    Args:
        weak_step: the checkpoint of the run that is autoguidance's worse model; ``None``: the run has none,
            and the method is left out.
        interval: where the limited one acts, in ``sigma / alpha``.
        rescale: share of the rescaling, in [0, 1] (Lin et al., arXiv:2305.08891: 0.7).
    """
    low, high = interval
    bounds = {"low": low, "high": high, "unit": "sigma"}
    rescaling = ({"name": "rescale", "strength": rescale},)
    found = {
        "cfg": ("CFG", {"name": "cfg"}, USUAL_SCALES),
        "cfg_interval": ("CFG, interval", {"name": "cfg", "interval": bounds}, WIDE_SCALES),
        "cfg_rescale": ("CFG, rescaled", {"name": "cfg", "corrections": rescaling}, WIDE_SCALES),
        "apg": ("APG", {"name": "apg"}, WIDE_SCALES),
        "cfg_plus_plus": ("CFG++ (scale 0 to 1)", {"name": "cfg_plus_plus"}, SHARES),
        "cfg_zero_star": ("CFG-Zero*", {"name": "cfg_zero_star"}, USUAL_SCALES),
    }
    if weak_step is not None:
        weak = {"name": "autoguidance", "weak": {"step": weak_step}}
        found["autoguidance"] = ("Autoguidance", weak, USUAL_SCALES)
    return {
        name: Method(label=label, section=section, scales=scales)
        for name, (label, section, scales) in found.items()
    }


def early_step(workdir: epath.PathLike) -> int | None:
    """The first step of which a workdir has parameters; ``None`` if it is the only one."""
    weights = trained_weights(epath.Path(find_workdir(workdir)))
    steps = list(weights.steps)
    weights.close()
    return steps[0] if len(steps) > 1 else None
