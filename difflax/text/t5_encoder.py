"""T5 as a `PromptEncoder`: its tokens alone, without a pooled vector; and what stands in its place."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from difflax.core.types import Conditioning, Params, UserError
from difflax.models.functional import Functional
from difflax.text.encoders import fingerprint, in_batches
from difflax.text.prompts import SingleEncoder, weigh, weighted_tokens
from difflax.text.t5 import T5Config, t5_network
from difflax.text.tokenizer import Tokenizer


@flax.struct.dataclass
class T5Encoder(SingleEncoder):
    """A frozen T5 encoder with its tokenizer.

    As in Stable Diffusion 3 there is no mask: prompts are filled up with padding, which is attended to.

    Attributes:
        params: of `t5_network`.
        config: the encoder's sizes.
        tokenizer: its ``max_length`` is how many tokens a prompt gets; T5's positions set no limit.
        batch_size: prompts a call of the network; the last batch is padded, so one size is ever compiled.
        dtype: what the layers compute in.

    Raises:
        UserError: token ids beyond the encoder's vocabulary.
    """

    params: Params
    config: T5Config = flax.struct.field(pytree_node=False)
    tokenizer: Tokenizer = flax.struct.field(pytree_node=False)
    batch_size: int = flax.struct.field(pytree_node=False, default=8)
    dtype: Any = flax.struct.field(pytree_node=False, default=jnp.float32)

    def __post_init__(self):
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise UserError(
                f"the tokenizer has {self.tokenizer.vocab_size} ids, the T5 encoder"
                f" {self.config.vocab_size}: they do not belong together"
            )

    @property
    def network(self) -> Functional:
        return t5_network(self.config, self.dtype)

    @property
    def width(self) -> int:
        """Of ``context``."""
        return self.config.d_model

    @property
    def pooled_width(self) -> int:
        """There is no pooled vector."""
        return 0

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """The conditioning of ``b`` captions: ``context`` [b, max_length, width]."""
        return in_batches(self.condition_ids, self.tokenize(captions), self.batch_size)

    def tokenize(self, captions: Sequence[str]) -> Int[np.ndarray, "b n"]:
        """What `condition_ids` reads of captions."""
        return self.tokenizer(captions)

    def condition_ids(self, input_ids: Int[Array, "b n"]) -> Conditioning:
        """The conditioning of one batch of token ids."""
        return Conditioning(context=_encode(self.network, self.params, input_ids))

    def count_pieces(self, prompts: Sequence[str], *, weighted: bool) -> int:
        """How many times the tokenizer's length the longest prompt takes, its end included."""
        counts = [len(weighted_tokens(self.tokenizer, prompt, weighted)[0]) + 1 for prompt in prompts]
        return max(1, *(-(-count // self.tokenizer.max_length) for count in counts))

    def encode_pieces(self, prompts: Sequence[str], pieces: int, *, weighted: bool) -> Conditioning:
        """Prompts of so many times the tokenizer's length, each read as one piece: no position is too far."""
        length = pieces * self.tokenizer.max_length
        rows, weights = zip(*(self._row(prompt, length, weighted) for prompt in prompts), strict=True)
        made = in_batches(self.condition_ids, np.asarray(rows, np.int32), self.batch_size)
        if weighted:
            context = weigh(made.context, jnp.asarray(weights, made.context.dtype))
            made = dataclasses.replace(made, context=context)
        return made

    def fingerprint(self) -> str:
        """A hash of all that decides an embedding: equal fingerprints, equal embeddings."""
        options = {
            "config": self.config.to_config(),
            "dtype": jnp.dtype(self.dtype).name,
            "tokenizer": self.tokenizer.fingerprint(),
        }
        return fingerprint(options, self.params)

    def _row(self, prompt: str, length: int, weighted: bool) -> tuple[list[int], list[float]]:
        """A prompt's ids, its end and padding, and their weights; what does not fit is cut with a warning."""
        backend = self.tokenizer.backend
        ids, weights = weighted_tokens(self.tokenizer, prompt, weighted)
        if len(ids) >= length:
            lost = backend.decode(ids[length - 1 :])
            warnings.warn(
                f"the prompt {prompt!r} of {len(ids) + 1} tokens is cut to {length}; lost: {lost!r}",
                stacklevel=5,
            )
        ids, weights = ids[: length - 1], weights[: length - 1]
        rest = length - 1 - len(ids)
        filled = [*ids, backend.eos_token_id, *[backend.pad_token_id] * rest]
        return filled, [*weights, *[1.0] * (rest + 1)]


@flax.struct.dataclass
class ZeroEncoder(SingleEncoder):
    """What Stable Diffusion 3 reads where its T5 is left out: zeros for every prompt.

    Attributes:
        length: tokens a prompt.
        width: of each.
    """

    length: int = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False)
    batch_size: int = flax.struct.field(pytree_node=False, default=1)
    pooled_width: int = flax.struct.field(pytree_node=False, default=0)

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """Zeros [b, length, width]."""
        return self.condition_ids(self.tokenize(captions))

    def tokenize(self, captions: Sequence[str]) -> Int[np.ndarray, "b 0"]:
        """Rows of no tokens."""
        return np.zeros((len(captions), 0), np.int32)

    def condition_ids(self, input_ids: Int[Array | np.ndarray, "b 0"]) -> Conditioning:
        """Zeros for each row."""
        return Conditioning(context=jnp.zeros((len(input_ids), self.length, self.width)))

    def count_pieces(self, prompts: Sequence[str], *, weighted: bool) -> int:
        """One: nothing is too long."""
        return 1

    def encode_pieces(self, prompts: Sequence[str], pieces: int, *, weighted: bool) -> Conditioning:
        """As many zeros as for one piece."""
        return self.encode(prompts)

    def fingerprint(self) -> str:
        """A hash of its sizes."""
        return fingerprint({"zeros": [self.length, self.width]}, {})


@functools.partial(jax.jit, static_argnums=0)
def _encode(network: Functional, params: Params, input_ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
    return network.apply(params, input_ids)
