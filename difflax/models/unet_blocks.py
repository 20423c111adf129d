"""The levels of the UNet: down, middle and up blocks, with the names and structure that diffusers gives them.

Every block is called as ``block(x, temb, context, context_mask, key=key)``; those without attention read no
context. ``key`` is for dropout, ``None`` in evaluation.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Key

from difflax.models.attention import Transformer2DModel
from difflax.models.layers import fold
from difflax.models.remat import remat
from difflax.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D

Image = Float[Array, "b h w c"]
Mask = Bool[Array, "b m"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """What one level's blocks have in common; the names of the UNet's options."""

    temb_channels: int
    dropout: float
    act_fn: str
    norm_num_groups: int
    norm_eps: float
    resnet_time_scale_shift: str
    heads: int
    cross_attention_dim: int
    use_linear_projection: bool
    only_cross_attention: bool
    upcast_attention: bool
    attention_implementation: str | None
    downsample_padding: int
    remat: str
    scan_layers: bool
    dtype: DTypeLike

    def resnet(
        self, in_channels: int, out_channels: int, rngs: nnx.Rngs, *, output_scale_factor: float = 1.0
    ) -> ResnetBlock2D:
        return ResnetBlock2D(
            in_channels,
            out_channels,
            temb_channels=self.temb_channels,
            groups=self.norm_num_groups,
            eps=self.norm_eps,
            act_fn=self.act_fn,
            dropout=self.dropout,
            time_scale_shift=self.resnet_time_scale_shift,
            output_scale_factor=output_scale_factor,
            dtype=self.dtype,
            rngs=rngs,
        )

    def transformer(self, channels: int, num_layers: int, rngs: nnx.Rngs) -> Transformer2DModel:
        return Transformer2DModel(
            channels,
            heads=self.heads,
            num_layers=num_layers,
            context_dim=self.cross_attention_dim,
            groups=self.norm_num_groups,
            use_linear_projection=self.use_linear_projection,
            only_cross_attention=self.only_cross_attention,
            upcast_attention=self.upcast_attention,
            attention_implementation=self.attention_implementation,
            remat=self.remat,
            scan_layers=self.scan_layers,
            dtype=self.dtype,
            rngs=rngs,
        )


class _Level(nnx.Module):
    """Residual blocks, each followed by a transformer where the level has attention."""

    resnets: nnx.List
    attentions: nnx.List
    remat: str

    def _layer(
        self,
        index: int,
        x: Image,
        temb: Float[Array, "b e"],
        context: Float[Array, "b m d"],
        context_mask: Mask | None,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "b h w co"]:
        x = remat(self.resnets[index], self.remat)(x, temb, key=fold(key, index))
        return self.attentions[index](x, context, context_mask) if self.attentions else x


class DownBlock2D(_Level):
    """Residual blocks, then half the size; returns the result, and every output on the way for the skips."""

    attention = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        transformer_layers: Sequence[int],
        add_downsample: bool,
        options: BlockOptions,
        rngs: nnx.Rngs,
    ):
        widths = [in_channels] + [out_channels] * (len(transformer_layers) - 1)
        self.resnets = nnx.List(options.resnet(width, out_channels, rngs) for width in widths)
        depths = transformer_layers if self.attention else ()
        self.attentions = nnx.List(options.transformer(out_channels, depth, rngs) for depth in depths)
        self.downsamplers = nnx.List(
            Downsample2D(out_channels, padding=options.downsample_padding, dtype=options.dtype, rngs=rngs)
            for _ in range(add_downsample)
        )
        self.remat = options.remat

    def __call__(
        self,
        x: Image,
        temb: Float[Array, "b e"],
        context: Float[Array, "b m d"],
        context_mask: Mask | None = None,
        *,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Array, list[Array]]:
        outputs = []
        for index in range(len(self.resnets)):
            x = self._layer(index, x, temb, context, context_mask, key)
            outputs.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            outputs.append(x)
        return x, outputs


class CrossAttnDownBlock2D(DownBlock2D):
    """``DownBlock2D`` with a transformer after every residual block."""

    attention = True


class UpBlock2D(_Level):
    """Residual blocks that read one skip each, then twice the size."""

    attention = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        skip_channels: Sequence[int],
        transformer_layers: Sequence[int],
        add_upsample: bool,
        options: BlockOptions,
        rngs: nnx.Rngs,
    ):
        widths = [in_channels] + [out_channels] * (len(skip_channels) - 1)
        self.resnets = nnx.List(
            options.resnet(width + skip, out_channels, rngs)
            for width, skip in zip(widths, skip_channels, strict=True)
        )
        depths = transformer_layers if self.attention else ()
        self.attentions = nnx.List(options.transformer(out_channels, depth, rngs) for depth in depths)
        self.upsamplers = nnx.List(
            Upsample2D(out_channels, dtype=options.dtype, rngs=rngs) for _ in range(add_upsample)
        )
        self.remat = options.remat

    def __call__(
        self,
        x: Image,
        skips: Sequence[Array],
        temb: Float[Array, "b e"],
        context: Float[Array, "b m d"],
        context_mask: Mask | None = None,
        *,
        size: tuple[int, int] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b h2 w2 co"]:
        """``skips``: one a residual block, deepest first. ``size``: of the output where it is upsampled."""
        for index, skip in enumerate(skips):
            x = self._layer(index, jnp.concatenate([x, skip], axis=-1), temb, context, context_mask, key)
        for upsampler in self.upsamplers:
            x = upsampler(x, size)
        return x


class CrossAttnUpBlock2D(UpBlock2D):
    """``UpBlock2D`` with a transformer after every residual block."""

    attention = True


class UNetMidBlock2D(nnx.Module):
    """The deepest level without attention: one residual block, as diffusers' UNet builds it."""

    attention = False

    def __init__(
        self,
        channels: int,
        *,
        transformer_layers: int,
        output_scale_factor: float,
        options: BlockOptions,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            options.resnet(channels, channels, rngs, output_scale_factor=output_scale_factor)
            for _ in range(1 + self.attention)
        )
        self.attentions = nnx.List(
            options.transformer(channels, transformer_layers, rngs) for _ in range(self.attention)
        )
        self.remat = options.remat

    def __call__(
        self,
        x: Image,
        temb: Float[Array, "b e"],
        context: Float[Array, "b m d"],
        context_mask: Mask | None = None,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Image:
        x = remat(self.resnets[0], self.remat)(x, temb, key=fold(key, 0))
        for index, attention in enumerate(self.attentions, start=1):
            x = attention(x, context, context_mask)
            x = remat(self.resnets[index], self.remat)(x, temb, key=fold(key, index))
        return x


class UNetMidBlock2DCrossAttn(UNetMidBlock2D):
    """The deepest level: a transformer between two residual blocks."""

    attention = True


DOWN_BLOCKS = {block.__name__: block for block in (CrossAttnDownBlock2D, DownBlock2D)}
MID_BLOCKS = {block.__name__: block for block in (UNetMidBlock2DCrossAttn, UNetMidBlock2D)}
UP_BLOCKS = {block.__name__: block for block in (CrossAttnUpBlock2D, UpBlock2D)}
