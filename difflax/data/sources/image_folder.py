"""Your own images in a folder with subfolders, and their captions in a table or beside each image."""

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from etils import epath

from difflax.core.documents import entry, json_object
from difflax.core.types import UserError
from difflax.data.captions import Fields, check_columns
from difflax.data.folders import FileEntries, find_images
from difflax.data.images import ImageRecords, score_of
from difflax.data.sources.base import ImageSource
from difflax.data.sources.tables import read_columns
from difflax.data.texts import MAX_CAPTION, MAX_TEXT_BYTES, lines_of, read_text

OTHER_SPLITS = ("test", "validation", "valid", "val", "held_out")
"""Subfolders that are no part of "train" where that is the folder itself."""

FILE_NAME, TEXT_COLUMN, LABEL_COLUMN = "file_name", "text", "label"
"""Columns: of a table the one with the image's path; of other folders the two that there are."""

SIDECARS = (".txt", ".caption")
"""Suffixes of the files with captions, the first that is there counts."""

BYTES_A_CHARACTER = 4  # at most, in UTF-8 and UTF-16
MAX_REPEATS = 10_000

_REPEATED = re.compile(r"(\d+)_(.*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageSource):
    """Your own images in a folder, with captions in one of two layouts.

    - A table of the images: ``metadata.jsonl`` (a line an image, ``{"file_name": "a.png", "text": "a red
      circle"}``), ``metadata.csv`` or ``metadata.parquet``, as the Hub's "imagefolder" has it; rows are in
      the order of the table, whose columns are those that captions can be made of.
    - Otherwise beside every image (``a.png``) a text file (``a.txt`` or ``a.caption``), which is the column
      "text"; rows are in the order of the paths, subfolders included. The name of the subfolder that an image
      lies in is the column "label".

    A split is a subfolder of that name; a folder without a subfolder "train" is itself the split "train", but
    for the subfolders of other splits (`OTHER_SPLITS`). Files may be of any format in `pictures.FORMATS`;
    text is in UTF-8, UTF-16 with its mark, or Windows-1252.

    Attributes:
        path: the folder.
        repeats: whether images in a subfolder ``10_cat`` come ten times an epoch, and have the label "cat",
            as kohya's scripts have it.
    """

    path: str
    repeats: bool = False

    def split(self, name: str) -> ImageRecords:
        """See `Source`."""
        root = epath.Path(self.path).expanduser()
        where = f"config.data.path = {self.path!r}"
        if not root.is_dir():
            raise UserError(f"{where}: no such folder")
        if (root / name).is_dir():
            folder, others = root / name, ()
        elif name == "train":
            folder, others = root, [root / split for split in OTHER_SPLITS]
        else:
            raise UserError(f"{where} has no split {name!r}; make the folder {root / name}")
        for table, read in TABLES.items():
            if (folder / table).exists():
                return ImageRecords(self._listed(folder / table, read), self.form)
        if self.score_key:
            listing = folder / next(iter(TABLES))
            raise UserError(f"config.data.score_key = {self.score_key!r}: {listing} is needed for scores")
        return ImageRecords(self._paired(find_images(folder, where, without=others), where), self.form)

    def _listed(self, table: epath.Path, read: Callable[[epath.Path], "Rows"]) -> FileEntries:
        rows = []
        for where, fields in read(table):
            try:
                name = entry(fields, FILE_NAME, str)
            except ValueError as error:
                raise UserError(f"{where} {error}") from error
            if self.score_key:
                score_of(fields, self.score_key, where)
            if not (table.parent / name).exists():
                raise UserError(f"{where} names {name[:200]!r}, which is not there")
            rows.append(fields)
        if not rows:
            raise UserError(f"config.data.path = {self.path!r}: no image is named in {table}")
        check_columns(self.caption_form, list(dict.fromkeys(key for row in rows for key in row)), str(table))
        return FileEntries([table.parent / row[FILE_NAME] for row in rows], rows)

    def _paired(self, images: Sequence[epath.Path], where: str) -> FileEntries:
        check_columns(self.caption_form, (TEXT_COLUMN, LABEL_COLUMN), where)
        reads_text = TEXT_COLUMN in self.caption_form.columns
        fields, repeats = [], []
        faults: dict[int, str] = {}
        for row, path in enumerate(images):
            count, label = _label(path.parent.name) if self.repeats else (1, path.parent.name)
            beside = {LABEL_COLUMN: label}
            try:
                text = _text_beside(path) if reads_text else None
                beside |= {} if text is None else {TEXT_COLUMN: text}
            except UserError as error:
                # A row like any other that cannot be used: it counts against `max_bad_examples`.
                faults[row] = str(error)
            fields.append(beside)
            repeats.append(count)
        if (
            self.caption_form.columns == (TEXT_COLUMN,)
            and not faults
            and not any(TEXT_COLUMN in row for row in fields)
        ):
            raise UserError(
                f"{where}: none of {len(images)} images has a caption; write the one of {images[0].name} into"
                f" {images[0].with_suffix(SIDECARS[0])}, or say of what else captions are made"
                " (config.data.caption)"
            )
        epoch = np.repeat(np.arange(len(images)), repeats) if max(repeats) > 1 else None
        return FileEntries(images, fields, faults, epoch)


def _label(folder: str) -> tuple[int, str]:
    """How often a folder's images come, and what they show."""
    found = _REPEATED.fullmatch(folder)
    return (min(max(int(found[1]), 1), MAX_REPEATS), found[2]) if found else (1, folder)


def _text_beside(image: epath.Path) -> str | None:
    for suffix in SIDECARS:
        path = image.with_suffix(suffix)
        if path.exists():
            return read_text(path, limit=MAX_CAPTION * BYTES_A_CHARACTER).strip()
    return None


Rows = Iterator[tuple[str, Fields]]
"""The rows of a table with their places, for errors."""


def _read_jsonl(table: epath.Path) -> Rows:
    for number, line in enumerate(lines_of(read_text(table)), 1):
        where = f"{table} line {number}"
        if not line.strip():
            continue
        try:
            fields = json_object(line)
        except ValueError as error:
            raise UserError(f"{where} {error}") from error
        yield where, fields


def _read_csv(table: epath.Path) -> Rows:
    csv.field_size_limit(MAX_TEXT_BYTES)
    rows = csv.DictReader(io.StringIO(read_text(table), newline=""))
    try:
        for fields in rows:
            # Under None stand values that have no column.
            yield f"{table} line {rows.line_num}", {key: fields[key] for key in fields if key is not None}
    except csv.Error as error:
        raise UserError(f"{table} line {rows.line_num} cannot be read: {error}") from error


def _read_parquet(table: epath.Path) -> Rows:
    for number, fields in enumerate(read_columns(table)):
        yield f"{table} row {number}", fields


TABLES = {"metadata.jsonl": _read_jsonl, "metadata.csv": _read_csv, "metadata.parquet": _read_parquet}
"""The names that a table may have, and what reads it."""
