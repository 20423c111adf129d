"""Where numbers go during training: a progress bar, ``metrics.jsonl`` and TensorBoard."""

import json
import sys
import time
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8


class Logger:
    """Logs of one run; only the first process writes.

    Entries of ``metrics.jsonl`` after ``start`` (the step a run resumes at) belong to work that was lost, and
    are taken out, so that every step stands in the file once.
    """

    def __init__(self, workdir: epath.PathLike, *, start: int, total: int, label: str):
        from tensorboardX import SummaryWriter
        from tqdm import tqdm

        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        workdir = epath.Path(workdir)
        self._path = workdir / "metrics.jsonl"
        if self._path.exists():
            lines = self._path.read_text().splitlines(keepends=True)
            self._path.write_text("".join(line for line in lines if _step_of(line) <= start))
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
        self._bar = tqdm(
            initial=start, total=total, desc=label, unit="step", file=sys.stderr, mininterval=1.0
        )
        self._since, self._steps = time.perf_counter(), start

    def scalars(self, step: int, values: Mapping[str, float], *, examples_per_step: int) -> None:
        """One line: ``values`` with the step and the examples a second since the last line."""
        if not self._writes:
            return
        now = time.perf_counter()
        rate = (step - self._steps) * examples_per_step / max(now - self._since, 1e-9)
        self._since, self._steps = now, step
        values = {**values, "examples_per_second": rate}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._bar.set_postfix_str(f"loss {values['loss']:.4f}, {rate:.0f} examples/s")

    def advance(self) -> None:
        """One step more on the progress bar."""
        if self._writes:
            self._bar.update()

    def picture(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """An image for TensorBoard."""
        if self._writes:
            self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if self._writes:
            self._bar.close()
            self._board.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # a line that a kill cut short


def mean_metrics(history: list[Mapping[str, Float[jax.Array, ""]]]) -> dict[str, float]:
    """Averages over steps, fetched from the devices in one go."""
    fetched = jax.device_get(history)
    return {name: float(np.mean([row[name] for row in fetched])) for name in fetched[0]}
