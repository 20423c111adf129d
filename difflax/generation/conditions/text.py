"""The prompt, as the text encoder says it."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from difflax.core.types import Conditioning, UserError
from difflax.generation.conditions.base import Condition, Encoders, Told
from difflax.generation.rows import Rows
from difflax.text.prompts import encode_prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How prompts are read.

    Attributes:
        weighted: prompts have weights in brackets, ``(word:1.3)``; see `encode_prompts`.
        chunked: a prompt that is too long is encoded in pieces, and not cut.
    """

    weighted: bool = False
    chunked: bool = False


@dataclasses.dataclass(frozen=True)
class Text(Condition):
    """The states of the text encoder, and its pooled vector where the network reads one."""

    name: ClassVar[str] = "text"
    Options: ClassVar[type] = TextOptions

    def encode(self, told: Told, rows: Rows, encoders: Encoders) -> Told:
        columns = _columns(rows)
        if rows.negatives is not None:
            columns.append(list(rows.negatives))
        elif rows.options[self.name] != TextOptions():
            columns.append([""] * len(rows.prompts))
        encoded = _encoded(encoders, columns, rows.options[self.name])
        positives, negative = encoded[: rows.parts], encoded[rows.parts :]
        if rows.negatives is None:
            negative = [_null(encoders, negative[0] if negative else None, len(rows.prompts))]
        return Told(tuple(positives), negative[0])


def _columns(rows: Rows) -> list[list[str]]:
    """The prompts of every image, a list for each part."""
    if rows.parts == 1:
        return [list(rows.prompts)]
    split = [prompt.split(" AND ") for prompt in rows.prompts]
    for prompt, found in zip(rows.prompts, split, strict=True):
        if len(found) != rows.parts:
            raise UserError(
                f"prompt {prompt!r}: {rows.parts} prompts joined by ' AND ' are needed, one for each weight"
                " of the guidance"
            )
    return [list(column) for column in zip(*split, strict=True)]


def _encoded(
    encoders: Encoders, columns: Sequence[Sequence[str]], options: TextOptions
) -> list[Conditioning]:
    """What the network is told of every column of prompts, in the fields that it was trained with."""
    if options == TextOptions():
        return [_encode_once(encoders, column, options) for column in columns]
    # Together, so that all have as many pieces.
    whole = _encode_once(encoders, [prompt for column in columns for prompt in column], options)
    return [jax.tree.map(lambda a, i=i: jnp.split(a, len(columns))[i], whole) for i in range(len(columns))]


def _encode_once(encoders: Encoders, prompts: Sequence[str], options: TextOptions) -> Conditioning:
    """The conditioning of prompts; equal ones are encoded once."""
    unique = list(dict.fromkeys(prompts))
    rows = np.asarray([unique.index(prompt) for prompt in prompts])
    # Filled up to whole batches, as the encoder would: another number of prompts compiles nothing.
    filled = unique + [""] * (-len(unique) % encoders.text.batch_size)
    if options == TextOptions():
        encoded = encoders.text.encode(filled)
    else:
        encoded = encode_prompts(encoders.text, filled, weighted=options.weighted, chunked=options.chunked)
    if encoders.null.pooled is None:
        encoded = dataclasses.replace(encoded, pooled=None)
    return jax.tree.map(lambda a: a[rows], encoded)


def _null(encoders: Encoders, empty: Conditioning | None, count: int) -> Conditioning:
    """The condition of dropped captions; ``empty``: that of an empty prompt in as many pieces as the
    others.
    """
    if empty is None:
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape[1:])), encoders.null)
    return jax.tree.map(jnp.zeros_like, empty) if encoders.null_is_zero else empty
