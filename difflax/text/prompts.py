"""Long prompts in pieces, and prompts whose words have weights.

The syntax is that of A1111's web interface, which most prompts are written for: ``(word:1.3)`` multiplies the
weight of what is inside, ``(word)`` by 1.1, ``[word]`` divides it by 1.1; they nest, and ``\\(`` is a plain
bracket. A bracket that is never closed reaches to the end, and one that closes nothing is text. ``BREAK``
starts the next piece.
"""

import re
import warnings
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from difflax.core.types import Conditioning
from difflax.text.tokenizer import Tokenizer

EMPHASIS = 1.1

CLOSES = {")": ("(", EMPHASIS), "]": ("[", 1 / EMPHASIS)}
"""The bracket that each one closes, and what it does to the weights in between."""

_PIECES = re.compile(
    r"\\(?P<plain>[()\[\]\\]?)|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[()\[\]]|[^\\()\[\]:]+|:"
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


@runtime_checkable
class PromptEncoder(Protocol):
    """Text in, conditioning out: one tower with its tokenizer, or several read as one.

    Attributes:
        batch_size: prompts a call of its program.
        width: of ``context``.
        pooled_width: of ``pooled``, 0 without one.
    """

    batch_size: int

    @property
    def width(self) -> int: ...

    @property
    def pooled_width(self) -> int: ...

    @property
    def towers(self) -> "tuple[SingleEncoder, ...]":
        """The encoders that it is made of, in their order, nested ones too; of a single one itself."""
        ...

    def with_towers(self, changed: "Sequence[PromptEncoder]") -> "PromptEncoder":
        """The same with others in the places of its `towers`."""
        ...

    def picked(self, wholes: Sequence[Conditioning]) -> Conditioning:
        """What each of its `towers` says in a conditioning of its own, one for each, as of `encode`."""
        ...

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """The conditioning of ``b`` captions: ``context`` [b, n, width] and, where it has one, ``pooled``."""
        ...

    def tokenize(self, captions: Sequence[str]) -> PyTree:
        """Captions as arrays [b, …] of token ids, on the host."""
        ...

    def condition_ids(self, tokens: PyTree) -> Conditioning:
        """The conditioning of what `tokenize` made; traceable."""
        ...

    def count_pieces(self, prompts: Sequence[str], *, weighted: bool) -> int:
        """How many pieces the longest of the prompts takes, at least 1."""
        ...

    def encode_pieces(self, prompts: Sequence[str], pieces: int, *, weighted: bool) -> Conditioning:
        """The conditioning of prompts in so many pieces each; see `encode_prompts`."""
        ...

    def fingerprint(self) -> str:
        """A hash of all that decides an embedding: equal fingerprints, equal embeddings."""
        ...


class SingleEncoder:
    """What a `PromptEncoder` of one tower says of itself.

    Attributes:
        learns_words: whether its table of tokens may be given more.
        skippable: how many layers earlier than the states that it gives there are states to give.
    """

    learns_words: bool = False
    skippable: int | None = None

    @property
    def towers(self) -> "tuple[SingleEncoder, ...]":
        return (self,)

    def with_towers(self, changed: Sequence[PromptEncoder]) -> PromptEncoder:
        [tower] = changed
        return tower

    def picked(self, wholes: Sequence[Conditioning]) -> Conditioning:
        [whole] = wholes
        return whole

    def skipping(self, layers: int) -> PromptEncoder:
        """The same with the states of so many layers earlier; where there are none, as it is."""
        return self


def parse_segments(prompt: str) -> list[list[tuple[str, float]]]:
    """The pieces of each of the prompt's parts between BREAKs (at least one) with their weights; neighbours
    of one weight are joined.
    """
    pieces: list[tuple[str | None, float]] = []
    opened: dict[str, list[int]] = {bracket: [] for bracket, _ in CLOSES.values()}

    def scale(start: int, factor: float) -> None:
        pieces[start:] = [(text, weight * factor) for text, weight in pieces[start:]]

    for match in _PIECES.finditer(prompt):
        piece, plain, weight = match[0], match["plain"], match["weight"]
        bracket, factor = CLOSES.get(piece, ("(", weight))
        if piece in opened:
            opened[piece].append(len(pieces))
        elif factor is not None and opened[bracket]:
            scale(opened[bracket].pop(), float(factor))
        elif plain is not None:
            pieces.append((plain, 1.0))
        else:
            first, *rest = _BREAK.split(piece)
            pieces.append((first, 1.0))
            for text in rest:
                pieces += [(None, 1.0), (text, 1.0)]
    for bracket, factor in CLOSES.values():
        for start in opened[bracket]:
            scale(start, factor)
    segments: list[list[tuple[str, float]]] = [[]]
    for text, weight in pieces:
        if text is None:
            segments.append([])
        elif text:
            segments[-1].append((text, weight))
    return [_joined(segment) for segment in segments]


def _joined(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for text, weight in pieces:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined


def encode_prompts(
    encoder: PromptEncoder, prompts: Sequence[str], *, weighted: bool = False, chunked: bool = False
) -> Conditioning:
    """The conditioning of prompts; ``pooled`` is that of a prompt's first piece.

    Args:
        weighted: read weights in brackets. A token's state is multiplied by its weight, and then the prompt's
            states by what brings their mean back to what it was; each tower by its own.
        chunked: a prompt that is too long is encoded in pieces of full length, whose states are joined; all
            prompts get as many pieces as the longest. Otherwise it is cut, and a warning shows what was lost.

    Returns:
        ``context`` [b, pieces * max_length, d].
    """
    pieces = encoder.count_pieces(prompts, weighted=weighted) if chunked else 1
    return encoder.encode_pieces(prompts, pieces, weighted=weighted)


def count_pieces(tokenizer: Tokenizer, prompts: Sequence[str], *, weighted: bool) -> int:
    """How many rows of the tokenizer's length the longest prompt fills."""
    counts = [
        sum(len(_cut(ids, tokenizer.max_length - 2)) for ids, _ in _segments(tokenizer, prompt, weighted))
        for prompt in prompts
    ]
    return max(1, *counts)


def token_rows(
    tokenizer: Tokenizer, prompts: Sequence[str], pieces: int, *, weighted: bool
) -> tuple[Int[np.ndarray, "bp n"], Float[np.ndarray, "bp n"]]:
    """Token ids of prompts in ``pieces`` rows each, one prompt after the other, and the tokens' weights.

    A prompt that is longer is cut, and a warning shows what was lost.
    """
    room = tokenizer.max_length - 2
    backend = tokenizer.backend
    all_ids, all_weights = [], []
    for prompt in prompts:
        if pieces == 1:
            # What is one piece has nothing to break.
            segments = [weighted_tokens(tokenizer, prompt, weighted)]
        else:
            segments = _segments(tokenizer, prompt, weighted)
        rows = [row for ids, _ in segments for row in _cut(ids, room)]
        weights = [row for _, weights in segments for row in _cut(weights, room)]
        if len(rows) > pieces:
            count, lost = sum(map(len, rows)), backend.decode([i for row in rows[pieces:] for i in row])
            warnings.warn(
                f"the prompt {prompt!r} of {count + 2} tokens is cut to {pieces * room + 2}; lost: {lost!r}",
                stacklevel=4,
            )
        missing = [[]] * (pieces - len(rows))
        for ids, own in zip([*rows, *missing][:pieces], [*weights, *missing][:pieces], strict=True):
            filling = room - len(ids)
            all_ids.append(
                [backend.bos_token_id, *ids, backend.eos_token_id, *[backend.pad_token_id] * filling]
            )
            all_weights.append([1.0, *own, *[1.0] * (filling + 1)])
    return np.asarray(all_ids, np.int32), np.asarray(all_weights, np.float32)


def weigh(context: Float[Array, "b n d"], weights: Float[Array, "b n"]) -> Float[Array, "b n d"]:
    """Token states times their weights, scaled to the mean that they had."""
    weighed = context * weights[..., None]
    before, after = (a.astype(jnp.float32).mean((1, 2), keepdims=True) for a in (context, weighed))
    # States whose mean is nothing but rounding have none to restore.
    size = jnp.abs(context.astype(jnp.float32)).mean((1, 2), keepdims=True)
    stable = jnp.minimum(jnp.abs(before), jnp.abs(after)) > 1e-5 * size
    ratio = jnp.where(stable, before / jnp.where(stable, after, 1), 1)
    return (weighed * ratio).astype(context.dtype)


def weighted_tokens(tokenizer: Tokenizer, prompt: str, weighted: bool) -> tuple[list[int], list[float]]:
    """Token ids of a prompt, without start and end, and the weight of each."""
    segments = _segments(tokenizer, prompt, weighted)
    return [i for ids, _ in segments for i in ids], [w for _, weights in segments for w in weights]


def _segments(tokenizer: Tokenizer, prompt: str, weighted: bool) -> list[tuple[list[int], list[float]]]:
    """The same of each part between BREAKs."""
    found = []
    for segment in parse_segments(prompt) if weighted else [[(prompt, 1.0)]]:
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in segment:
            made = tokenizer.backend(tokenizer.expand(text), add_special_tokens=False)["input_ids"]
            ids += made
            weights += [weight] * len(made)
        found.append((ids, weights))
    return found


def _cut(row: list, room: int) -> list[list]:
    """A list in parts of ``room`` entries, at least one."""
    return [row[start : start + room] for start in range(0, max(len(row), 1), room)]
