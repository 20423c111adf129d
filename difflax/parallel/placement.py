"""Where activations lie on a mesh, for what the compiler would not find by itself."""

import math

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

BATCH = ("data", "fsdp")
"""Mesh axes over which examples are split."""

CONTEXT = "context"
"""The mesh axis over which an image's tokens are split."""


def split_tokens(tokens: Float[Array, "b n d"], *, of_image: bool = True) -> Float[Array, "b n d"]:
    """``tokens`` split over the mesh: examples over `BATCH`, also within loops and beside parameters that are
    split over the same axis, where the compiler may else choose to hold them whole; the tokens of each image
    over `CONTEXT`, so that no device holds a long sequence: each makes its own queries, and keys and values
    are gathered for them (sequence parallelism, Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198).

    Says nothing of an axis of ``tokens`` that does not divide evenly, and does nothing outside of a mesh.

    Args:
        of_image: a text's tokens are not split.
    """
    mesh = jax.sharding.get_abstract_mesh()

    def over(axes: tuple[str, ...], size: int) -> tuple[str, ...] | None:
        axes = tuple(axis for axis in axes if axis in mesh.axis_names and mesh.shape[axis] > 1)
        return axes if axes and size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None

    batch = over(BATCH, tokens.shape[0])
    context = over((CONTEXT,), tokens.shape[1]) if of_image else None
    if batch is None and context is None:
        return tokens
    free = PartitionSpec.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(tokens, PartitionSpec(batch or free, context or free, None))


def gather_tokens(tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """``tokens``, and their gradient, with those of each image on one device again, before they become rows
    and columns for a convolution: else its rows would be split too. Where a second axis of the mesh splits
    its channels, XLA's partitioner then computes wrong numbers (jax 0.10; also
    https://github.com/jax-ml/jax/issues/16894).

    Does nothing outside of a mesh with an axis `CONTEXT`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if CONTEXT not in mesh.axis_names or mesh.shape[CONTEXT] == 1:
        return tokens
    free = PartitionSpec.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(tokens, PartitionSpec(free, None, free))
