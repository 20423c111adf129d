"""DINOv2 (Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision") in NNX: a ViT
whose normed class token is the feature of FD-DINOv2 (Stein et al. 2023).

Names follow the Hub's weights (``encoder/layer/0/attention/attention/query/kernel``) and its ``config.json``.
The positions were learned at 518 pixels and are interpolated to the size of the images, bicubically and not
antialiased. The authors' code, which dgm-eval measures with, scales by ``(n + 0.1) / m`` there and
transformers by ``n / m`` (n positions of the image, m that were learned): ``interpolate_offset`` says which.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from difflax.core.bounds import Depth, Edge, NotNegative, Width
from difflax.core.kinds import read_own_fields
from difflax.core.types import UserError
from difflax.models.softmax_attention import attend

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of its training images, per RGB channel in [0, 1]."""

DINO_SIZE = 224
"""Edge of the images of FD-DINOv2, in pixels."""

CUBIC = -0.75
"""PyTorch's parameter of the cubic kernel (Keys 1981)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOv2Config:
    """Sizes, under the names of the Hub's ``config.json``. Defaults are those of transformers.

    Attributes:
        hidden_size: width.
        num_hidden_layers: transformer blocks.
        num_attention_heads: of every block.
        mlp_ratio: width of the feed-forward layers over that of the tokens.
        image_size: edge of the images whose positions were learned, in pixels.
        patch_size: edge of a token, in pixels.
        layer_norm_eps: of every norm.
        use_swiglu_ffn: gated feed-forward layers (the giant model).
        interpolate_offset: see the module; 0.1 is the authors', 0 that of transformers.

    Raises:
        UserError: heads that do not divide the width, or patches that do not divide an image.
    """

    hidden_size: Width = 768
    num_hidden_layers: Depth = 12
    num_attention_heads: Width = 12
    mlp_ratio: Width = 4
    image_size: Edge = 224
    patch_size: Edge = 14
    layer_norm_eps: NotNegative = 1e-6
    use_swiglu_ffn: bool = False
    interpolate_offset: NotNegative = 0.1

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads or self.image_size % self.patch_size:
            raise UserError(
                f"DINOv2: {self.num_attention_heads} heads must divide a width of {self.hidden_size}, and"
                f" patches of {self.patch_size} pixels an image of {self.image_size}"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DINOv2Config":
        """Reads the mapping of a ``config.json``.

        Raises:
            UserError: a value that the network cannot honour.
        """
        return cls(**read_own_fields(cls, config))


def _linear(ins: int, outs: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(ins, outs, kernel_init=nnx.initializers.truncated_normal(0.02), dtype=dtype, rngs=rngs)


def _norm(config: DINOv2Config, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, dtype=dtype, rngs=rngs
    )


class _Projections(nnx.Module):
    def __init__(self, width: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.query = _linear(width, width, dtype, rngs)
        self.key = _linear(width, width, dtype, rngs)
        self.value = _linear(width, width, dtype, rngs)


class _Out(nnx.Module):
    def __init__(self, width: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dense = _linear(width, width, dtype, rngs)


class DINOv2Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(self, config: DINOv2Config, dtype: DTypeLike, rngs: nnx.Rngs):
        self.num_heads = config.num_attention_heads
        self.attention = _Projections(config.hidden_size, dtype, rngs)
        self.output = _Out(config.hidden_size, dtype, rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        layers = (self.attention.query, self.attention.key, self.attention.value)
        heads = (layer(x).reshape(*x.shape[:-1], self.num_heads, -1) for layer in layers)
        return self.output.dense(attend(*heads, implementation="xla").reshape(x.shape))


class DINOv2MLP(nnx.Module):
    """Feed-forward layers with GELU."""

    def __init__(self, config: DINOv2Config, dtype: DTypeLike, rngs: nnx.Rngs):
        width, inner = config.hidden_size, config.hidden_size * config.mlp_ratio
        self.fc1, self.fc2 = _linear(width, inner, dtype, rngs), _linear(inner, width, dtype, rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class DINOv2SwiGLU(nnx.Module):
    """Gated feed-forward layers, two thirds as wide, to the next multiple of 8."""

    def __init__(self, config: DINOv2Config, dtype: DTypeLike, rngs: nnx.Rngs):
        inner = (int(config.hidden_size * config.mlp_ratio * 2 / 3) + 7) // 8 * 8
        self.weights_in = _linear(config.hidden_size, 2 * inner, dtype, rngs)
        self.weights_out = _linear(inner, config.hidden_size, dtype, rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        gate, up = jnp.split(self.weights_in(x), 2, axis=-1)
        return self.weights_out(jax.nn.silu(gate) * up)


class DINOv2LayerScale(nnx.Module):
    """A learned factor for each channel of a branch."""

    def __init__(self, width: int):
        self.lambda1 = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return x * self.lambda1[...].astype(x.dtype)


class DINOv2Layer(nnx.Module):
    """Attention and feed-forward layers, each on normed tokens, scaled and added."""

    def __init__(self, config: DINOv2Config, dtype: DTypeLike, rngs: nnx.Rngs):
        mlp = DINOv2SwiGLU if config.use_swiglu_ffn else DINOv2MLP
        self.norm1, self.norm2 = _norm(config, dtype, rngs), _norm(config, dtype, rngs)
        self.attention, self.mlp = DINOv2Attention(config, dtype, rngs), mlp(config, dtype, rngs)
        self.layer_scale1 = DINOv2LayerScale(config.hidden_size)
        self.layer_scale2 = DINOv2LayerScale(config.hidden_size)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class DINOv2Encoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: DINOv2Config, dtype: DTypeLike, rngs: nnx.Rngs):
        self.layer = nnx.List(DINOv2Layer(config, dtype, rngs) for _ in range(config.num_hidden_layers))

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        for layer in self.layer:
            x = layer(x)
        return x


class _Patches(nnx.Module):
    def __init__(self, config: DINOv2Config, dtype: DTypeLike, rngs: nnx.Rngs):
        edge = config.patch_size
        self.projection = nnx.Conv(
            3, config.hidden_size, (edge, edge), strides=edge, padding="VALID", dtype=dtype, rngs=rngs
        )


class DINOv2Embeddings(nnx.Module):
    """Patches, a class token before them, and positions."""

    def __init__(self, config: DINOv2Config, dtype: DTypeLike, rngs: nnx.Rngs):
        width, self.learned = config.hidden_size, config.image_size // config.patch_size
        self.offset, self.dtype = config.interpolate_offset, dtype
        normal = nnx.initializers.truncated_normal(0.02)
        self.cls_token = nnx.Param(normal(rngs.params(), (1, 1, width), jnp.float32))
        positions = (1, self.learned**2 + 1, width)
        self.position_embeddings = nnx.Param(normal(rngs.params(), positions, jnp.float32))
        self.patch_embeddings = _Patches(config, dtype, rngs)

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        patches = self.patch_embeddings.projection(pixels)
        batch, rows, columns, width = patches.shape
        positions = self.position_embeddings[...]
        own, learned = positions[:, :1], positions[0, 1:].reshape(self.learned, self.learned, width)
        if (rows, columns) != (self.learned, self.learned):
            down, across = (interpolation(self.learned, n, self.offset) for n in (rows, columns))
            learned = jnp.einsum("ia,jb,abd->ijd", down, across, learned)
        tokens = patches.reshape(batch, -1, width) + learned.reshape(1, -1, width).astype(self.dtype)
        first = jnp.broadcast_to(self.cls_token[...] + own, (batch, 1, width)).astype(self.dtype)
        return jnp.concatenate([first, tokens], axis=1)


class DINOv2Model(nnx.Module):
    """The network.

    Args:
        dtype: what the layers compute in; parameters stay float32.
    """

    def __init__(self, config: DINOv2Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.embeddings = DINOv2Embeddings(config, dtype, rngs)
        self.encoder = DINOv2Encoder(config, dtype, rngs)
        self.layernorm = _norm(config, dtype, rngs)

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """The normed class token of normalised images whose edges are multiples of a patch, float32."""
        return self.layernorm(self.encoder(self.embeddings(pixels)))[:, 0].astype(jnp.float32)


def interpolation(old: int, new: int, offset: float) -> Float[np.ndarray, "{new} {old}"]:
    """The weights of PyTorch's bicubic interpolation along one axis, corners not aligned, edges repeated.

    Args:
        offset: it scales by ``(new + offset) / old``.
    """
    place = (np.arange(new) + 0.5) * old / (new + offset) - 0.5
    weights = np.zeros((new, old))
    first = np.floor(place).astype(int)
    for tap in range(-1, 3):
        distance = np.abs(place - (first + tap))
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
        weight = np.where(distance <= 1, near, far)
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, old - 1)), weight)
    return weights.astype(np.float32)
