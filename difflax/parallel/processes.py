"""Several processes as one run: JAX's multi-controller runtime, and whose turn it is."""

import contextlib
import os
import time
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from difflax.core.events import announce
from difflax.core.files import held
from difflax.core.types import Interrupted, UserError

HEARTBEAT_SECONDS = 60
"""A process that gives no sign for so long is given up, and with it the run: the others end with a message
that names it."""

START_SECONDS = 300
"""So long the processes wait for each other at the start."""

WAIT_SECONDS = 4 * 3600
"""So long the others wait while the first process prepares the data."""

_MARKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Variables that hold the number of processes under a scheduler that JAX knows."""


def initialize(
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> None:
    """Joins this process to the others of its run; does nothing for a run of one.

    What is not given comes from ``DIFFLAX_COORDINATOR`` (``host:port`` of the first process),
    ``DIFFLAX_PROCESSES``, ``DIFFLAX_PROCESS`` and ``DIFFLAX_HEARTBEAT_SECONDS``, else from the scheduler
    where JAX knows it: SLURM, Open MPI, a Kubernetes indexed job, a Cloud TPU pod. Call it before anything
    touches a device.

    Raises:
        UserError: the settings contradict each other, or the others do not come.
    """
    coordinator = coordinator or os.environ.get("DIFFLAX_COORDINATOR")
    processes = number_from("DIFFLAX_PROCESSES") if processes is None else processes
    process = number_from("DIFFLAX_PROCESS") if process is None else process
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise UserError(
            "--coordinator, --processes and --process belong together (or DIFFLAX_COORDINATOR,"
            " DIFFLAX_PROCESSES and DIFFLAX_PROCESS)"
        )
    if not any(given) and not _scheduled():
        return
    if all(given) and not 0 <= process < processes:
        raise UserError(f"--process={process} must lie in 0 … {processes - 1}, as --processes={processes}")
    if coordinator is not None:
        _check_address(coordinator)
    if processes == 1:
        return
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=_heartbeat(),
        )
    except RuntimeError as error:
        raise UserError(
            f"process {process} of {processes} could not join the run at {coordinator} ({_first(error)}):"
            " are all processes started, and is that address the first one's?"
        ) from error
    if jax.default_backend() == "cpu":
        # The first process alone finds its programs in the cache, and one that is read from there meets the
        # others' collectives in another order than one that was compiled: gloo then aborts.
        jax.config.update("jax_enable_compilation_cache", False)


def _check_address(coordinator: str) -> None:
    """Refuses an address that nothing listens on, and that would be waited for."""
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and len(port) < 6 and 0 < int(port) < 2**16):
        raise UserError(
            f"--coordinator={coordinator}: give HOST:PORT of the first process, a port below 65536"
        )


def _scheduled() -> bool:
    """Whether a scheduler that JAX knows started several processes, or one of several."""
    if any(int(os.environ.get(mark, 1)) > 1 for mark in _MARKS):
        return True
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return (
        len(hosts) > 1
        or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
        or "JOB_COMPLETION_INDEX" in os.environ
    )


def _heartbeat() -> int:
    return number_from("DIFFLAX_HEARTBEAT_SECONDS") or HEARTBEAT_SECONDS


def number_from(name: str) -> int | None:
    """The whole number in an environment variable, ``None`` if it is not set."""
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise UserError(f"{name}={text} must be a whole number")
    return int(text)


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """The first process runs the block before the others: what it writes, they find."""
    first = jax.process_index() == 0
    if not first:
        wait_for_all("first process is done")
    yield
    if first:
        wait_for_all("first process is done")


@contextlib.contextmanager
def alone_in(folder: epath.PathLike) -> Iterator[None]:
    """A folder for the processes of this run: the first one holds it for all, see `held`.

    Raises:
        UserError: another run has it; all processes of this one end.
    """
    with contextlib.ExitStack() as stack:
        refused = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(held(folder))
            except UserError as error:
                refused = error
        if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.int32(refused is not None)):
            refused = refused or UserError(f"{folder} is in use, as process 0 reports")
        if refused is not None:
            raise refused
        yield


@contextlib.contextmanager
def lost_processes_named() -> Iterator[None]:
    """Around work that all processes share: when it fails as a connection breaks, the coordinator is given
    the time to find out which process is lost. It then ends this one with a message that names it.

    Raises:
        Interrupted: it found none.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        announce(
            f"process {jax.process_index()} of {jax.process_count()}: the work with the others failed"
            f" ({_first(error)}); looking for the process that is lost"
        )
        time.sleep(2 * _heartbeat())
        raise Interrupted("the connection to another process broke: the same command goes on") from error


def same_everywhere(value: bool) -> bool:
    """Whether all processes say the same; each must ask."""
    if jax.process_count() == 1:
        return True
    said = multihost_utils.process_allgather(np.int32(value))
    return len(set(said.tolist())) == 1


def wait_for_all(name: str) -> None:
    """A barrier of all processes, through the coordinator: it may take as long as a data set takes to build.

    Args:
        name: each name serves once.
    """
    if jax.process_count() > 1:
        ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=WAIT_SECONDS * 1000)
