"""An MM-DiT is trained, resumed and sampled by the same commands as a UNet."""

import json

import difflax
import numpy as np
import pytest

from tests.runs import command, small_run

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("mmdit_run")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, clip_folder):
    workdir = tmp_path_factory.mktemp("mmdit") / "run"
    status, _, errors = command(*small_run(clip_folder, workdir, steps=20, config="sd3_shapes"))
    assert status == 0, errors
    return workdir


def test_the_loss_falls_from_that_of_saying_nothing(workdir):
    """A fresh network predicts a velocity of zero: its loss is the mean square of ``eps - x0``, above 1."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] > 1.0
    assert np.mean(losses[-3:]) < 0.97 * losses[0]


def test_the_workdir_makes_images_and_its_table_was_not_trained(workdir):
    pipeline = difflax.load(str(workdir))
    images = pipeline(["a red circle", "a small blue square"], seed=[1, 2], num_steps=2)
    assert images.shape == (2, 32, 32, 3) and np.abs(images[0] - images[1]).max() > 0.01
    from difflax.models.mmdit import position_table

    table = np.asarray(pipeline.model.params["pos_embed"]["pos_embed"])
    np.testing.assert_allclose(table, position_table(16, 4, 4).reshape(table.shape), atol=1e-6)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("--config.model.joint_attention_dim=48", ["joint_attention_dim = 48", "width 32"]),
        ("--config.model.pooled_projection_dim=48", ["pooled_projection_dim = 48", "width 16"]),
        ("--config.model.patch_size=3", ["patch_size = 3", "4 × 4"]),
        ("--config.model.pos_embed_max_size=2", ["pos_embed_max_size = 2", "4 × 4"]),
        ("--config.model.num_layer=3", ["num_layer", "did you mean 'num_layers'"]),
        ("--config.model.name=mmdti", ["mmdti", "did you mean 'mmdit'"]),
    ],
)
def test_bad_options_are_one_line(override, says, tmp_path, clip_folder):
    status, _, errors = command(*small_run(clip_folder, tmp_path / "run", override, config="sd3_shapes"))
    assert status == 2 and len(errors.strip().splitlines()) == 1, errors
    assert all(word in errors for word in says), errors
