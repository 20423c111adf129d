"""A process that hangs while the others wait for it: found by how far each has come, and named.

A process that dies stops its heartbeats, and JAX's coordinator ends the others. One that is alive but stuck,
in a read that never returns, still sends them, and the others would wait in their next collective for ever.
So each process counts the places that it passes, the same ones in the same order, and tells the coordinator;
the one with the lowest count is the one that they wait for.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator

import jax
from jax._src import distributed as jax_distributed  # what it keeps for its clients has no public name

from difflax.core.events import announce
from difflax.core.types import REQUEUE
from difflax.parallel.processes import number_from

HANG_SECONDS = 1800
"""A process that does not come on for so long is taken to hang; ``DIFFLAX_HANG_SECONDS`` sets it."""

_KEYS = "difflax/places/"


class Watchdog:
    """Watches the processes of a run. ``with watchdog.watching():`` stands around the loop; in a run of one
    process it does nothing.

    Args:
        limit: in seconds.
    """

    def __init__(self, limit: float | None = None):
        self._limit = limit or number_from("DIFFLAX_HANG_SECONDS") or HANG_SECONDS
        self._done = threading.Event()
        self.at(0, "the start")

    def at(self, step: int, doing: str, *, patient: bool = False) -> None:
        """This process has come to a place; every process passes the same ones.

        Args:
            patient: nobody knows how long it takes (compiling).
        """
        count = getattr(self, "_place", {"count": 0})["count"] + 1
        since = float("inf") if patient else time.monotonic()
        self._place = {"count": count, "step": step, "doing": doing, "since": since}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches inside the block."""
        if jax.process_count() == 1:
            yield
            return
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _watch(self) -> None:
        client, own = jax_distributed.global_state.client, jax.process_index()
        while not self._done.wait(self._limit / 10):
            place = self._place
            client.key_value_set(f"{_KEYS}{own}", json.dumps(place), allow_overwrite=True)
            if time.monotonic() - place["since"] <= self._limit:
                continue
            told = client.key_value_dir_get(_KEYS)
            places = {int(key.rpartition("/")[2]): json.loads(value) for key, value in told}
            if not self._done.is_set():
                announce(f"process {own} of {jax.process_count()}: {_verdict(places, self._limit)}")
                os._exit(REQUEUE)  # the main thread may sit in a collective, where no exception reaches it


def _verdict(places: dict[int, dict], limit: float) -> str:
    """Who keeps the others waiting, in words."""
    least = min(place["count"] for place in places.values())
    behind = {process: place for process, place in places.items() if place["count"] == least}
    named = ", ".join(
        f"process {process} (step {place['step']}, {place['doing']})"
        for process, place in sorted(behind.items())
    )
    waiting = "the others wait" if len(behind) < len(places) else "nobody is ahead"
    return (
        f"no step in {limit:g} seconds: hung is {named}; {waiting}. The run ends; the same command goes on"
        " from its newest checkpoint"
    )
