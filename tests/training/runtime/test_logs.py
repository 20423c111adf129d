"""Numbers of speed by their definitions, and a profile that is written."""

import json

import jax
import pytest
from difflax.core.chips import CHIPS
from difflax.core.types import UserError
from difflax.training.loop import Periodic
from difflax.training.runtime.logs import Logger
from difflax.training.runtime.throughput import Throughput

from tests.training import toy


def test_a_line_tells_the_speed_and_a_profile_is_written(tmp_path):
    workdir = tmp_path / "run"
    toy.train(workdir, toy.options(4, log_every=2, profile_steps=(2, 3)))
    first, second = (json.loads(line) for line in (workdir / "metrics.jsonl").open())
    assert (first["step"], second["step"]) == (2, 4)
    for row in (first, second):
        assert row["examples_per_second"] == pytest.approx(8 / row["step_seconds"])
        assert 0 < row["data_wait_share"] < 1
        # Eight rows through an 8 × 8 matrix and its gradient, a multiplication and an addition each.
        flops = row["tflops_per_device"] * 1e12 * row["step_seconds"]
        assert flops == pytest.approx(2 * 2 * 8 * 8 * 8)
        assert "hfu" not in row  # nobody knows a CPU's peak
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    (compiled,) = (json.loads(line) for line in (workdir / "events.jsonl").open())
    assert compiled["event"] == "compiled" and "compilation cache" in compiled["message"]


def test_hfu_is_the_share_of_the_chips_peak():
    """Of a chip that is not here."""
    speed = Throughput(8, devices=4, chip=CHIPS["v5e"])
    speed.knows_flops(1e15)
    line = speed.line(2)
    assert line["hfu"] * 197e12 == pytest.approx(line["tflops_per_device"] * 1e12)
    assert line["hfu"] * 197e12 * 4 * line["step_seconds"] == pytest.approx(1e15)


def test_damaged_lines_are_done_again_and_a_folder_is_one_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "loss": 2.0}\n'
    bad = (b'{"step": 2, "loss": \xff}\n', b"\xc3\n", b"[" * 100_000 + b"\n", b"3\n", b'{"step": "x"}\n')
    path.write_bytes(b"".join([*bad, good, b'{"step": 9, "loss": 2.0}\n', b'{"step": 1, "lo']))
    Logger(tmp_path, start=1, total=3, label="x").close()
    assert path.read_bytes() == good
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be read: Is a directory"):
        Logger(tmp_path, start=1, total=3, label="x")


def test_what_is_measured_stands_beside_the_loss(tmp_path):
    """Also between two log lines, and after the last step."""
    weights = {}

    def measure(step, state):
        weights[step] = float(jax.tree.leaves(state.ema_params)[0].sum())
        return {"alignment": weights[step], "coverage": None}

    toy.train(tmp_path, toy.options(8, log_every=4), measured=Periodic(3, measure))
    rows = {row["step"]: row for row in map(json.loads, (tmp_path / "metrics.jsonl").open())}
    assert sorted(rows) == [3, 4, 6, 8] and sorted(weights) == [3, 6, 8]
    for step, row in rows.items():
        assert row["loss"] > 0
        assert row.get("alignment") == weights.get(step)
    assert rows[3]["coverage"] is None and "coverage" not in rows[4]
