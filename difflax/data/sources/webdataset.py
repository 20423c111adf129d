"""Tar shards in the layout of WebDataset, as img2dataset writes them: read at random by an index."""

import dataclasses

from etils import epath

from difflax.core.events import announce
from difflax.core.types import UserError
from difflax.data.captions import CaptionText
from difflax.data.images import ImageRecords
from difflax.data.shards import find_shards, is_local
from difflax.data.sources.base import ImageSource, data_directory
from difflax.data.tar import TarEntries, open_index


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebDataset(ImageSource):
    """Tar files of which successive members with one name are an example: ``0001.jpg``, ``0001.txt``,
    ``0001.json``. A text member is the column of its suffix (``txt``), and entries of the JSON are columns.

    Attributes:
        path: the shards, with brace ranges and the split's name in braces
            (``shards/{split}-{0000..0003}.tar``), local or an address that fsspec reads; or a folder of them.
        data_dir: where the shards' indices are written, once.
    """

    path: str
    caption: CaptionText = "txt"
    data_dir: str | None = None

    def split(self, name: str) -> ImageRecords:
        """See `Source`; without the split's name in ``path`` all of it is "train"."""
        where = f"config.data.path = {self.path!r}"
        folder = data_directory(self.data_dir) / "webdataset"
        shards = find_shards(self.path, name, (".tar",), where)
        indices, files = [], []
        for number, shard in enumerate(shards):
            index, path, new = open_index(folder, shard)
            if new and (number + 1 == len(shards) or number % 100 == 0):
                announce(f"{where}: {number + 1} of {len(shards)} shards are indexed in {folder}")
            indices.append(index)
            files.append(epath.Path(shard) if is_local(shard) else path)
        entries = TarEntries(shards, indices, files, self.needed_columns)
        if not len(entries):
            raise UserError(f"{where}: no image in {len(shards)} shards")
        return ImageRecords(entries, self.form)
