"""How fast a run goes, and what it waits for."""

import collections
import contextlib
import functools
import time
from collections.abc import Iterator

import jax

from difflax.core.chips import Chip


class Throughput:
    """Times between two log lines.

    Args:
        examples: of a step, over all devices.
        devices: that work on it.
        chip: what each of them is; ``None`` where its peak is not known.
    """

    def __init__(self, examples: int, devices: int, chip: Chip | None = None):
        self._examples, self._devices = examples, devices
        self._flops: float | None = None
        self._chip = chip
        self.reset(0)

    def reset(self, step: int) -> None:
        """The next line begins here, at ``step``."""
        self._step, self._since = step, time.perf_counter()
        self._waited = self._away = 0.0

    def knows_flops(self, flops: float) -> None:
        """FLOPs of a step, over all devices, see `count_flops`."""
        self._flops = flops

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what provides the next batch."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Around what is no training (drawing pictures, compiling): its time does not count."""
        start = time.perf_counter()
        yield
        self._away += time.perf_counter() - start

    def line(self, step: int) -> dict[str, float]:
        """The numbers since the last line: ``step_seconds``, ``examples_per_second``, ``data_wait_share`` of
        the time, and, where the FLOPs and the chip are known, ``tflops_per_device`` (a second) and ``hfu``,
        their share of the chip's peak: hardware FLOPs utilisation, which counts what is computed again in the
        backward pass too (Chowdhery et al., PaLM, arXiv:2204.02311, appendix B).
        """
        seconds = max(time.perf_counter() - self._since - self._away, 1e-9)
        steps = step - self._step
        numbers = {
            "step_seconds": seconds / max(steps, 1),
            "examples_per_second": steps * self._examples / seconds,
            "data_wait_share": self._waited / seconds,
        }
        if self._flops is not None:
            rate = self._flops * steps / seconds / self._devices
            numbers["tflops_per_device"] = rate / 1e12
            if self._chip is not None:
                numbers["hfu"] = rate / self._chip.flops
        self.reset(step)
        return numbers


_CACHE_EVENTS = {f"/jax/compilation_cache/cache_{name}": name for name in ("hits", "misses")}
"""What JAX's monitoring calls them."""


@functools.cache
def cache_counts() -> collections.Counter[str]:
    """Programs found (``hits``) and not found (``misses``) in the persistent compilation cache, counted from
    the first call on.
    """
    counts: collections.Counter[str] = collections.Counter()

    def listen(event: str, **_: object) -> None:
        if name := _CACHE_EVENTS.get(event):
            counts[name] += 1

    jax.monitoring.register_event_listener(listen)
    return counts
