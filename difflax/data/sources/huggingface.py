"""Data sets of the Hub by name, through the library ``datasets`` where it is installed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from difflax.core.types import BadExample, UserError
from difflax.data.captions import Fields, check_columns
from difflax.data.images import ImageRecords
from difflax.data.pictures import read_bytes
from difflax.data.records import check_split
from difflax.data.sources.base import ImageSource
from difflax.data.sources.tables import class_names, picture_of, with_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class HuggingFace(ImageSource):
    """A data set that ``datasets`` loads: by its name on the Hub, from a folder in one of the Hub's layouts,
    or from a folder that ``save_to_disk`` wrote.

    Attributes:
        path: the name or folder.
        config_name: which of its configurations, where it has several.
        revision: the commit or tag; empty: the newest.
        image_key: the column with the picture.
        data_dir: where the library keeps what it downloads; ``None``: its own default.
    """

    path: str
    config_name: str = ""
    revision: str = ""
    image_key: str = "image"
    data_dir: str | None = None

    def split(self, name: str) -> ImageRecords:
        """See `Source`; the splits are the data set's own."""
        where = f"config.data.path = {self.path!r}"
        try:
            import datasets
        except ImportError as error:
            raise UserError(f"{where} is read with the library datasets: pip install datasets") from error
        loaded = self._loaded(datasets, where)
        check_split(self.path, name, tuple(loaded))
        rows = loaded[name]
        if self.image_key not in rows.column_names:
            raise UserError(
                f"config.data.image_key = {self.image_key!r} is no column of {self.path}: "
                f"{', '.join(rows.column_names)}"
            )
        if isinstance(rows.features[self.image_key], datasets.Image):
            rows = rows.cast_column(self.image_key, datasets.Image(decode=False))
        entries = HuggingFaceEntries(rows, f"{self.path} {name}", self.image_key)
        check_columns(self.caption_form, [c for c in rows.column_names if c != self.image_key], self.path)
        if not len(entries):
            raise UserError(f"{where}: the split {name!r} has no rows")
        return ImageRecords(entries, self.form)

    def _loaded(self, datasets: Any, where: str) -> Any:
        """The splits by name."""
        folder = epath.Path(self.path).expanduser()
        if self.revision and folder.is_dir():
            raise UserError(
                f"config.data.revision = {self.revision!r} is for a name on the Hub, not a folder"
            )
        try:
            if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
                found = datasets.load_from_disk(str(folder))
            else:
                path = str(folder) if folder.is_dir() else self.path
                found = datasets.load_dataset(
                    path, self.config_name or None, revision=self.revision or None, cache_dir=self.data_dir
                )
        except Exception as error:
            # Any: what it raises comes from builders, from the network and from files of every format.
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(f"{where} cannot be loaded: {said}") from error
        return found if isinstance(found, dict) else {str(found.split or "train"): found}


class HuggingFaceEntries:
    """`Entries` of the rows of a data set of the library ``datasets``, whose pictures are not decoded by it.

    Args:
        rows: the data set.
        name: what it is called in errors.
    """

    epoch = None

    def __init__(self, rows: Any, name: str, image_key: str):
        self._rows, self._name, self._image_key = rows, name, image_key
        self._beside = rows.remove_columns(image_key)
        self._names = class_names(rows.features.arrow_schema)

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, row: int) -> str:
        """See `Entries`."""
        return f"{self._name} row {row}"

    def examples(self, rows: Sequence[int]) -> list[tuple[bytes, Fields]]:
        """See `Entries`."""
        return [self._example(row) for row in rows]

    def fields(self, rows: Sequence[int]) -> list[Fields]:
        """See `Entries`."""
        return [self._named(self._beside[row]) for row in rows]

    def files(self) -> list[epath.Path]:
        """See `Entries`."""
        return [epath.Path(file["filename"]) for file in self._rows.cache_files]

    def _named(self, values: dict[str, Any]) -> Fields:
        named = with_names(values, self._names)
        return {key: value for key, value in named.items() if value is not None}

    def _example(self, row: int) -> tuple[bytes, Fields]:
        values, where = dict(self._rows[row]), self.where(row)
        data = picture_of(values.pop(self._image_key), lambda path: read_bytes(epath.Path(path), where))
        if not isinstance(data, bytes):
            raise BadExample(f"{where} has no picture")
        return data, self._named(values)
