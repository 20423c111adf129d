"""What breaks does not break a run: damaged checkpoints, failing disks, signals, numbers that are none."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.cli.main import ending
from difflax.core.types import Interrupted, UserError
from difflax.training.runtime.checkpoints import Checkpoints
from difflax.training.runtime.logs import Logger
from difflax.training.runtime.manifest import check_copy, read_facts, write_manifest
from difflax.training.runtime.retention import Retention
from difflax.training.state import TrainState
from etils import epath

from tests.runs import ROOT
from tests.training import toy


def events(workdir):
    path = workdir / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kinds(workdir):
    return [row["event"] for row in events(workdir)]


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir and last state of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, toy.train(workdir, toy.options(7))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder of checkpoints of steps 1 and 2, and the state of either, which is its step everywhere."""
    folder = tmp_path_factory.mktemp("stored") / "checkpoints"
    states = {
        step: TrainState(jnp.asarray(step), {"w": jnp.full((64, 3), step)}, {}, {"w": jnp.ones(5) * step})
        for step in (1, 2)
    }
    checkpoints = Checkpoints(folder)
    for step, state in states.items():
        checkpoints.save(step, state, {"position": step}, {}, {})
    checkpoints.finish()
    return folder, states


ON_ITS_SECOND_DEVICE = """
import sys, jax
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
from difflax.training.runtime.checkpoints import Checkpoints
from difflax.training.state import TrainState
constants = {"context": jax.device_put(jnp.arange(6.0).reshape(2, 3), jax.devices()[1])}
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, TrainState(jnp.asarray(1), {}, {}, {"w": jnp.ones(5)}), {"position": 1}, {}, constants)
checkpoints.finish()
checkpoints.close()
"""


def test_constants_of_a_device_that_is_not_here_are_read(tmp_path):
    """As a workdir of an accelerator is opened on a laptop, or by the second of two processes."""
    assert len(jax.devices()) == 1
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", ON_ITS_SECOND_DEVICE, str(tmp_path / "checkpoints")]
    subprocess.run(program, check=True, env=environment)
    constants = Checkpoints(tmp_path / "checkpoints").restore_constants()
    np.testing.assert_array_equal(constants["context"], np.arange(6.0).reshape(2, 3))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "truncated": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "flipped": flip_a_bit,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_of_the_newest_checkpoint_damaged_in_turn(damage, stored, tmp_path):
    folder, states = stored
    names = [str(p.relative_to(folder)) for p in sorted((folder / "step_2").rglob("*")) if p.is_file()]
    assert len(names) > 5
    used = dict.fromkeys((1, 2), 0)
    for name in names:
        copy = tmp_path / name.replace("/", "_")
        shutil.copytree(folder, copy)
        before = (copy / name).read_bytes()
        DAMAGES[damage](copy / name)
        changed = not (copy / name).exists() or (copy / name).read_bytes() != before
        said = []
        checkpoints = Checkpoints(copy, report=said.append)
        state, data = checkpoints.restore(jax.eval_shape(lambda: states[2]))
        step = data["position"]
        same(state, states[step])
        used[step] += 1
        # Only Orbax's own notes, which hold nothing of the run, may be broken without a word.
        if changed and not name.endswith(("_CHECKPOINT_METADATA", "commit_success.txt")):
            assert step == 1, name
            assert len(said) == 1 and "step_2" in said[0] and "is not used" in said[0]
            assert checkpoints.steps == [1]  # the damaged one is out of the way
        # Training goes on and saves the step again.
        if name == "step_2/manifest.json":
            checkpoints.save(2, states[2], {"position": 2}, {}, {})
            checkpoints.finish()
            again = Checkpoints(copy)
            assert again.latest == 2
            again.close()
        checkpoints.close()
    assert used[1] >= 10


def test_all_checkpoints_damaged_is_an_error_and_no_new_start(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    for path in (tmp_path / "run").rglob("manifest.json"):
        truncate(path)
    with pytest.raises(UserError, match=r"every checkpoint .* is damaged"):
        toy.train(tmp_path / "run", toy.options(9))


def test_a_damaged_newest_checkpoint_costs_no_bit(whole, tmp_path):
    workdir = tmp_path / "run"
    toy.train(workdir, toy.options(7), stop_at=6)
    files = [path for path in (workdir / "checkpoints" / "step_6").rglob("*") if path.is_file()]
    flip_a_bit(max(files, key=lambda path: path.stat().st_size))
    same(toy.train(workdir, toy.options(7)), whole[1])
    assert any("step_6 is damaged" in row["message"] for row in events(workdir))
    assert [json.loads(row)["step"] for row in (workdir / "metrics.jsonl").open()] == list(range(1, 8))


def test_which_checkpoints_stay():
    metrics = {1: 0.5, 2: 0.1, 3: None, 4: 0.4, 5: 0.2, 6: float("nan"), 7: 0.3}
    assert Retention(newest=2).kept(metrics) == {6, 7}
    assert Retention(newest=1, every=2).kept(metrics) == {2, 4, 6, 7}
    assert Retention(newest=1, best=2).kept(metrics) == {2, 5, 7}
    assert Retention(newest=1, best=1, best_is="highest").kept(metrics) == {1, 7}


def test_the_disk_holds_the_checkpoints_that_are_to_stay(tmp_path):
    workdir = tmp_path / "run"
    toy.train(workdir, toy.options(9, checkpoint_every=1, keep_checkpoints=2, keep_every=4, keep_best=1))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    best = min(rows, key=lambda row: row["loss"])["step"]
    kept = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert kept == {f"step_{step}" for step in {8, 9, 4, best}}


def test_a_failing_disk_is_loud_and_training_goes_on(whole, tmp_path, capfd):
    """No file may grow beyond some bytes, as on a full disk; then there is room again."""
    workdir = tmp_path / "run"
    large = {"context": np.random.default_rng(0).normal(size=50_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    class Full(toy.Loader):
        def __next__(self):
            number = self.get_state()["next_batch"]
            # The save of step 3 goes on in the background, so the limit stays until the next.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if 2 <= number < 6 else soft, hard))
            return super().__next__()

    try:
        state = toy.train(workdir, toy.options(7, log_every=7), loader=Full, constants=large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    same(state, whole[1])
    said = capfd.readouterr().err
    assert "step 3 could not be saved" in said and "training goes on" in said
    assert {path.name for path in (workdir / "checkpoints").glob("step_*")} >= {"step_7"}


def test_saves_that_keep_failing_end_the_run(tmp_path, capfd):
    """The folder of checkpoints is lost: a file is in its place."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "checkpoints").write_text("not a folder")
    with pytest.raises(UserError, match=r"2 saves in a row have failed, more than .* = 1"):
        toy.train(workdir, toy.options(50, max_failed_saves=1))
    assert kinds(workdir).count("checkpoint") >= 1
    capfd.readouterr()


def test_a_run_whose_last_save_fails_does_not_end_well(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "checkpoints").write_text("not a folder")
    with pytest.raises(UserError, match=r"the last save .* failed"):
        toy.train(workdir, toy.options(2))
    # Nothing waits for a folder that never comes, which would keep the process from ending.
    threads = [type(thread).__module__ for thread in threading.enumerate() if thread.is_alive()]
    assert not [module for module in threads if module.startswith("orbax")]


def test_a_termination_saves_at_the_next_step_and_asks_to_be_started_again(whole, tmp_path):
    class Terminated(toy.Loader):
        def __next__(self):
            if self.get_state()["next_batch"] == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    workdir = tmp_path / "run"
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped after step 5"):
        toy.train(workdir, toy.options(7), loader=Terminated)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert (workdir / "checkpoints" / "step_5" / "manifest.json").exists()
    assert kinds(workdir)[-1] == "interrupted"
    same(toy.train(workdir, toy.options(7)), whole[1])


def test_the_exit_status_asks_to_be_started_again_and_a_second_signal_ends_at_once(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DIFFLAX_TOY_PAUSE": "0.2"}
    environment |= {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    command = [sys.executable, str(ROOT / "tests" / "training" / "toy.py"), str(tmp_path / "run"), "10000"]
    for signals, status in ((1, 75), (2, -signal.SIGTERM)):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        lines = tmp_path / "run" / "metrics.jsonl"
        seen = lines.stat().st_size if lines.exists() else 0
        while not lines.exists() or lines.stat().st_size <= seen:
            time.sleep(0.05)
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGTERM)
        # Two signals that a busy machine delivers together are one: the second is sent until it is heard.
        while signals == 2 and process.poll() is None:
            time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
        assert process.returncode == status, said
        if signals == 1:
            assert "the same command goes on" in said
    compiled = [row["message"] for row in events(tmp_path / "run") if row["event"] == "compiled"]
    assert ["0 hits, 1 misses" in compiled[0], "1 hits, 0 misses" in compiled[1]] == [True, True], compiled


def test_steps_that_are_no_numbers_are_skipped(tmp_path):
    """Batches with a broken example leave parameters, optimizer and average as they are, and count."""
    workdir = tmp_path / "run"
    records = toy.Pixels(broken=[7])
    state = toy.train(workdir, toy.options(6), records=records)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    skipped = [row["step"] for row in rows if row["skipped_steps"]]
    assert len(skipped) == 1  # an epoch has six batches
    assert rows[skipped[0] - 1]["loss"] is None
    assert int(state.skipped["total"]) == 1 and int(state.step) == 6
    assert int(state.opt_state[0].count) == 5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert "skipped" in kinds(workdir)


def test_a_run_of_broken_batches_goes_back_and_on_with_other_data(tmp_path):
    """Eight broken rows in order spoil one batch of six; from it the run goes back, and passes it by."""

    class InOrder(toy.Loader):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs, shuffle=False)

    workdir = tmp_path / "run"
    records = toy.Pixels(broken=range(32, 40))  # the fifth batch of each epoch
    settings = toy.options(8, max_skipped_in_a_row=1, max_roll_backs=1)
    state = toy.train(workdir, settings, records=records, loader=InOrder)
    assert kinds(workdir).count("roll_back") == 1
    assert "back to step 3" in next(row["message"] for row in events(workdir) if row["event"] == "roll_back")
    assert int(state.step) == 8 and int(state.skipped["total"]) == 0
    assert [json.loads(row)["step"] for row in (workdir / "metrics.jsonl").open()] == list(range(1, 9))
    with pytest.raises(UserError, match="1 roll-backs have not helped"):
        toy.train(
            tmp_path / "other", dataclasses.replace(settings, steps=20), records=records, loader=InOrder
        )


def test_a_roll_back_to_before_the_first_checkpoint_starts_from_the_given_parameters(tmp_path):
    """They are used up by the first start, and made again."""

    class InOrder(toy.Loader):
        first = 0

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs, shuffle=False)
            self.set_state({**self.get_state(), "next_batch": self.first})

    class WithoutTheFirst(InOrder):
        first = 1

    def start():
        return {"proj": {"kernel": jnp.eye(toy.SIZE) * 3, "bias": jnp.ones(toy.SIZE)}}

    more = {"records": toy.Pixels(broken=range(8)), "start": start}
    settings = toy.options(4, checkpoint_every=100, max_skipped_in_a_row=1)
    state = toy.train(tmp_path / "broken", settings, loader=InOrder, **more)
    assert "back to step 0" in next(
        row["message"] for row in events(tmp_path / "broken") if row["event"] == "roll_back"
    )
    other = toy.train(tmp_path / "other", settings, loader=WithoutTheFirst, **more)
    same(state, other)


def test_a_workdir_that_is_lost_and_comes_back_costs_no_bit(whole, tmp_path, capfd):
    """As a mount that goes away: neither saves nor logs nor events can be written for a while."""
    workdir, away = tmp_path / "run", tmp_path / "away"

    class Lost(toy.Loader):
        def __next__(self):
            number = self.get_state()["next_batch"]
            if number == 1:
                workdir.rename(away)
                workdir.write_text("nothing is mounted here")
            if number == 5:
                workdir.unlink()
                away.rename(workdir)
            return super().__next__()

    state = toy.train(workdir, toy.options(7), loader=Lost)
    same(state, whole[1])
    said = capfd.readouterr().err
    assert "step 3 could not be saved" in said and "training goes on" in said
    assert (workdir / "checkpoints" / "step_7" / "manifest.json").exists()


def test_ctrl_c_saves_at_the_next_step_with_status_130(whole, tmp_path):
    class Pressed(toy.Loader):
        def __next__(self):
            if self.get_state()["next_batch"] == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__next__()

    workdir, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="stopped after step 5; the same command goes on") as stopped:
        toy.train(workdir, toy.options(7), loader=Pressed)
    assert stopped.value.status == 130
    assert signal.getsignal(signal.SIGINT) is before
    same(toy.train(workdir, toy.options(7)), whole[1])


def test_ctrl_c_and_a_full_disk_are_one_line_wherever_they_come(capsys):
    def full():
        raise OSError(28, "No space left on device", "run/metrics.jsonl")

    def broken():
        raise OSError(5, "Input/output error")

    def pressed():
        raise KeyboardInterrupt

    assert (ending(pressed), ending(full), ending(broken)) == (130, 2, 2)
    first, second, third = capsys.readouterr().err.splitlines()
    assert "Ctrl-C" in first and "no room for run/metrics.jsonl" in second
    assert third == "difflax: error: Input/output error"


def test_a_checkpoint_without_a_position_in_the_data_is_damaged(stored, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(stored[0], folder)
    shutil.rmtree(folder / "step_2" / "data")
    write_manifest(Checkpoints(folder)._folder(2), {"step": 2, "good": True, "metric": None})
    said = []
    assert Checkpoints(folder, report=said.append).latest == 1
    assert "knows no data" in said[0]


def test_a_position_that_is_none_is_one_line(whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    for folder in epath.Path(workdir / "checkpoints").glob("step_*"):
        (folder / "data" / "metadata").write_text('{"roll_backs": 0}')
        facts = read_facts(folder)
        write_manifest(folder, facts)
    with pytest.raises(UserError, match="no position in this data"):
        toy.train(workdir, toy.options(9))


def test_the_log_is_cut_in_one_step_and_left_alone_where_nothing_is_to_be_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step}) + "\n" for step in (1, 2, 3)]
    path.write_text("".join(rows) + '{"step": 3, "lo')
    os.link(path, tmp_path / "before")
    logger = Logger(tmp_path, start=2, total=3, label="")
    assert path.read_text() == "".join(rows[:2])
    assert (tmp_path / "before").read_text().startswith("".join(rows))  # replaced, not written over
    inode = path.stat().st_ino
    logger.rewind(2)
    logger.close()
    assert path.stat().st_ino == inode


def test_a_copy_in_the_workdir_with_a_flipped_bit_is_found(tmp_path):
    folder = epath.Path(tmp_path / "text_encoder")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(100))
    check_copy(folder)  # of an earlier version
    write_manifest(folder, {})
    check_copy(folder)
    flip_a_bit(tmp_path / "text_encoder" / "model.safetensors")
    with pytest.raises(UserError, match=r"text_encoder is damaged \(model.safetensors has other contents"):
        check_copy(folder)


@pytest.mark.slow
def test_ctrl_c_ends_a_process_with_one_line_and_what_it_has_done_goes_on(tmp_path):
    """Twice: a run that goes on from the first is stopped too."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DIFFLAX_TOY_PAUSE": "0.2"}
    command = [sys.executable, str(ROOT / "tests" / "training" / "toy.py"), str(tmp_path / "run"), "10000"]
    lines, ends = tmp_path / "run" / "metrics.jsonl", []
    for _ in range(2):
        seen = lines.stat().st_size if lines.exists() else 0
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        while not lines.exists() or lines.stat().st_size <= seen:
            time.sleep(0.05)
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130 and "Traceback" not in said, said
        assert "the same command goes on" in said.strip().splitlines()[-1]
        ends.append(max(Checkpoints(tmp_path / "run" / "checkpoints").steps))
    assert ends[1] > ends[0] > 0
