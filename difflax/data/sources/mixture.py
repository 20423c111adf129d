"""Several sources as one."""

import dataclasses
from typing import Any

from difflax.core.bounds import Positive
from difflax.data.mixtures import MixedRecords


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedSource:
    """Several sources as one, each with its share of what a model sees.

    Attributes:
        sources: each with its name and its fields; their images have the same shapes.
        weights: the share of each source; empty: by their sizes, so that every example comes once an epoch.
    """

    sources: tuple[Any, ...] = ()
    weights: tuple[Positive, ...] = ()

    def __post_init__(self):
        if not self.sources:
            raise ValueError("sources: name at least one")
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(f"{len(self.weights)} weights for {len(self.sources)} sources: give each one")
        for field, usual in ALIKE.items():
            values = [getattr(source, field, usual) for source in self.sources]
            if len(set(values)) > 1:
                raise ValueError(
                    f"sources differ in {field}: {' and '.join(map(str, dict.fromkeys(values)))}"
                )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """See `Source`."""
        return self.sources[0].image_shape

    @property
    def image_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Of the images, `image_shape` and those of the buckets."""
        return getattr(self.sources[0], "image_shapes", (self.image_shape,))

    @property
    def flip(self) -> float:
        """The probability that an image is mirrored."""
        return getattr(self.sources[0], "flip", ALIKE["flip"])

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        """More shapes of images."""
        return getattr(self.sources[0], "buckets", ALIKE["buckets"])

    @property
    def alpha_mask(self) -> bool:
        """Whether an image's opacity is its mask."""
        return getattr(self.sources[0], "alpha_mask", ALIKE["alpha_mask"])

    @property
    def score_key(self) -> str:
        """The column of the scores; empty: none."""
        return getattr(self.sources[0], "score_key", ALIKE["score_key"])

    def split(self, name: str) -> MixedRecords:
        """See `Source`; every source has the split."""
        return MixedRecords([source.split(name) for source in self.sources], self.weights)


ALIKE: dict[str, Any] = {
    "image_shape": None,
    "buckets": (),
    "flip": 0.0,
    "alpha_mask": False,
    "score_key": "",
}
"""Fields in which the sources of a mixture are alike, and what those count that have none."""
