"""The train step compiled ahead of its first use, so that compiling is timed and its FLOPs are known."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from difflax.core.flops import count_flops
from difflax.training.runtime.throughput import cache_counts
from difflax.training.state import TrainState
from difflax.training.step import Metrics, compile_step


@dataclasses.dataclass(frozen=True)
class Compilation:
    """Attributes:
    trace_seconds, compile_seconds: how long it took to write the program down, and to compile it.
    cache_hits, cache_misses: programs of these that the persistent cache had, and had not.
    flops: of one step, over all devices.
    """

    trace_seconds: float
    compile_seconds: float
    cache_hits: int
    cache_misses: int
    flops: float

    def line(self) -> str:
        """All of it, for the log."""
        return (
            f"train step traced in {self.trace_seconds:.1f} s, compiled in {self.compile_seconds:.1f} s"
            f" (compilation cache: {self.cache_hits} hits, {self.cache_misses} misses),"
            f" {self.flops / 1e9:.3g} GFLOP a step"
        )


def trace_step(
    step: Callable,
    abstract: TrainState,
    mesh: Mesh,
    batch: PyTree,
    frozen: PyTree = None,
    *,
    rows: int | None = None,
) -> Any:
    """``step`` on ``mesh`` as a program of the state and the leaves of a batch, not compiled yet.

    Args:
        batch: arrays, of whose values nothing is read.
        rows: of the global batch, where it is not that of ``batch``.
    """
    leaves, structure = jax.tree.flatten(batch)
    shapes = [jax.ShapeDtypeStruct((rows or len(leaf), *leaf.shape[1:]), leaf.dtype) for leaf in leaves]

    def of_leaves(state: TrainState, leaves: list, *frozen: PyTree) -> tuple[TrainState, Metrics]:
        return step(state, structure.unflatten(leaves), *frozen)

    given = () if frozen is None else (frozen,)
    return compile_step(of_leaves, abstract, mesh, frozen).trace(abstract, shapes, *given)


class CompiledStep:
    """``step`` for states like ``abstract``, compiled for each shape of batch that it is given.

    ``frozen`` are arrays on ``mesh`` that it reads and that do not change, see `make_train_step`.
    """

    def __init__(self, step: Callable, abstract: TrainState, mesh: Mesh, frozen: PyTree = None):
        self._step, self._abstract, self._mesh, self._frozen = step, abstract, mesh, frozen
        self._compiled: dict[tuple, Any] = {}

    def ready(self, batch: PyTree) -> bool:
        """Whether it is compiled for batches like ``batch``."""
        return _shapes(batch) in self._compiled

    def compile(self, batch: PyTree) -> Compilation:
        """Compiles for batches like ``batch``."""
        counts = cache_counts()
        before = dict(counts)
        start = time.perf_counter()
        traced = trace_step(self._step, self._abstract, self._mesh, batch, self._frozen)
        lowered = traced.lower()
        between = time.perf_counter()
        self._compiled[_shapes(batch)] = lowered.compile()
        return Compilation(
            trace_seconds=between - start,
            compile_seconds=time.perf_counter() - between,
            cache_hits=counts["hits"] - before.get("hits", 0),
            cache_misses=counts["misses"] - before.get("misses", 0),
            flops=count_flops(traced.jaxpr),
        )

    def __call__(self, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        given = () if self._frozen is None else (self._frozen,)
        return self._compiled[_shapes(batch)](state, jax.tree.leaves(batch), *given)


def _shapes(batch: PyTree) -> tuple:
    return tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(batch))
