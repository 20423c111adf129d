"""What every door must answer to a hostile input: one short line, status 2, at once, with no memory to speak
of."""

import contextlib
import pathlib
import re
import time
from collections.abc import Iterator

import pytest
from difflax.core.types import UserError

from tests.runs import command

LONGEST, SECONDS, MEMORY = 500, 5.0, 500 * 2**20
WAITING = 60.0
"""Seconds by the clock, with room for a machine that does much else: nothing is waited for."""
PROCESS = pathlib.Path("/proc/self")


def memory(kind: str) -> int:
    """``VmRSS``, what this process holds, or ``VmHWM``, the most since `at_once` began: bytes, on Linux."""
    status = PROCESS / "status"
    found = re.search(rf"{kind}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """What happens inside takes little time and memory."""
    if (PROCESS / "clear_refs").exists():
        (PROCESS / "clear_refs").write_text("5")  # the peak is counted from here
    before, start, begun = memory("VmRSS"), time.process_time(), time.monotonic()
    yield
    taken, more = time.process_time() - start, memory("VmHWM") - before
    assert taken < SECONDS, taken
    assert time.monotonic() - begun < WAITING
    assert more < MEMORY, more


def refused(*arguments: str) -> str:
    """The one line that a command answers with."""
    with at_once():
        status, _, errors = command(*arguments)
    assert status == 2, (status, errors)
    return checked(errors.removesuffix("\n"))


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """What happens inside goes well, or is answered by a `UserError` of one line."""
    with at_once():
        try:
            yield
        except UserError as error:
            checked(str(error))


@contextlib.contextmanager
def refusal(says: str = "") -> Iterator[None]:
    """What happens inside is answered by a `UserError` of one line that says it."""
    with at_once(), pytest.raises(UserError, match=says) as caught:
        yield
    checked(str(caught.value))


def checked(line: str) -> str:
    """The line of an answer, if it is one."""
    assert line and len(line.splitlines()) == 1, line
    # Beside the name of the program.
    assert len(line) <= LONGEST + len("difflax: error: "), line
    assert "Traceback" not in line
    return line
