"""FLOPs of a program, counted in its jaxpr: matrix products and convolutions, which are nearly all of them.

The compiler's own count leaves out what it hands to library kernels. A multiplication and an addition are two
FLOPs. What a backward pass computes again (rematerialisation) is counted again.
"""

import math
from typing import Any

import jax


def count_flops(jaxpr: Any) -> float:
    """FLOPs of a jaxpr (closed or open) over all devices.

    Loops count their body as often as it runs, where that is known before (`lax.scan`); a ``while`` counts it
    once. Of a ``cond`` the dearest branch counts.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum((_flops(eqn) for eqn in jaxpr.eqns), 0.0)


def _flops(eqn: Any) -> float:
    if eqn.primitive is jax.lax.dot_general_p:
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2.0 * math.prod(shape[i] for i in contracted) * math.prod(eqn.outvars[0].aval.shape)
    if eqn.primitive is jax.lax.conv_general_dilated_p:
        return _convolution(eqn)
    bodies = [count_flops(inner) for inner in _inner(eqn.params)]
    if not bodies:
        return 0.0
    if eqn.primitive is jax.lax.cond_p:
        return max(bodies)
    return sum(bodies, 0.0) * eqn.params.get("length", 1)


def _convolution(eqn: Any) -> float:
    """One product for each output element, input channel of its group, and place of the kernel; those with
    padding count, those with the zeros that the gradient of a stride puts between elements do not.
    """
    dims = eqn.params["dimension_numbers"]
    kernel = eqn.invars[1].aval.shape
    places = math.prod(kernel[i] for i in dims.rhs_spec[2:])
    channels = kernel[dims.rhs_spec[1]]  # of one group
    zeros = math.prod(eqn.params["lhs_dilation"])
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * channels * places / zeros


def _inner(params: dict[str, Any]) -> list[Any]:
    return [item for item in jax.tree.leaves(params) if hasattr(getattr(item, "jaxpr", item), "eqns")]
