"""Long prompts in pieces, and prompts whose words have weights.

The syntax is that of the web interfaces which people write prompts for: ``(word:1.3)`` multiplies the weight
of what is inside, ``(word)`` by 1.1, ``[word]`` divides it by 1.1; they nest, and ``\\(`` is a plain bracket.
"""

import re
import warnings
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.text.encoders import TextEncoder, in_batches
from difflax.types import Conditioning, UserError

EMPHASIS = 1.1

_PIECES = re.compile(r"\\[()\[\]\\]|:\s*([+-]?\d*\.?\d+)\s*\)|[()\[\]]|[^\\()\[\]:]+|:|\\")


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
    encoder: TextEncoder, prompts: Sequence[str], *, weighted: bool = False, chunked: bool = False
) -> Conditioning:
    """The conditioning of prompts; ``pooled`` is that of a prompt's first piece.

    Args:
        weighted: read weights in brackets. A token's state is multiplied by its weight, and then the prompt's
            states by what brings their mean back to what it was.
        chunked: a prompt that is too long is encoded in pieces of full length, whose states are joined; all
            prompts get as many pieces as the longest. Otherwise it is cut, and a warning shows what was lost.

    Returns:
        ``context`` [b, pieces * max_length, d].
    """
    rows = [_tokens(encoder, prompt, weighted) for prompt in prompts]
    room = encoder.tokenizer.max_length - 2
    backend = encoder.tokenizer.backend
    count = max(1, *(-(-len(ids) // room) for ids, _ in rows)) if chunked else 1
    all_ids, all_weights = [], []
    for prompt, (ids, weights) in zip(prompts, rows, strict=True):
        if len(ids) > count * room:
            lost = backend.decode(ids[room:])
            warnings.warn(
                f"the prompt {prompt!r} of {len(ids) + 2} tokens is cut to {room + 2}; lost: {lost!r}",
                stacklevel=2,
            )
        for start in range(0, count * room, room):
            inside, end = ids[start : start + room], start + room
            filling = [backend.pad_token_id] * (room - len(inside))
            all_ids.append([backend.bos_token_id, *inside, backend.eos_token_id, *filling])
            all_weights.append([1.0, *weights[start:end], *[1.0] * (room + 1 - len(inside))])
    made = in_batches(encoder.condition_ids, np.asarray(all_ids, np.int32), encoder.batch_size)
    width = made.context.shape[-1]
    context = made.context.reshape(len(prompts), -1, width)
    if weighted:
        context = _weigh(context, jnp.asarray(all_weights, context.dtype).reshape(len(prompts), -1))
    return Conditioning(context=context, pooled=made.pooled[::count])


def _tokens(encoder: TextEncoder, prompt: str, weighted: bool) -> tuple[list[int], list[float]]:
    pieces = parse_weights(prompt) if weighted else [(prompt, 1.0)]
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in pieces:
        text = encoder.tokenizer.expand(text)
        found = encoder.tokenizer.backend(text, add_special_tokens=False)["input_ids"]
        ids += found
        weights += [weight] * len(found)
    return ids, weights


def _weigh(context: Float[Array, "b n d"], weights: Float[Array, "b n"]) -> Float[Array, "b n d"]:
    weighed = context * weights[..., None]
    before, after = (a.astype(jnp.float32).mean((1, 2), keepdims=True) for a in (context, weighed))
    # States whose mean is nothing but rounding have none to restore.
    size = jnp.abs(context.astype(jnp.float32)).mean((1, 2), keepdims=True)
    stable = jnp.minimum(jnp.abs(before), jnp.abs(after)) > 1e-5 * size
    ratio = jnp.where(stable, before / jnp.where(stable, after, 1), 1)
    return (weighed * ratio).astype(context.dtype)
