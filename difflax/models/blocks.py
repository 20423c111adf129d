"""Blocks in a row, each reading what the one before made: written out, or as a loop of the program."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from difflax.models.remat import remat


def run_blocks(
    blocks: Sequence[nnx.Module],
    step: Callable[[nnx.Module, Any], Any],
    carry: Any,
    *,
    policy: str,
    scan_layers: bool,
) -> Any:
    """``carry`` after ``step(block, carry)`` with every block in turn.

    Args:
        step: pure; gives what it was given, with the same shapes and dtypes.
        policy: what the backward pass keeps of a step, by name of ``difflax.models.remat``.
        scan_layers: neighbours of the same structure become one ``jax.lax.scan`` over their stacked
            parameters: the program grows with the kinds of blocks, not with their number, and compiles as
            much faster. Parameters stay one entry a block. The stack is a copy of the blocks' parameters,
            sharded as they are. A perturbed block differs from its neighbours and stands alone.
    """
    for group in _alike(blocks) if scan_layers else [[block] for block in blocks]:
        if len(group) == 1:
            block = group[0]
            carry = remat(lambda carry, block=block: step(block, carry), policy)(carry)
        else:
            graph, states = nnx.graphdef(group[0]), [nnx.state(block) for block in group]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

            def once(carry: Any, state: Any, graph: nnx.GraphDef = graph) -> Any:
                return step(nnx.merge(graph, state), carry)

            kept = remat(once, policy, in_loop=True)
            carry, _ = jax.lax.scan(
                lambda carry, state, kept=kept: (kept(carry, state), None), carry, stacked
            )
    return carry


def _alike(blocks: Sequence[nnx.Module]) -> Iterator[list[nnx.Module]]:
    """Runs of neighbours whose structure and parameters' shapes are the same."""
    group, before = [], None
    for block in blocks:
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.to_pure_dict(nnx.state(block)))
        kind = (nnx.graphdef(block), shapes)
        if group and kind != before:
            yield group
            group = []
        group.append(block)
        before = kind
    if group:
        yield group
