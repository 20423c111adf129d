"""The encoder of T5 (Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 2.1) in NNX.

A pre-norm transformer without biases: RMS norms, attention without the usual scale whose scores get a learned
number for every bucket of distances, and a feed-forward of one layer with ReLU (the first T5) or of two, one
gating the other (v1.1; Shazeer 2020, https://arxiv.org/abs/2002.05202). Names are those of transformers'
``T5EncoderModel``; a checkpoint's ``config.json`` builds it and its weights load by path.

T5 was trained in bfloat16 and its activations exceed what float16 holds: whatever the layers compute in, the
sum along the residuals and the feed-forward's last layer stay in float32.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from difflax.core.bounds import Count, Depth, NotNegative, Vocabulary, Width
from difflax.core.kinds import read_own_fields
from difflax.core.types import UserError
from difflax.models.functional import Functional, functional

FEED_FORWARDS: dict[str, tuple[bool, Callable[[Array], Array]]] = {
    "relu": (False, jax.nn.relu),
    "gated-gelu": (True, functools.partial(jax.nn.gelu, approximate=True)),
    "gated-silu": (True, jax.nn.silu),
}
"""Whether a second layer is multiplied on, and the activation, by the names in ``config.json``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """The encoder's sizes by the names of the Hub's ``config.json``; defaults are those of transformers.

    Raises:
        UserError: a feed-forward that is not implemented.
    """

    model_type: ClassVar[str] = "t5"

    vocab_size: Vocabulary = 32128
    d_model: Width = 512
    d_kv: Width = 64
    d_ff: Width = 2048
    num_layers: Depth = 6
    num_heads: Width = 8
    relative_attention_num_buckets: Width = 32
    relative_attention_max_distance: Count = 128
    layer_norm_epsilon: NotNegative = 1e-6
    feed_forward_proj: str = "relu"

    def __post_init__(self):
        if self.feed_forward_proj not in FEED_FORWARDS:
            raise UserError(
                f"T5Config.feed_forward_proj = {self.feed_forward_proj!r}: choose one of"
                f" {', '.join(FEED_FORWARDS)}"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "T5Config":
        """Reads the mapping of a ``config.json``, of which the encoder needs a part; a missing field takes
        the default.

        Raises:
            UserError: a value that the encoder cannot honour.
        """
        return cls(**read_own_fields(cls, config))

    def to_config(self) -> dict[str, Any]:
        """The mapping to write as ``config.json``; `from_config` reads it back."""
        return {"model_type": self.model_type, **dataclasses.asdict(self)}


class T5Attention(nnx.Module):
    """Self-attention whose scores are the plain products plus ``bias``; softmax in float32."""

    def __init__(self, config: T5Config, *, has_bias: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        width, inner = config.d_model, config.num_heads * config.d_kv
        self.q = _linear(width, inner, (width * config.d_kv) ** -0.5, dtype, rngs)
        self.k = _linear(width, inner, width**-0.5, dtype, rngs)
        self.v = _linear(width, inner, width**-0.5, dtype, rngs)
        self.o = _linear(inner, width, inner**-0.5, dtype, rngs)
        if has_bias:
            normal = nnx.initializers.normal(width**-0.5)
            buckets = config.relative_attention_num_buckets
            self.relative_attention_bias = nnx.Embed(
                buckets, config.num_heads, embedding_init=normal, rngs=rngs
            )
        self.heads = config.num_heads

    def __call__(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array, "1 h n n"],
        mask: Bool[Array, "b n"] | None,
    ) -> Float[Array, "b n d"]:
        def heads(layer: nnx.Linear) -> Array:
            return layer(x).reshape(*x.shape[:2], self.heads, -1).astype(jnp.float32)

        scores = jnp.einsum("bqhe,bkhe->bhqk", heads(self.q), heads(self.k)) + bias
        if mask is not None:
            scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
        out = jnp.einsum("bhqk,bkhe->bqhe", jax.nn.softmax(scores, axis=-1), heads(self.v))
        return self.o(out.reshape(*x.shape[:2], -1)).astype(jnp.float32)


class T5FeedForward(nnx.Module):
    def __init__(self, config: T5Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width, inner = config.d_model, config.d_ff
        gated, self.act = FEED_FORWARDS[config.feed_forward_proj]
        self.inner_layers = ("wi_0", "wi_1") if gated else ("wi",)
        for name in self.inner_layers:
            setattr(self, name, _linear(width, inner, width**-0.5, dtype, rngs))
        self.wo = _linear(inner, width, inner**-0.5, jnp.float32, rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        first, *gates = (getattr(self, name)(x).astype(jnp.float32) for name in self.inner_layers)
        hidden = self.act(first)
        for gate in gates:
            hidden = hidden * gate
        return self.wo(hidden)


class T5Block(nnx.Module):
    """Attention and feed-forward, each a residual with a norm before it, in the Hub's two-level naming."""

    def __init__(self, config: T5Config, *, has_bias: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        attention, feed_forward = nnx.Module(), nnx.Module()
        attention.SelfAttention = T5Attention(config, has_bias=has_bias, dtype=dtype, rngs=rngs)
        feed_forward.DenseReluDense = T5FeedForward(config, dtype=dtype, rngs=rngs)
        for part in (attention, feed_forward):
            part.layer_norm = _norm(config, rngs)
        self.layer = nnx.List([attention, feed_forward])

    def __call__(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array, "1 h n n"],
        mask: Bool[Array, "b n"] | None,
    ) -> Float[Array, "b n d"]:
        attention, feed_forward = self.layer
        x = x + attention.SelfAttention(attention.layer_norm(x), bias, mask)
        return x + feed_forward.DenseReluDense(feed_forward.layer_norm(x))


class T5Stack(nnx.Module):
    def __init__(self, config: T5Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        # Distances have one table, which the first block holds and all read.
        self.block = nnx.List(
            T5Block(config, has_bias=index == 0, dtype=dtype, rngs=rngs) for index in range(config.num_layers)
        )
        self.final_layer_norm = _norm(config, rngs)


class T5EncoderModel(nnx.Module):
    """The encoder alone.

    Args:
        config: sizes, as in the checkpoint's ``config.json``.
        dtype: what the layers compute in; parameters stay float32 unless loaded otherwise.
    """

    def __init__(self, config: T5Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.shared = nnx.Embed(
            config.vocab_size, config.d_model, embedding_init=nnx.initializers.normal(1.0), rngs=rngs
        )
        self.encoder = T5Stack(config, dtype=dtype, rngs=rngs)
        self.buckets = (config.relative_attention_num_buckets, config.relative_attention_max_distance)

    def __call__(
        self, input_ids: Int[Array, "b n"], mask: Bool[Array, "b n"] | None = None
    ) -> Float[Array, "b n d"]:
        """The states of the last layer after the final norm; ``mask`` is True where a token may be attended
        to.
        """
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = table(relative_buckets(input_ids.shape[1], *self.buckets)).astype(jnp.float32)
        bias = bias.transpose(2, 0, 1)[None]
        x = self.shared(input_ids).astype(jnp.float32)
        for block in self.encoder.block:
            x = block(x, bias, mask)
        return self.encoder.final_layer_norm(x)


def relative_buckets(length: int, count: int, max_distance: int) -> Int[np.ndarray, "{length} {length}"]:
    """The bucket of every pair (query, key) of positions.

    Half of the ``count`` buckets are for keys before the query, half for those after it. Of each half, the
    first half are distances of their own, the others grow with the logarithm up to ``max_distance``, and all
    beyond are in the last (Raffel et al. 2020, section 2.1).
    """
    offset = np.arange(length)[None] - np.arange(length)[:, None]
    half, exact = count // 2, count // 4
    distance = np.abs(offset)
    # In float32, as checkpoints were trained: it decides which bucket an edge belongs to.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    steps = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + steps.astype(np.int32), half - 1)
    return (half * (offset > 0) + np.where(distance < exact, distance, far)).astype(np.int32)


@functools.cache
def t5_network(config: T5Config, dtype: Any = jnp.float32) -> Functional:
    """The encoder as pure functions, the same object for the same arguments."""
    return functional(lambda rngs: T5EncoderModel(config, dtype=dtype, rngs=rngs))


def _linear(in_features: int, out_features: int, std: float, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    init = nnx.initializers.normal(std)
    return nnx.Linear(in_features, out_features, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs)


def _norm(config: T5Config, rngs: nnx.Rngs) -> nnx.RMSNorm:
    # In float32: what it normalises may be beyond the layers' own range.
    return nnx.RMSNorm(config.d_model, epsilon=config.layer_norm_epsilon, dtype=jnp.float32, rngs=rngs)
