"""A planted gap of three causes on the model that comes along; and its cells, computed again bit for bit."""

import json

import numpy as np
import pytest
from difflax.cli import recompute
from difflax.core.types import UserError
from difflax.evaluation.ablation.stored import read_result

from tests.runs import command

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("explain")]
FIRST = ("--guidance_scales=1", "--num_steps=2", "--sampler=ddim")
SECOND = ("--guidance_scales=3", "--num_steps=4", "--sampler=euler")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two results of the same model that nobody has told apart."""
    base = tmp_path_factory.mktemp("gap")
    made = []
    for name, flags in (("one", FIRST), ("another", SECOND)):
        words = ("ablate", "--workdir=embedded", "--seeds=1", *flags, f"--output={base / name}")
        status, _, errors = command(*words)
        assert status == 0, errors
        # pytest's own command line stands in the result: what was typed goes there.
        path = base / name / "results.json"
        document = json.loads(path.read_text())
        document["provenance"]["command"] = " ".join(["difflax", *words])
        path.write_text(json.dumps(document))
        made.append(base / name)
    return made


def test_the_gap_is_told_by_its_causes(folders, tmp_path):
    metric = "residual_psnr"
    measured = {each.metric.name for each in read_result(folders[0]).measured}
    metric = metric if metric in measured else "accuracy"
    status, out, errors = command(
        "explain", *map(str, folders), f"--metric={metric}", f"--output={tmp_path / 'why'}"
    )
    assert status == 0, errors
    document = json.loads((tmp_path / "why" / "explanation.json").read_text())
    assert {cause["name"] for cause in document["causes"]} == {"guidance.scale", "num_steps", "sampler"}
    assert (tmp_path / "why" / "explanation.html").exists() and "unexplained" in out
    ends = [read_result(folder) for folder in folders]
    for each in document["explained"]:
        stored = [result.of(each["group"], metric).estimates[0].value for result in ends]
        np.testing.assert_allclose(each["stored"], stored)
        # The ends are drawn again in other batches, which moves the last digits alone.
        scale = max(1.0, abs(stored[0]))
        assert abs(each["unexplained"]) < 2e-3 * scale
        shares = sum(share["value"] for share in each["shares"])
        assert shares + each["unexplained"] == pytest.approx(stored[1] - stored[0], abs=1e-6 * scale)


def test_cells_come_out_the_same(folders, capsys):
    recompute.verify(str(folders[0]), read_result(folders[0]), 1.0)
    assert "come out the same bit for bit" in capsys.readouterr().out
    path = next((folders[0] / "cells").glob("*.npz"))
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["column/accuracy"] = 1.0 - arrays["column/accuracy"]
    np.savez_compressed(path, **arrays)
    with pytest.raises(UserError, match="1 differ"):
        recompute.verify(str(folders[0]), read_result(folders[0]), 1.0)
