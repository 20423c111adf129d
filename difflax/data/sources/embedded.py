"""The data that come with difflax: the world of shapes, made when it is read, and scikit-learn's digits."""

import dataclasses
from typing import Annotated

from difflax.core.bounds import Examples, Range
from difflax.core.types import UserError
from difflax.data import digits
from difflax.data.images import ImageRecords
from difflax.data.records import Records, check_split
from difflax.data.shapes.examples import LONG_CAPTIONS, PICTURE_SIZES
from difflax.data.shapes.records import ShapesRecords
from difflax.data.shapes.splits import SPLITS
from difflax.data.sources.base import data_directory
from difflax.data.sources.tfds import Tfds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """The embedded world of `difflax.data.shapes`; its examples are made when they are read.

    Attributes:
        train, test, held_out: examples of each split, which cost nothing until they are read; ``held_out`` of
            combinations at distance 1 from training and as many at distance 2 (the split "held_out_2").
        size: pixels along a picture's side: 32, 64, 128 or 256.
        long_captions: share of the captions that name nearly everything; the others name a factor or two.
        one_object: whether scenes have one object alone: those are learned in a fraction of the time.
            Captions of one object mean the same in either world.
        data_seed: of the scenes.
    """

    train: Examples = 20_000
    test: Examples = 1_000
    held_out: Examples = 500
    size: int = 32
    long_captions: Annotated[float, Range(0, 1)] = LONG_CAPTIONS
    one_object: bool = False
    data_seed: Annotated[int, Range(0)] = 0

    def __post_init__(self):
        if self.size not in PICTURE_SIZES:
            raise ValueError(f"size = {self.size} pixels; it is one of {PICTURE_SIZES}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.size, self.size, 3

    def split(self, name: str) -> ShapesRecords:
        """See `Source`; the splits are "train", "test", "held_out" and "held_out_2"."""
        check_split("shapes", name, SPLITS)
        number = dict(zip(SPLITS, (self.train, self.test, self.held_out, self.held_out), strict=True))[name]
        return ShapesRecords(
            self.data_seed,
            name,
            number,
            size=self.size,
            long_captions=self.long_captions,
            one_object=self.one_object,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstShapes:
    """The scenes that were "shapes" in earlier versions, which are gone; workdirs that were trained on them
    still make images.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 32, 32, 3

    def split(self, name: str) -> Records:
        """See `Source`: there is none left."""
        raise UserError(
            "the data of this run are the scenes of an earlier version of difflax, which are gone: it still"
            " makes images, but is neither measured nor trained any further; train one on config.data.name ="
            " shapes"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """The embedded handwritten digits of `difflax.data.digits`; their files are written at the first use.

    Attributes:
        data_dir: where they lie.
    """

    data_dir: str | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 8, 8, 1

    def split(self, name: str) -> ImageRecords:
        """See `Source`; the splits are "train" and "test"."""
        check_split("digits", name, tuple(digits.SPLIT_ROWS))
        from difflax.data import builders  # TFDS is slow to import

        builder = builders.prepare(builders.DifflaxDigits, data_directory(self.data_dir))
        height, width, channels = self.image_shape
        prepared = Tfds(builder=str(builder.data_path), height=height, width=width, channels=channels)
        return prepared.split(name)
