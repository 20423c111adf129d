"""Learned words (Gal et al. 2022, https://arxiv.org/abs/2208.01618): new tokens with embeddings of their own.

Read are the files of diffusers (one tensor [d] or [vectors, d] under the token's name), of A1111's web
interface (``emb_params``, the token being the file's name), and of Stable Diffusion XL and 3 (``clip_l`` and
``clip_g``, one for each text encoder); diffusers' is written. A token of several vectors is the tokens
``<cat>``, ``<cat>_1``, … in the tokenizer; prompts say ``<cat>``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from difflax.core.types import Params, UserError
from difflax.pretrained.format.safetensors import PICKLES, open_file, write_file
from difflax.text.encoders import TextEncoder
from difflax.text.prompts import PromptEncoder

FILE = "learned_embeds.safetensors"
TABLE = ("text_model", "embeddings", "token_embedding", "embedding")
"""Where a text tower's parameters have its token embeddings."""
NAMELESS = ("emb_params", "*", "string_to_param.*")
"""A1111's names of the tensor in a file that is named as its token."""
PAIR = ("clip_l", "clip_g")
"""The tensors for the two CLIP text encoders of one model, in their order."""


@dataclasses.dataclass(frozen=True)
class LearnedWord:
    """A token and its embeddings.

    Attributes:
        token: as prompts name it.
        rows: [vectors, d] of the one text encoder, under ``""``, or of each of `PAIR`.
        source: the file, for errors.
    """

    token: str
    rows: Mapping[str, Float[np.ndarray, "v d"]]
    source: str


def read_word(path: epath.PathLike, token: str | None = None) -> LearnedWord:
    """The word of a file, or of the folder that has diffusers' file.

    Args:
        token: instead of the file's own.

    Raises:
        UserError: no such file, a pickle, or a file that holds something else.
    """
    path = epath.Path(path)
    path = path / FILE if path.is_dir() else path
    if path.name.endswith(PICKLES):
        raise UserError(_refusal(path))
    tensors = open_file(path)
    if set(tensors) == set(PAIR):
        own, named = path.stem, {name: tensors[name] for name in PAIR}
    elif len(tensors) == 1:
        ((name, tensor),) = tensors.items()
        own, named = path.stem if name in NAMELESS else name, {"": tensor}
    else:
        raise UserError(
            f"{path} is no textual inversion: it has {len(tensors)} tensors"
            f" ({', '.join(sorted(tensors)[:4])}) and not one, or {' and '.join(PAIR)}"
        )
    rows = {}
    for name, tensor in named.items():
        if tensor.ndim not in (1, 2) or 0 in tensor.shape:
            raise UserError(
                f"{path} is no textual inversion: {name or own} has shape {tensor.shape} and not [width] or"
                " [vectors, width]"
            )
        array = np.asarray(tensor).astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(
                f"{path} holds numbers that are not finite: it is damaged, or its training diverged"
            )
        rows[name] = array.reshape(-1, array.shape[-1])
    return LearnedWord(token or own, rows, str(path))


def _refusal(path: epath.Path) -> str:
    """Why a pickle is not read, and the command that makes a file of it that is."""
    loaded = f"torch.load('{path.name}', weights_only=True)"
    # A1111's has the tensor inside, diffusers' ``learned_embeds.bin`` is the tensors by name.
    made = loaded if path.suffix == ".bin" else f"{{'emb_params': {loaded}['string_to_param']['*'].data}}"
    return (
        f"{path} is a pickle, which can run any code when it is read, so it is not read: take the safetensors"
        ' file of the same word, or convert it with PyTorch, in its folder: python -c "import torch,'
        f" safetensors.torch as s; s.save_file({made}, '{path.stem}.safetensors')\""
    )


def add_word(encoder: PromptEncoder, word: LearnedWord) -> PromptEncoder:
    """The text encoders of a model with a word more.

    Raises:
        UserError: it was learned for a model with another number of text encoders or of other widths, or a
            tokenizer already has the token.
    """
    parts = list(encoder.towers)
    clips = [place for place, tower in enumerate(parts) if tower.learns_words]
    names = ("",) if len(clips) == 1 else PAIR
    if len(clips) == 1 and "clip_g" in word.rows and word.rows["clip_g"].shape[-1] == parts[clips[0]].width:
        # A refiner has the second text encoder alone.
        names = ("clip_g",)
    if len(clips) > len(PAIR) or not set(names) <= set(word.rows):
        count, widths = len(word.rows), " and ".join(str(rows.shape[-1]) for rows in word.rows.values())
        raise UserError(
            f"{word.source} was learned for a model of {count} text encoder{'s' * (count > 1)} ({widths}"
            f" wide), this one has {len(clips)}: take the word's file for this model"
        )
    for place, name in zip(clips, names, strict=True):
        parts[place] = add_token(parts[place], word.token, word.rows[name])
    return encoder.with_towers(parts)


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
    tower, *others = encoder.towers
    if others or not tower.learns_words:
        raise UserError(
            "textual inversion: only models with one text encoder (Stable Diffusion 1.x, 2.x) take it"
        )
    return tower


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
