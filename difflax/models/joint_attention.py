"""Joint attention over image and text tokens, and the block that is built on it (MM-DiT; Esser et al. 2024,
https://arxiv.org/abs/2403.03206, figure 2).

Image and text have weights of their own for everything but the attention, which sees one row of tokens. The
time and the pooled text reach every layer as shift, scale and gate of its normalised input (adaLN; Peebles &
Xie 2022, https://arxiv.org/abs/2212.09748, section 3.2).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float

from difflax.models.attention import Attention, FeedForward, Grid, Mask, Queries, TanhGELU, qk_norms
from difflax.models.perturbation import Perturbation
from difflax.models.softmax_attention import attend

EPSILON = 1e-6


class JointAttention(Attention):
    """Attention of image and text tokens to all of them.

    Perturbed by ``"identity"``, an image token sees, of the image, only itself; all else stays (PAG's form
    for joint attention). By ``"blur"``, the queries of the image are blurred.

    Args:
        context_pre_only: the text is only read; what it would become is left out.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        context_pre_only: bool = False,
        qk_norm: str | None = None,
        implementation: str | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            dim,
            heads=heads,
            bias=True,
            qk_norm=qk_norm,
            implementation=implementation,
            dtype=dtype,
            rngs=rngs,
        )
        # A block that only reads the text stores its queries all the same.
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (
            nnx.Linear(dim, dim, dtype=dtype, rngs=rngs) for _ in range(3)
        )
        self.norm_added_q, self.norm_added_k = qk_norms(qk_norm, dim // heads, dtype=dtype, rngs=rngs)
        self.to_add_out = None if context_pre_only else nnx.Linear(dim, dim, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None = None,
        *,
        grid: tuple[int, int] | None = None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b m d"] | None]:
        """What image and text tokens have read; ``mask`` is of the text, ``grid`` the image's."""
        (b, n, width), m = x.shape, context.shape[1]
        image = _Heads(
            self._in_heads(self.to_q, x, self.norm_q),
            self._in_heads(self.to_k, x, self.norm_k),
            self._in_heads(self.to_v, x),
        )
        text = _Heads(
            self._in_heads(self.add_q_proj, context, self.norm_added_q),
            self._in_heads(self.add_k_proj, context, self.norm_added_k),
            self._in_heads(self.add_v_proj, context),
        )
        if self.to_add_out is None:
            text = text._replace(query=text.query[:, :0])
        tokens = self._read(image, text, mask, grid).reshape(b, -1, width)
        read = None if self.to_add_out is None else self.to_add_out(tokens[:, -m:])
        return self.to_out[0](tokens[:, :n]), read

    def _softmax(self, image: "_Heads", text: "_Heads", mask: Mask | None, grid: Grid) -> Queries:
        """What all queries read, the image's first, of everything."""
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), image, text)
        if mask is not None:
            mask = jnp.concatenate([jnp.ones(image.key.shape[:2], bool), mask], axis=1)
        return attend(*both, mask, implementation=self.implementation)

    def _alone(self, image: "_Heads", text: "_Heads", mask: Mask | None, grid: Grid) -> Queries:
        out = [_own_and_text(*image, text.key, text.value, mask)]
        if self.to_add_out is not None:
            out.append(self._softmax(image._replace(query=image.query[:, :0]), text, mask, grid))
        return jnp.concatenate(out, axis=1)

    def _blurred(self, image: "_Heads", text: "_Heads", mask: Mask | None, grid: Grid) -> Queries:
        query = self.perturbation.blur_tokens(image.query, grid)
        return self._softmax(image._replace(query=query), text, mask, grid)

    perturbable: Mapping[str, Callable] = {"identity": _alone, "blur": _blurred}


class _Heads(NamedTuple):
    """Tokens as attention reads them; there may be no queries."""

    query: Float[Array, "b q h e"]
    key: Float[Array, "b n h e"]
    value: Float[Array, "b n h e"]


def _own_and_text(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    text_key: Float[Array, "b m h e"],
    text_value: Float[Array, "b m h e"],
    mask: Bool[Array, "b m"] | None,
) -> Float[Array, "b n h e"]:
    """Attention of every image token to itself and to the text; softmax in float32."""
    query = query.astype(jnp.float32) * query.shape[-1] ** -0.5
    own = jnp.sum(query * key, axis=-1, keepdims=True)
    text = jnp.einsum("bnhe,bmhe->bnhm", query, text_key)
    if mask is not None:
        text = jnp.where(mask[:, None, None], text, -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate([own, text], axis=-1), axis=-1)
    out = weights[..., :1] * value + jnp.einsum("bnhm,bmhe->bnhe", weights[..., 1:], text_value)
    return out.astype(value.dtype)


class Modulation(nnx.Module):
    """``parts`` vectors of the time and text embedding, each [b, 1, dim], which shift, scale or gate tokens.

    They start from zero: a block starts as its shortcut.
    """

    def __init__(self, dim: int, parts: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        self.linear = nnx.Linear(dim, parts * dim, kernel_init=zeros, dtype=dtype, rngs=rngs)
        self.parts = parts

    def __call__(self, temb: Float[Array, "b d"]) -> list[Float[Array, "b 1 d"]]:
        return jnp.split(self.linear(jax.nn.silu(temb))[:, None], self.parts, axis=-1)


def modulate(
    x: Float[Array, "b n d"], shift: Float[Array, "b 1 d"], scale: Float[Array, "b 1 d"]
) -> Float[Array, "b n d"]:
    """``x`` normalised over its channels (in float32), times ``1 + scale``, plus ``shift``."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + EPSILON)
    return normal.astype(x.dtype) * (1 + scale) + shift


class JointTransformerBlock(nnx.Module):
    """Joint attention and a feed-forward each for image and text, in modulated and gated residuals.

    Args:
        context_pre_only: the text is only read (the last block, after which nobody needs it).
        dual_attention: beside the joint one, an attention of the image tokens to each other (SD 3.5-medium).
    """

    perturbable = ("skip",)
    perturbation: Perturbation | None = None

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        context_pre_only: bool = False,
        dual_attention: bool = False,
        qk_norm: str | None = None,
        attention_implementation: str | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        common = {"dtype": dtype, "rngs": rngs}
        attention = {"heads": heads, "qk_norm": qk_norm, "implementation": attention_implementation}
        self.norm1 = Modulation(dim, 9 if dual_attention else 6, **common)
        self.norm1_context = Modulation(dim, 2 if context_pre_only else 6, **common)
        self.attn = JointAttention(dim, context_pre_only=context_pre_only, **attention, **common)
        self.attn2 = Attention(dim, bias=True, **attention, **common) if dual_attention else None
        self.ff = FeedForward(dim, inner=TanhGELU, **common)
        self.ff_context = None if context_pre_only else FeedForward(dim, inner=TanhGELU, **common)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: Float[Array, "b m d"],
        temb: Float[Array, "b d"],
        mask: Bool[Array, "b m"] | None = None,
        *,
        grid: tuple[int, int] | None = None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b m d"]]:
        """Image and text tokens after the block; text that is only read comes back as it was."""
        if self.perturbation is not None:
            return x, context
        shift, scale, gate, ff_shift, ff_scale, ff_gate, *dual = self.norm1(temb)
        if self.ff_context is None:
            text_scale, text_shift = self.norm1_context(temb)
        else:
            text_shift, text_scale, text_gate, *text_ff = self.norm1_context(temb)
        read, text_read = self.attn(
            modulate(x, shift, scale), modulate(context, text_shift, text_scale), mask, grid=grid
        )
        before, x = x, x + gate * read
        if self.attn2 is not None:
            dual_shift, dual_scale, dual_gate = dual
            x = x + dual_gate * self.attn2(modulate(before, dual_shift, dual_scale), grid=grid)
        x = x + ff_gate * self.ff(modulate(x, ff_shift, ff_scale))
        if self.ff_context is not None:
            text_ff_shift, text_ff_scale, text_ff_gate = text_ff
            context = context + text_gate * text_read
            context = context + text_ff_gate * self.ff_context(
                modulate(context, text_ff_shift, text_ff_scale)
            )
        return x, context
