"""`difflax benchmark` on a case of seconds, with and without PyTorch."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from difflax.cli import benchmark
from difflax.cli.benchmark import BELOW
from difflax.core.types import UserError
from difflax.profiling.benchmark import Case, Timing, measure

from tests.runs import ROOT, command

TINY = (
    *("--block_out_channels=8", "--layers_per_block=1", "--cross_attention_dim=8", "--norm_num_groups=4"),
    *("--attention_head_dim=2", "--batch_size=2", "--size=8", "--tokens=3", "--num_steps=4", "--rounds=2"),
)


def rows(page):
    """The cells of the page's table of times, by the first word of each row."""
    times = page.split("| program |")[0].splitlines()
    lines = [line.strip("| ").split(" | ") for line in times if line.startswith("|")]
    return {re.match(r"[\w-]+", cells[0])[0]: cells[1:] for cells in lines}


@pytest.mark.slow
def test_without_pytorch(tmp_path):
    output = tmp_path / "docs" / "benchmarks.md"
    output.parent.mkdir()
    output.write_text(f"older numbers\n{BELOW}\nwhat was tried\n")
    status, out, errors = command("benchmark", *TINY, "--nopytorch", f"--output={output}")
    assert (status, errors) == (0, "")
    page, _, kept = output.read_text().partition(BELOW)
    assert page.strip() == out.strip()
    assert kept == "\nwhat was tried\n"
    assert "PyTorch" not in page
    found = rows(page)
    assert {"train", "forward", "4"} <= set(found)
    assert all(float(found[task][0].split()[0]) > 0 for task in ("train", "forward", "4"))
    assert re.search(r"\d+ x86-64 cores|\d+ .* cores|NVIDIA|TPU", page)
    assert "MiB" in page
    assert "Most memory held" in page


@pytest.mark.parity
def test_with_pytorch():
    """Both sides agree on loss, output and sample, or the command ends with an error."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    status, out, errors = command("benchmark", *TINY, "--pytorch")
    assert (status, errors) == (0, "")
    found = rows(out)
    for task in ("train", "forward", "4"):
        assert float(found[task][2]) > 0
    assert "torch" in out


def test_without_torch_a_line_says_that_nothing_is_compared(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    assert not benchmark._compare(None)
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "no torch" in said and "difflax[parity]" in said
    assert not benchmark._compare(False)
    assert not capsys.readouterr().err
    with pytest.raises(UserError, match=r"--pytorch: no torch .*difflax\[parity\]"):
        benchmark._compare(True)


@pytest.mark.slow
def test_an_installed_wheel_brings_pytorchs_side(tmp_path):
    """Built, installed without the checkout, and compared there, where torch is."""
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "runs", "tests"))
    pip = [sys.executable, "-m", "pip"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, capture_output=True)
    code = "import sys, difflax.cli.main as main; print(main.__file__); sys.exit(main.run(sys.argv[1:]))"
    made = subprocess.run(
        [sys.executable, "-c", code, "benchmark", *TINY, "--task=forward"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
    )
    where, _, page = made.stdout.partition("\n")
    assert where.startswith(str(site))
    compared = (
        importlib.util.find_spec("torch") is not None and importlib.util.find_spec("diffusers") is not None
    )
    assert ("torch" in page) == compared


def test_wrong_flags():
    status, _, errors = command("benchmark", "--block_out_channels=8,wide")
    assert status == 2
    assert "--block_out_channels" in errors
    assert len(errors.strip().splitlines()) == 1


def test_the_reference_case_has_its_number_of_parameters():
    import jax

    shapes = jax.tree.leaves(Case().model().abstract())
    assert sum(leaf.size for leaf in shapes) == 24_806_532  # diffusers' UNet of the same options


class Fake:
    def __init__(self, value, *seconds):
        self.value, self.seconds = value, iter(seconds)

    def run(self, task):
        return next(self.seconds), self.value


def test_ratio_is_of_neighbours_and_the_first_run_does_not_count():
    # The machine slows down by a factor of ten half way; the implementations' ratio is two throughout.
    ours, theirs = Fake(1.0, 99, 1, 1, 10, 10, 10), Fake(1.0, 99, 2, 2, 20, 20, 20)
    timing = measure(ours, theirs, ["train"], 5)["train"]
    assert timing == Timing((1, 1, 10, 10, 10), (2, 2, 20, 20, 20))
    np.testing.assert_allclose(timing.ratio, 2)


def test_different_numbers_are_not_compared():
    with pytest.raises(UserError, match=r"train gives 1 here and 1.01 there"):
        measure(Fake(1.0, 1, 1), Fake(1.01, 1, 1), ["train"], 1)
