"""What every door must answer to a hostile input: one short line, status 2, at once, with no memory to speak
of."""

import resource
import time

from tests.runs import command

LONGEST, SECONDS, MEMORY = 500, 5.0, 500 * 2**20


def peak() -> int:
    """Of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refused(*arguments: str) -> str:
    """The one line that a command answers with."""
    memory, start = peak(), time.process_time()
    status, _, errors = command(*arguments)
    taken = time.process_time() - start
    assert status == 2, (status, errors)
    return checked(errors.removesuffix("\n"), taken, peak() - memory)


def checked(line: str, taken: float, memory: int) -> str:
    """The line of an answer, if it is one."""
    assert line and len(line.splitlines()) == 1, line
    # Beside the name of the program.
    assert len(line) <= LONGEST + len("difflax: error: "), line
    assert "Traceback" not in line
    assert taken < SECONDS, taken
    assert memory < MEMORY, memory
    return line
