"""Residual blocks and resampling of the convolutional networks."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key

from difflax.core.spelling import choose
from difflax.models.layers import ACTIVATIONS, Conv2d, GroupNorm, dropout

TIME_SCALE_SHIFT = {"default": 1, "scale_shift": 2}
"""How the time embedding enters: added before the second norm, or as its scale and shift."""


class ResnetBlock2D(nnx.Module):
    """Two convolutions with GroupNorm, a shortcut and the time embedding between (DDPM's block).

    ``conv2`` starts from zero, so that the block starts as its shortcut.

    Args:
        temb_channels: width of the time embedding; ``None`` for networks without one (autoencoders).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        temb_channels: int | None,
        groups: int = 32,
        eps: float = 1e-6,
        act_fn: str = "silu",
        dropout: float = 0.0,
        time_scale_shift: str = "default",
        output_scale_factor: float = 1.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm1 = GroupNorm(groups, in_channels, epsilon=eps, dtype=dtype)
        self.conv1 = Conv2d(in_channels, out_channels, 3, dtype=dtype, rngs=rngs)
        parts = choose(TIME_SCALE_SHIFT, time_scale_shift, "resnet_time_scale_shift")
        if temb_channels is not None:
            self.time_emb_proj = nnx.Linear(temb_channels, parts * out_channels, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(groups, out_channels, epsilon=eps, dtype=dtype)
        self.conv2 = Conv2d(out_channels, out_channels, 3, zero=True, dtype=dtype, rngs=rngs)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.conv_shortcut = Conv2d(in_channels, out_channels, 1, dtype=dtype, rngs=rngs)
        self.act = choose(ACTIVATIONS, act_fn, "act_fn")
        self.scale_shift = parts == 2
        self.dropout = dropout
        self.output_scale_factor = output_scale_factor

    def __call__(
        self,
        x: Float[Array, "b h w ci"],
        temb: Float[Array, "b e"] | None = None,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b h w co"]:
        hidden = self.conv1(self.act(self.norm1(x)))
        shift = None if temb is None else self.time_emb_proj(self.act(temb))[:, None, None]
        if self.scale_shift:
            scale, shift = jnp.split(shift, 2, axis=-1)
            hidden = self.norm2(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm2(hidden if shift is None else hidden + shift)
        hidden = self.conv2(dropout(self.act(hidden), self.dropout, key))
        shortcut = self.conv_shortcut(x) if self.has_shortcut else x
        return (shortcut + hidden) / self.output_scale_factor


class Downsample2D(nnx.Module):
    """Half the size by a strided convolution.

    ``padding=0`` means one row below and one column to the right, as in the autoencoders of latent diffusion.
    """

    def __init__(
        self,
        channels: int,
        *,
        padding: int = 1,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        sides = ((0, 1), (0, 1)) if padding == 0 else padding
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=sides, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Twice the size by repetition, cropped to ``size`` where an odd size was halved, then a convolution."""

    def __init__(self, channels: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.conv = Conv2d(channels, channels, 3, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], size: tuple[int, int] | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        b, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
        return self.conv(x if size is None else x[:, : size[0], : size[1]])
