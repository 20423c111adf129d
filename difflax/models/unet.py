"""The conditional UNet of the Stable Diffusion family (Rombach et al. 2022, https://arxiv.org/abs/2112.10752;
SDXL: Podell et al. 2023, https://arxiv.org/abs/2307.01952).

Structure, option names and attribute paths are those of diffusers' ``UNet2DConditionModel``, so that a
checkpoint's ``unet/config.json`` builds it and its weights load by path
(``difflax.pretrained.format.torch_names``).

For training from scratch, layers start with LeCun-normal kernels and zero biases, except the last layer of
every residual branch over an image (``conv2``, ``proj_out``) and ``conv_out``, which start from zero
(Dhariwal & Nichol 2021): the first output is zero and every block starts as its shortcut.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, Key

from difflax.core.bounds import BlockDepth, Count, Depth, Edge, NotNegative, Positive, Range, Width
from difflax.core.several import several
from difflax.core.spelling import choose
from difflax.core.types import Conditioning, UserError
from difflax.models.embeddings import TimestepEmbedding, timestep_embedding
from difflax.models.layers import ACTIVATIONS, Conv2d, GroupNorm, fold, join_image
from difflax.models.options import supported_options
from difflax.models.size_conditioning import size_conditions
from difflax.models.unet_blocks import DOWN_BLOCKS, MID_BLOCKS, UP_BLOCKS, BlockOptions

ABSENT: dict[str, tuple] = {
    "addition_embed_type_num_heads": (64,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "cross_attention_norm": (None,),
    "dual_cross_attention": (False, None),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "num_attention_heads": (None,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "time_cond_proj_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
"""Options of diffusers' configs that the UNet has only in the state that leaves them out."""


class UNet2DConditionModel(nnx.Module):
    """Denoises an image under a time, text tokens and (SDXL) a vector.

    Args:
        sample_size: height and width the checkpoint was trained at, in latent pixels; any size can be given.
        in_channels, out_channels: of the noisy image (and what is joined to it) and of the output.
        center_input_sample: map the input from [0, 1] to [-1, 1].
        flip_sin_to_cos, freq_shift: form of the time's sinusoids.
        down_block_types, mid_block_type, up_block_types: names of ``unet_blocks``, one a level; the middle
            may be ``None``.
        only_cross_attention: transformers attend to the text twice, never to the image; one or a level each.
        block_out_channels: width of every level, from the full size down.
        layers_per_block: residual blocks on the way down (one more on the way up); one or a level each.
        cross_attention_dim: width of the text tokens; one or a level each.
        attention_head_dim: the NUMBER of heads, in spite of its name (diffusers kept the name for the
            checkpoints' sake); one or a level each.
        transformer_layers_per_block: depth of the transformers; one, a level each, or a layer each.
        reverse_transformer_layers_per_block: the same for the way up, where it is no mirror image.
        use_linear_projection: linear layers around the transformers (SD 2, XL), not convolutions (SD 1).
        upcast_attention: attention products in float32.
        resnet_time_scale_shift: ``"default"`` or ``"scale_shift"``.
        class_embed_type, num_class_embeds: what is added to the time: a table of ``num_class_embeds``
            vectors, ``"timestep"`` for a number embedded as the time is, or ``"projection"`` for the pooled
            vector, ``projection_class_embeddings_input_dim`` wide (unCLIP's image embedding, which diffusers
            passes as ``class_labels``).
        addition_embed_type: ``"text_time"`` for SDXL's pooled text and size numbers, with
            ``addition_time_embed_dim`` and ``projection_class_embeddings_input_dim``.
        dropout: the share of values that training drops in every residual block, in [0, 1).
        dtype: of the computation; parameters are float32.
        remat: ``"none"``, ``"dots"``, ``"full"`` or ``"offload"``, see ``difflax.models.remat``.
        scan_layers: transformer blocks in a row as one loop, see ``difflax.models.blocks``.
        attention_implementation: see ``difflax.models.attention.Attention``.
        downsample_padding: of the convolutions that halve the size.
        mid_block_scale_factor: that the middle's residual sums are divided by.
        act_fn: activation, a name of ``ACTIVATIONS``.
        norm_num_groups: of every norm.
        norm_eps: of every norm.
        addition_time_embed_dim: width of the sinusoids of each size number.
        projection_class_embeddings_input_dim: width of the vector that is added to the time.
        time_embedding_dim: width of the time's embedding; ``None``: four times the first level's.
        time_embedding_act_fn: of the embedded time; ``None``: none.
        conv_in_kernel: edge of the first convolution.
        conv_out_kernel: edge of the last convolution.

    Raises:
        UserError: if an option's value is unknown or contradicts another.
    """

    def __init__(
        self,
        *,
        sample_size: Edge | tuple[Edge, Edge] | None = None,
        in_channels: Width = 4,
        out_channels: Width = 4,
        center_input_sample: bool = False,
        flip_sin_to_cos: bool = True,
        freq_shift: float | int = 0,
        down_block_types: Sequence[str] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        mid_block_type: str | None = "UNetMidBlock2DCrossAttn",
        up_block_types: Sequence[str] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        only_cross_attention: bool | Sequence[bool] = False,
        block_out_channels: Sequence[Width] = (320, 640, 1280, 1280),
        layers_per_block: BlockDepth | Sequence[BlockDepth] = 2,
        downsample_padding: Annotated[int, Range(0, 1)] = 1,
        mid_block_scale_factor: Positive = 1.0,
        dropout: float | int = 0.0,
        act_fn: str = "silu",
        norm_num_groups: Width = 32,
        norm_eps: NotNegative = 1e-5,
        cross_attention_dim: Width | Sequence[Width] = 1280,
        transformer_layers_per_block: BlockDepth | Sequence[BlockDepth | Sequence[BlockDepth]] = 1,
        reverse_transformer_layers_per_block: Sequence[BlockDepth | Sequence[BlockDepth]] | None = None,
        attention_head_dim: Width | Sequence[Width] = 8,
        use_linear_projection: bool = False,
        upcast_attention: bool = False,
        resnet_time_scale_shift: str = "default",
        class_embed_type: str | None = None,
        num_class_embeds: Count | None = None,
        addition_embed_type: str | None = None,
        addition_time_embed_dim: Width | None = None,
        projection_class_embeddings_input_dim: Width | None = None,
        time_embedding_dim: Width | None = None,
        time_embedding_act_fn: str | None = None,
        conv_in_kernel: Depth = 3,
        conv_out_kernel: Depth = 3,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        scan_layers: bool = False,
        attention_implementation: str | None = None,
        rngs: nnx.Rngs,
    ):
        if not 0 <= dropout < 1:
            raise UserError(f"dropout = {dropout} must lie in [0, 1)")
        widths = tuple(block_out_channels)
        levels = len(widths)
        layers = _per_level("layers_per_block", layers_per_block, levels)
        heads = _per_level("attention_head_dim", attention_head_dim, levels)
        context_dims = _per_level("cross_attention_dim", cross_attention_dim, levels)
        only_cross = _per_level("only_cross_attention", only_cross_attention, levels)
        depths = _per_level("transformer_layers_per_block", transformer_layers_per_block, levels)
        if reverse_transformer_layers_per_block is None:
            if any(map(np.ndim, depths)):
                raise UserError(
                    "transformer_layers_per_block with a depth for each layer needs "
                    "reverse_transformer_layers_per_block for the way up"
                )
            up_depths = depths[::-1]
        else:
            name = "reverse_transformer_layers_per_block"
            up_depths = _per_level(name, reverse_transformer_layers_per_block, levels)
        down_types = _per_level("down_block_types", down_block_types, levels)
        up_types = _per_level("up_block_types", up_block_types, levels)
        time_dim = time_embedding_dim or 4 * widths[0]

        def options(level: int) -> BlockOptions:
            return BlockOptions(
                temb_channels=time_dim,
                dropout=float(dropout),
                act_fn=act_fn,
                norm_num_groups=norm_num_groups,
                norm_eps=float(norm_eps),
                resnet_time_scale_shift=resnet_time_scale_shift,
                heads=heads[level],
                cross_attention_dim=context_dims[level],
                use_linear_projection=use_linear_projection,
                only_cross_attention=only_cross[level],
                upcast_attention=upcast_attention,
                attention_implementation=attention_implementation,
                downsample_padding=downsample_padding,
                remat=remat,
                scan_layers=scan_layers,
                dtype=dtype,
            )

        self.center_input_sample = center_input_sample
        self.sinusoids = {"flip_sin_to_cos": flip_sin_to_cos, "freq_shift": float(freq_shift)}
        self.dropout = float(dropout)
        self.dtype = dtype

        self.conv_in = Conv2d(in_channels, widths[0], conv_in_kernel, dtype=dtype, rngs=rngs)
        self.time_channels = widths[0]
        self.time_embedding = TimestepEmbedding(widths[0], time_dim, act_fn=act_fn, dtype=dtype, rngs=rngs)
        self.class_embedding = _class_embedding(
            class_embed_type,
            num_class_embeds,
            (widths[0], projection_class_embeddings_input_dim, time_dim),
            act_fn,
            dtype,
            rngs,
        )
        self.class_embed_type = class_embed_type
        self.add_time_channels = addition_time_embed_dim
        self.add_embedding = _added_embedding(
            addition_embed_type,
            addition_time_embed_dim,
            (projection_class_embeddings_input_dim, time_dim),
            dtype,
            rngs,
        )
        self.time_embed_act = (
            None
            if time_embedding_act_fn is None
            else choose(ACTIVATIONS, time_embedding_act_fn, "time_embedding_act_fn")
        )

        down, skips, width = [], [widths[0]], widths[0]
        for level, name in enumerate(down_types):
            last = level == levels - 1
            block = choose(DOWN_BLOCKS, name, "down_block_types")(
                width,
                widths[level],
                transformer_layers=_per_layer(depths[level], layers[level]),
                add_downsample=not last,
                options=options(level),
                rngs=rngs,
            )
            down.append(block)
            width = widths[level]
            skips += [width] * (layers[level] + (not last))
        self.down_blocks = nnx.List(down)

        self.mid_block = (
            None
            if mid_block_type is None
            else choose(MID_BLOCKS, mid_block_type, "mid_block_type")(
                width,
                transformer_layers=_per_layer(depths[-1], 1)[0],
                output_scale_factor=float(mid_block_scale_factor),
                options=dataclasses.replace(options(levels - 1), only_cross_attention=False),
                rngs=rngs,
            )
        )

        up = []
        for index, name in enumerate(up_types):
            level = levels - 1 - index
            count = layers[level] + 1
            block = choose(UP_BLOCKS, name, "up_block_types")(
                width,
                widths[level],
                skip_channels=[skips.pop() for _ in range(count)],
                transformer_layers=_per_layer(up_depths[index], count),
                add_upsample=level > 0,
                options=options(level),
                rngs=rngs,
            )
            up.append(block)
            width = widths[level]
        self.up_blocks = nnx.List(up)

        self.conv_norm_out = GroupNorm(norm_num_groups, width, epsilon=float(norm_eps), dtype=dtype)
        self.conv_act = choose(ACTIVATIONS, act_fn, "act_fn")
        self.conv_out = Conv2d(width, out_channels, conv_out_kernel, zero=True, dtype=dtype, rngs=rngs)

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
    ) -> "UNet2DConditionModel":
        """The UNet of a diffusers ``unet/config.json``; keys that start with ``_`` are diffusers' own notes.

        Raises:
            UserError: if a key is unknown, or an option has a value that is not supported.
        """
        return cls(
            **supported_options(cls, config, ABSENT),
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
            conditioning: of its fields the text's ``context`` is always read; ``image`` is joined to the
                channels of ``x``; the others are read by networks that have a place for them.
            dropout_key: in training; ``None`` drops nothing.

        Raises:
            ValueError: if a conditioning that this network needs is missing.
        """
        given = jax.tree.map(jnp.asarray, conditioning)
        context, context_mask = given.context.astype(self.dtype), given.context_mask
        x = join_image(jnp.asarray(x, self.dtype), given.image)
        if self.center_input_sample:
            x = 2 * x - 1
        temb = self._embed(jnp.asarray(time), given)
        key = dropout_key if self.dropout else None

        x = self.conv_in(x)
        skips = [x]
        for index, block in enumerate(self.down_blocks):
            x, outputs = block(x, temb, context, context_mask, key=fold(key, index))
            skips += outputs
        middle = len(self.down_blocks)
        if self.mid_block is not None:
            x = self.mid_block(x, temb, context, context_mask, key=fold(key, middle))
        for index, block in enumerate(self.up_blocks, start=middle + 1):
            used = [skips.pop() for _ in block.resnets]
            size = skips[-1].shape[1:3] if skips else None
            x = block(x, used, temb, context, context_mask, size=size, key=fold(key, index))
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))

    def _embed(self, time: Array, conditioning: Conditioning) -> Float[Array, "b e"]:
        pooled, time_ids = conditioning.pooled, conditioning.time_ids

        def sinusoids(numbers: Array, dim: int) -> Array:
            return timestep_embedding(numbers, dim, **self.sinusoids).astype(self.dtype)

        temb = self.time_embedding(sinusoids(time, self.time_channels))
        if self.class_embedding is not None:
            name, is_time = CLASS_EMBEDDINGS[self.class_embed_type]
            source = getattr(conditioning, name)
            if source is None:
                raise ValueError(f"this UNet is conditioned on a class or vector: give {name}")
            temb = temb + self.class_embedding(sinusoids(source, self.time_channels) if is_time else source)
        if self.add_embedding is not None:
            if pooled is None or time_ids is None:
                raise ValueError(
                    "this UNet is conditioned on a text vector and sizes: give pooled and time_ids"
                )
            sizes = sinusoids(time_ids.reshape(-1), self.add_time_channels).reshape(len(time_ids), -1)
            temb = temb + self.add_embedding(jnp.concatenate([pooled.astype(self.dtype), sizes], axis=-1))
        return temb if self.time_embed_act is None else self.time_embed_act(temb)


CLASS_EMBEDDINGS: dict[str | None, tuple[str, bool]] = {
    None: ("class_labels", False),
    "timestep": ("class_labels", True),
    "projection": ("pooled", False),
}
"""By ``class_embed_type``: the field of `Conditioning` that is read, and whether it is embedded as a time."""


ADDED_EMBEDDINGS = {"text_time": TimestepEmbedding}
"""By ``addition_embed_type``: what embeds the pooled vector and the embedded size numbers, side by side."""


def _class_embedding(
    kind: str | None,
    number: int | None,
    widths: tuple[int, int | None, int],
    act_fn: str,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Module | None:
    time_channels, vector_dim, embed_dim = widths
    if kind not in CLASS_EMBEDDINGS:
        raise UserError(
            f"class_embed_type={kind!r} is not supported; choose None, 'timestep' or 'projection'"
        )
    _, is_time = CLASS_EMBEDDINGS[kind]
    if is_time:
        return TimestepEmbedding(time_channels, embed_dim, act_fn=act_fn, dtype=dtype, rngs=rngs)
    if kind is None:
        return None if number is None else nnx.Embed(number, embed_dim, dtype=dtype, rngs=rngs)
    if vector_dim is None:
        raise UserError(f"class_embed_type={kind!r} needs projection_class_embeddings_input_dim")
    return TimestepEmbedding(vector_dim, embed_dim, dtype=dtype, rngs=rngs)


def _added_embedding(
    kind: str | None,
    numbers_dim: int | None,
    widths: tuple[int | None, int],
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Module | None:
    if kind is None:
        return None
    make = choose(ADDED_EMBEDDINGS, kind, "addition_embed_type")
    if numbers_dim is None or widths[0] is None:
        raise UserError(
            f"addition_embed_type={kind!r} needs addition_time_embed_dim and"
            " projection_class_embeddings_input_dim"
        )
    return make(*widths, dtype=dtype, rngs=rngs)


def reads_pooled(config: Mapping[str, Any]) -> bool:
    """Whether a UNet of these options is conditioned on a pooled vector beside the text tokens."""
    vectors = (config.get("class_embed_type"), config.get("addition_embed_type"))
    return "projection" in vectors or "text_time" in vectors


def conditions_read(config: Mapping[str, Any], pooled_width: int, where: str) -> tuple[str, ...]:
    """The kinds of condition that a UNet of these options reads beside a pooled vector of a width (0 without
    one), as ``difflax.generation.conditions`` names them.

    Raises:
        UserError: the vector and the options do not belong together; ``where`` says whose they are.
    """
    return ("text", *size_conditions(config, pooled_width, where))


def _per_level(name: str, value: Any, levels: int) -> tuple:
    values = several(value, levels)
    if len(values) != levels:
        raise UserError(
            f"{name} has {len(values)} entries, block_out_channels {levels}; give one for each level"
        )
    return values


def _per_layer(depth: int | Sequence[int], layers: int) -> tuple[int, ...]:
    return several(depth, layers)[:layers]
