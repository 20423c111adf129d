"""Bad input is one clear line and exit status 2, and loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from difflax.core.files import held
from difflax.training.optimizers import AdamW

from tests.runs import ROOT, command, contents, small_run

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("bad_input")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, clip_folder):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert command(*small_run(clip_folder, workdir, steps=4))[0] == 0
    return workdir


def refused(*arguments):
    status, _, errors = command(*arguments)
    assert status == 2
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    return lines[0]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("--config.trainning.steps=3", ["trainning", "did you mean 'training'"]),
        ("--config.model.block_out_chanels=(8,)", ["block_out_chanels", "did you mean 'block_out_channels'"]),
        ("--config.training.steps=many", ["config.training.steps", "many"]),
        ("--config.training.steps=0", ["steps", "at least 1"]),
        ("--config.schedule.name=cosinus", ["config.schedule.name", "did you mean 'cosine'"]),
        ("--config.optimizer.learning_rate=-1.0", ["learning_rate", "positive"]),
        ("--config.loss.caption_dropout=1.5", ["caption_dropout", "[0, 1]"]),
        ("--config.autoencoder.patch_size=5", ["patch_size", "32"]),
        ("--config.sampler.num_steps=0", ["num_steps", "at least 1"]),
        ("--config.mesh.data=3", ["config.mesh", "devices"]),
        ("--config.prediction.name=epsilon", ["singular", "config.sampler"]),
        ("--config.model.cross_attention_dim=48", ["cross_attention_dim = 48", "width 32"]),
        (
            "--config.model.projection_class_embeddings_input_dim=48",
            ["projection_class_embeddings_input_dim = 48", "width 16"],
        ),
        ("--config.autoencoder.whitening=-1.0", ["whitening", "negative"]),
        (
            ["--config.training.accumulate=2", "--config.loss.noise.name=paired"],
            ["config.training.accumulate = 2", "config.loss.noise"],
        ),
    ],
)
def test_config(override, says, tmp_path, clip_folder):
    overrides = [override] if isinstance(override, str) else override
    line = refused(*small_run(clip_folder, tmp_path / "run", *overrides))
    assert all(word in line for word in says), line
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_contrastive_loss_is_not_taken_in_parts(tmp_path):
    config = f"--config={ROOT / 'configs' / 'clip.py'}:digits"
    line = refused("train", config, f"--workdir={tmp_path / 'run'}", "--config.training.accumulate=4")
    assert "config.training.accumulate = 4" in line and "CLIP" in line
    assert not (tmp_path / "run").exists()


def test_other_steps_and_rates_are_refused_until_they_are_asked_for(trained, clip_folder):
    before = contents(trained)
    longer = small_run(clip_folder, trained, "--config.optimizer.learning_rate=0.002", steps=6)
    assert "or go on with this one by --change" in refused(*longer)
    seeded = small_run(clip_folder, trained, "--config.seed=1", "--change", steps=6)
    assert "seed: 0 there, 1 here" in refused(*seeded)
    assert "has got to" in refused(*small_run(clip_folder, trained, "--change", steps=3))
    assert contents(trained) == before


def test_what_was_put_into_a_workdir_or_damaged_there_is_not_taken(trained, clip_folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    again = small_run(clip_folder, run, steps=4)
    stored = run / "checkpoints" / "step_4" / "config" / "metadata"
    before = stored.read_text()
    stored.write_text(before.replace('"seed": 0', '"seed": 7'))
    assert "config.json says (seed: 7 there, 0 here)" in refused(*again)
    stored.write_text(before)
    weights = max((run / "text_encoder").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 4
    weights.write_bytes(data)
    ask = ("sample", f"--workdir={run}", "--prompt=a", f"--output={tmp_path / 'out'}")
    for arguments in (again, ask):
        assert "text_encoder is damaged" in refused(*arguments)


@pytest.mark.slow
def test_a_finished_run_goes_on_longer_when_it_is_told_to(trained, clip_folder, tmp_path):
    """`--change` takes other steps and learning rates alone; afterwards the plain command goes on."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    longer = small_run(clip_folder, run, "--config.optimizer.learning_rate=0.002", steps=6)
    assert command(*longer, "--change")[0] == 0
    rows = [json.loads(row) for row in (run / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    rates = AdamW(learning_rate=0.002, warmup_steps=2).learning_rates(6)
    assert [row["learning_rate"] for row in rows[4:]] == [float(rates(4)), float(rates(5))]
    events = [json.loads(row) for row in (run / "events.jsonl").open()]
    changed = next(row["message"] for row in events if row["event"] == "changed")
    assert "training.steps: 4 there, 6 here" in changed
    assert command(*longer)[0] == 0


def test_missing_files(tmp_path):
    assert "nowhere.py" in refused("train", "--config=nowhere.py", f"--workdir={tmp_path}")
    assert "nowhere" in refused(*small_run(tmp_path / "nowhere", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_another_config_leaves_the_workdir_alone(trained, clip_folder):
    before = contents(trained)
    line = refused(*small_run(clip_folder, trained, "--config.seed=1", steps=4))
    assert "seed: 0 there, 1 here" in line
    assert contents(trained) == before


def test_a_folder_that_another_process_writes_to_is_refused_before_anything_is_loaded(clip_folder, tmp_path):
    with held(tmp_path / "run"):
        line = refused(*small_run(clip_folder, tmp_path / "run"))
        assert f"process {os.getpid()} on " in line and str(tmp_path / "run") in line
        for name, *more in (("ablate",), ("sample", "--prompt=a cat")):
            line = refused(name, *more, f"--workdir={tmp_path / 'nowhere'}", f"--output={tmp_path / 'run'}")
            assert f"process {os.getpid()} on " in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompts_file=nowhere.txt", "--output={out}"], "nowhere.txt"),
        (["--output={out}"], "no prompt"),
        (["--prompt=a red circle"], "--output"),
        (["--prompt=a red circle", "--output={out}", "--sampler=ddmi"], "ddim"),
        (["--prompt=a red circle", "--output={out}", "--num_steps=0"], "num_steps"),
        (["--prompt=a red circle", "--output={out}", "--guidance_scale=nan"], "finite"),
        (["--prompt=a red circle", "--output={out}", "--guidance_skale=2"], "guidance_scale"),
    ],
)
def test_sample(arguments, says, trained, tmp_path):
    before = contents(trained)
    filled = [argument.format(out=tmp_path / "out") for argument in arguments]
    assert says in refused("sample", f"--workdir={trained}", *filled)
    assert contents(trained) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_for_results_that_is_none_is_said_before_the_model_is_looked_for(place, tmp_path):
    (tmp_path / "file").write_text("")
    nowhere, output = tmp_path / "nowhere", f"--output={tmp_path / place}"
    for given in (
        ("sample", f"--pretrained={nowhere}", "--prompt=a cat"),
        ("ablate", f"--pretrained={nowhere}", "--prompt=a cat"),
        ("convert", f"--pretrained={nowhere}"),
        ("evaluate", f"--workdir={nowhere}"),
    ):
        assert f"{output}: {tmp_path / 'file'} is a file and no folder" in refused(*given, output), given


def test_no_workdir(tmp_path):
    assert "no workdir" in refused(
        "sample", f"--workdir={tmp_path}", "--prompt=a", f"--output={tmp_path / 'out'}"
    )


def test_unknown_command():
    assert "did you mean 'train'" in refused("trian")


def test_a_page_that_is_no_text_is_said_before_anything_is_measured(tmp_path):
    page = tmp_path / "page.md"
    page.write_bytes(b"\x00\xff\xfe")
    for name in ("samplers", "benchmark"):
        status, _, errors = command(name, f"--output={page}")
        assert status == 2 and "page.md" in errors and len(errors.splitlines()) == 1, errors
    assert page.read_bytes() == b"\x00\xff\xfe"


def test_ctrl_c_during_the_first_imports_is_one_line(tmp_path):
    """A module of the imports that takes its time."""
    (tmp_path / "absl").mkdir()
    (tmp_path / "absl" / "__init__.py").write_text("print(1, flush=True)\nimport time\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    with subprocess.Popen(
        [sys.executable, "-c", f"{script} from difflax.cli.entry import main; main()", "train"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.decode().splitlines() == ["difflax: stopped by Ctrl-C before it began"]
