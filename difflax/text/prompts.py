"""Long prompts in pieces, and prompts whose words have weights.

The syntax is that of the web interfaces which people write prompts for: ``(word:1.3)`` multiplies the weight
of what is inside, ``(word)`` by 1.1, ``[word]`` divides it by 1.1; they nest, and ``\\(`` is a plain bracket.
"""

import re
import warnings
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from difflax.core.types import Conditioning, UserError
from difflax.text.tokenizer import Tokenizer

EMPHASIS = 1.1

_PIECES = re.compile(r"\\[()\[\]\\]|:\s*([+-]?\d*\.?\d+)\s*\)|[()\[\]]|[^\\()\[\]:]+|:|\\")


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


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """The pieces of a prompt with their weights; neighbours of one weight are joined.

    Raises:
        UserError: a bracket that is never closed or never opened.
    """
    pieces: list[tuple[str, float]] = []
    opened: list[tuple[str, int]] = []

    def close(bracket: str, factor: float) -> None:
        if not opened or opened[-1][0] != bracket:
            raise UserError(f"prompt {prompt!r}: a bracket closes that none opens; write \\{bracket} for it")
        start = opened.pop()[1]
        pieces[start:] = [(text, weight * factor) for text, weight in pieces[start:]]

    for match in _PIECES.finditer(prompt):
        piece = match[0]
        if match[1] is not None and opened and opened[-1][0] == "(":
            close("(", float(match[1]))
        elif piece in ("(", "["):
            opened.append((piece, len(pieces)))
        elif piece == ")":
            close("(", EMPHASIS)
        elif piece == "]":
            close("[", 1 / EMPHASIS)
        elif match[1] is not None:
            raise UserError(f"prompt {prompt!r}: a weight without a bracket before it, near {piece!r}")
        else:
            pieces.append((piece[1:] if piece[0] == "\\" and len(piece) > 1 else piece, 1.0))
    if opened:
        raise UserError(
            f"prompt {prompt!r}: {opened[-1][0]!r} is never closed; write \\{opened[-1][0]} for it"
        )
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
    room = tokenizer.max_length - 2
    return max(1, *(-(-len(weighted_tokens(tokenizer, prompt, weighted)[0]) // room) for prompt in prompts))


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
        ids, weights = weighted_tokens(tokenizer, prompt, weighted)
        if len(ids) > pieces * room:
            lost = backend.decode(ids[pieces * room :])
            warnings.warn(
                f"the prompt {prompt!r} of {len(ids) + 2} tokens is cut to {pieces * room + 2};"
                f" lost: {lost!r}",
                stacklevel=4,
            )
        for start in range(0, pieces * room, room):
            inside, end = ids[start : start + room], start + room
            filling = [backend.pad_token_id] * (room - len(inside))
            all_ids.append([backend.bos_token_id, *inside, backend.eos_token_id, *filling])
            all_weights.append([1.0, *weights[start:end], *[1.0] * (room + 1 - len(inside))])
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
    pieces = parse_weights(prompt) if weighted else [(prompt, 1.0)]
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in pieces:
        found = tokenizer.backend(tokenizer.expand(text), add_special_tokens=False)["input_ids"]
        ids += found
        weights += [weight] * len(found)
    return ids, weights
