"""Embeddings of captions, computed once and looked up by caption."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from difflax.types import Conditioning


class EmbeddingCache:
    """The condition of every different caption of a data set, in host memory.

    Args:
        captions: in any order, repeats allowed.
        encode: captions to their conditioning; called once, with each caption once.
    """

    def __init__(self, captions: Sequence[str], encode: Callable[[list[str]], Conditioning]):
        unique = list(dict.fromkeys(captions))
        self._row = {caption: row for row, caption in enumerate(unique)}
        self._table = jax.tree.map(np.asarray, encode(unique))

    def __len__(self) -> int:
        return len(self._row)

    def lookup(self, captions: Sequence[str]) -> Conditioning:
        """The rows of ``captions``."""
        rows = np.asarray([self._row[caption] for caption in captions])
        return jax.tree.map(lambda table: table[rows], self._table)
