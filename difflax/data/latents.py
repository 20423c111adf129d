"""Latents of a data set's images, computed once: training reads rows instead of running the autoencoder."""

import uuid
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int32, UInt8

from difflax.core.types import UserError
from difflax.data.records import Record, Records
from difflax.data.transforms import Frame


def cache_latents(
    records: Records,
    encode: Callable[[UInt8[np.ndarray, "b h w c"]], Float[Array, "b lh lw k"]],
    path: epath.PathLike,
    *,
    batch_size: int = 8,
) -> Float[np.ndarray, "rows lh lw k"]:
    """What ``encode`` says of every row's image, from the file at ``path`` if it is there, else computed and
    written, and with it what `read_frames` reads. A local file is mapped into memory and read as it is
    needed.

    Args:
        encode: always called with ``batch_size`` images; the last batch is filled up with repetitions.

    Raises:
        UserError: a file that is broken or of other data.
    """
    path = epath.Path(path)
    if not path.exists():
        _write(records, encode, path, batch_size)
    try:
        if "://" in str(path):
            with path.open("rb") as file:
                latents = np.load(file)
        else:
            latents = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"the latents in {path} cannot be read ({error}): delete the file") from error
    if len(latents) != len(records):
        raise UserError(f"{path} has {len(latents)} latents, the data {len(records)} images: delete the file")
    return latents


def read_frames(path: epath.PathLike) -> Int32[np.ndarray, "rows 4"]:
    """Original height and width, and top and left of the cut, of every row of the latents at ``path``.

    Raises:
        UserError: latents that were written without them.
    """
    frames = _frames_of(epath.Path(path))
    if not frames.exists():
        raise UserError(f"{path} has no {frames.name} beside it, which the sizes are read from: delete it")
    with frames.open("rb") as file:
        return np.load(file)


def _frames_of(path: epath.Path) -> epath.Path:
    return path.with_name(f"{path.stem}_frames.npy")


def _write(records: Records, encode: Callable, path: epath.Path, batch_size: int) -> None:
    count = len(records)
    unfinished = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    frames = np.zeros((count, 4), np.int32)
    with unfinished.open("wb") as file:
        for start in range(0, count, batch_size):
            rows = [min(row, count - 1) for row in range(start, start + batch_size)]
            read = records.__getitems__(rows)
            for row, record in zip(rows, read, strict=True):
                frame = record.frame or Frame(record.image.shape[:2])
                frames[row] = (*frame.original_size, *frame.corner)
            made = np.asarray(encode(np.stack([record.image for record in read])), np.float32)
            if start == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (count, *made.shape[1:])}
                np.lib.format.write_array_header_2_0(file, header)
            file.write(np.ascontiguousarray(made[: count - start]).tobytes())
    with _frames_of(path).open("wb") as file:
        np.save(file, frames)
    # Last: where the latents are, their frames are too.
    unfinished.replace(path)


class WithoutImages:
    """Records whose images are read from elsewhere: a row is its caption, and a picture of no pixels.

    Args:
        frames: of the images, as `read_frames` gives them.
    """

    flip = 0.0

    def __init__(self, captions: Sequence[str], frames: Int32[np.ndarray, "rows 4"] | None = None):
        self.captions = captions
        self._frames = frames

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, row: int) -> Record:
        frame = None
        if self._frames is not None:
            height, width, top, left = map(int, self._frames[row])
            frame = Frame((height, width), (top, left))
        return Record(np.zeros((0, 0, 3), np.uint8), self.captions[row], frame=frame)

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        return [self[row] for row in rows]
