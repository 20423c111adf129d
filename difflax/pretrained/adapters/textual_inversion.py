"""Learned words (Gal et al. 2022, https://arxiv.org/abs/2208.01618): new tokens with embeddings of their own.

The file is diffusers' ``learned_embeds.safetensors``: one tensor [d] or [vectors, d] under the token's name.
A token of several vectors is the tokens ``<cat>``, ``<cat>_1``, … in the tokenizer; prompts say ``<cat>``.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from difflax.core.types import Params, UserError
from difflax.pretrained.format.safetensors import PICKLES, open_file, refusal, write_file
from difflax.text.encoders import TextEncoder
from difflax.text.prompts import PromptEncoder

FILE = "learned_embeds.safetensors"
TABLE = ("text_model", "embeddings", "token_embedding", "embedding")
"""Where a text tower's parameters have its token embeddings."""


def read_embeddings(path: epath.PathLike, token: str | None = None) -> tuple[str, Float[np.ndarray, "v d"]]:
    """The token and the vectors of a file, or of the folder it lies in.

    Args:
        token: instead of the file's own.

    Raises:
        UserError: no such file, a pickle, or a file that holds something else.
    """
    path = epath.Path(path)
    path = path / FILE if path.is_dir() else path
    if path.name.endswith(PICKLES):
        raise UserError(refusal(path))
    tensors = open_file(path)
    if len(tensors) != 1 or next(iter(tensors.values())).ndim not in (1, 2):
        raise UserError(f"{path} is no textual inversion: one tensor of one or two axes, named as its token")
    ((name, stored),) = tensors.items()
    rows = np.asarray(stored).astype(np.float32)
    if not np.isfinite(rows).all():
        raise UserError(f"{path} holds numbers that are not finite: it is damaged, or its training diverged")
    return token or name, rows.reshape(-1, rows.shape[-1])


def save_embeddings(path: epath.PathLike, token: str, rows: Float[Array | np.ndarray, "v d"]) -> None:
    """Writes a file that diffusers' ``load_textual_inversion`` reads."""
    write_file(path, {token: np.asarray(rows)})


def token_names(token: str, vectors: int) -> list[str]:
    """The names under which a token's vectors stand in the tokenizer."""
    return [token, *(f"{token}_{i}" for i in range(1, vectors))]


def add_token(encoder: TextEncoder, token: str, rows: Float[Array | np.ndarray, "v d"]) -> TextEncoder:
    """The text encoder with one token more, of one or several vectors, which are the last of its table.

    Raises:
        UserError: a token that its tokenizer already has, or vectors of another width.
    """
    width = encoder.config.hidden_size
    if rows.shape[-1] != width:
        raise UserError(
            f"token {token!r} has vectors of width {rows.shape[-1]}, the text encoder's have {width}: it was"
            " learned for another model"
        )
    tokenizer = encoder.tokenizer.with_tokens(token_names(token, len(rows)))
    # As long as the tokenizer, as diffusers makes it: rows that no token reads are left out.
    known = embedding_table(encoder.params)[: encoder.tokenizer.vocab_size]
    table = jnp.concatenate([known, jnp.asarray(rows, known.dtype)])
    return encoder.replace(
        params=with_embedding_table(encoder.params, table),
        config=dataclasses.replace(encoder.config, vocab_size=tokenizer.vocab_size),
        tokenizer=tokenizer,
    )


def single_encoder(encoder: PromptEncoder) -> TextEncoder:
    """The one text encoder of a model, which learns a word.

    Raises:
        UserError: it has several.
    """
    if not isinstance(encoder, TextEncoder):
        raise UserError(
            "textual inversion: only models with one text encoder (Stable Diffusion 1.x, 2.x) take it"
        )
    return encoder


def embedding_table(params: Params) -> Any:
    """A text tower's token embeddings [n, d], an array or a shape."""
    for name in TABLE:
        params = params[name]
    return params


def with_embedding_table(params: Params, table: Float[Array, "n d"]) -> Params:
    """A text tower's parameters with other token embeddings."""

    def put(path: tuple, leaf: Array) -> Array:
        return table if tuple(entry.key for entry in path) == TABLE else leaf

    return jax.tree_util.tree_map_with_path(put, params)
