"""The one seam between Flax NNX modules and the rest of the project.

A module is built, described and called here; everywhere else sees a plain nested dict of arrays and a pure
function. Block indices are string keys, so that a parameter's path reads
``down_blocks/0/resnets/1/conv1/kernel``.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Key

from difflax.core.types import Params
from difflax.models.perturbation import Perturbation


class _Stream(nnx.RngStream):
    """The keys of ``nnx.RngStream``, counted in Python: its own counter becomes slow under tracing, with the
    square of the number of layers.
    """

    def __init__(self, key: Key[Array, ""]):
        super().__init__(key, tag="params")
        self.calls = 0

    def __call__(self) -> Key[Array, ""]:
        key = jax.random.fold_in(self.key[...], jax.numpy.uint32(self.calls))
        self.calls += 1
        return key


def _rngs(key: Key[Array, ""]) -> nnx.Rngs:
    rngs = nnx.Rngs()
    rngs.params = _Stream(key)  # given to the constructor, it would be replaced by an nnx.RngStream
    return rngs


@dataclasses.dataclass(frozen=True)
class Functional:
    """A module as three pure functions: ``init``, ``abstract`` and ``apply``.

    Attributes:
        make_module: builds the module from its random streams. The module's only variables are ``nnx.Param``:
            what is random in a call comes in as a key.
    """

    make_module: Callable[[nnx.Rngs], nnx.Module]

    @functools.cached_property
    def _structure(self) -> tuple[nnx.GraphDef, dict[tuple, jax.ShapeDtypeStruct]]:
        module = nnx.eval_shape(lambda: self.make_module(_rngs(jax.random.key(0))))
        graph, params, rest = nnx.split(module, nnx.Param, ...)
        stray = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(rest)]
        if stray:
            raise TypeError(f"{type(module).__name__} holds state other than nnx.Param: {', '.join(stray)}")
        return graph, {path: variable.get_value() for path, variable in nnx.to_flat_state(params)}

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters: a nested dict of arrays. Pure, so it may be jitted with output shardings."""
        params = nnx.state(self.make_module(_rngs(key)), nnx.Param)
        return _nest({path: variable.get_value() for path, variable in nnx.to_flat_state(params)})

    def abstract(self) -> Params:
        """The shapes and dtypes that ``init`` returns, without computing anything."""
        return _nest(self._structure[1])

    def module(self, params: Params, perturbation: Perturbation | None = None) -> nnx.Module:
        """The module with ``params`` (or whatever stands in their places: tracers, shapes) in it.

        Args:
            perturbation: makes it the same network made worse, which guidance goes away from.

        Raises:
            ValueError: if the paths of ``params`` are not those of ``abstract()``.
            UserError: if ``perturbation`` finds no layer.
        """
        graph, shapes = self._structure
        if jax.tree.structure(params) != jax.tree.structure(self.abstract()):
            raise ValueError(_difference(params, self.abstract()))
        flat = [(path, nnx.Param(_at(params, path))) for path in shapes]
        module = nnx.merge(graph, nnx.from_flat_state(flat))
        if perturbation is not None:
            perturbation.put_into(module)
        return module

    def apply(self, params: Params, *args: Any, method: str = "__call__", **kwargs: Any) -> Any:
        """Calls ``method`` of the module with ``params`` in it; all other arguments are the method's own."""
        return getattr(self.module(params), method)(*args, **kwargs)


def functional(make_module: Callable[[nnx.Rngs], nnx.Module]) -> Functional:
    """The pure functions of a module, as in ``functional(lambda rngs: UNet2DConditionModel(rngs=rngs))``."""
    return Functional(make_module)


def _nest(flat: dict[tuple, Any]) -> Params:
    nested: dict = {}
    for path, leaf in flat.items():
        *parents, name = map(str, path)
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return nested


def _at(params: Params, path: tuple) -> Any:
    for name in path:
        params = params[str(name)]
    return params


def _difference(params: Params, expected: Params) -> str:
    def paths(tree: Params) -> set[str]:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}

    missing, extra = sorted(paths(expected) - paths(params)), sorted(paths(params) - paths(expected))
    return f"the parameters are not this module's: missing {missing}, extra {extra}"
