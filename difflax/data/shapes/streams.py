"""A random stream for every example, drawn for many examples at once.

A generator of NumPy has one stream, which all that is drawn together shares. Here every row has its own, so
that it is the same whichever others are drawn beside it, and a thousand rows cost one call. Numbers are those
of SplitMix64: the k-th of a stream is a mix of its start plus k times the golden ratio (Steele, Lea and Flood
2014, "Fast splittable pseudorandom number generators"). Sequences of this mix pass BigCrush, so starts are
mixes of seed, name and row too. All of it is whole numbers, hence the same everywhere.
"""

import copy
import functools
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(z: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """SplitMix64's finalizer, a bijection of 64 bits."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Streams:
    """The random numbers of many rows, by the methods of `numpy.random.Generator` that scenes are drawn with;
    the first axis of every shape is that of the rows.

    Args:
        seed: not negative.
        name: streams of another name are independent.
        rows: not negative.
    """

    def __init__(self, seed: int, name: str, rows: Sequence[int]):
        start = np.array([seed % 2**64], np.uint64)  # arrays of whole numbers wrap around without a warning
        for part in (seed >> 64, zlib.crc32(name.encode())):
            start = mix(start * _GOLDEN + np.uint64(part % 2**64))
        self._next = mix(mix(np.asarray(rows, np.uint64) * _GOLDEN) ^ start)

    def of(self, rows: Bool[np.ndarray, " n"]) -> "Streams":
        """Those of some rows, from where they stand."""
        some = copy.copy(self)
        some._next = self._next[rows]
        return some

    def random(self, shape: int | Sequence[int], dtype: type = np.float64) -> Float[np.ndarray, "*n"]:
        """Uniform in [0, 1): multiples of 2⁻²⁴, which float32 holds exactly, or of 2⁻⁵³."""
        shape = np.atleast_1d(shape)
        number = int(np.prod(shape[1:]))
        steps = np.arange(1, number + 1, dtype=np.uint64) * _GOLDEN
        bits = mix(self._next[:, None] + steps).reshape(shape)
        self._next = self._next + np.uint64(number * int(_GOLDEN) % 2**64)
        digits = np.finfo(dtype).nmant + 1
        return (bits >> np.uint64(64 - digits)).astype(dtype) * dtype(2.0**-digits)

    def integers(self, high: int, size: int | Sequence[int]) -> Int[np.ndarray, "*n"]:
        """Whole numbers from 0 to below ``high``, all as likely but for 2⁻⁵³."""
        return (self.random(size) * high).astype(np.int64)

    def choice(
        self,
        values: int | Sequence[int],
        size: int | Sequence[int],
        p: Sequence[float] | Float[np.ndarray, " v"],
    ) -> Int[np.ndarray, "*n"]:
        """Of ``values``, or of so many numbers from 0, each with its probability; with replacement."""
        below = np.cumsum(p)
        drawn = np.searchsorted(below, self.random(size) * below[-1], side="right")
        return drawn if isinstance(values, int) else np.asarray(values)[drawn]


@functools.singledispatch
def of_rows(rng: np.random.Generator, rows: Bool[np.ndarray, " n"]) -> np.random.Generator:
    """What numbers of some rows come from: a generator serves whoever asks."""
    return rng


@of_rows.register
def _(rng: Streams, rows: Bool[np.ndarray, " n"]) -> Streams:
    return rng.of(rows)


class Draws:
    """Uniform numbers that were drawn beforehand, one after the other; so a row's caption needs no calls of
    NumPy. ``random()`` gives the next one, as that of `numpy.random.Generator` would.
    """

    def __init__(self, numbers: Sequence[float]):
        self.random = iter(numbers).__next__
