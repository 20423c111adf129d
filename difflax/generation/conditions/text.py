"""The prompt, as the text encoder says it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from difflax.core.several import several
from difflax.core.types import Conditioning, UserError
from difflax.generation.conditions.base import Condition, Encoders, Told
from difflax.generation.rows import Rows
from difflax.text.per_tower import prompts_of_towers, with_clip_skip
from difflax.text.prompts import encode_prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """How prompts are read.

    Attributes:
        weighted: prompts have weights in brackets, ``(word:1.3)``; ``False``: brackets are text.
        chunked: a prompt that is too long is encoded in pieces; ``False``: it is cut.
        clip_skip: layers before the CLIP state that the model was trained with, as diffusers counts; A1111's
            number for Stable Diffusion 1.x is one more; ``None`` for the checkpoint's own.
        prompt_2, prompt_3: what the second and third text encoder read instead, one for all or one each;
            ``None`` for the prompt.
        negative_prompt_2, negative_prompt_3: the same of what to go away from; ``None`` for the negative
            prompt.
    """

    weighted: bool = False
    chunked: bool = False
    clip_skip: int | None = None
    prompt_2: str | Sequence[str] | None = None
    prompt_3: str | Sequence[str] | None = None
    negative_prompt_2: str | Sequence[str] | None = None
    negative_prompt_3: str | Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Text(Condition):
    """The states of the text encoder, and its pooled vector where the network reads one."""

    name: ClassVar[str] = "text"
    Options: ClassVar[type] = PromptOptions

    def encode(self, told: Told, rows: Rows, encoders: Encoders) -> Told:
        options: PromptOptions = rows.options[self.name]
        if options != PromptOptions():
            text = with_clip_skip(encoders.text, options.clip_skip)
            encoders = dataclasses.replace(encoders, text=text)
        own, own_negative = (
            [_spread(getattr(options, f"{name}_{tower}"), f"{name}_{tower}", rows) for tower in (2, 3)]
            for name in ("prompt", "negative_prompt")
        )
        columns = [prompts_of_towers(encoders.text, column, *own) for column in _columns(rows)]
        if rows.negatives is not None or own_negative != [None, None]:
            negatives = [""] * len(rows.prompts) if rows.negatives is None else list(rows.negatives)
            columns.append(prompts_of_towers(encoders.text, negatives, *own_negative))
        elif options != PromptOptions():
            columns.append([""] * len(rows.prompts))
        encoded = _encoded(encoders, columns, options)
        positives, negative = encoded[: rows.parts], encoded[rows.parts :]
        if rows.negatives is None and own_negative == [None, None]:
            negative = [_null(encoders, negative[0] if negative else None, len(rows.prompts))]
        return Told(tuple(positives), negative[0])


def _spread(value: str | Sequence[str] | None, name: str, rows: Rows) -> list[str] | None:
    """One text for all images, or one for each prompt, as one for each image.

    Raises:
        UserError: another number of them.
    """
    if value is None:
        return None
    values, count = several(value), len(rows.prompts)
    if not values or count % len(values):
        raise UserError(f"{name}: {len(values)} given for {count} images")
    return [text for text in values for _ in range(count // len(values))]


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
    encoders: Encoders, columns: Sequence[Sequence[Any]], options: PromptOptions
) -> list[Conditioning]:
    """What the network is told of every column of prompts, in the fields that it was trained with."""
    if options == PromptOptions():
        return [_encode_once(encoders, column, options) for column in columns]
    # Together, so that all have as many pieces.
    whole = _encode_once(encoders, [prompt for column in columns for prompt in column], options)
    return [jax.tree.map(lambda a, i=i: jnp.split(a, len(columns))[i], whole) for i in range(len(columns))]


def _encode_once(encoders: Encoders, prompts: Sequence[Any], options: PromptOptions) -> Conditioning:
    """The conditioning of prompts; equal ones are encoded once."""
    unique = list(dict.fromkeys(prompts))
    rows = np.asarray([unique.index(prompt) for prompt in prompts])
    # Filled up to whole batches, as the encoder would: another number of prompts compiles nothing.
    filled = unique + [""] * (-len(unique) % encoders.text.batch_size)
    if not (options.weighted or options.chunked):
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
