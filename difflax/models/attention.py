"""Attention over image tokens and text, and the transformer of the Stable Diffusion family's UNets."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float

from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.models.blocks import run_blocks
from difflax.models.layers import Conv2d, GroupNorm
from difflax.models.perturbation import Perturbation
from difflax.models.softmax_attention import attend
from difflax.parallel.placement import gather_tokens, split_tokens

Queries, Keys = Float[Array, "b n h e"], Float[Array, "b m h e"]
Mask = Bool[Array, "b m"]
Grid = tuple[int, int] | None

QK_NORMS = {"rms_norm": nnx.RMSNorm}


def qk_norms(
    kind: str | None, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> tuple[nnx.RMSNorm | None, nnx.RMSNorm | None]:
    """A norm for the queries of every head and one for the keys, which keep their products from growing in
    training (Dehghani et al. 2023, https://arxiv.org/abs/2302.05442, section 2); ``None``: none.

    Args:
        kind: a key of ``QK_NORMS``, named as in diffusers' configs.
        dim: of a head.

    Raises:
        UserError: an unknown kind.
    """
    if kind is None:
        return None, None
    make = choose(QK_NORMS, kind, "qk_norm")
    query, key = (make(dim, epsilon=1e-6, dtype=dtype, rngs=rngs) for _ in range(2))
    return query, key


class Attention(nnx.Module):
    """Multi-head attention of ``x`` to ``context``, or to itself where there is none.

    ``perturbable`` has, by the kind of a `Perturbation`, how queries then read keys and values.

    Args:
        context_dim: width of the context; ``None`` for self-attention.
        bias: of the layers to queries, keys and values.
        qk_norm: see `qk_norms`.
        upcast: compute queries' and keys' products in float32 (SD 2.1 overflows in float16).
        implementation: see ``difflax.models.softmax_attention.attend``.
    """

    perturbation: Perturbation | None = None

    def __init__(
        self,
        query_dim: int,
        *,
        heads: int,
        context_dim: int | None = None,
        bias: bool = False,
        qk_norm: str | None = None,
        upcast: bool = False,
        implementation: str | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if query_dim % heads:
            raise UserError(
                f"attention_head_dim={heads} (the number of heads) does not divide {query_dim} channels"
            )
        source = query_dim if context_dim is None else context_dim
        self.to_q = nnx.Linear(query_dim, query_dim, use_bias=bias, dtype=dtype, rngs=rngs)
        self.to_k = nnx.Linear(source, query_dim, use_bias=bias, dtype=dtype, rngs=rngs)
        self.to_v = nnx.Linear(source, query_dim, use_bias=bias, dtype=dtype, rngs=rngs)
        self.to_out = nnx.List([nnx.Linear(query_dim, query_dim, dtype=dtype, rngs=rngs)])
        self.norm_q, self.norm_k = qk_norms(qk_norm, query_dim // heads, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.upcast = upcast
        self.implementation = implementation

    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: Float[Array, "b m e"] | None = None,
        mask: Bool[Array, "b m"] | None = None,
        *,
        grid: tuple[int, int] | None = None,
    ) -> Float[Array, "b n d"]:
        """``grid``: height and width of the image that the tokens of ``x`` form, for a perturbation."""
        source = x if context is None else context
        query = self._in_heads(self.to_q, x, self.norm_q)
        key = self._in_heads(self.to_k, source, self.norm_k)
        value = self._in_heads(self.to_v, source)
        return self.to_out[0](self._read(query, key, value, mask, grid).reshape(x.shape))

    def _read(self, *heads: Any) -> Queries:
        """What queries read: by softmax, or as the perturbation has it."""
        if self.perturbation is None:
            return self._softmax(*heads)
        return self.perturbable[self.perturbation.kind](self, *heads)

    def _softmax(self, query: Queries, key: Keys, value: Keys, mask: Mask | None, grid: Grid) -> Queries:
        dtype = query.dtype
        if self.upcast:
            query, key, value = (a.astype(jnp.float32) for a in (query, key, value))
        return attend(query, key, value, mask, implementation=self.implementation).astype(dtype)

    def _alone(self, query: Queries, key: Keys, value: Keys, mask: Mask | None, grid: Grid) -> Queries:
        """Every token reads itself."""
        return value

    def _blurred(self, query: Queries, key: Keys, value: Keys, mask: Mask | None, grid: Grid) -> Queries:
        return self._softmax(self.perturbation.blur_tokens(query, grid), key, value, mask, grid)

    perturbable: Mapping[str, Callable] = {"identity": _alone, "blur": _blurred}

    def _in_heads(
        self, layer: nnx.Linear, tokens: Float[Array, "b n d"], norm: nnx.RMSNorm | None = None
    ) -> Float[Array, "b n h e"]:
        """A layer's output for ``tokens``, split into heads and normalised."""
        heads = layer(tokens).reshape(*tokens.shape[:2], self.heads, -1)
        return heads if norm is None else norm(heads)


class GEGLU(nnx.Module):
    """A linear layer gated by the GELU of another (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

    def __init__(self, dim: int, inner_dim: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.proj = nnx.Linear(dim, 2 * inner_dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n e"]:
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * jax.nn.gelu(gate, approximate=False)


class TanhGELU(nnx.Module):
    """A linear layer, then GELU by its approximation with tanh (Hendrycks & Gimpel 2016,
    https://arxiv.org/abs/1606.08415, section 2).
    """

    def __init__(self, dim: int, inner_dim: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.proj = nnx.Linear(dim, inner_dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n e"]:
        return jax.nn.gelu(self.proj(x), approximate=True)


class FeedForward(nnx.Module):
    """``inner`` (`GEGLU` or `TanhGELU`) to four times the width, and back."""

    def __init__(
        self,
        dim: int,
        *,
        inner: type[GEGLU] | type[TanhGELU] = GEGLU,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        first = inner(dim, 4 * dim, dtype=dtype, rngs=rngs)
        back = nnx.Linear(4 * dim, dim, dtype=dtype, rngs=rngs)
        # The second place is dropout's in diffusers; weights are named by place.
        self.net = nnx.List([first, None, back])

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(nnx.Module):
    """Self-attention, cross-attention and feed-forward, each a residual with a LayerNorm before it.

    Args:
        only_cross_attention: the first attention reads the context too.
    """

    perturbable = ("skip",)
    perturbation: Perturbation | None = None

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        context_dim: int,
        only_cross_attention: bool = False,
        upcast_attention: bool = False,
        attention_implementation: str | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        def norm() -> nnx.LayerNorm:
            return nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

        def attention(source: int | None) -> Attention:
            return Attention(
                dim,
                heads=heads,
                context_dim=source,
                upcast=upcast_attention,
                implementation=attention_implementation,
                dtype=dtype,
                rngs=rngs,
            )

        self.norm1 = norm()
        self.attn1 = attention(context_dim if only_cross_attention else None)
        self.norm2 = norm()
        self.attn2 = attention(context_dim)
        # Only self-attention is perturbed: what the tokens read from the text stays.
        self.attn2.perturbable = ()
        if only_cross_attention:
            self.attn1.perturbable = ()
        self.norm3 = norm()
        self.ff = FeedForward(dim, dtype=dtype, rngs=rngs)
        self.only_cross_attention = only_cross_attention

    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: Float[Array, "b m e"],
        mask: Bool[Array, "b m"] | None = None,
        *,
        grid: tuple[int, int] | None = None,
    ) -> Float[Array, "b n d"]:
        if self.perturbation is not None:
            return x
        first = (context, mask) if self.only_cross_attention else ()
        x = x + self.attn1(self.norm1(x), *first, grid=grid)
        x = x + self.attn2(self.norm2(x), context, mask)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nnx.Module):
    """Transformer blocks over an image's pixels as tokens, in a residual whose last layer starts at zero.

    Args:
        use_linear_projection: linear layers in and out (SD 2, XL) in place of 1×1 convolutions (SD 1).
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        num_layers: int,
        context_dim: int,
        groups: int = 32,
        use_linear_projection: bool = False,
        only_cross_attention: bool = False,
        upcast_attention: bool = False,
        attention_implementation: str | None = None,
        remat: str = "none",
        scan_layers: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm = GroupNorm(groups, channels, epsilon=1e-6, dtype=dtype)
        if use_linear_projection:
            zeros = nnx.initializers.zeros
            self.proj_in = nnx.Linear(channels, channels, dtype=dtype, rngs=rngs)
            self.proj_out = nnx.Linear(channels, channels, kernel_init=zeros, dtype=dtype, rngs=rngs)
        else:
            self.proj_in = Conv2d(channels, channels, 1, dtype=dtype, rngs=rngs)
            self.proj_out = Conv2d(channels, channels, 1, zero=True, dtype=dtype, rngs=rngs)
        self.transformer_blocks = nnx.List(
            BasicTransformerBlock(
                channels,
                heads=heads,
                context_dim=context_dim,
                only_cross_attention=only_cross_attention,
                upcast_attention=upcast_attention,
                attention_implementation=attention_implementation,
                dtype=dtype,
                rngs=rngs,
            )
            for _ in range(num_layers)
        )
        self.remat, self.scan_layers = remat, scan_layers

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        context: Float[Array, "b m e"],
        mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        tokens = gather_tokens(self.proj_in(self.norm(x)).reshape(b, h * w, c))
        tokens = run_blocks(
            self.transformer_blocks,
            lambda block, tokens: block(split_tokens(tokens), context, mask, grid=(h, w)),
            tokens,
            policy=self.remat,
            scan_layers=self.scan_layers,
        )
        return x + self.proj_out(gather_tokens(tokens).reshape(b, h, w, c))
