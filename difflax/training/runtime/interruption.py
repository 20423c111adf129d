"""The machine is wanted back: SIGTERM asks for a last checkpoint, a second one ends the process at once.

Several processes are stopped by JAX's own preemption service, which needs its coordinator; a process alone
has none, and for it Python's signal handlers are enough.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Whether the run is to end at the next step boundary. ``with stop.listening():`` stands around the loop.

    With several processes JAX's preemption service hears the signal, wherever it arrives, and lets all stop
    after the same step.
    """

    def __init__(self) -> None:
        self._asked = False

    def reached(self, step: int) -> bool:
        """Whether to stop after ``step``; every process asks once a step. From then on another signal ends
        the process at once.
        """
        if jax.process_count() > 1:
            self._asked = multihost_utils.reached_preemption_sync_point(step)
            if self._asked:
                self._end_at_the_next_signal()
        return self._asked

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Handles SIGTERM inside the ``with`` block."""
        if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
            yield self
            return

        def ask(*_: object) -> None:
            self._asked = True
            self._end_at_the_next_signal()

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    def _end_at_the_next_signal(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
