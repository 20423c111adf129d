"""A run that was stopped and taken up again is, bit for bit, the run that was not."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
from tests.runs import command, small_run


def stored(workdir, step):
    """State and position in the data of a checkpoint, as plain arrays."""
    with ocp.CheckpointManager(
        workdir / "checkpoints", options=ocp.CheckpointManagerOptions(step_prefix="step")
    ) as manager:
        return manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(), data=ocp.args.JsonRestore()),
        )


def test_resume_is_bit_exact(tmp_path, clip_folder):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert command(*small_run(clip_folder, whole, steps=9))[0] == 0
    # Nine steps of 16 run over the end of an epoch of 96.
    assert command(*small_run(clip_folder, parts, steps=9), "--stop_at=4")[0] == 0
    assert command(*small_run(clip_folder, parts, steps=9))[0] == 0

    one, other = stored(whole, 9), stored(parts, 9)
    jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
    assert one.data == other.data
    logs = [
        [
            (row["step"], row["loss"])
            for row in map(json.loads, (w / "metrics.jsonl").read_text().splitlines())
        ]
        for w in (whole, parts)
    ]
    assert logs[0] == logs[1]
    assert [step for step, _ in logs[0]] == list(range(1, 10))


def test_training_learns(tmp_path, clip_folder):
    assert command(*small_run(clip_folder, tmp_path / "run", steps=60))[0] == 0
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert np.mean(losses[-10:]) < 0.5 * losses[0]
