"""Embeddings of captions, computed once: training reads rows instead of running the text encoder.

A data set has few unique captions. `embed_captions` encodes each of them once, in batches of one size (one
compilation), into arrays with a row a caption. A batch then carries row numbers (`EmbeddingCache.rows`), and
the jitted step gathers on the device (`gather`).
"""

import dataclasses
import functools
import hashlib
import json
import uuid
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jaxtyping import Array, Int, Int32

from difflax.types import Conditioning, UserError


@dataclasses.dataclass(frozen=True)
class EmbeddingCache:
    """The conditioning of n captions: row ``i`` of every array ``[n, …]`` belongs to ``captions[i]``."""

    captions: tuple[str, ...]
    embeddings: Conditioning

    @functools.cached_property
    def _row_of(self) -> dict[str, int]:
        return {caption: row for row, caption in enumerate(self.captions)}

    def rows(self, captions: Sequence[str]) -> Int32[np.ndarray, " b"]:
        """The row of each caption.

        Raises:
            KeyError: a caption that was never embedded.
        """
        return np.array([self._row_of[caption] for caption in captions], np.int32)


def gather(embeddings: Conditioning, rows: Int[Array, " b"] | Int[np.ndarray, " b"]) -> Conditioning:
    """The conditioning of the given rows; traceable, so that the arrays can stay on the device."""
    return jax.tree.map(lambda array: jnp.take(array, rows, axis=0), embeddings)


def embed_captions(
    captions: Sequence[str],
    encode: Callable[[list[str]], Conditioning],
    *,
    batch_size: int = 256,
    directory: epath.PathLike | None = None,
    fingerprint: str | None = None,
) -> EmbeddingCache:
    """The embedding of each unique caption, in sorted order.

    Args:
        captions: in any order and number; include "" if the null condition is wanted.
        encode: captions → conditioning with a row a caption; always called with ``batch_size`` captions.
        batch_size: see ``encode``; the last batch is filled up with repetitions.
        directory: where embeddings are kept between runs; only captions that are not there are encoded. Two
            processes may write at once: the last one's file stays, and either is whole.
        fingerprint: what the embeddings depend on beside the caption (the encoder's weights, tokenizer and
            options), as the caller names it; given if and only if ``directory`` is.

    Raises:
        UserError: a stored file cannot be read.
    """
    if (directory is None) != (fingerprint is None):
        raise ValueError("directory and fingerprint belong together")
    wanted = sorted(set(captions))
    if not wanted:
        raise ValueError("no captions to embed")
    path = None
    stored = None
    if directory is not None:
        name = hashlib.sha256(fingerprint.encode()).hexdigest()[:24]
        path = epath.Path(directory) / f"captions-{name}.safetensors"
        stored = _load(path, fingerprint)
    known = set(stored.captions) if stored else set()
    if missing := [caption for caption in wanted if caption not in known]:
        fresh = EmbeddingCache(tuple(missing), _encode(missing, encode, batch_size))
        stored = _joined(stored, fresh) if stored else fresh
        if path is not None:
            _save(path, stored, fingerprint)
    if stored.captions == tuple(wanted):
        return stored
    rows = stored.rows(wanted)
    return EmbeddingCache(tuple(wanted), jax.tree.map(lambda array: array[rows], stored.embeddings))


def _encode(
    captions: list[str], encode: Callable[[list[str]], Conditioning], batch_size: int
) -> Conditioning:
    parts = []
    for start in range(0, len(captions), batch_size):
        batch = captions[start : start + batch_size]
        filled = batch + batch[-1:] * (batch_size - len(batch))
        parts.append(jax.tree.map(lambda array, n=len(batch): np.asarray(array)[:n], encode(filled)))
    return _concatenated(*parts)


def _concatenated(*parts: Conditioning) -> Conditioning:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _joined(one: EmbeddingCache, other: EmbeddingCache) -> EmbeddingCache:
    return EmbeddingCache(one.captions + other.captions, _concatenated(one.embeddings, other.embeddings))


def _save(path: epath.Path, cache: EmbeddingCache, fingerprint: str) -> None:
    fields = {f.name: getattr(cache.embeddings, f.name) for f in dataclasses.fields(Conditioning)}
    arrays = {name: array for name, array in fields.items() if array is not None}
    metadata = {
        "fingerprint": fingerprint,
        "captions": json.dumps(cache.captions),
        "dtypes": json.dumps({name: array.dtype.name for name, array in arrays.items()}),
    }
    # As unsigned integers of the same width: the numpy reader of safetensors knows no bfloat16.
    arrays = {name: np.ascontiguousarray(array).view(f"u{array.itemsize}") for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    unfinished.write_bytes(safetensors.numpy.save(arrays, metadata))
    unfinished.replace(path)


def _load(path: epath.Path, fingerprint: str) -> EmbeddingCache | None:
    if not path.exists():
        return None
    data = path.read_bytes()
    try:
        arrays = safetensors.numpy.load(data)
        # The container's own metadata: eight bytes of header length, then the header as JSON.
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        captions = tuple(json.loads(metadata["captions"]))
        arrays = {name: arrays[name].view(dtype) for name, dtype in json.loads(metadata["dtypes"]).items()}
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"the embedding cache {path} is broken ({error}): delete it") from error
    if metadata["fingerprint"] != fingerprint:
        raise UserError(f"the embedding cache {path} is of another encoder: delete it")
    return EmbeddingCache(captions, Conditioning(**arrays))
