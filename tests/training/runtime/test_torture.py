"""The short form of ``scripts/torture.py``: one kill inside a save; of other commands, a few."""

import importlib.util
import sys

import pytest

from tests.fixtures import make_stable_diffusion
from tests.parallel.test_processes import SCRIPT
from tests.runs import ROOT, command, small_run
from tests.training.objectives.test_finetuning import CAPTIONS, TINY


def torture():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("torture", ROOT / "scripts" / "torture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_run_killed_inside_a_save_ends_as_the_one_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAX_TOY_PAUSE", "0.02")
    module = torture()
    toy = [sys.executable, SCRIPT, "{workdir}", "24", "checkpoint_every=2"]
    rows = module.torture(toy, 1, tmp_path, kinds=["inside a save"], seed=1)
    assert [found for *_, found in rows] == [[]]
    # It can tell two runs apart.
    other = tmp_path / "other"
    assert module.finished(module.start([*toy[:3], "23", "checkpoint_every=2"], other, 1))
    found = module.differences(other, tmp_path / "left_alone_1")
    assert "ends at step_23, not step_24" in found and "the order of the examples differs" in found
    # A file that tells of no times is held against the other's, its folder's name aside.
    for folder in (other, tmp_path / "left_alone_1"):
        (folder / "table.csv").write_text(f"made in {folder}")
    assert "table.csv differs" not in module.differences(other, tmp_path / "left_alone_1")
    (other / "table.csv").write_text("another")
    assert "table.csv differs" in module.differences(other, tmp_path / "left_alone_1")


@pytest.mark.slow
def test_an_ablation_that_is_killed_ends_with_the_same_table_and_files(tmp_path, clip_folder):
    assert command(*small_run(clip_folder, tmp_path / "run", steps=4))[0] == 0
    module = torture()
    ablate = ["ablate", f"--workdir={tmp_path / 'run'}", "--guidance_scales=0,1,3", "--seeds=2"]
    line = [sys.executable, "-c", module.PROGRAM, *ablate, "--output={workdir}"]
    rows = module.torture(line, 4, tmp_path, kinds=["inside a scale", "any moment"], seed=1)
    assert [found for *_, found in rows] == [[]] * 4
    names = set(module.files(tmp_path / "left_alone_1"))
    assert {"table.csv", "records.csv", "results.json", "report.html"} <= names


@pytest.mark.slow
def test_a_fine_tuning_that_is_killed_ends_with_the_same_cache_and_files(tmp_path):
    from PIL import Image

    checkpoint = make_stable_diffusion.build("sd15", tmp_path / "sd15")
    (tmp_path / "pictures").mkdir()
    for i in range(24):
        Image.effect_noise((32, 32), 90).convert("RGB").save(tmp_path / "pictures" / f"{i}.png")
        (tmp_path / "pictures" / f"{i}.txt").write_text(CAPTIONS[i % 2])
    module = torture()
    tune = ["train", f"--config={ROOT / 'configs' / 'lora_sd15.py'}:{checkpoint}", *TINY,
            f"--config.data.path={tmp_path / 'pictures'}", "--config.cache.latents=True",
            "--config.training.record_order=True", "--config.training.steps=4"]  # fmt: skip
    line = [sys.executable, "-c", module.PROGRAM, *tune, "--workdir={workdir}"]
    rows = module.torture(line, 4, tmp_path, kinds=["inside a cache", "any moment"], seed=1)
    assert [found for *_, found in rows] == [[]] * 4
    names = set(module.files(tmp_path / "left_alone_1"))
    assert {"latents.npy", "latents.json", "trained/pytorch_lora_weights.safetensors"} <= names
