"""TensorFlow Datasets that lie prepared, read without TensorFlow."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from difflax.core.types import BadExample, UserError
from difflax.data.captions import CaptionText, Fields, check_columns
from difflax.data.images import ImageRecords
from difflax.data.records import check_split
from difflax.data.sources.base import ImageSource

UNREADABLE = (ValueError, IndexError, OSError, RuntimeError)
"""What readers raise at a file that is cut short or broken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfds(ImageSource):
    """Any TFDS data set that lies prepared in a format with random access.

    A column of captions is a text, several texts, or a class label, which reads as its name.

    Attributes:
        builder: a TFDS name ("mnist", "oxford_flowers102") that lies under ``data_dir``, or the folder of a
            prepared data set, which needs no builder code.
        channels: 3, or 1 for grey images.
        image_key: the column with the picture.
        data_dir: where it lies; ``None``: TFDS's own default.
    """

    builder: str
    channels: int = 3
    image_key: str = "image"
    caption: CaptionText = "caption"
    data_dir: str | None = None

    def split(self, name: str) -> ImageRecords:
        """See `Source`; the splits are the data set's own."""
        import tensorflow_datasets as tfds  # slow to import

        where = f"config.data.builder = {self.builder!r}"
        builder = self._found(tfds, where)
        check_split(self.builder, name, tuple(builder.info.splits))
        features = builder.info.features
        if self.image_key not in features:
            raise UserError(
                f"config.data.image_key = {self.image_key!r} is no feature of {self.builder}: "
                f"{', '.join(features)}"
            )
        beside = {key: feature for key, feature in features.items() if key != self.image_key}
        check_columns(self.caption_form, list(beside), self.builder)
        try:
            return ImageRecords(TfdsEntries(builder, name, self.image_key), self.form)
        except NotImplementedError as error:
            raise UserError(
                f"{where} is prepared as {builder.info.file_format.value}, which cannot be read at random; "
                "run `tfds build --file_format=array_record`"
            ) from error

    def _found(self, tfds: Any, where: str) -> Any:
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
        return builder


class TfdsEntries:
    """`Entries` of a split of a prepared TFDS data set, in file order; see `Tfds` for the arguments."""

    epoch = None

    def __init__(self, builder: Any, split: str, image_key: str = "image"):
        import tensorflow_datasets as tfds  # slow to import

        # Its own decoder would warn that OpenCV is missing.
        self._rows = builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
        self._name, self._image_key = f"{builder.info.full_name} {split}", image_key
        self._readers = {
            key: _reader(tfds, feature) for key, feature in builder.info.features.items() if key != image_key
        }
        self._files = list(builder.info.splits[split].filepaths)

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, row: int) -> str:
        """See `Entries`."""
        return f"{self._name} row {row}"

    def examples(self, rows: Sequence[int]) -> list[tuple[bytes, Fields]]:
        """See `Entries`."""
        try:
            read = self._rows.__getitems__(rows)
        except UNREADABLE as error:
            where = self.where(rows[0]) + (f" to {rows[-1]}" if len(rows) > 1 else "")
            raise BadExample(
                f"{where} cannot be read, as its file is cut short or broken: {error}"
            ) from error
        return [self._example(row, values) for row, values in zip(rows, read, strict=True)]

    def fields(self, rows: Sequence[int]) -> list[Fields]:
        """See `Entries`; the pictures are read with them, and decoded by nobody."""
        return [fields for _, fields in self.examples(rows)]

    def files(self) -> list[epath.Path]:
        """See `Entries`."""
        return self._files

    def _example(self, row: int, values: Mapping[str, Any]) -> tuple[bytes, Fields]:
        # A reader gives nothing for what stood behind the end of a file that was cut short.
        if values[self._image_key] is None:
            raise BadExample(f"{self.where(row)} is empty: its file is cut short or broken")
        beside = {key: read(values[key]) for key, read in self._readers.items() if values[key] is not None}
        return values[self._image_key], beside


def _reader(tfds: Any, feature: Any) -> Callable[[Any], Any]:
    """What makes a caption's text of a feature's value: the name of a class, all else as it is."""
    inner = getattr(feature, "feature", feature)
    if not isinstance(inner, tfds.features.ClassLabel):
        return lambda value: value
    if inner is feature:
        return inner.int2str
    return lambda values: [inner.int2str(value) for value in values]
