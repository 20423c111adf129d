"""Real processes on this machine, over the loopback: the same losses as one, whatever their number."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.runs import ROOT

SCRIPT = str(ROOT / "tests" / "training" / "toy.py")


def start(workdir, steps, count, *options, pause=0.0, devices=1, **more):
    """The toy's run in ``count`` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for index in range(count):
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "DIFFLAX_TOY_DEVICES": str(devices),
            "DIFFLAX_TOY_PAUSE": str(pause),
            "DIFFLAX_HEARTBEAT_SECONDS": "10",
            **more,
        }
        if count > 1:
            environment |= {
                "DIFFLAX_COORDINATOR": f"127.0.0.1:{port}",
                "DIFFLAX_PROCESSES": str(count),
                "DIFFLAX_PROCESS": str(index),
            }
        running.append(
            subprocess.Popen(
                [sys.executable, SCRIPT, str(workdir), str(steps), *options],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return running


def finish(running):
    """Exit statuses and what was said."""
    said = [process.communicate(timeout=300)[1] for process in running]
    return [process.returncode for process in running], said


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def order(workdir, count):
    """The rows of every step, joined over the processes in their order."""
    found: dict[int, list[int]] = {}
    for index in range(count):
        for line in (workdir / f"order.{index}.jsonl").read_text().splitlines()[:3]:
            row = json.loads(line)
            found.setdefault(row["step"], []).extend(row["rows"])
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    status, said = finish(start(workdir, 7, 1, devices=4))
    assert status == [0], said
    return workdir


def wait_for_line(workdir, running, lines):
    path = workdir / "metrics.jsonl"
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        time.sleep(0.05)
        assert all(process.poll() is None for process in running), finish(running)


def test_two_processes_one_killed_then_one(alone, tmp_path):
    """Two processes give the losses and the order of one; when one of them is killed the other ends by itself
    and names it; one process goes on from what they left.
    """
    workdir = tmp_path / "run"
    running = start(workdir, 7, 2, pause=0.5, devices=2)
    wait_for_line(workdir, running, 4)
    running[1].kill()
    status, said = finish(running)
    assert status[1] == -signal.SIGKILL and status[0] not in (0, None)
    assert re.search(r"stopped sending heartbeats\):\s*1\b", said[0]), said[0][-3000:]
    before = losses(workdir)
    status, said = finish(start(workdir, 7, 1, devices=4))
    assert status == [0], said
    for found in (before, losses(workdir)):
        np.testing.assert_allclose(list(found.values()), [losses(alone)[step] for step in found], rtol=2e-6)
    assert list(losses(workdir)) == list(range(1, 8))
    assert order(workdir, 2) == order(alone, 1)


@pytest.mark.slow
def test_a_process_that_hangs_is_named_and_the_run_ends(tmp_path):
    """It lives and sends its heartbeats, so that nothing but its place tells."""
    hang = {"DIFFLAX_TOY_HANGS": "1", "DIFFLAX_HANG_SECONDS": "5"}
    status, said = finish(start(tmp_path / "run", 7, 2, **hang))
    named = r"hung is process 1 \(step 4, reading its batch\); the others wait"
    assert any(re.search(named, text) for text in said), said
    assert 75 in status and 0 not in status
    assert list(losses(tmp_path / "run")) == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_stop_and_go_on_in_another_number(count, alone, tmp_path):
    """SIGTERM to one of them stops all after the same step, with a checkpoint and a status to start again."""
    workdir = tmp_path / "run"
    running = start(workdir, 7, count, pause=0.5, devices=4 // count)
    wait_for_line(workdir, running, 2)
    running[-1].send_signal(signal.SIGTERM)
    status, said = finish(running)
    assert status == [75] * count, said
    assert len(losses(workdir)) < 7
    other = {2: 4, 4: 2}[count]
    status, said = finish(start(workdir, 7, other, devices=4 // other))
    assert status == [0] * other, said
    np.testing.assert_allclose(list(losses(workdir).values()), list(losses(alone).values()), rtol=2e-6)
