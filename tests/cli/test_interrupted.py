"""Ctrl-C while `sample` and `ablate` run as processes: one line, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.runs import ROOT, command, small_run
from tests.training.runtime.test_torture import torture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(clip_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    assert command(*small_run(clip_folder, folder, steps=4))[0] == 0
    return folder


def pressed(arguments, after):
    """A command stopped by Ctrl-C after so many seconds: its status and what it said; ``None`` if it had
    ended by then.
    """
    # A test run in the background has its children ignore SIGINT.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{listening} from difflax.cli.entry import main; main()", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=120)
    return None if process.returncode == 0 else (process.returncode, out + said)


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "--prompt=a circle", "--num_images=6", "--num_steps=50"),
        ("ablate", "--guidance_scales=0,1,3", "--seeds=2"),
    ],
    ids=["sample", "ablate"],
)
def test_ctrl_c_is_one_line_and_the_same_command_goes_on(workdir, tmp_path, arguments):
    module, alone, stopped = torture(), tmp_path / "alone", tmp_path / "stopped"
    line = [*arguments, f"--workdir={workdir}"]
    for _ in range(2):  # the first one fills caches, the second one tells how long it takes
        began = time.monotonic()
        assert pressed([*line, f"--output={alone}_{began}"], 600) is None
        duration = time.monotonic() - began
    ends = [pressed([*line, f"--output={stopped}"], share * duration) for share in (0.35, 0.6, 0.85)]
    assert any(ends)
    for status, said in filter(None, ends):
        assert status == 130 and "Traceback" not in said, said
        assert "Ctrl-C" in said.strip().splitlines()[-1]
    assert pressed([*line, f"--output={stopped}"], 600) is None
    # `sample` adds to a folder what it made once more, and never replaces it.
    made, expected = module.files(stopped).keys(), module.files(f"{alone}_{began}").keys()
    assert made >= expected and (arguments[0] == "sample" or made == expected)
