"""The short form of ``scripts/torture.py``: one kill inside a save."""

import importlib.util
import sys

from tests.parallel.test_processes import SCRIPT
from tests.runs import ROOT


def test_a_run_killed_inside_a_save_ends_as_the_one_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAX_TOY_PAUSE", "0.02")
    spec = importlib.util.spec_from_file_location("torture", ROOT / "scripts" / "torture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    command = [sys.executable, SCRIPT, "{workdir}", "24", "checkpoint_every=2"]
    rows = module.torture(command, 1, tmp_path, kinds=["inside a save"], seed=1)
    assert [found for *_, found in rows] == [[]]
    # It can tell two runs apart.
    other = tmp_path / "other"
    assert module.finished(module.start([*command[:3], "23", "checkpoint_every=2"], other, 1))
    found = module.differences(other, tmp_path / "left_alone_1")
    assert "ends at step_23, not step_24" in found and "the order of the examples differs" in found
