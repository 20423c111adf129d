"""What the machine has to hold, asked before anything large is made."""

import os

from difflax.core.types import UserError


def size_of(count: float | int) -> str:
    """A number of bytes in words."""
    for name, unit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= unit:
            return f"{count / unit:,.4g} {name}"
    return f"{count:,.0f} bytes"


def host_memory() -> int:
    """Of this machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(count: float | int, what: str) -> None:
    """Refuses what no machine like this one holds.

    Args:
        count: of bytes that ``what`` needs at least.

    Raises:
        UserError: they are more than this machine has.
    """
    if count > host_memory():
        raise UserError(
            f"{what} would need {size_of(count)} of memory, this machine has {size_of(host_memory())}:"
            " make it smaller"
        )
