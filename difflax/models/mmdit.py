"""The transformer of Stable Diffusion 3 and 3.5 (MM-DiT; Esser et al. 2024,
https://arxiv.org/abs/2403.03206, section 4).

Structure, option names and attribute paths are those of diffusers' ``SD3Transformer2DModel``, so that a
checkpoint's ``transformer/config.json`` builds it and its weights load by path.

For training from scratch, every modulation and the last layer start from zero (adaLN-Zero): the first output
is zero and every block starts as its shortcut.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, Key

from difflax.core.bounds import Depth, Edge, Range, Width
from difflax.core.types import Conditioning, UserError
from difflax.models.blocks import run_blocks
from difflax.models.embeddings import TimestepEmbedding, timestep_embedding
from difflax.models.joint_attention import JointTransformerBlock, Modulation, modulate
from difflax.models.layers import Conv2d, depth_to_space, join_image
from difflax.models.options import supported_options
from difflax.parallel.placement import split_tokens

TIME_CHANNELS = 256
"""Width of the time's sinusoids."""


class PatchEmbed(nnx.Module):
    """Squares of pixels as tokens, plus sines and cosines of their place.

    Attributes:
        pos_embed: a table for ``max_size`` × ``max_size`` tokens, of which an image reads the middle; part of
            the weights, as checkpoints store it, and never trained.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        patch_size: int,
        base_size: int,
        max_size: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.proj = Conv2d(channels, dim, patch_size, stride=patch_size, padding=0, dtype=dtype, rngs=rngs)
        self.pos_embed = nnx.Param(position_table(dim, max_size, base_size).reshape(1, -1, dim))
        self.patch_size, self.max_size = patch_size, max_size

    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b n d"], tuple[int, int]]:
        """The tokens, and the rows and columns of them."""
        height, width = x.shape[1:3]
        rows, columns = height // self.patch_size, width // self.patch_size
        if height % self.patch_size or width % self.patch_size or max(rows, columns) > self.max_size:
            raise UserError(
                f"a latent of {height} × {width} pixels: the transformer reads multiples of patch_size ="
                f" {self.patch_size}, up to pos_embed_max_size = {self.max_size} tokens each way"
            )
        top, left = (self.max_size - rows) // 2, (self.max_size - columns) // 2
        table = jax.lax.stop_gradient(self.pos_embed[...]).reshape(self.max_size, self.max_size, -1)
        places = table[top : top + rows, left : left + columns]
        tokens = self.proj(x)
        tokens = tokens + places.astype(tokens.dtype)
        return tokens.reshape(len(x), rows * columns, -1), (rows, columns)


def check_latent(config: Mapping[str, Any], height: int, width: int) -> None:
    """Refuses a latent that a transformer of this ``config.json`` cannot read.

    Raises:
        UserError: its edges are no multiples of ``patch_size``, or it has too many patches.
    """
    size, limit = config.get("patch_size", 2), config.get("pos_embed_max_size", 96)
    if height % size or width % size or max(height, width) > limit * size:
        raise UserError(
            f"patch_size = {size} and pos_embed_max_size = {limit} do not fit a latent of {height} × {width}:"
            " its edges must be multiples of the one and at most the other's tokens"
        )


def position_table(dim: int, size: int, base_size: int) -> Float[Array, "{size} {size} {dim}"]:
    """Sines and cosines of every place of a square of tokens, whose edge counts as ``base_size`` places.

    Half of the channels tell the column, half the row, each by ``dim // 4`` frequencies from 1 to almost
    1/10000 (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5, along each axis).
    """
    if dim % 4:
        raise UserError(f"a width of {dim} is not a multiple of 4, which the table of positions needs")
    place = np.arange(size, dtype=np.float64) * base_size / size
    angles = place[:, None] * 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    # Along one axis in NumPy; the whole table, which may be large, only where it is computed.
    axis = jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1), jnp.float32)
    shape = (size, size, dim // 2)
    return jnp.concatenate(
        [jnp.broadcast_to(axis[None], shape), jnp.broadcast_to(axis[:, None], shape)], axis=-1
    )


class CombinedTimestepTextProjEmbeddings(nnx.Module):
    """The sum of the embeddings of the time and of the pooled text."""

    def __init__(self, dim: int, pooled_dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.timestep_embedder = TimestepEmbedding(TIME_CHANNELS, dim, dtype=dtype, rngs=rngs)
        self.text_embedder = TimestepEmbedding(pooled_dim, dim, dtype=dtype, rngs=rngs)
        self.dtype = dtype

    def __call__(
        self, timesteps: Float[Array, " b"] | Int[Array, " b"], pooled: Float[Array, "b p"]
    ) -> Float[Array, "b d"]:
        waves = timestep_embedding(timesteps, TIME_CHANNELS, flip_sin_to_cos=True, freq_shift=0.0)
        return self.timestep_embedder(waves.astype(self.dtype)) + self.text_embedder(pooled)


class SD3Transformer2DModel(nnx.Module):
    """Denoises an image under a time, text tokens and a vector of the text.

    Args:
        sample_size: edge of the images that the positions count as ``sample_size / patch_size`` places, in
            latent pixels; the size a checkpoint was trained at. Any size up to ``pos_embed_max_size`` can be
            given.
        patch_size: latent pixels a token, along one edge.
        in_channels, out_channels: of the noisy image (and what is joined to it) and of the output (``None``:
            as many).
        num_layers: blocks, of which the last only reads the text.
        attention_head_dim, num_attention_heads: their product is the width.
        joint_attention_dim: width of the text tokens.
        caption_projection_dim: the width; ``None``, or the same number again.
        pooled_projection_dim: width of the text's vector.
        pos_embed_max_size: tokens along an edge of the table of positions.
        dual_attention_layers: blocks with an attention of the image to itself beside the joint one.
        qk_norm: ``"rms_norm"`` or ``None``.
        dtype: of the computation; parameters are float32.
        remat: ``"none"``, ``"dots"`` or ``"full"``, see ``difflax.models.remat``.
        scan_layers: blocks of the same structure as one loop, see ``difflax.models.blocks``.
        attention_implementation: see ``difflax.models.attention.Attention``.

    Raises:
        UserError: if an option's value is unknown or contradicts another.
    """

    def __init__(
        self,
        *,
        sample_size: Edge = 128,
        patch_size: Edge = 2,
        in_channels: Width = 16,
        num_layers: Depth = 18,
        attention_head_dim: Width = 64,
        num_attention_heads: Width = 18,
        joint_attention_dim: Width = 4096,
        caption_projection_dim: Width | None = None,
        pooled_projection_dim: Width = 2048,
        out_channels: Width | None = 16,
        pos_embed_max_size: Annotated[int, Range(1, 4096)] = 96,
        dual_attention_layers: Sequence[int] = (),
        qk_norm: str | None = None,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        scan_layers: bool = False,
        attention_implementation: str | None = None,
        rngs: nnx.Rngs,
    ):
        width = num_attention_heads * attention_head_dim
        if caption_projection_dim not in (None, width):
            raise UserError(
                f"caption_projection_dim = {caption_projection_dim} must be the width, num_attention_heads"
                f" × attention_head_dim = {width}"
            )
        if not all(0 <= layer < num_layers for layer in dual_attention_layers):
            raise UserError(
                f"dual_attention_layers = {tuple(dual_attention_layers)} must lie in 0 … {num_layers - 1}"
            )
        common = {"dtype": dtype, "rngs": rngs}
        self.pos_embed = PatchEmbed(
            in_channels,
            width,
            patch_size=patch_size,
            base_size=sample_size // patch_size,
            max_size=pos_embed_max_size,
            **common,
        )
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(width, pooled_projection_dim, **common)
        self.context_embedder = nnx.Linear(joint_attention_dim, width, **common)
        self.transformer_blocks = nnx.List(
            JointTransformerBlock(
                width,
                heads=num_attention_heads,
                context_pre_only=layer == num_layers - 1,
                dual_attention=layer in dual_attention_layers,
                qk_norm=qk_norm,
                attention_implementation=attention_implementation,
                **common,
            )
            for layer in range(num_layers)
        )
        self.norm_out = Modulation(width, 2, **common)
        outputs = patch_size**2 * (in_channels if out_channels is None else out_channels)
        self.proj_out = nnx.Linear(width, outputs, kernel_init=nnx.initializers.zeros, **common)
        self.patch_size = patch_size
        self.remat, self.scan_layers = remat, scan_layers
        self.dtype = dtype

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        scan_layers: bool = False,
        attention_implementation: str | None = None,
        rngs: nnx.Rngs,
    ) -> "SD3Transformer2DModel":
        """The network of a diffusers ``transformer/config.json``.

        Raises:
            UserError: if a key is unknown, or an option has a value that is not supported.
        """
        return cls(
            **supported_options(cls, config),
            dtype=dtype,
            remat=remat,
            scan_layers=scan_layers,
            attention_implementation=attention_implementation,
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array | np.ndarray, "b h w c"],
        time: Float[Array | np.ndarray, " b"] | Int[Array | np.ndarray, " b"],
        conditioning: Conditioning,
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b h w co"]:
        """The network's output for noisy images ``x`` (NHWC) at ``time`` (0 to 1000).

        Args:
            conditioning: the text's ``context`` and ``pooled`` are read, and ``image`` is joined to the
                channels of ``x``.
            dropout_key: not read, as the published network has no dropout.

        Raises:
            ValueError: if ``pooled`` is missing.
            UserError: for a size that the network cannot read.
        """
        given = jax.tree.map(jnp.asarray, conditioning)
        if given.pooled is None:
            raise ValueError("this transformer is conditioned on a vector of the text: give pooled")
        x = join_image(jnp.asarray(x, self.dtype), given.image)
        context, pooled = given.context.astype(self.dtype), given.pooled.astype(self.dtype)
        mask = given.context_mask
        tokens, grid = self.pos_embed(x)
        temb = self.time_text_embed(jnp.asarray(time), pooled)
        text = self.context_embedder(context)
        tokens, text = run_blocks(
            self.transformer_blocks,
            lambda block, both: block(
                split_tokens(both[0]), split_tokens(both[1], of_image=False), temb, mask, grid=grid
            ),
            (tokens, text),
            policy=self.remat,
            scan_layers=self.scan_layers,
        )
        scale, shift = self.norm_out(temb)
        tokens = self.proj_out(modulate(tokens, shift, scale))
        return depth_to_space(tokens.reshape(len(x), *grid, -1), self.patch_size)
