"""The same seed gives the same losses on every mesh."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tests.runs import ROOT, small_run


def losses(clip, workdir, devices, *mesh):
    """The loss curve of a small run in a process of its own, on that many virtual devices."""
    arguments = small_run(clip, workdir, *(f"--config.mesh.{axis}" for axis in mesh), steps=5)
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    code = "import sys; from difflax.cli.main import run; sys.exit(run(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=environment, capture_output=True)
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, clip_folder):
    return losses(clip_folder, tmp_path_factory.mktemp("one") / "run", 1)


@pytest.mark.parametrize(
    "mesh", [("data=8",), ("data=1", "fsdp=8"), ("data=2", "fsdp=2", "tensor=2")], ids=" ".join
)
def test_eight_devices_give_the_losses_of_one(mesh, one_device, clip_folder, tmp_path):
    np.testing.assert_allclose(losses(clip_folder, tmp_path / "run", 8, *mesh), one_device, rtol=2e-5)
