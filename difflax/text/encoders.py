"""Captions in, conditioning out: a tokenizer, a text tower's weights, and which of its states to use."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from difflax.core.types import Conditioning, Params, UserError
from difflax.models.functional import Functional, functional
from difflax.text.clip import CLIPTextModel, CLIPTextModelWithProjection
from difflax.text.clip_config import CLIPTextConfig
from difflax.text.prompts import SingleEncoder, count_pieces, token_rows, weigh
from difflax.text.tokenizer import Tokenizer


@flax.struct.dataclass
class TextEncoder(SingleEncoder):
    """A frozen CLIP text tower with its tokenizer.

    Which state conditions is a choice that a diffusion model is trained with: Stable Diffusion 1.x takes the
    last layer with the final norm, 2.x the one before with the final norm, SDXL the one before without.

    Attributes:
        params: of `text_network`; with a ``text_projection`` the pooled state is projected.
        config: the tower's sizes.
        tokenizer: its rows may not be longer than the tower has positions.
        layer: index into the tower's ``num_hidden_layers + 1`` hidden states, from the end if negative.
        final_norm: whether the final norm is applied to that state.
        batch_size: captions a call of the tower; the last batch is padded, so one size is ever compiled.
        dtype: what the tower computes in.

    Raises:
        UserError: rows longer than the tower's positions, token ids beyond its vocabulary, or no such layer.
    """

    params: Params
    config: CLIPTextConfig = flax.struct.field(pytree_node=False)
    tokenizer: Tokenizer = flax.struct.field(pytree_node=False)
    layer: int = flax.struct.field(pytree_node=False, default=-1)
    final_norm: bool = flax.struct.field(pytree_node=False, default=True)
    batch_size: int = flax.struct.field(pytree_node=False, default=64)
    dtype: Any = flax.struct.field(pytree_node=False, default=jnp.float32)

    learns_words = True

    def __post_init__(self):
        states = self.config.num_hidden_layers + 1
        if not -states <= self.layer < states:
            raise UserError(f"text encoder layer = {self.layer}: choose from {-states} to {states - 1}")
        if self.batch_size < 1:
            raise UserError(f"text encoder batch_size = {self.batch_size}: give at least 1")
        positions, vocab = self.config.max_position_embeddings, self.config.vocab_size
        if self.tokenizer.max_length > positions:
            raise UserError(
                f"the tokenizer makes rows of {self.tokenizer.max_length} tokens, the text encoder has"
                f" {positions} positions: load the tokenizer with max_length={positions}"
            )
        if self.tokenizer.vocab_size > vocab:
            raise UserError(
                f"the tokenizer has {self.tokenizer.vocab_size} ids, the text encoder {vocab}:"
                " they do not belong together"
            )

    @property
    def network(self) -> Functional:
        return text_network(self.config, "text_projection" in self.params, self.dtype)

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """The conditioning of ``b`` captions: ``context`` [b, max_length, d] and ``pooled`` [b, d or p].

        An empty caption is the null condition; there is no mask, padding is attended to as in Stable
        Diffusion.
        """
        return in_batches(self.condition_ids, self.tokenize(captions), self.batch_size)

    def tokenize(self, captions: Sequence[str]) -> Int[np.ndarray, "b n"]:
        """What `condition_ids` reads of captions."""
        return self.tokenizer(captions)

    @property
    def width(self) -> int:
        """Of ``context``."""
        return self.config.hidden_size

    @property
    def pooled_width(self) -> int:
        """Of ``pooled``."""
        return self.config.projection_dim if "text_projection" in self.params else self.config.hidden_size

    def count_pieces(self, prompts: Sequence[str], *, weighted: bool) -> int:
        """How many rows of the tokenizer's length the longest prompt fills."""
        return count_pieces(self.tokenizer, prompts, weighted=weighted)

    def encode_pieces(self, prompts: Sequence[str], pieces: int, *, weighted: bool) -> Conditioning:
        """Prompts in so many pieces each, whose states are joined; see `encode_prompts`."""
        ids, weights = token_rows(self.tokenizer, prompts, pieces, weighted=weighted)
        made = in_batches(self.condition_ids, ids, self.batch_size)
        context = made.context.reshape(len(prompts), -1, self.width)
        if weighted:
            context = weigh(context, jnp.asarray(weights, context.dtype).reshape(len(prompts), -1))
        return Conditioning(context=context, pooled=made.pooled[::pieces])

    @property
    def skippable(self) -> int:
        """Layers before the state that it gives; state 0 is the embeddings."""
        return self.layer % (self.config.num_hidden_layers + 1)

    def skipping(self, layers: int) -> "TextEncoder":
        """The same with the state of so many layers earlier; the pooled vector stays."""
        return self.replace(layer=self.layer - layers)

    @property
    def null(self) -> Conditioning:
        """The condition of saying nothing, one row: what caption dropout trains and guidance contrasts."""
        return self.encode([""])

    def fingerprint(self) -> str:
        """A hash of all that decides an embedding: equal fingerprints, equal embeddings.

        ``batch_size`` has no part in it.
        """
        options = {
            "config": self.config.to_config(),
            "layer": self.skippable,
            "final_norm": self.final_norm,
            "dtype": jnp.dtype(self.dtype).name,
            "tokenizer": self.tokenizer.fingerprint(),
        }
        return fingerprint(options, self.params)

    def condition_ids(self, input_ids: Int[Array, "b n"]) -> Conditioning:
        """The conditioning of one batch of token ids."""
        context, pooled = _encode(self.network, self.layer, self.final_norm, self.params, input_ids)
        return Conditioning(context=context, pooled=pooled)


def fingerprint(options: Mapping[str, Any], params: Params) -> str:
    """A hash of settings (JSON values) and of every parameter's bytes."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def in_batches(function: Callable[[Array], Any], rows: Shaped[np.ndarray, "b ..."], batch_size: int) -> Any:
    """``function`` of all ``rows``, called on batches of one size alone; the last repeats its last row.

    Returns:
        the pytree that ``function`` returns, its arrays joined along the first axis and ``b`` long.
    """
    count = max(1, -(-len(rows) // batch_size))
    padding = [(0, count * batch_size - len(rows))] + [(0, 0)] * (rows.ndim - 1)
    padded = np.pad(rows, padding, mode="edge" if len(rows) else "constant")
    parts = [function(jnp.asarray(batch)) for batch in np.split(padded, count)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: len(rows)], *parts)


@functools.cache
def text_network(config: CLIPTextConfig, projection: bool, dtype: Any = jnp.float32) -> Functional:
    """The text tower as pure functions, the same object for the same arguments."""
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return functional(lambda rngs: kind(config, dtype=dtype, rngs=rngs))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _encode(
    network: Functional, layer: int, final_norm: bool, params: Params, input_ids: Int[Array, "b n"]
) -> tuple[Float[Array, "b n d"], Float[Array, "b p"]]:
    out = network.apply(params, input_ids, layer=layer)
    context = out.last_hidden_state if final_norm else out.hidden_states[layer]
    return context, out.pooled if out.projected is None else out.projected
