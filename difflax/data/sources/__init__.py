"""Where captioned images come from: one frozen dataclass a kind of source, by name in `SOURCES`.

``source.split(name)`` gives `Records`: random access by row to an image and its caption, the same rows in the
same order every time. What is written once (the files of "digits", the indices of tar shards, copies of
Parquet files) lies under ``data_dir`` (default ``$DIFFLAX_DATA_DIR``, else ``~/.cache/difflax/data``).
Nothing here imports TensorFlow.
"""

from typing import Protocol, runtime_checkable

from difflax.data.records import Records
from difflax.data.sources.embedded import Digits, FirstShapes, Shapes
from difflax.data.sources.huggingface import HuggingFace
from difflax.data.sources.image_folder import ImageFolder
from difflax.data.sources.mixture import MixedSource
from difflax.data.sources.parquet import Parquet
from difflax.data.sources.tfds import Tfds
from difflax.data.sources.webdataset import WebDataset
from difflax.data.subjects import Subject


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


MIXABLE: dict[str, type[Source]] = {
    "shapes": Shapes,
    "digits": Digits,
    "tfds": Tfds,
    "webdataset": WebDataset,
    "image_folder": ImageFolder,
    "folder": ImageFolder,
    "parquet": Parquet,
    "huggingface": HuggingFace,
}
"""Sources that stand alone or in a mixture; "folder" is the earlier name of "image_folder"."""

SOURCES: dict[str, type[Source]] = {
    **MIXABLE,
    "first_shapes": FirstShapes,
    "subject": Subject,
    "mixture": MixedSource,
}
