"""Reports from stored results on the command line, and cells that are computed again."""

import shutil

import numpy as np
import pytest
from difflax.cli import recompute
from difflax.cli.report import names_of
from difflax.core.types import UserError
from difflax.evaluation.ablation.report import write_ablation
from difflax.evaluation.ablation.stored import read_result
from etils import epath

from tests.evaluation.known_sweep import sweep
from tests.runs import command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stored") / "mine"
    write_ablation(sweep(directory, scales=(1.0, 2.0)), directory)
    return directory


def test_the_report_is_rebuilt_as_it_was(folder, tmp_path):
    status, out, errors = command("report", str(folder), f"--output={tmp_path / 'again'}")
    assert status == 0, errors
    assert out == f"report: {tmp_path / 'again' / 'report.html'}\n"
    for name in ("results.json", "table.csv", "prompts.csv", "differences.csv", "plots/accuracy.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "again" / "plots" / "accuracy.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--folders: give folders"),
        (["nowhere"], "no folder nowhere"),
        (["{folder}", "{folder}/cells"], "--output must be given"),
        (["{folder}", "{folder}", "--output={folder}"], "the same folder"),
        (["{folder}/cells"], "no results.json"),
        (["{folder}", "--verify=0"], "--verify=0.0 must be above 0"),
        (["{folder}", "--verify=0.5"], "cannot be computed again here"),
    ],
)
def test_bad_input_is_one_line(folder, words, said):
    status, _, errors = command("report", *(word.format(folder=folder) for word in words))
    assert status == 2 and said in errors and errors.count("\n") == 1


def test_folders_are_named_by_what_tells_them_apart():
    assert names_of(["runs/a", "runs/b"]) == ["a", "b"]
    assert names_of(["one/out", "two/out/"]) == ["one/out", "two/out"]


@pytest.mark.parametrize(
    "words", [["--output", "old", "--seeds=2"], ["--output=old", "--seeds=2"], ["--seeds=2"]]
)
def test_the_command_is_run_with_another_output(words):
    stored = " ".join(["difflax", "ablate", "--guidance='a b'", *words])
    assert recompute.command_for(stored, "new") == ["ablate", "--guidance=a b", "--seeds=2", "--output=new"]
    with pytest.raises(UserError, match="was not made"):
        recompute.command_for("difflax train --workdir=x", "new")


def test_a_cell_is_the_same_only_if_every_bit_is(folder, tmp_path):
    cells, copied = epath.Path(folder) / "cells", epath.Path(tmp_path) / "cells"
    shutil.copytree(cells, copied)
    arm = read_result(folder).arms[0]
    assert recompute.same_cell(cells, copied, arm)
    path = copied / f"{arm.key}.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["features"] = np.nextafter(arrays["features"], np.inf)
    np.savez(path, **arrays)
    assert not recompute.same_cell(cells, copied, arm)
    path.unlink()
    assert not recompute.same_cell(cells, copied, arm)
