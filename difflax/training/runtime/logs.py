"""Where numbers go during training: a progress bar, ``metrics.jsonl`` and TensorBoard.

TensorBoard's files are tensorboardX's. The writers of ``clu.metric_writers`` need TensorFlow or torch for
them, which nothing here imports, write no lines of JSON, and cannot take back the entries after the step
that a run resumes at.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Int, Int64, UInt8

from difflax.core.events import announce
from difflax.core.files import atomic_write, reason, remove_unfinished
from difflax.core.types import UserError


class Logger:
    """Logs of one run; only the first process writes.

    Entries of ``metrics.jsonl`` after ``start`` (the step a run resumes at) belong to work that was lost, and
    are taken out, so that every step stands in the file once.
    """

    def __init__(self, workdir: epath.PathLike, *, start: int, total: int, label: str):
        from tqdm import tqdm

        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        self._workdir = epath.Path(workdir)
        self._path = self._workdir / "metrics.jsonl"
        self._board: Any = None
        self._bar = tqdm(
            initial=start, total=total, desc=label, unit="step", file=sys.stderr, mininterval=1.0
        )
        self.rewind(start)

    def rewind(self, step: int) -> None:
        """Forgets what was logged after ``step``: it is done again."""
        if not self._writes:
            return
        from tensorboardX import SummaryWriter

        remove_unfinished(self._path)
        lines = _lines(self._path)
        kept = [line for line in lines if line.endswith("\n") and _step_of(line) <= step]
        if kept != lines:
            with atomic_write(self._path, "w") as file:
                file.write("".join(kept))
        if self._board is not None:
            self._board.close()
        self._board = SummaryWriter(str(self._workdir / "tensorboard"), purge_step=step + 1)
        self._bar.n = step
        self._bar.refresh()

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """One line: ``values`` with the step. ``None`` stands for a mean of nothing."""
        if not self._writes:
            return
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:  # a full disk ends no run
            announce(f"{self._path} cannot be written: {error}")
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(name, value, step)
        loss = "not finite" if values["loss"] is None else f"{values['loss']:.4f}"
        self._bar.set_postfix_str(f"loss {loss}, {values['examples_per_second']:.0f} examples/s")

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


class Order:
    """The rows of every batch of this process, in ``order.<process>.jsonl``. A step that is done again stands
    there again.
    """

    def __init__(self, workdir: epath.PathLike):
        self._path = epath.Path(workdir) / f"order.{jax.process_index()}.jsonl"

    def __call__(self, step: int, rows: Int64[np.ndarray, " b"]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "rows": rows.tolist()}) + "\n")


def _lines(path: epath.Path) -> list[str]:
    """The lines of a file of metrics, damaged bytes in them replaced; none if it is not there.

    Raises:
        UserError: it cannot be read, as a folder of that name.
    """
    try:
        return path.read_bytes().decode("ascii", "replace").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}; move it away") from error


def _step_of(line: str) -> float:
    if "\ufffd" in line:
        return float("inf")  # a damaged byte: what is written here is ASCII
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")  # a line that a kill cut short, or somebody wrote


def mean_metrics(
    history: list[Mapping[str, Float[jax.Array, ""] | Int[jax.Array, ""]]],
) -> tuple[dict[str, float | None], int]:
    """Averages over the steps that were not skipped, fetched from the devices in one go, with the number of
    ``skipped_steps``; and how many were skipped in a row at most.
    """
    fetched = jax.device_get(history)
    in_a_row = [int(row.pop("skipped_in_a_row")) for row in fetched]
    taken = [row for row, skipped in zip(fetched, in_a_row, strict=True) if not skipped]
    means: dict[str, float | None] = {
        name: float(np.mean([row[name] for row in taken])) if taken else None for name in fetched[0]
    }
    return {**means, "skipped_steps": sum(map(bool, in_a_row))}, max(in_a_row)
