"""Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685) of a network's kernels.

A kernel becomes ``W + alpha / rank · B A`` (section 4.1), with ``A`` of ``rank`` rows and ``B`` of ``rank``
columns. Kernels here are transposed (inputs first), so ``down`` is ``A`` and ``up`` is ``B`` transposed; a
convolution's ``down`` has its window and ``up`` is 1 × 1. A set of factors is a tree as the network's own,
with ``{"down", "up"}`` in place of the adapted layers' parameters; what is not adapted is not in it. What
both add to a kernel, and what other adapters do, is in `difflax.models.weight_changes`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float, Key

from difflax.core.spelling import choose
from difflax.core.types import Params
from difflax.models.weight_changes import LowRank, changed


def layers_of(params: Params) -> dict[str, dict[str, Any]]:
    """What every layer holds, by the layer's dotted name: the leaves by their own last names."""
    layers: dict[str, dict[str, Any]] = {}
    for (*path, last), leaf in traverse_util.flatten_dict(params).items():
        layers.setdefault(".".join(path), {})[last] = leaf
    return layers


def adaptable_layers(params: Params) -> dict[str, tuple[int, ...]]:
    """The layers with a kernel, by PyTorch's dotted names, with the kernel's shape; arrays or shapes."""
    layers = layers_of(params).items()
    return {name: tuple(leaves["kernel"].shape) for name, leaves in layers if "kernel" in leaves}


def matching_layers(params: Params, targets: Sequence[str], where: str) -> dict[str, tuple[int, ...]]:
    """The layers whose name is, or ends in, one of ``targets`` (whole parts of it: ``"to_q"``,
    ``"attn2.to_k"``, ``"ff.net.0.proj"``), as peft chooses them.

    Raises:
        UserError: a target that is no layer's; ``where`` says whose target it is.
    """
    layers = adaptable_layers(params)
    for target in targets:
        if not any(_matches(name, target) for name in layers):
            choose(dict.fromkeys(sorted(map(_last_parts, layers))), target, where)
    return {name: shape for name, shape in layers.items() if any(_matches(name, t) for t in targets)}


def init_factors(key: Key[Array, ""], layers: Mapping[str, tuple[int, ...]], rank: int) -> Params:
    """Factors before the first step: ``down`` normal with standard deviation 1 / rank, ``up`` zero, so that
    the network starts as it is.
    """
    keys = jax.random.split(key, max(len(layers), 1))
    factors = {}
    for key, (name, (*window, inputs, outputs)) in zip(keys, sorted(layers.items()), strict=True):
        path = tuple(name.split("."))
        factors[*path, "down"] = jax.random.normal(key, (*window, inputs, rank)) / rank
        factors[*path, "up"] = jnp.zeros((*[1] * len(window), rank, outputs))
    return traverse_util.unflatten_dict(factors)


def add_factors(params: Params, factors: Params, scale: float | Float[Array, ""]) -> Params:
    """``params`` with ``scale · down · up`` added to the adapted kernels, in float32, in the kernel's dtype;
    ``scale``: ``alpha / rank``.
    """
    flat = traverse_util.flatten_dict(params)
    for name, pair in by_layer(factors).items():
        path = (*name.split("."), "kernel")
        flat[path] = changed(flat[path], LowRank(*pair), scale)
    return traverse_util.unflatten_dict(flat)


def by_layer(factors: Params) -> dict[str, tuple[Any, Any]]:
    """``(down, up)`` of every adapted layer, by its dotted name."""
    return {name: (pair["down"], pair["up"]) for name, pair in layers_of(factors).items()}


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _last_parts(name: str) -> str:
    """The end of a name from its last part that is no number."""
    parts = name.split(".")
    start = next((i for i in reversed(range(len(parts))) if not parts[i].isdigit()), 0)
    return ".".join(parts[start:])
