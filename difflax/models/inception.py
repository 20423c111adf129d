"""Inception-v3 as the Fréchet inception distance has it: the network of ``inception-2015-12-05``, whose
weights torch-fidelity and pytorch-fid publish under torchvision's names.

It is torchvision's Inception-v3 (Szegedy et al. 2016, "Rethinking the Inception Architecture") but for what
TensorFlow's has: average pools do not count the zeros of the padding, and the last block pools by maximum.
Features are the 2048 means over the last 8 × 8 positions. The classifier ``fc`` is no part of it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

INCEPTION_SIZE = 299
"""Edge of its images, in pixels."""

INCEPTION_WIDTH = 2048
"""Of its features."""

NORM_EPSILON = 1e-3

Images = Float[Array, "b h w c"]
Made = Float[Array, "b h2 w2 c2"]
MakeConv = Callable[..., "BasicConv2d"]


class BatchNorm(nnx.Module):
    """Batch normalisation by stored statistics; names are PyTorch's."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.running_mean = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.running_var = nnx.Param(jnp.ones((channels,), jnp.float32))

    def __call__(self, x: Images) -> Made:
        scale = self.scale[...] * jax.lax.rsqrt(self.running_var[...] + NORM_EPSILON)
        shift = self.bias[...] - self.running_mean[...] * scale
        return x * scale.astype(x.dtype) + shift.astype(x.dtype)


class _Kernel(nnx.Module):
    def __init__(self, shape: tuple[int, int, int, int], rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape, jnp.float32))


class BasicConv2d(nnx.Module):
    """Convolution without bias, batch normalisation, ReLU.

    Args:
        size: of the kernel, (height, width).
        padded: with zeros, so that the size stays; else only positions where the kernel fits count.
    """

    def __init__(
        self,
        ins: int,
        outs: int,
        size: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        padded: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv = _Kernel((*size, ins, outs), rngs)
        self.bn = BatchNorm(outs)
        self.stride, self.dtype = stride, dtype
        self.padding = tuple((edge // 2, edge // 2) if padded else (0, 0) for edge in size)

    def __call__(self, x: Images) -> Made:
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.conv.kernel[...].astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(self.bn(x))


def max_pool(x: Images, *, stride: int = 2, padding: int = 0) -> Made:
    """The greatest of each 3 × 3 positions; padding never wins."""
    return nnx.max_pool(x, (3, 3), (stride, stride), [(padding, padding)] * 2)


def average_pool(x: Images) -> Made:
    """The mean of each 3 × 3 positions, of those that there are at the edges."""
    return nnx.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _chain(x: Images, *layers: nnx.Module) -> Made:
    for layer in layers:
        x = layer(x)
    return x


def _join(*branches: Array) -> Made:
    return jnp.concatenate(branches, axis=-1)


class InceptionA(nnx.Module):
    """35 × 35 positions."""

    def __init__(self, ins: int, pool_features: int, conv: MakeConv):
        self.branch1x1 = conv(ins, 64)
        self.branch5x5_1 = conv(ins, 48)
        self.branch5x5_2 = conv(48, 64, (5, 5))
        self.branch3x3dbl_1 = conv(ins, 64)
        self.branch3x3dbl_2 = conv(64, 96, (3, 3))
        self.branch3x3dbl_3 = conv(96, 96, (3, 3))
        self.branch_pool = conv(ins, pool_features)

    def __call__(self, x: Images) -> Made:
        return _join(
            self.branch1x1(x),
            _chain(x, self.branch5x5_1, self.branch5x5_2),
            _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
            self.branch_pool(average_pool(x)),
        )


class InceptionB(nnx.Module):
    """From 35 × 35 to 17 × 17 positions."""

    def __init__(self, ins: int, conv: MakeConv):
        self.branch3x3 = conv(ins, 384, (3, 3), stride=2, padded=False)
        self.branch3x3dbl_1 = conv(ins, 64)
        self.branch3x3dbl_2 = conv(64, 96, (3, 3))
        self.branch3x3dbl_3 = conv(96, 96, (3, 3), stride=2, padded=False)

    def __call__(self, x: Images) -> Made:
        double = _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
        return _join(self.branch3x3(x), double, max_pool(x))


class InceptionC(nnx.Module):
    """17 × 17 positions, ``inner`` channels within the branches."""

    def __init__(self, inner: int, conv: MakeConv):
        self.branch1x1 = conv(768, 192)
        self.branch7x7_1 = conv(768, inner)
        self.branch7x7_2 = conv(inner, inner, (1, 7))
        self.branch7x7_3 = conv(inner, 192, (7, 1))
        self.branch7x7dbl_1 = conv(768, inner)
        self.branch7x7dbl_2 = conv(inner, inner, (7, 1))
        self.branch7x7dbl_3 = conv(inner, inner, (1, 7))
        self.branch7x7dbl_4 = conv(inner, inner, (7, 1))
        self.branch7x7dbl_5 = conv(inner, 192, (1, 7))
        self.branch_pool = conv(768, 192)

    def __call__(self, x: Images) -> Made:
        double = _chain(x, self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3)
        return _join(
            self.branch1x1(x),
            _chain(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3),
            _chain(double, self.branch7x7dbl_4, self.branch7x7dbl_5),
            self.branch_pool(average_pool(x)),
        )


class InceptionD(nnx.Module):
    """From 17 × 17 to 8 × 8 positions."""

    def __init__(self, conv: MakeConv):
        self.branch3x3_1 = conv(768, 192)
        self.branch3x3_2 = conv(192, 320, (3, 3), stride=2, padded=False)
        self.branch7x7x3_1 = conv(768, 192)
        self.branch7x7x3_2 = conv(192, 192, (1, 7))
        self.branch7x7x3_3 = conv(192, 192, (7, 1))
        self.branch7x7x3_4 = conv(192, 192, (3, 3), stride=2, padded=False)

    def __call__(self, x: Images) -> Made:
        seven = _chain(x, self.branch7x7x3_1, self.branch7x7x3_2, self.branch7x7x3_3, self.branch7x7x3_4)
        return _join(_chain(x, self.branch3x3_1, self.branch3x3_2), seven, max_pool(x))


class InceptionE(nnx.Module):
    """8 × 8 positions.

    Args:
        pool: before the last branch.
    """

    def __init__(self, ins: int, pool: Callable[[Images], Made], conv: MakeConv):
        self.pool = pool
        self.branch1x1 = conv(ins, 320)
        self.branch3x3_1 = conv(ins, 384)
        self.branch3x3_2a = conv(384, 384, (1, 3))
        self.branch3x3_2b = conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = conv(ins, 448)
        self.branch3x3dbl_2 = conv(448, 384, (3, 3))
        self.branch3x3dbl_3a = conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = conv(384, 384, (3, 1))
        self.branch_pool = conv(ins, 192)

    def __call__(self, x: Images) -> Made:
        single = self.branch3x3_1(x)
        double = _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
        return _join(
            self.branch1x1(x),
            *(self.branch3x3_2a(single), self.branch3x3_2b(single)),
            *(self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)),
            self.branch_pool(self.pool(x)),
        )


class FIDInceptionV3(nnx.Module):
    """The network of FID.

    Args:
        dtype: what the layers compute in; parameters stay float32, and so do the features.
    """

    def __init__(self, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        conv = functools.partial(BasicConv2d, dtype=dtype, rngs=rngs)
        self.Conv2d_1a_3x3 = conv(3, 32, (3, 3), stride=2, padded=False)
        self.Conv2d_2a_3x3 = conv(32, 32, (3, 3), padded=False)
        self.Conv2d_2b_3x3 = conv(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = conv(64, 80)
        self.Conv2d_4a_3x3 = conv(80, 192, (3, 3), padded=False)
        self.Mixed_5b = InceptionA(192, 32, conv)
        self.Mixed_5c = InceptionA(256, 64, conv)
        self.Mixed_5d = InceptionA(288, 64, conv)
        self.Mixed_6a = InceptionB(288, conv)
        self.Mixed_6b = InceptionC(128, conv)
        self.Mixed_6c = InceptionC(160, conv)
        self.Mixed_6d = InceptionC(160, conv)
        self.Mixed_6e = InceptionC(192, conv)
        self.Mixed_7a = InceptionD(conv)
        self.Mixed_7b = InceptionE(1280, average_pool, conv)
        self.Mixed_7c = InceptionE(2048, functools.partial(max_pool, stride=1, padding=1), conv)

    def __call__(self, pixels: Float[Array, "b 299 299 3"]) -> Float[Array, "b 2048"]:
        """Features of images in [0, 255], float32."""
        x = (pixels - 128.0) / 128.0
        x = max_pool(_chain(x, self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3))
        x = max_pool(_chain(x, self.Conv2d_3b_1x1, self.Conv2d_4a_3x3))
        x = _chain(x, self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a)
        x = _chain(x, self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e)
        x = _chain(x, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c)
        return x.astype(jnp.float32).mean((1, 2))
