"""Columns of Arrow and Parquet tables as Python has them; pyarrow is imported where it is needed."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from difflax.core.files import reason
from difflax.core.types import UserError
from difflax.data.captions import Fields

PICTURE_COLUMNS = ("bytes", "path")
"""What the Hub stores of a picture: its file, or where that lies."""


def pyarrow(where: str) -> Any:
    """The library.

    Args:
        where: what needs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{where} is read with pyarrow: pip install 'difflax[data]'") from error
    return pyarrow


def read_columns(path: epath.Path) -> Iterator[Fields]:
    """The rows of a Parquet file that holds no pictures.

    Raises:
        UserError: it cannot be read.
    """
    arrow = pyarrow(str(path))
    try:
        with path.open("rb") as file:
            table = arrow.parquet.ParquetFile(file)
            named = class_names(table.schema_arrow)
            for batch in table.iter_batches():
                yield from (with_names(row, named) for row in batch.to_pylist())
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def class_names(schema: Any) -> dict[str, list[str]]:
    """The names of the classes of each column that has some, as the library ``datasets`` notes them in the
    metadata of an Arrow schema.
    """
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        features = about["info"]["features"]
        kinds = {key: feature for key, feature in features.items() if isinstance(feature, Mapping)}
        return {key: list(kind["names"]) for key, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def with_names(fields: Fields, names: Mapping[str, list[str]]) -> dict[str, Any]:
    """The fields with names in the place of the numbers of classes."""
    return {key: _named(value, names[key]) if key in names else value for key, value in fields.items()}


def _named(value: Any, names: list[str]) -> Any:
    known = type(value) is int and 0 <= value < len(names)
    return names[value] if known else value


def picture_of(value: Any, read: Callable[[str], bytes]) -> bytes | None:
    """The file of a picture as tables hold it: bytes, a path, or both in a struct.

    Args:
        read: the contents of the file that a path names.
    """
    if isinstance(value, Mapping):
        data, path = (value.get(key) for key in PICTURE_COLUMNS)
        value = data if data is not None else path
    return read(value) if isinstance(value, str) else value
