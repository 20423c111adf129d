"""The KL-regularised autoencoder of latent diffusion (Rombach et al. 2022, https://arxiv.org/abs/2112.10752).

Structure, option names and attribute paths are those of diffusers' ``AutoencoderKL``, so that a checkpoint's
``vae/config.json`` builds it and its weights load by path.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key

from difflax.core.bounds import BlockDepth, Edge, Positive, Width
from difflax.core.spelling import choose
from difflax.core.types import Params, UserError
from difflax.models.attention import Attention
from difflax.models.functional import Functional, functional
from difflax.models.layers import ACTIVATIONS, Conv2d, GroupNorm
from difflax.models.options import supported_options
from difflax.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from difflax.models.tiling import in_tiles

DOWN_BLOCK, UP_BLOCK = "DownEncoderBlock2D", "UpDecoderBlock2D"
ABSENT_OPTIONS: dict[str, tuple] = {"latents_mean": (None,), "latents_std": (None,)}
"""Options of diffusers' configs that the autoencoder has only in the state that leaves them out."""

EACH_LEVEL = ("block_out_channels", "down_block_types", "up_block_types")
"""Options with a value for every level, which are lists in a file."""

LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderKLConfig:
    """The options of a diffusers ``vae/config.json``.

    Attributes:
        sample_size: edge of the images that it was trained on, in pixels; any size can be given.
        scaling_factor, shift_factor: the network's latents ``z`` are ``(z - shift) * scale`` outside.
        force_upcast: it overflows in float16 (SDXL's does): let it compute in float32 or bfloat16.
        use_quant_conv, use_post_quant_conv: 1×1 convolutions around the latent (SD 1, 2, XL; not SD 3).
        block_out_channels: width of every level, from the full size down.
        layers_per_block: residual blocks on the way down (one more on the way up).
        act_fn: activation, a name of ``ACTIVATIONS``.
        latent_channels: of a latent.
        norm_num_groups: of every norm.
        mid_block_add_attention: whether all pixels of the middle see each other.

    Raises:
        UserError: an option that the network has not.
    """

    in_channels: Width = 3
    out_channels: Width = 3
    down_block_types: tuple[str, ...] = (DOWN_BLOCK,)
    up_block_types: tuple[str, ...] = (UP_BLOCK,)
    block_out_channels: tuple[Width, ...] = (64,)
    layers_per_block: BlockDepth = 1
    act_fn: str = "silu"
    latent_channels: Width = 4
    norm_num_groups: Width = 32
    sample_size: Edge = 32
    scaling_factor: Positive = 0.18215
    shift_factor: float | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self):
        levels = len(self.block_out_channels)
        for name, kind in (("down_block_types", DOWN_BLOCK), ("up_block_types", UP_BLOCK)):
            if getattr(self, name) != (kind,) * levels:
                raise UserError(
                    f"autoencoder config: {name} = {getattr(self, name)} must be {kind!r} once for each of"
                    f" the {levels} block_out_channels"
                )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "AutoencoderKLConfig":
        """The options of a ``vae/config.json``; keys that start with ``_`` are diffusers' own notes.

        Raises:
            UserError: an unknown option, or one with a value that is not supported.
        """
        options = supported_options(cls, config, ABSENT_OPTIONS)
        return cls(**options | {name: tuple(options[name]) for name in EACH_LEVEL if name in options})

    @property
    def downscale(self) -> int:
        """Pixels a latent pixel, along one edge."""
        return 2 ** (len(self.block_out_channels) - 1)


@flax.struct.dataclass
class Posterior:
    """The encoder's Gaussian over latents, before scale and shift."""

    mean: Float[Array, "b lh lw lc"]
    log_variance: Float[Array, "b lh lw lc"]

    def sample(self, key: Key[Array, ""]) -> Float[Array, "b lh lw lc"]:
        """A draw."""
        return self.at(jax.random.normal(key, self.mean.shape, self.mean.dtype))

    def at(self, noise: Float[Array, "b lh lw lc"]) -> Float[Array, "b lh lw lc"]:
        """The latents that standard normal ``noise`` stands for."""
        return self.mean + jnp.exp(self.log_variance / 2) * noise

    def kl(self) -> Float[Array, " b"]:
        """The divergence from the standard normal, summed over an example's latent, in nats."""
        terms = jnp.square(self.mean) + jnp.exp(self.log_variance) - 1.0 - self.log_variance
        return terms.sum(axis=(1, 2, 3)) / 2


class SelfAttention(Attention):
    """Attention of all pixels to each other, one head, in a residual."""

    def __init__(self, channels: int, *, groups: int, eps: float, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(channels, heads=1, bias=True, dtype=dtype, rngs=rngs)
        self.group_norm = GroupNorm(groups, channels, epsilon=eps, dtype=dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        return x + super().__call__(self.group_norm(x).reshape(b, h * w, c)).reshape(b, h, w, c)


class _Part(nnx.Module):
    """What encoder and decoder share: residual blocks of the config's kind, a middle, and the way out."""

    def __init__(self, config: AutoencoderKLConfig, dtype: DTypeLike, rngs: nnx.Rngs):
        self._options = {"groups": config.norm_num_groups, "dtype": dtype}
        self._act_fn = config.act_fn
        self.conv_act = choose(ACTIVATIONS, config.act_fn, "act_fn")

    def resnets(
        self, in_channels: int, out_channels: int, count: int, rngs: nnx.Rngs
    ) -> Sequence[ResnetBlock2D]:
        """``count`` residual blocks, of which the first changes the width."""
        widths = [in_channels] + [out_channels] * (count - 1)
        return nnx.List(
            ResnetBlock2D(
                width,
                out_channels,
                temb_channels=None,
                eps=1e-6,
                act_fn=self._act_fn,
                rngs=rngs,
                **self._options,
            )
            for width in widths
        )

    def middle(self, channels: int, attention: bool, rngs: nnx.Rngs) -> nnx.Module:
        """Two residual blocks with attention between."""
        block = nnx.Module()
        block.resnets = self.resnets(channels, channels, 2, rngs)
        block.attentions = nnx.List(
            SelfAttention(channels, eps=1e-6, rngs=rngs, **self._options) for _ in range(attention)
        )
        return block

    def run_middle(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The middle block."""
        x = self.mid_block.resnets[0](x)
        for attention in self.mid_block.attentions:
            x = attention(x)
        return self.mid_block.resnets[1](x)


class Encoder(_Part):
    """Images to the mean and log-variance of their latents, joined along the channels."""

    def __init__(self, config: AutoencoderKLConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(config, dtype, rngs)
        widths = config.block_out_channels
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, dtype=dtype, rngs=rngs)
        blocks = []
        for level, width in enumerate(widths):
            block = nnx.Module()
            before = widths[max(level - 1, 0)]
            block.resnets = self.resnets(before, width, config.layers_per_block, rngs)
            block.downsamplers = nnx.List(
                Downsample2D(width, padding=0, dtype=dtype, rngs=rngs) for _ in range(level < len(widths) - 1)
            )
            blocks.append(block)
        self.down_blocks = nnx.List(blocks)
        self.mid_block = self.middle(widths[-1], config.mid_block_add_attention, rngs)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], epsilon=1e-6, dtype=dtype)
        self.conv_out = Conv2d(widths[-1], 2 * config.latent_channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b lh lw c2"]:
        x = self.conv_in(x)
        for block in self.down_blocks:
            for layer in (*block.resnets, *block.downsamplers):
                x = layer(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(self.run_middle(x))))


class Decoder(_Part):
    """Latents to images."""

    def __init__(self, config: AutoencoderKLConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(config, dtype, rngs)
        widths = config.block_out_channels[::-1]
        self.conv_in = Conv2d(config.latent_channels, widths[0], 3, dtype=dtype, rngs=rngs)
        self.mid_block = self.middle(widths[0], config.mid_block_add_attention, rngs)
        blocks = []
        for level, width in enumerate(widths):
            block = nnx.Module()
            before = widths[max(level - 1, 0)]
            block.resnets = self.resnets(before, width, config.layers_per_block + 1, rngs)
            block.upsamplers = nnx.List(
                Upsample2D(width, dtype=dtype, rngs=rngs) for _ in range(level < len(widths) - 1)
            )
            blocks.append(block)
        self.up_blocks = nnx.List(blocks)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], epsilon=1e-6, dtype=dtype)
        self.conv_out = Conv2d(widths[-1], config.out_channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, z: Float[Array, "b lh lw lc"]) -> Float[Array, "b h w c"]:
        x = self.run_middle(self.conv_in(z))
        for block in self.up_blocks:
            for layer in (*block.resnets, *block.upsamplers):
                x = layer(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """Both halves. ``dtype`` is that of the computation; parameters are float32 unless loaded otherwise."""

    def __init__(self, config: AutoencoderKLConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        channels = config.latent_channels
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs)
        self.use_quant_conv, self.use_post_quant_conv = config.use_quant_conv, config.use_post_quant_conv
        if config.use_quant_conv:
            self.quant_conv = Conv2d(2 * channels, 2 * channels, 1, dtype=dtype, rngs=rngs)
        if config.use_post_quant_conv:
            self.post_quant_conv = Conv2d(channels, channels, 1, dtype=dtype, rngs=rngs)

    def encode(self, images: Float[Array, "b h w c"]) -> Posterior:
        """The distribution over latents of images in [-1, 1], float32."""
        moments = self.encoder(images)
        if self.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return Posterior(mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE))

    def decode(self, z: Float[Array, "b lh lw lc"]) -> Float[Array, "b h w c"]:
        """Images, about in [-1, 1], float32."""
        if self.use_post_quant_conv:
            z = self.post_quant_conv(z)
        return self.decoder(z).astype(jnp.float32)


@functools.cache
def autoencoder_network(config: AutoencoderKLConfig, dtype: Any = jnp.float32) -> Functional:
    """The autoencoder as pure functions, the same object for the same arguments."""
    return functional(lambda rngs: AutoencoderKL(config, dtype=dtype, rngs=rngs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLAutoencoder:
    """The autoencoder as a `Autoencoder`: latents are scaled to about unit variance.

    Attributes:
        dtype: what it computes in.
        tile: latents with a longer edge are decoded in tiles of so many latent pixels, which overlap by
            ``overlap`` of their edge and are blended, so that memory does not grow with the image; ``None``
            decodes in one piece. Tiles change the image a little: attention and norms see a tile alone.
    """

    config: AutoencoderKLConfig
    dtype: Any = jnp.float32
    tile: int | None = None
    overlap: float = 0.25
    log_volume = None

    def __post_init__(self):
        if self.tile is not None and (self.tile < 2 or not 0 < self.overlap <= 0.5):
            raise UserError(
                f"tile={self.tile}, overlap={self.overlap}: tiles have at least 2 latent pixels and overlap"
                " by a share in (0, 0.5]"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: Any) -> "KLAutoencoder":
        """The autoencoder of a ``vae/config.json`` that computes in ``dtype``, or in float32 where that would
        overflow.

        Raises:
            UserError: an option that is not supported.
        """
        options = AutoencoderKLConfig.from_config(config)
        overflows = options.force_upcast and jnp.dtype(dtype) == jnp.float16
        return cls(config=options, dtype=jnp.float32 if overflows else dtype)

    @property
    def network(self) -> Functional:
        return autoencoder_network(self.config, self.dtype)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.config.in_channels

    @property
    def widest(self) -> int:
        """Channels of a pixel in the decoder's last block; in tiles only few pixels are there."""
        return self.config.block_out_channels[0] if self.tile is None else self.channels

    def encode(
        self, params: Params, images: Float[Array, "b h w c"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "b lh lw lc"]:
        posterior = self.posterior(params, images)
        return self.scale(posterior.mean if key is None else posterior.sample(key))

    def posterior(self, params: Params, images: Float[Array, "b h w c"]) -> Posterior:
        """What the encoder says of images, before scale and shift."""
        return self.network.apply(params, images, method="encode")

    def scale(self, z: Float[Array, "b lh lw lc"]) -> Float[Array, "b lh lw lc"]:
        """The encoder's numbers as latents of about unit variance."""
        return (z - (self.config.shift_factor or 0.0)) * self.config.scaling_factor

    def unscale(self, latents: Float[Array, "b lh lw lc"]) -> Float[Array, "b lh lw lc"]:
        """Latents as the encoder's numbers."""
        return latents / self.config.scaling_factor + (self.config.shift_factor or 0.0)

    def decode(self, params: Params, latents: Float[Array, "b lh lw lc"]) -> Float[Array, "b h w c"]:
        z = self.unscale(latents)

        def decode(z: Array) -> Array:
            return self.network.apply(params, z, method="decode")

        if self.tile is None or max(z.shape[1:3]) <= self.tile:
            return decode(z)
        return in_tiles(decode, z, tile=self.tile, overlap=self.overlap, scale=self.config.downscale)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        edge = self.config.downscale
        if height % edge or width % edge or min(height, width) < edge:
            raise UserError(
                f"an image of {height} × {width} pixels has no latent: height and width must be multiples of"
                f" {edge}"
            )
        return height // edge, width // edge, self.config.latent_channels
