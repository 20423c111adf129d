"""Where activations lie on a mesh, for what the compiler would not find by itself."""

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

BATCH = ("data", "fsdp")
"""Mesh axes over which examples are split."""

CONTEXT = "context"
"""The mesh axis over which an image's tokens are split."""


def split_tokens(tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """The tokens of each image split over the mesh axis ``context``, so that no device holds a long sequence
    whole: each makes its own queries, and keys and values are gathered for them (sequence parallelism,
    Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198).

    Does nothing outside of a mesh with such an axis, or where the tokens do not divide evenly.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shares = mesh.shape.get(CONTEXT, 1) if mesh.axis_names else 1
    if shares == 1 or tokens.shape[1] % shares:
        return tokens
    batch = tuple(axis for axis in BATCH if axis in mesh.axis_names)
    return jax.lax.with_sharding_constraint(tokens, PartitionSpec(batch, CONTEXT, None))
