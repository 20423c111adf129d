"""The machine is wanted back, or a person is: SIGTERM and Ctrl-C (SIGINT) ask for a last checkpoint, a second
one ends the process at once.

Several processes are stopped by JAX's own preemption service, which needs its coordinator; a process alone
has none, and for it Python's signal handlers are enough.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from difflax.core.types import CTRL_C, REQUEUE

_ASKING = {signal.SIGTERM: ("the machine", REQUEUE), signal.SIGINT: ("the user", CTRL_C)}
"""Who asks by which signal, and what the process then ends with."""


class StopRequest:
    """Whether the run is to end at the next step boundary. ``with stop.listening():`` stands around the loop.

    With several processes JAX's preemption service hears the signal, wherever it arrives, and lets all stop
    after the same step.

    Attributes:
        who: asked.
        status: that the process is to end with.
    """

    def __init__(self) -> None:
        self._asked = False
        self.who, self.status = _ASKING[signal.SIGTERM]

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
        """Handles SIGTERM and SIGINT inside the ``with`` block."""
        if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
            yield self
            return

        def ask(number: int, _: object) -> None:
            self._asked = True
            self.who, self.status = _ASKING[signal.Signals(number)]
            self._end_at_the_next_signal()

        before = {number: signal.signal(number, ask) for number in _ASKING}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end_at_the_next_signal(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _ASKING:
                signal.signal(number, signal.SIG_DFL)
