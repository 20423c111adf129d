"""Importing difflax is quiet, light and free of torch and TensorFlow."""

import subprocess
import sys

CODE = """
import sys, time
start = time.perf_counter()
import difflax
print(time.perf_counter() - start)
import difflax.runs
print([name for name in ("torch", "tensorflow", "diffusers") if name in sys.modules])
"""


def test_import():
    done = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning:difflax", "-c", CODE],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, foreign = done.stdout.splitlines()
    assert float(seconds) < 3
    assert foreign == "[]"
    assert done.stderr == ""
