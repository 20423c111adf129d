"""What happens to a run beside its numbers: one line for whoever watches, one in ``events.jsonl``."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import jax
from etils import epath

Item = TypeVar("Item")


def announce(message: str) -> None:
    """One line on the standard error, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(f"difflax: {message}", file=sys.stderr)


def with_progress(items: Sequence[Item], name: str, unit: str) -> Iterator[Item]:
    """The items behind a progress bar with the time that is left, where standard error is a terminal; of
    several processes the first one has it.
    """
    from tqdm import tqdm

    yield from tqdm(items, desc=name, unit=unit, disable=True if jax.process_index() else None)


class Events:
    """The events of one run; only the first process writes the file, each process its own line.

    Nothing is deleted from the file: after a roll-back or a restart the steps in it repeat.
    """

    def __init__(self, workdir: epath.PathLike):
        self._path = epath.Path(workdir) / "events.jsonl"

    def __call__(self, event: str, message: str, *, step: int | None = None) -> None:
        """
        Args:
            event: its kind, one word.
            step: the training step, if there is one.
        """
        announce(message)
        if jax.process_index() != 0:
            return
        row = {"time": round(time.time(), 3), "event": event, "step": step, "message": message}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            announce(f"{self._path} cannot be written: {error}")
