"""Rematerialisation by name: what the backward pass keeps and what it computes again."""

from collections.abc import Callable
from typing import Any

import jax

from difflax.core.spelling import choose


def _products(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p)


POLICIES: dict[str, Callable | None] = {
    "none": None,
    "dots": _products,
    "full": jax.checkpoint_policies.nothing_saveable,
    "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
}
"""``none`` keeps all; ``dots`` keeps the outputs of matrix products and convolutions, which cost most to
repeat; ``full`` keeps only the input of each residual and transformer block; ``offload`` keeps the
outputs of matrix products in the host's memory."""


def remat(function: Callable, name: str, *, in_loop: bool = False) -> Callable:
    """``function`` with the policy ``name`` of ``POLICIES`` for its backward pass.

    ``in_loop``: it is the body of a scan, whose two passes the compiler cannot merge.
    """
    policy = choose(POLICIES, name, "remat")
    return function if policy is None else jax.checkpoint(function, policy=policy, prevent_cse=not in_loop)
