"""How a metric is named, read and plotted."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is named, read and plotted.

    Attributes:
        name: its key in tables and files.
        label: its name for people, without the unit.
        unit: the unit, or what the number is a share of; empty if there is none.
        better: which direction is good; "neither" where the number only describes.
        definition: what is computed, in one sentence.
        note: what to know before reading it.
        source: the paper that defines it.
        bounds: the smallest and largest possible value (``None``: unbounded).
        truth: the value of images that are as true as can be, where it is known exactly.
        part_of: the metric that this one is a detail of: it is drawn and listed with the other details.
    """

    name: str
    label: str
    unit: str = ""
    better: Literal["higher", "lower", "neither"] = "neither"
    definition: str
    source: str
    note: str = ""
    bounds: tuple[float | None, float | None] = (None, None)
    truth: float | None = None
    part_of: str = ""

    @property
    def sign(self) -> int:
        """1 where a high value is good, -1 where a low one is, 0 where neither is."""
        return {"higher": 1, "lower": -1, "neither": 0}[self.better]

    @property
    def axis_label(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


def share_read(name: str, label: str, what: str, part_of: str = "") -> Metric:
    """A metric of images that a judge reads right (1) or wrong (0)."""
    return Metric(
        name=name,
        label=label,
        unit="share of images",
        better="higher",
        definition=f"Share of images in which the judge reads {what} right.",
        source="the judge named in the provenance",
        note="Images whose prompt does not name it are left out.",
        bounds=(0.0, 1.0),
        part_of=part_of,
    )


ACCURACY = share_read("accuracy", "Prompt accuracy", "every attribute that the prompt names")
