"""The ways to cut a picture into objects: a front object may cut one in two, an edge may look like one."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Int

from difflax.data.shapes.factors import MAX_OBJECTS
from difflax.evaluation.judges.shapes import segment
from difflax.evaluation.judges.shapes.segment import SIZE, Regions

SMALL_PIXELS = 16  # a smaller region may be an edge between two others
MAX_WAYS = 5  # to cut a picture into objects that are tried

Cut = list[tuple[int, Bool[np.ndarray, "h w"]]]
"""The colour and the pixels of everything in a picture that may be an object."""


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Ways to cut pictures into at most three objects: the picture of each, and masks by colour."""

    owner: Int[np.ndarray, " m"]
    present: Bool[np.ndarray, "m 3"]
    colour: Int[np.ndarray, "m 3"]
    mask: Bool[np.ndarray, "m 3 h w"]


def candidates(cuts: list[tuple[int, Cut]]) -> Candidates:
    """Cuts of pictures as arrays."""
    m = len(cuts)
    present, colour = np.zeros((m, 3), bool), np.zeros((m, 3), int)
    mask = np.zeros((m, 3, SIZE, SIZE), bool)
    for i, (_, cut) in enumerate(cuts):
        for j, part in enumerate(cut):
            present[i, j], (colour[i, j], mask[i, j]) = True, part
    return Candidates(np.array([owner for owner, _ in cuts], int), present, colour, mask)


def ways(found: Regions, pictures: int) -> list[list[Cut]]:
    """The cuts of every picture; the first is its three largest regions."""
    starts = np.searchsorted(found.owner, np.arange(pictures + 1))
    spans = [slice(*pair) for pair in itertools.pairwise(starts)]
    return [_ways_of_one(list(zip(found.colour[s].tolist(), found.mask[s], strict=True))) for s in spans]


def _ways_of_one(every: Cut) -> list[Cut]:
    """As it is, regions of one colour joined, a long one halved, the smallest left out."""
    found = [every]
    for i, (colour, mask) in enumerate(every):
        for j in range(i + 1, len(every)):
            joined = mask | every[j][1]
            if colour == every[j][0] and len(found) < MAX_WAYS and not segment.halves(joined):
                rest = [part for k, part in enumerate(every) if k not in (i, j)]
                found.append([(colour, joined), *rest])
        if len(every) < MAX_OBJECTS and len(found) < MAX_WAYS:
            halves = segment.halves(mask)
            found += [[*((colour, half) for half in halves), *every[:i], *every[i + 1 :]]] if halves else []
    large = [part for part in every if part[1].sum() >= SMALL_PIXELS]
    found += [large] if 0 < len(large) < len(every) else []
    found += [every[:-1]] if len(every) > 1 else []
    return [way[:MAX_OBJECTS] for way in found]
