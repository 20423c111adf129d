"""Where captioned images come from: one frozen dataclass a kind of source, by name in `SOURCES`.

``source.split(name)`` gives `Records`: random access by row to an image and its caption, the same rows in the
same order every time. The files of "digits" are written once, under ``data_dir`` (default
``$DIFFLAX_DATA_DIR``, else ``~/.cache/difflax/data``). Nothing here imports TensorFlow.
"""

import dataclasses
import os
from typing import Annotated, Protocol, runtime_checkable

from etils import epath

from difflax.core.bounds import Edge, Examples, Range
from difflax.core.types import UserError
from difflax.data import digits
from difflax.data.folders import Folder
from difflax.data.records import Records, TfdsRecords, check_split
from difflax.data.shapes.examples import LONG_CAPTIONS, PICTURE_SIZES
from difflax.data.shapes.records import ShapesRecords
from difflax.data.shapes.splits import SPLITS
from difflax.data.subjects import Subject
from difflax.data.transforms import check_images


@runtime_checkable
class Source(Protocol):
    """A data set that a config names."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""
        ...

    def split(self, name: str) -> Records:
        """The rows of a split.

        Raises:
            UserError: there is no such split, or the data is missing or broken.
        """
        ...


def data_directory(data_dir: str | None) -> epath.Path:
    """``data_dir`` or the default."""
    return epath.Path(data_dir or os.environ.get("DIFFLAX_DATA_DIR") or "~/.cache/difflax/data").expanduser()


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

    def split(self, name: str) -> Records:
        """See `Source`; the splits are "train" and "test"."""
        check_split("digits", name, tuple(digits.SPLIT_ROWS))
        from difflax.data import builders  # TFDS is slow to import

        builder = builders.prepare(builders.DifflaxDigits, data_directory(self.data_dir))
        return TfdsRecords(builder, name, self.image_shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfds:
    """Any TFDS data set that lies prepared in a format with random access.

    Attributes:
        builder: a TFDS name ("mnist", "oxford_flowers102") that lies under ``data_dir``, or the folder of a
            prepared data set, which needs no builder code.
        height, width, channels: of every image; others are cropped, resized and converted.
        image_key: the feature with the image.
        caption_key: the feature with the caption: a text, or a class label, which reads as its name.
        caption_template: what becomes of the caption, "a photo of a {}" for example.
        flip: see `Records`.
        data_dir: where it lies; ``None``: TFDS's own default.
    """

    builder: str
    height: Edge
    width: Edge
    channels: int = 3
    image_key: str = "image"
    caption_key: str = "caption"
    caption_template: str = "{}"
    flip: float = 0.0
    data_dir: str | None = None

    def __post_init__(self):
        check_images(self.image_shape, self.flip)
        if self.caption_template.count("{}") != 1:
            raise ValueError(f"caption_template must hold one {{}}, got {self.caption_template!r}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    def split(self, name: str) -> Records:
        """See `Source`; the splits are the data set's own."""
        import tensorflow_datasets as tfds  # slow to import

        where = f"config.data.builder = {self.builder!r}"
        folder = epath.Path(self.builder).expanduser()
        try:
            if (folder / "dataset_info.json").exists():
                builder = tfds.builder_from_directory(folder)
            else:
                builder = tfds.builder(self.builder, data_dir=self.data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise UserError(f"{where}: neither a TFDS name nor the folder of a prepared data set") from error
        if not builder.data_path.exists():
            raise UserError(
                f"{where} is not prepared in {builder.data_path}; run `tfds build --file_format=array_record`"
            )
        check_split(self.builder, name, tuple(builder.info.splits))
        features = builder.info.features
        for field, key in (("image_key", self.image_key), ("caption_key", self.caption_key)):
            if key not in features:
                raise UserError(
                    f"config.data.{field} = {key!r} is no feature of {self.builder}: {', '.join(features)}"
                )
        caption = features[self.caption_key]
        if not isinstance(caption, tfds.features.Text | tfds.features.ClassLabel):
            raise UserError(
                f"config.data.caption_key = {self.caption_key!r} is a {type(caption).__name__}; "
                "a caption must be a Text or a ClassLabel"
            )
        try:
            return TfdsRecords(
                builder,
                name,
                self.image_shape,
                image_key=self.image_key,
                caption_key=self.caption_key,
                caption_template=self.caption_template,
                flip=self.flip,
            )
        except NotImplementedError as error:
            raise UserError(
                f"{where} is prepared as {builder.info.file_format.value}, which cannot be read at random; "
                "run `tfds build --file_format=array_record`"
            ) from error


SOURCES: dict[str, type[Source]] = {
    "shapes": Shapes,
    "first_shapes": FirstShapes,
    "digits": Digits,
    "tfds": Tfds,
    "folder": Folder,
    "subject": Subject,
}
