"""A run that was stopped and taken up again is, bit for bit, the run that was not."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from difflax.core.types import CTRL_C
from difflax.data import loader
from difflax.runs import base as prepared

from tests.runs import command, small_run

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("resume")

STEPS = 9  # of 16 examples: an epoch of 96 ends after the sixth
EVERY = "--config.training.checkpoint_every=4"


def stored(workdir, step):
    """State and position in the data of a checkpoint, as plain arrays."""
    with ocp.CheckpointManager(
        workdir / "checkpoints", options=ocp.CheckpointManagerOptions(step_prefix="step")
    ) as manager:
        return manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(), data=ocp.args.JsonRestore()),
        )


def losses(workdir):
    return [
        (row["step"], row["loss"])
        for row in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    ]


def watch(monkeypatch):
    """The rows of every batch that training reads; with ``stop_before`` it breaks off there."""

    class Batches(list):
        stop_before = None

    seen = Batches()

    class Watched(loader.Loader):
        def __next__(self):
            if seen.stop_before == len(seen):
                raise KeyboardInterrupt
            batch = super().__next__()
            seen.append(batch["index"].tolist())
            return batch

    monkeypatch.setattr(prepared, "Loader", Watched)
    return seen


@pytest.fixture
def batches(monkeypatch):
    return watch(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, clip_folder):
    """The workdir of a run that was never stopped, and its batches."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        order = watch(monkeypatch)
        assert command(*small_run(clip_folder, workdir, EVERY, steps=STEPS))[0] == 0
    return workdir, list(order)


@pytest.mark.parametrize(
    ("stop", "reading"),
    [
        pytest.param(4, "in memory", id="in the first epoch, in memory"),
        pytest.param(
            7, "threads read ahead", id="in the second, threads reading ahead", marks=pytest.mark.slow
        ),
    ],
)
def test_resume_is_bit_exact(stop, reading, whole, batches, tmp_path, clip_folder, monkeypatch):
    if reading == "threads read ahead":
        monkeypatch.setattr(loader, "IN_MEMORY_BYTES", 0)
    (workdir, order), parts = whole, tmp_path / "parts"
    assert command(*small_run(clip_folder, parts, steps=STEPS), f"--stop_at={stop}")[0] == 0
    assert len(batches) == stop
    assert command(*small_run(clip_folder, parts, steps=STEPS))[0] == 0
    assert batches == order

    one, other = stored(workdir, STEPS), stored(parts, STEPS)
    assert set(one.state) == {"step", "params", "opt_state", "ema_params", "memory", "skipped"}
    jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
    assert one.data == other.data
    assert losses(workdir) == losses(parts)
    assert [step for step, _ in losses(parts)] == list(range(1, STEPS + 1))


def test_work_after_the_last_checkpoint_is_done_again(whole, batches, tmp_path, clip_folder):
    (workdir, order), broken = whole, tmp_path / "broken"
    batches.stop_before = 7
    assert command(*small_run(clip_folder, broken, EVERY, steps=STEPS))[0] == CTRL_C
    batches.stop_before = None
    batches.clear()
    assert command(*small_run(clip_folder, broken, EVERY, steps=STEPS))[0] == 0
    assert batches == order[4:]
    jax.tree.map(np.testing.assert_array_equal, stored(workdir, STEPS).state, stored(broken, STEPS).state)
    assert losses(workdir) == losses(broken)


@pytest.mark.slow
def test_training_learns(tmp_path, clip_folder):
    assert command(*small_run(clip_folder, tmp_path / "run", steps=60))[0] == 0
    curve = [loss for _, loss in losses(tmp_path / "run")]
    assert np.mean(curve[-10:]) < 0.5 * curve[0]
