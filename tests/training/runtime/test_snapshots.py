"""Snapshots of power-function averages: of a real run, rebuilt, and the same after an interruption."""

import types

import flax.struct
import jax
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.training.ema import EMA
from difflax.training.loop import Periodic
from difflax.training.runtime import checkpoints
from difflax.training.runtime.snapshots import Snapshots
from difflax.training.state import TrainState

from tests.training import toy
from tests.training.test_power_averages import power_average

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("snapshots")

STEPS, EVERY = 40, 5
KEPT = EMA(decay=0.9, profiles=(0.05, 0.10), snapshot_every=EVERY)
BROKEN = toy.Pixels(broken=(3,))
"""Once in six batches the loss is no number, and the step is skipped."""


def flat(params):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)])


def run(workdir, **more):
    return toy.train(workdir, toy.options(STEPS, log_every=20), ema=KEPT, records=BROKEN, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to: its workdir, last state, and parameters after every step."""
    workdir, seen = tmp_path_factory.mktemp("whole") / "run", []
    keep = Periodic(1, lambda step, state: seen.append(flat(state.params)) or {})
    state = run(workdir, measured=keep)
    return types.SimpleNamespace(workdir=workdir, state=state, params=np.stack(seen))


def rebuilt(workdir, length, step=None):
    snapshots = Snapshots(workdir, KEPT)
    params, at = snapshots.rebuild(toy.Regression().model.abstract(), length, step)
    snapshots.close()
    return flat(params), at


def test_the_state_follows_the_parameters_of_every_step_the_skipped_ones_too(whole):
    skipped = int(whole.state.skipped["total"])
    assert 4 <= skipped <= 8 and sum((np.diff(whole.params, axis=0) == 0).all(1)) >= skipped - 1
    for profile, length in zip(whole.state.profiles, KEPT.profiles, strict=True):
        np.testing.assert_allclose(flat(profile), power_average(whole.params, length, STEPS), atol=1e-6)


@pytest.mark.parametrize(
    ("length", "step"), [(0.05, None), (0.06, None), (0.08, None), (0.08, 30), (0.04, None), (0.15, None)]
)
def test_an_average_is_rebuilt_from_the_files(length, step, whole):
    """It is ten times nearer to the true one than any that was kept."""
    found, at = rebuilt(whole.workdir, length, step)
    assert at == (step or STEPS)
    wanted = power_average(whole.params, length, at)
    kept = [power_average(whole.params, each, at) for each in KEPT.profiles]
    nearest = min(np.linalg.norm(wanted - each) for each in kept)
    assert np.linalg.norm(found - wanted) < 0.1 * nearest + 1e-6


def test_a_run_that_was_stopped_leaves_the_same_snapshots(whole, tmp_path):
    for stop in (7, 20, 33, STEPS):
        run(tmp_path / "run", stop_at=stop)
    found = Snapshots(tmp_path / "run", KEPT)
    assert found.steps == Snapshots(whole.workdir, KEPT).steps == list(range(EVERY, STEPS + 1, EVERY))
    for step in found.steps:
        one, other = rebuilt(tmp_path / "run", 0.08, step)[0], rebuilt(whole.workdir, 0.08, step)[0]
        np.testing.assert_array_equal(one, other)


def test_what_was_written_after_the_checkpoint_is_written_again(whole, tmp_path):
    """As a kill between the two leaves it."""
    workdir = tmp_path / "run"
    run(workdir, stop_at=12)
    other = TrainState(0, {}, {}, {}, profiles=jax.tree.map(np.zeros_like, whole.state.profiles))
    late = Snapshots(workdir, KEPT)
    late.save(15, other, STEPS, {})
    late.close()
    assert late.steps == [5, 10, 15]
    run(workdir)
    np.testing.assert_array_equal(rebuilt(workdir, 0.08)[0], rebuilt(whole.workdir, 0.08)[0])


@flax.struct.dataclass
class Earlier:
    """The state of a version that knew no profiles."""

    step: object
    params: object
    opt_state: object
    ema_params: object
    memory: object
    skipped: object


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path, monkeypatch):
    plain = toy.train(tmp_path / "whole", toy.options(7))
    names = Earlier.__dataclass_fields__
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_stored", lambda s: Earlier(*(getattr(s, name) for name in names)))
        toy.train(tmp_path / "run", toy.options(7), stop_at=4)
    state = toy.train(tmp_path / "run", toy.options(7))
    jax.tree.map(np.testing.assert_array_equal, state, plain)
    assert not (tmp_path / "run" / "snapshots").exists()


def test_what_cannot_be_rebuilt(whole, tmp_path):
    abstract = toy.Regression().model.abstract()
    for workdir, ema, length, step, says in (
        (tmp_path, KEPT, 0.08, None, "has no snapshots of power-function averages"),
        (whole.workdir, KEPT, 0.08, 7, r"no snapshot of step 7 .* there are \[5, 10"),
        (whole.workdir, KEPT, 0.01, None, "misses it by .*%: choose a length nearer"),
        (whole.workdir, KEPT, 0.5, None, "ema_length = 0.5 must be positive and at most 0.28"),
    ):
        snapshots = Snapshots(workdir, ema)
        with pytest.raises(UserError, match=says):
            snapshots.rebuild(abstract, length, step)
        snapshots.close()
