"""Examples that cannot be used: how many there may be, the same for every way of reading."""

import threading

from difflax.core.types import BadExample, UserError


class Faults:
    """The rows that were found unusable.

    Args:
        rows: of the data.
        max_bad_examples: the share of them that may be unusable; 0: none.
    """

    def __init__(self, rows: int, max_bad_examples: float):
        self._rows, self._max_bad = rows, max_bad_examples
        self._bad: set[int] = set()
        self._new: list[str] = []
        self._lock = threading.Lock()

    def note(self, row: int, error: BadExample) -> None:
        """Counts a row once.

        Raises:
            UserError: there are too many.
        """
        if self._max_bad == 0:
            raise error
        with self._lock:
            if row not in self._bad:
                self._bad.add(row)
                self._new.append(str(error))
            if len(self._bad) > self._max_bad * self._rows:
                raise UserError(
                    f"{len(self._bad)} of {self._rows} examples cannot be used, more than the share"
                    f" max_bad_examples = {self._max_bad:g}; the last: {error}"
                ) from error

    def new(self) -> list[str]:
        """What is wrong with the rows found since the last call."""
        with self._lock:
            new, self._new = self._new, []
        return new
