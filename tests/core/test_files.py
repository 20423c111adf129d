"""Files and folders that are there whole or not at all."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from difflax.core.files import atomic_folder, atomic_write, held, remove_unfinished
from difflax.core.types import UserError


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path, "w") as file:
        file.write("é")
        assert not path.exists()
    assert path.read_bytes() == "é".encode()
    with atomic_write(path) as file:
        file.write(b"second")
        file.flush()
        assert path.read_bytes() == "é".encode()
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["a.txt"]


def test_an_exception_leaves_what_was_there(tmp_path):
    with atomic_write(tmp_path / "a") as file:
        file.write(b"whole")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a") as file:
        file.write(b"ha")
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "b") as folder:
        (folder / "half").write_text("ha")
        _ = 1 / 0
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_of_two_writers_of_a_folder_one_wins(tmp_path):
    with atomic_folder(tmp_path / "a") as first:
        (first / "name").write_text("first")
        with atomic_folder(tmp_path / "a") as second:
            (second / "name").write_text("second")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a" / "name").read_text() == "second"


WRITER = """
import sys, time
from difflax.core.files import atomic_folder, atomic_write
with atomic_folder(sys.argv[1] + "/folder") as folder, atomic_write(sys.argv[1] + "/file") as file:
    (folder / "part").write_bytes(b"x" * 1000)
    file.write(b"x" * 1000)
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"writing\n"
        assert not (tmp_path / "folder").exists() and not (tmp_path / "file").exists()
        time.sleep(1.1)
        for name in ("folder", "file"):
            remove_unfinished(tmp_path / name)
        assert len(os.listdir(tmp_path)) == 2
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    assert len(os.listdir(tmp_path)) == 2
    # The next writer of the same name clears it away.
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "part").write_text("whole")
    remove_unfinished(tmp_path / "file")
    assert os.listdir(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "part").read_text() == "whole"


TURNS = """
import sys
from difflax.core.files import atomic_write
for i in range(50):
    with atomic_write(sys.argv[1], "w") as file:
        file.write(f"{i}" * 1000)
"""


def test_readers_never_see_a_part(tmp_path):
    place = tmp_path / "a"
    place.write_text("0" * 1000)
    writers = [subprocess.Popen([sys.executable, "-c", TURNS, str(place)]) for _ in range(2)]
    whole = {f"{i}" * 1000 for i in range(50)}
    while any(writer.poll() is None for writer in writers):
        assert place.read_text() in whole
    assert [writer.returncode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["a"]


HOLDER = """
import sys, time
from difflax.core.files import held
with held(sys.argv[1]):
    print("holding", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_for_one_process_until_that_ends(tmp_path):
    folder = tmp_path / "new" / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"holding\n"
        with pytest.raises(UserError) as refused, held(folder):
            pass
        (line,) = str(refused.value).splitlines()
        assert f"process {holder.pid} on {socket.gethostname()}" in line and str(folder) in line
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    # What the dead process left holds nobody; and what it made stays, as another might have put a file there.
    with held(folder):
        (folder / "kept").write_text("")
        with pytest.raises(UserError, match=f"process {os.getpid()} on "), held(folder):
            pass
    assert os.listdir(folder) == ["kept"]


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), held(tmp_path / "a" / "b"):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_without_locks_nothing_is_held(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with held(tmp_path / "run"), held(tmp_path / "run"):
        pass


def test_a_place_that_cannot_be_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"), held(tmp_path / "file"):
        pass
