"""A trace of some steps for XProf or TensorBoard's profile page."""

import jax
from etils import epath
from jaxtyping import PyTree


class Profile:
    """Records the steps ``first`` to ``last`` in ``workdir/profile``; nothing where ``steps`` is empty."""

    def __init__(self, workdir: epath.PathLike, steps: tuple[int, ...]):
        self._folder = str(epath.Path(workdir) / "profile")
        self._first, self._last = steps or (0, 0)
        self._running = False

    def before(self, step: int) -> None:
        """Starts, if it is time."""
        if self._first and self._first <= step <= self._last and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, metrics: PyTree) -> None:
        """Ends after the last step, when its ``metrics`` are there."""
        if self._running and step >= self._last:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Ends the recording in any case."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
