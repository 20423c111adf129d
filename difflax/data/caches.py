"""Embeddings of captions, computed once: training reads rows instead of running the text encoder.

A data set has few unique captions. `embed_captions` encodes each of them once, in batches of one size (one
compilation), into arrays with a row a caption. A batch then carries row numbers (`EmbeddingCache.rows`), and
the jitted step gathers on the device (`gather`).
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jaxtyping import Int32

from difflax.core.files import atomic_write, remove_unfinished
from difflax.core.types import Conditioning, UserError

MAX_CACHED_BYTES = 4 * 2**30
"""Of embeddings that are computed beforehand and lie in memory: a row of numbers for each token."""
BATCH_SIZE = 256  # captions that are embedded at once


@dataclasses.dataclass(frozen=True)
class EncodedEachTime:
    """The conditioning of captions that are too many to be kept."""

    encode: Callable[[list[str]], Conditioning]

    def lookup(self, captions: Sequence[str]) -> Conditioning:
        """On the host; a batch of the same captions gives the same bits."""
        return jax.tree.map(np.asarray, self.encode(list(captions)))


class EmbeddingCache:
    """The conditioning of every different caption of a data set.

    Args:
        captions: in any order, repeats allowed; include "" if the null condition is wanted.
        encode: captions → conditioning with a row a caption; always called with ``batch_size`` captions.
        batch_size: see ``encode``; the last batch is filled up with repetitions.
        directory: where embeddings are kept between runs; only captions that are not there are encoded. Two
            processes may write at once: the last one's file stays, and either is whole.
        fingerprint: what the embeddings depend on beside the caption (the encoder's weights, tokenizer and
            options), as the caller names it; given if and only if ``directory`` is.

    Attributes:
        captions: each once, sorted.
        embeddings: numpy arrays ``[n, …]``; row ``i`` belongs to ``captions[i]``.

    Raises:
        UserError: a stored file cannot be read.
    """

    def __init__(
        self,
        captions: Sequence[str],
        encode: Callable[[list[str]], Conditioning],
        *,
        batch_size: int = BATCH_SIZE,
        directory: epath.PathLike | None = None,
        fingerprint: str | None = None,
    ):
        if (directory is None) != (fingerprint is None):
            raise ValueError("directory and fingerprint belong together")
        self.captions = tuple(sorted(set(captions)))
        if not self.captions:
            raise ValueError("no captions to embed")
        if directory is None:
            self.embeddings = _encode(self.captions, encode, batch_size)
        else:
            name = hashlib.sha256(fingerprint.encode()).hexdigest()[:24]
            path = epath.Path(directory) / f"captions-{name}.safetensors"
            self.embeddings = _stored(self.captions, encode, batch_size, path, fingerprint)
        self._row_of = {caption: row for row, caption in enumerate(self.captions)}

    def __len__(self) -> int:
        return len(self.captions)

    def rows(self, captions: Sequence[str]) -> Int32[np.ndarray, " b"]:
        """The row of each caption.

        Raises:
            KeyError: a caption that was never embedded.
        """
        return np.array([self._row_of[caption] for caption in captions], np.int32)

    def lookup(self, captions: Sequence[str]) -> Conditioning:
        """The conditioning of captions, gathered on the host."""
        rows = self.rows(captions)
        return jax.tree.map(lambda array: array[rows], self.embeddings)


def embeddings_of(
    captions: Sequence[str] | None, encode: Callable[[list[str]], Conditioning]
) -> EmbeddingCache | EncodedEachTime:
    """What gives the conditioning of a data set's captions by ``lookup``: computed once, or batch by batch
    where all of them would take more than `MAX_CACHED_BYTES` or cannot be listed (``None``).
    """
    if captions is None:
        return EncodedEachTime(encode)
    one = encode([captions[0]] * BATCH_SIZE)
    size = sum(array.nbytes for array in jax.tree.leaves(one)) // BATCH_SIZE
    if len(captions) * size > MAX_CACHED_BYTES:
        return EncodedEachTime(encode)
    return EmbeddingCache(captions, encode)


def _encode(
    captions: Sequence[str], encode: Callable[[list[str]], Conditioning], batch_size: int
) -> Conditioning:
    rows = None
    for start in range(0, len(captions), batch_size):
        batch = list(captions[start : start + batch_size])
        made = encode(batch + batch[-1:] * (batch_size - len(batch)))
        if rows is None:  # all of them at once: they may be a large part of the memory
            rows = jax.tree.map(lambda array: np.empty((len(captions), *array.shape[1:]), array.dtype), made)
        for row, array in zip(jax.tree.leaves(rows), jax.tree.leaves(made), strict=True):
            row[start : start + len(batch)] = array[: len(batch)]
    return rows


def _stored(captions, encode, batch_size, path: epath.Path, fingerprint: str) -> Conditioning:
    """The embeddings from the file at ``path``, which gains those that it lacks."""
    known, parts = _load(path, fingerprint)
    row_of = {caption: row for row, caption in enumerate(known)}
    if missing := [caption for caption in captions if caption not in row_of]:
        row_of |= {caption: len(known) + i for i, caption in enumerate(missing)}
        parts = [_concatenated([*parts, _encode(missing, encode, batch_size)])]
        _save(path, tuple(row_of), parts[0], fingerprint)
    rows = np.array([row_of[caption] for caption in captions])
    return jax.tree.map(lambda array: array[rows], parts[0])


def _concatenated(parts: Sequence[Conditioning]) -> Conditioning:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _save(path: epath.Path, captions: tuple[str, ...], embeddings: Conditioning, fingerprint: str) -> None:
    fields = {f.name: getattr(embeddings, f.name) for f in dataclasses.fields(Conditioning)}
    arrays = {name: array for name, array in fields.items() if array is not None}
    metadata = {
        "fingerprint": fingerprint,
        "captions": json.dumps(captions),
        "dtypes": json.dumps({name: array.dtype.name for name, array in arrays.items()}),
    }
    # As unsigned integers of the same width: the numpy reader of safetensors knows no bfloat16.
    arrays = {name: np.ascontiguousarray(array).view(f"u{array.itemsize}") for name, array in arrays.items()}
    remove_unfinished(path)
    with atomic_write(path) as file:
        file.write(safetensors.numpy.save(arrays, metadata))


def _load(path: epath.Path, fingerprint: str) -> tuple[tuple[str, ...], list[Conditioning]]:
    """The captions of a file, and their embeddings in a list that is empty if there is no file."""
    if not path.exists():
        return (), []
    data = path.read_bytes()
    try:
        arrays = safetensors.numpy.load(data)
        # The container's own metadata: eight bytes of header length, then the header as JSON.
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        captions = tuple(json.loads(metadata["captions"]))
        arrays = {name: arrays[name].view(dtype) for name, dtype in json.loads(metadata["dtypes"]).items()}
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"the embedding cache {path} is broken: delete it") from error
    if metadata["fingerprint"] != fingerprint:
        raise UserError(f"the embedding cache {path} is of another encoder: delete it")
    return captions, [Conditioning(**arrays)]
