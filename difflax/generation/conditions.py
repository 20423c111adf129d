"""From a request's prompts and pictures to what a guidance goes towards and away from."""

import dataclasses
import functools
import typing
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from difflax.core.types import Conditioning, UserError
from difflax.diffusion.guidance import Guided, Prompts, TwoConditions
from difflax.generation.request import Request
from difflax.text.prompts import encode_prompts

if typing.TYPE_CHECKING:
    from difflax.generation.pipeline import Pipeline


def conditions(
    pipeline: "Pipeline", request: Request, *, weighted: bool = False, chunked: bool = False
) -> Guided | Prompts | TwoConditions:
    """What the pipeline's guidance goes towards and away from, one row an image; a composition's prompts are
    joined by "AND".

    Args:
        weighted, chunked: how prompts are read, see `encode_prompts`.

    Raises:
        UserError: the guidance reads other conditions than the request or the model has.
    """
    condition = functools.partial(_encoded, pipeline, weighted=weighted, chunked=chunked)
    count = len(request.prompts)
    if pipeline.guidance.reads is TwoConditions and not pipeline.edits_images:
        raise UserError(
            "two_condition guidance goes with checkpoints that edit images (InstructPix2Pix): this one"
            " has no image as a condition"
        )
    if pipeline.guidance.reads is Prompts:
        return _composed(pipeline, request, condition)
    if weighted or chunked:
        # Together, so that both have as many pieces.
        both = condition([*request.prompts, *(request.negatives or [""] * count)])
        positive = jax.tree.map(lambda a: a[:count], both)
        negative = jax.tree.map(lambda a: a[count:], both)
        if request.negatives is None and pipeline.null_is_zero:
            negative = jax.tree.map(jnp.zeros_like, negative)
    else:
        positive = condition(request.prompts)
        negative = _negative(pipeline, request, condition)
    positive, negative = _with_sizes(request, positive, negative)
    if pipeline.fills_masks:
        under = pipeline.encode_images(request.image * (1 - request.mask))
        seen = jnp.concatenate([request.latent_mask, under], axis=-1)
        positive, negative = (dataclasses.replace(c, image=seen) for c in (positive, negative))
    if pipeline.edits_images:
        # As it was trained: in the encoder's own numbers, which are not scaled to unit variance.
        seen = pipeline.autoencoder.unscale(pipeline.encode_images(request.image))
        positive, negative = (dataclasses.replace(c, image=seen) for c in (positive, negative))
    if pipeline.guidance.reads is TwoConditions:
        neither = dataclasses.replace(negative, image=jnp.zeros_like(negative.image))
        return TwoConditions(both=positive, image=negative, neither=neither)
    return Guided(positive=positive, negative=negative)


def _encoded(pipeline: "Pipeline", prompts: Sequence[str], *, weighted: bool, chunked: bool) -> Conditioning:
    """What the network is told of each prompt, in the fields that it was trained with; equal prompts are
    encoded once.
    """
    unique = list(dict.fromkeys(prompts))
    rows = np.asarray([unique.index(prompt) for prompt in prompts])
    # Filled up to whole batches, as the encoder would: another number of prompts compiles nothing.
    filled = unique + [""] * (-len(unique) % pipeline.text_encoder.batch_size)
    if weighted or chunked:
        encoded = encode_prompts(pipeline.text_encoder, filled, weighted=weighted, chunked=chunked)
    else:
        encoded = pipeline.text_encoder.encode(filled)
    if pipeline.null.pooled is None:
        encoded = dataclasses.replace(encoded, pooled=None)
    return jax.tree.map(lambda a: a[rows], encoded)


def _composed(pipeline: "Pipeline", request: Request, condition: Any) -> Prompts:
    needed, parts = pipeline.guidance.prompts, [prompt.split(" AND ") for prompt in request.prompts]
    for prompt, found in zip(request.prompts, parts, strict=True):
        if len(found) != needed:
            raise UserError(
                f"prompt {prompt!r}: {needed} prompts joined by ' AND ' are needed, one for each weight"
                " of the guidance"
            )
    if pipeline.fills_masks or pipeline.edits_images:
        raise UserError("a checkpoint that reads an image takes no composed prompts: choose another guidance")
    prompts = [condition(list(column)) for column in zip(*parts, strict=True)]
    *prompts, negative = _with_sizes(request, *prompts, _negative(pipeline, request, condition))
    return Prompts(tuple(prompts), negative)


def _negative(pipeline: "Pipeline", request: Request, condition: Any) -> Conditioning:
    """What training put in place of dropped captions, or the negative prompts."""
    if request.negatives is not None:
        return condition(request.negatives)
    count = len(request.prompts)
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape[1:])), pipeline.null)


def _with_sizes(request: Request, *conditions: Conditioning) -> tuple[Conditioning, ...]:
    """The conditions, of which the last is the negative, with the numbers that the network reads."""
    if request.time_ids is None:
        return conditions
    told = [request.time_ids[0]] * (len(conditions) - 1) + [request.time_ids[1]]
    count = len(request.prompts)
    return tuple(
        dataclasses.replace(condition, time_ids=jnp.broadcast_to(numbers, (count, len(numbers))))
        for condition, numbers in zip(conditions, told, strict=True)
    )
