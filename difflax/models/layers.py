"""The layers that the convolutional networks share, with PyTorch's conventions for padding and names.

Parameters are float32; ``dtype`` is that of the computation. Statistics of the norms are float32 in any case.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key

from difflax.core.spelling import choose as choose  # difflax.pretrained reads it here
from difflax.core.types import UserError

ACTIVATIONS: dict[str, Callable] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
}


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Inverted dropout; ``key=None`` is evaluation and leaves ``x`` as it is."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def fold(key: Key[Array, ""] | None, index: int) -> Key[Array, ""] | None:
    """The ``index``-th key under ``key``, or ``None`` (evaluation) under ``None``."""
    return None if key is None else jax.random.fold_in(key, index)


def space_to_depth(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b h2 w2 d"]:
    """Squares of ``size`` × ``size`` pixels as channels, in the order (row, column, channel); rows and
    columns that fill no square are left out.
    """
    b, h, w, c = x.shape
    rows, columns = h // size, w // size
    squares = x[:, : rows * size, : columns * size].reshape(b, rows, size, columns, size, c)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows, columns, size * size * c)


def depth_to_space(x: Float[Array, "b h w d"], size: int) -> Float[Array, "b h2 w2 c"]:
    """The inverse of `space_to_depth`."""
    b, h, w, _ = x.shape
    squares = x.reshape(b, h, w, size, size, -1).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, h * size, w * size, -1)


class Conv2d(nnx.Module):
    """Convolution of NHWC images, ``kernel`` in HWIO.

    Args:
        padding: zeros on every side, or ``((top, bottom), (left, right))``; ``None`` keeps the size.
        zero: start from zero, for the last layer of a residual branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | tuple[tuple[int, int], tuple[int, int]] | None = None,
        zero: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.zeros if zero else nnx.initializers.lecun_normal()
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_channels,), jnp.float32))
        if padding is None:
            padding = (kernel_size - 1) // 2
        self.padding = tuple(map(tuple, np.broadcast_to(padding, (2, 2)).tolist()))
        self.stride = stride
        # As a matrix product its gradients are matrix products too; XLA's CPU backend gains a lot by it.
        self.in_patches = kernel_size == stride and self.padding == ((0, 0), (0, 0))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w ci"]) -> Float[Array, "b h2 w2 co"]:
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if self.in_patches:
            out = space_to_depth(x, self.stride) @ kernel.reshape(-1, kernel.shape[-1])
        else:
            out = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=self.padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return out + self.bias[...].astype(self.dtype)


class GroupNorm(nnx.Module):
    """Group normalisation over the trailing channel axis (Wu & He 2018, https://arxiv.org/abs/1803.08494).

    Mean and variance come from one pass over the image (channel sums of ``x`` and ``x²`` in float32) and the
    whole layer is then one multiply-add an element.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        *,
        epsilon: float,
        dtype: DTypeLike = jnp.float32,
    ):
        if num_channels % num_groups:
            raise UserError(f"norm_num_groups={num_groups} does not divide {num_channels} channels")
        self.scale = nnx.Param(jnp.ones((num_channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((num_channels,), jnp.float32))
        self.num_groups = num_groups
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x32 = x.astype(jnp.float32)
        mean = self._group_mean(x32.mean((1, 2)))
        square = self._group_mean(jnp.square(x32).mean((1, 2)))
        scale = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + self.epsilon) * self.scale[...]
        shift = self.bias[...] - mean * scale
        return (x32 * scale[:, None, None] + shift[:, None, None]).astype(self.dtype)

    def _group_mean(self, channels: Float[Array, "b c"]) -> Float[Array, "b c"]:
        groups = channels.reshape(len(channels), self.num_groups, -1)
        return jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape).reshape(channels.shape)


def join_image(
    x: Float[Array, "b h w c"], image: Float[Array, "b h w ci"] | None
) -> Float[Array, "b h w co"]:
    """``x`` with the channels of ``conditioning.image`` after its own (inpainting, editing)."""
    return x if image is None else jnp.concatenate([x, image.astype(x.dtype)], axis=-1)
